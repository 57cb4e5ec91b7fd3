"""The benchmark on simulated people: every row, resumed, shared, refused and reported."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cmssl_hf import CMSSLEncoderForPreTraining, CMSSLEncoderModel, CMSSLFeatureExtractor, CMSSLTokenizerModel
from cmssl_hf.evaluation import rows as rows_module
from cmssl_hf.evaluation.embeddings import embed_windows
from cmssl_hf.evaluation.encoders import read_encoders
from cmssl_hf.evaluation.plan import BenchmarkPlan, TaskPlan, combinations
from cmssl_hf.evaluation.report import write_report
from cmssl_hf.evaluation.results_store import Combination, ResultsStore
from cmssl_hf.evaluation.rows import recipe_of
from cmssl_hf.evaluation.running import benchmark_tasks, make_benchmarks
from cmssl_hf.evaluation.shallow import fit_and_predict
from cmssl_hf.models.heartlang.configuration_heartlang import HeartLangConfig
from cmssl_hf.models.heartlang.feature_extraction_heartlang import HeartLangFeatureExtractor
from cmssl_hf.models.resnet1d.configuration_resnet1d import ResNet1DConfig
from cmssl_hf.models.resnet1d.modeling_resnet1d import ResNet1DModel
from cmssl_hf.tasks import get_task
from helpers.tiny import encoder_config, tokenizer_config, waves, windows_dataset


PEOPLE = {"num_subjects": 20, "seconds_per_subject": 40.0}


def save_encoder(folder: Path, channel="ppg", seed=0, seen=None) -> str:
    torch.manual_seed(seed)
    CMSSLEncoderForPreTraining(encoder_config(channels=(channel,))).save_pretrained(folder)
    CMSSLFeatureExtractor(channels=(channel,), patch_size=25).save_pretrained(folder)
    if seen is not None:
        data = {"dataset": "simulated", "splits": {"train": {"subjects": seen}}}
        (folder / "run.json").write_text(json.dumps({"identity": {"data": data}}))
    return str(folder)


def save_resnet(folder: Path) -> str:
    torch.manual_seed(0)
    ResNet1DModel(ResNet1DConfig(base_filters=4, num_blocks=2)).save_pretrained(folder)
    CMSSLFeatureExtractor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("benchmark")


@pytest.fixture(scope="module")
def encoders(folder):
    return {
        "own": [save_encoder(folder / "own", seed=1)],
        "joint": [save_encoder(folder / "joint", seed=2)],
        "resnet": [save_resnet(folder / "resnet")],
    }


@pytest.fixture(scope="module")
def plan():
    training = {
        "max_steps": 2,
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 2,
        "per_device_train_batch_size": 8,
        "use_cpu": True,
    }
    task = TaskPlan(
        dataset_options=PEOPLE,
        recipe={"time_stretch": 1.2, "accept_unknown_provenance": True},
        full_on_folds=["joint_full"],
        published={"another": {"mae": 1.5, "parameters": 2.5e6}},
    )
    # What learns nothing does not improve, and ends at its second evaluation.
    scratch = {"learning_rate": 0.0, "max_steps": 20, "early_stopping_patience": 1}
    return BenchmarkPlan({"simulated_hr": task}, [0.25, 1.0], [1.0], [0], [0, 1], 2, 50, training, scratch)


@pytest.fixture(scope="module")
def chosen(plan, encoders):
    """Everything, but some rows once."""
    found = combinations(plan, {"ppg": encoders})
    once = ("resnet_frozen", "resnet_full", "scratch_same_steps")
    return [one for one in found if one.row not in once or (one.fraction, one.seed, one.fold) == (1.0, 0, None)]


@pytest.fixture(scope="module")
def done(folder, plan, encoders, chosen):
    """The whole benchmark, once."""
    benchmarks = make_benchmarks(plan, {}, {"ppg": encoders}, folder / "work", cache_dir=str(folder / "cache"))
    store = ResultsStore(folder / "results")
    states = dict(benchmark_tasks(chosen, benchmarks, store))
    results = write_report(store, {"simulated_hr": benchmarks["simulated_hr"].windows}, plan, folder)
    return benchmarks["simulated_hr"], store, states, results


def test_everything_is_computed_and_nothing_twice(done, chosen, monkeypatch):
    benchmark, store, states, _ = done
    assert all(state.endswith(" s") for state in states.values()), states
    assert len(states) == len(store.all()) == 9 * 2 * 2 + 6 * 2 * 2 * 2 + 2 + 3
    monkeypatch.setattr(rows_module.TaskBenchmark, "run", lambda *_: pytest.fail("computed again"))
    again = dict(benchmark_tasks(chosen, {"simulated_hr": benchmark}, store))
    assert set(again.values()) == {"was finished"}


def test_test_windows_are_those_of_the_split_and_constants_those_of_the_training_labels(done):
    benchmark, store, _, _ = done
    windows = benchmark.windows
    sizes = [len(windows.raw[split]) for split in ("train", "validation", "test")]
    expected = np.arange(sum(sizes[:2]), sum(sizes))
    for combination, outcome in store.all().items():
        if combination.fold is None:
            np.testing.assert_array_equal(np.sort(outcome.rows), expected)
    mean = store.load(Combination("simulated_hr", "mean", 1.0, 0)).predictions
    np.testing.assert_allclose(mean, np.mean(windows.raw["train"]["label"]), rtol=1e-5)
    median = store.load(Combination("simulated_hr", "median", 1.0, 0)).predictions
    np.testing.assert_allclose(median, np.median(windows.raw["train"]["label"]), rtol=1e-5)


def test_folds_test_every_window_once(done):
    benchmark, store, _, _ = done
    tested = np.concatenate(
        [store.load(Combination("simulated_hr", "joint_full", 1.0, 0, fold)).rows for fold in (0, 1)]
    )
    np.testing.assert_array_equal(np.sort(tested), np.arange(len(benchmark.windows.labels)))


def test_the_same_people_are_trained_on_whatever_the_row(done):
    benchmark, _, _, _ = done
    run = json.loads(
        (benchmark.work_dir / "runs" / Combination("simulated_hr", "scratch", 0.25, 1).name / "run.json").read_text()
    )
    subjects = run["identity"]["data"]["splits"]["train"]["subjects"]
    rows = benchmark.windows.division(0.25, 1, None)["train"]
    assert sorted(np.unique(benchmark.windows.subjects[rows])) == subjects and len(subjects) == 4
    assert run["identity"]["initialisation"] == "random weights" and run["builds_on"] is None


def test_scratch_has_the_architecture_of_the_pretrained_encoder(done):
    benchmark, _, _, _ = done
    runs = benchmark.work_dir / "runs"
    configs = [
        json.loads((runs / Combination("simulated_hr", row, 1.0, 0).name / "config.json").read_text())
        for row in ("scratch", "joint_full")
    ]
    for config in configs:
        # What a model's errors are is a matter of its weights.
        del config["transformers_version"], config["calibration"]
    assert configs[0] == configs[1]
    assert configs[0]["hidden_size"] == 16


def test_scratch_trains_until_it_stops_improving_and_the_row_of_the_same_steps_does_not(done, plan, folder):
    _, store, _, results = done

    def details(row):
        return store.load(Combination("simulated_hr", row, 1.0, 0)).details

    # Evaluated every 2 steps: the first is the best, the second the last.
    assert (details("scratch")["steps"], details("scratch")["converged"]) == (4, True)
    assert details("scratch_same_steps")["steps"] == details("joint_full")["steps"] == 2
    assert "converged" not in details("scratch_same_steps")
    impatient = replace(plan, scratch={"max_steps": 4, "early_stopping_patience": 5})
    benchmark = make_benchmarks(
        impatient, {}, {"ppg": {"joint": [str(folder / "joint")]}}, folder / "limit", cache_dir=str(folder / "cache")
    )["simulated_hr"]
    ended = one(benchmark, row="scratch")
    assert (ended.details["steps"], ended.details["converged"]) == (4, False)
    assert results.set_index("row").loc["scratch", "converged"].tolist() == [1.0, 1.0]


def test_the_report(done, folder):
    _, _, _, results = done
    text = (folder / "benchmark.md").read_text()
    assert "## simulated_hr, published split: 2 test subjects" in text
    assert "cross-validation over all subjects: 20 test subjects" in text
    assert "## Paired differences" in text and "joint_frozen" in text
    assert "`scratch` with 100% of the labels: 100% of the runs stopped improving" in text
    pd.testing.assert_frame_equal(pd.read_csv(folder / "benchmark.csv"), results, check_dtype=False)
    labels = done[0].windows.labels
    mean = results[(results["row"] == "mean") & (results["split"] == "paper") & (results["labels"] == 1.0)].iloc[0]
    sizes = [len(done[0].windows.raw[split]) for split in ("train", "validation")]
    assert mean["value"] == pytest.approx(np.abs(labels[sum(sizes) :] - labels[: sizes[0]].mean()).mean(), rel=1e-4)
    for name in ("label_efficiency", "paper-agreement", "folds-agreement"):
        assert (folder / "figures" / f"simulated_hr-{name}.png").stat().st_size > 10000


def test_rows_of_two_backbones_are_in_two_tables_and_not_compared(done, folder):
    _, _, _, results = done
    published = results[results["table"] == "as_published"]
    assert set(published["row"]) == {"resnet_frozen", "resnet_full"}
    assert set(published["parameters"]) == {
        sum(weight.numel() for weight in ResNet1DModel(ResNet1DConfig(base_filters=4, num_blocks=2)).parameters())
    }
    section = (folder / "benchmark.md").read_text().split("### As published")
    assert "joint_full" in section[0] and "resnet" not in section[0].split("### Same backbone")[1]
    table = section[1].split("##")[0]
    assert "resnet_full" in table and "joint_full" not in table and "| 2.5e6" in table
    comparisons = pd.read_csv(folder / "comparisons.csv")
    pairs = set(zip(comparisons["better"], comparisons["than"]))
    assert pairs == {
        *[(f"{name}_frozen", "random_frozen") for name in ("joint", "own")],
        *[(f"{name}_full", "scratch") for name in ("joint", "own")],
        *[(f"joint_{kind}", f"own_{kind}") for kind in ("frozen", "full")],
        *[(f"{name}_{kind}", "classical") for name in ("joint", "own", "resnet") for kind in ("frozen", "full")],
        ("scratch", "classical"),
    }


def test_models_of_other_classes_are_rows_as_far_as_they_can(done, plan, folder, tmp_path):
    torch.manual_seed(0)
    CMSSLTokenizerModel(tokenizer_config()).save_pretrained(tmp_path)
    CMSSLFeatureExtractor(channels=("ecg", "ppg"), patch_size=25).save_pretrained(tmp_path)
    encoders = read_encoders([f"tokens={tmp_path}"])
    assert encoders == {channel: {"tokens": [str(tmp_path)]} for channel in ("ecg", "ppg")}
    made = make_benchmarks(plan, {}, encoders, tmp_path / "work", cache_dir=str(folder / "cache"))["simulated_hr"]
    assert "is a tokenizer: it gives codes and no features" in one(made, row="tokens_frozen").refusal
    full = one(made, row="tokens_full")
    assert full.refusal is None and full.details["backbone"]["model_type"] == "cmssl_tokenizer"
    assert done[1].load(Combination("simulated_hr", "resnet_frozen", 1.0, 0)).details["features"] == "pooled"


def test_a_recipe_is_followed_as_far_as_a_model_can():
    recipe = {"noise": 0.1, "balance_classes": 0.5, "config_overrides": {"pooling": "mean_std", "huber_delta": 0.1}}
    followed = recipe_of(recipe, HeartLangConfig(), HeartLangFeatureExtractor())
    assert followed == {"balance_classes": 0.5, "config_overrides": {"huber_delta": 0.1}}
    assert recipe_of(recipe, encoder_config(), CMSSLFeatureExtractor()) == recipe


def one(benchmark, **fields):
    return benchmark.run(
        Combination(**{"task": "simulated_hr", "row": "joint_frozen", "fraction": 1.0, "seed": 0} | fields)
    )


def test_refusals_name_their_reason_and_end_nothing(done, plan, folder, tmp_path):
    benchmark = done[0]
    everyone = np.unique(benchmark.windows.subjects).tolist()
    leaky = save_encoder(tmp_path / "leaky", seen=everyone[:3])
    ecg = save_encoder(tmp_path / "ecg", channel="ecg")

    def made(**encoders):
        made = make_benchmarks(plan, {}, {"ppg": encoders}, folder / "work", cache_dir=str(folder / "cache"))
        return made["simulated_hr"]

    refusals = [
        one(made(joint=[leaky]), fold=fold, row=row).refusal
        for fold in (0, 1)
        for row in ("joint_frozen", "joint_full")
    ]
    assert sum(reason is not None for reason in refusals) >= 2
    assert all("was pre-trained on" in reason for reason in refusals if reason)
    # Random weights of the same architecture have seen nobody.
    assert one(made(joint=[leaky]), row="random_frozen", fold=0).refusal is None
    for row in ("joint_frozen", "joint_full"):
        assert "The task reads ppg, but" in one(made(joint=[ecg]), row=row).refusal
    assert one(made(joint=[])).refusal == "No encoder for ppg is called joint."
    assert "`label_fraction` must lie above 0" in one(benchmark, fraction=2.0).refusal
    small = make_benchmarks(
        BenchmarkPlan({"simulated_hr": TaskPlan(dataset_options={**PEOPLE, "num_subjects": 3})}, num_folds=5),
        {},
        {},
        tmp_path,
        cache_dir=str(folder / "cache"),
    )["simulated_hr"]
    assert "3 subject(s) are too few for 5 folds" in one(small, row="mean", fold=0).refusal


def test_labels_of_one_class_are_refused():
    task = get_task("physionet2017")
    division = {"train": np.arange(4), "validation": np.arange(4, 6), "test": np.arange(6, 8)}
    labels = np.array([1, 1, 1, 1, 0, 1, 0, 1])
    with pytest.raises(ValueError, match="All training labels of physionet2017 are the same"):
        fit_and_predict(task, {"x": np.random.rand(8, 3)}, labels, division, seed=0)


@pytest.mark.parametrize("with_trees", [False, True])
def test_classes_that_can_be_told_apart_are(with_trees):
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1, 3], 60)
    features = {"noise": rng.normal(size=(180, 3)), "good": np.eye(4)[labels] + 0.1 * rng.normal(size=(180, 4))}
    features["good"][::7, 0] = np.nan
    division = {"train": np.arange(90), "validation": np.arange(90, 120), "test": np.arange(120, 180)}
    predicted, chosen = fit_and_predict(
        get_task("physionet2017"), features, labels, division, seed=0, with_trees=with_trees
    )
    assert predicted.shape == (60, 4) and (predicted.argmax(1) == labels[120:]).mean() > 0.95
    assert chosen["features"] == "good" and chosen["validation_f1_macro"] > 0.95


def test_several_labels_and_numbers_are_learnt():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(300, 5))
    division = {"train": np.arange(200), "validation": np.arange(200, 240), "test": np.arange(240, 300)}
    hot = (values[:, :5] > 0).astype(np.float32)
    scores, _ = fit_and_predict(get_task("ptb_xl"), {"x": values}, hot, division, seed=0)
    assert ((scores > 0) == (hot[240:] > 0.5)).mean() > 0.9
    rates = 70 + values @ np.arange(5.0)
    predicted, _ = fit_and_predict(get_task("bidmc_hr"), {"x": values}, rates, division, seed=0)
    assert np.abs(predicted[:, 0] - rates[240:]).mean() < 0.5


def test_embeddings_are_means_and_deviations_over_real_patches_and_kept(tmp_path, monkeypatch):
    torch.manual_seed(0)
    encoder = CMSSLEncoderModel(encoder_config()).eval()
    signals = waves(5, num_samples=[100, 250, 75, 250, 1000])
    windows = windows_dataset(signals)
    found = embed_windows(encoder, windows, spectrum=True, cache_dir=tmp_path, batch_size=2)
    for row, signal in enumerate(signals):
        with torch.no_grad():
            hidden = encoder(torch.tensor(signal)[None]).last_hidden_state[0].numpy()
        expected = np.concatenate([hidden.mean(0), hidden.std(0)])
        np.testing.assert_allclose(found["last"][row, :32], expected, atol=1e-4)
    pieces = embed_windows(encoder, windows, spectrum=False, piece_seconds=2, cache_dir=tmp_path, batch_size=2)
    with torch.no_grad():
        parts = torch.tensor(signals[4])[None].split(250, dim=-1)
        hidden = torch.cat([encoder(part).last_hidden_state for part in parts], dim=1)[0].numpy()
    np.testing.assert_allclose(pieces["last"][4], np.concatenate([hidden.mean(0), hidden.std(0)]), atol=1e-4)
    monkeypatch.setattr(CMSSLEncoderModel, "forward", lambda *_, **__: pytest.fail("embedded again"))
    again = embed_windows(encoder, windows, spectrum=True, cache_dir=tmp_path)
    np.testing.assert_array_equal(again["last"], found["last"])
