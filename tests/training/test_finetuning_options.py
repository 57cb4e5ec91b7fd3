"""Shares of labels, folds and random weights in fine-tuning, and what is refused."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import DatasetDict

from cmssl_hf import CMSSLEncoderForPreTraining, CMSSLEncoderForSequenceClassification, CMSSLFeatureExtractor
from cmssl_hf.baselines import heart_rate_from_pulse_peaks
from cmssl_hf.data.loading import load_dataset
from cmssl_hf.tasks import TASKS, Task
from cmssl_hf.training import finetuning
from cmssl_hf.training.arguments import DataArguments
from cmssl_hf.training.finetuning import FinetuningArguments, TaskArguments, finetune
from cmssl_hf.training.labels import class_weights
from cmssl_hf.training.starting_model import from_pretrained, starting_parts
from helpers.tiny import encoder_config


PEOPLE = {"num_subjects": 20, "seconds_per_subject": 40.0}
RHYTHM = Task("simulated_rhythm", "simulated", "rhythm", "ppg", "single_label_classification")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("finetuning")


@pytest.fixture(scope="module")
def encoder(folder):
    # Another seed than that of the runs, which would draw the same weights.
    torch.manual_seed(5)
    CMSSLEncoderForPreTraining(encoder_config()).save_pretrained(folder / "encoder")
    CMSSLFeatureExtractor(patch_size=25).save_pretrained(folder / "encoder")
    return str(folder / "encoder")


def run(folder, output_dir, model, task="simulated_hr", seed=0, people=None, **options):
    return finetune(
        TaskArguments(task=task, model_name_or_path=model, **{"accept_unknown_provenance": True} | options),
        DataArguments(cache_dir=str(folder / "cache"), dataset_options=people or PEOPLE),
        FinetuningArguments(
            output_dir=str(output_dir),
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            max_steps=2,
            eval_strategy="steps",
            eval_steps=2,
            save_strategy="steps",
            save_steps=2,
            per_device_train_batch_size=8,
            learning_rate=0.0,
            seed=seed,
        ),
    )


def subjects(folder):
    splits = json.loads((folder / "run.json").read_text())["identity"]["data"]["splits"]
    return {split: set(part["subjects"]) for split, part in splits.items()}


def test_a_share_of_the_labels_leaves_validation_and_test_as_they_are(folder, encoder, tmp_path):
    run(folder, tmp_path / "all", encoder)
    run(folder, tmp_path / "some", encoder, label_fraction=0.25)
    everyone, some = subjects(tmp_path / "all"), subjects(tmp_path / "some")
    assert len(some["train"]) == 4 and some["train"] < everyone["train"]
    assert (some["validation"], some["test"]) == (everyone["validation"], everyone["test"])


def test_pieces_are_what_the_model_says_it_was_trained_on(folder, encoder, tmp_path):
    run(folder, tmp_path / "pieces", encoder, crop_seconds=4)
    assert json.loads((tmp_path / "pieces" / "config.json").read_text())["window_seconds"] == 4
    assert json.loads((tmp_path / "pieces" / "run.json").read_text())["identity"]["crop_seconds"] == 4
    with pytest.raises(ValueError, match="`crop_seconds` must be positive, but is 0"):
        run(folder, tmp_path / "none", encoder, crop_seconds=0)


def test_folds_test_everyone_once(folder, encoder, tmp_path):
    tested = []
    for fold in range(2):
        run(folder, tmp_path / str(fold), encoder, fold=fold, num_folds=2)
        tested.append(subjects(tmp_path / str(fold))["test"])
        table = pd.read_csv(tmp_path / str(fold) / "predictions.csv", dtype={"subject_id": str})
        assert set(table["subject_id"]) == tested[-1]
    assert not tested[0] & tested[1] and len(tested[0] | tested[1]) == 20


def test_random_weights_are_not_those_of_the_folder(folder, encoder, tmp_path):
    """A learning rate of 0 leaves the encoder as it started."""
    run(folder, tmp_path / "pretrained", encoder)
    run(folder, tmp_path / "random", encoder, random_weights=True)
    start = CMSSLEncoderForPreTraining.from_pretrained(encoder).encoder.patch_projection.weight
    kept, fresh = (
        CMSSLEncoderForSequenceClassification.from_pretrained(tmp_path / name).encoder.patch_projection.weight
        for name in ("pretrained", "random")
    )
    torch.testing.assert_close(kept, start)
    assert not torch.allclose(fresh, start)
    assert fresh.shape == start.shape


def test_labels_of_one_class_are_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, RHYTHM.name, RHYTHM)
    load = finetuning.load_stage_data

    def normal_only(*arguments):
        splits = load(*arguments)
        labels = np.array(splits["train"]["label"])
        return DatasetDict({**splits, "train": splits["train"].select(np.flatnonzero(labels == labels[0]))})

    monkeypatch.setattr(finetuning, "load_stage_data", normal_only)
    with pytest.raises(ValueError, match=r"All training labels of simulated_rhythm are the same \(\d\)"):
        run(folder, tmp_path / "run", "small", task=RHYTHM.name, config_overrides={"num_hidden_layers": 1})
    assert not (tmp_path / "run").exists()


def drop_a_test_window(monkeypatch):
    """As if the fourth test window were unusable."""
    load = finetuning.load_stage_data

    def without(*arguments):
        splits = load(*arguments)
        kept = [row for row in range(len(splits["test"])) if row != 3]
        return DatasetDict({**splits, "test": splits["test"].select(kept)})

    monkeypatch.setattr(finetuning, "load_stage_data", without)


def test_the_classical_method_is_scored_on_the_windows_of_the_model(folder, encoder, tmp_path, monkeypatch):
    drop_a_test_window(monkeypatch)
    results = run(folder, tmp_path / "run", encoder)
    raw = load_dataset("simulated", "hr", split="test", cache_dir=folder / "cache", **PEOPLE)
    rows = [row for index, row in enumerate(raw) if index != 3]
    predicted = [heart_rate_from_pulse_peaks(np.array(row["signal"]), row["sampling_rate"]) for row in rows]
    errors = np.abs(np.array(predicted) - [row["label"] for row in rows])
    assert np.isfinite(errors).all()
    assert results["pulse_peaks"]["mae"] == pytest.approx(errors.mean())
    assert len(pd.read_csv(tmp_path / "run" / "predictions.csv")) == len(rows)


def test_a_release_with_other_windows_is_refused_before_the_training(folder, encoder, tmp_path, monkeypatch):
    load = finetuning.load_raw_data
    monkeypatch.setattr(
        finetuning, "load_raw_data", lambda arguments: {"test": load(arguments)["test"].select([0, 2, 3, 4])}
    )
    with pytest.raises(ValueError, match=r"windows are not in the release, such as that of record .* at 10 s"):
        run(folder, tmp_path / "run", encoder)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_class_weights_in_closed_form(exponent):
    weights = class_weights(np.array([0] * 6 + [1] * 2), 3, exponent)
    # Shares of 6/8 and 2/8 against 1/3 each; the third class does not occur.
    np.testing.assert_allclose(weights, [(18 / 8) ** -exponent, (6 / 8) ** -exponent, 1.0])


def test_the_loss_weights_classes():
    torch.manual_seed(0)
    config = encoder_config(num_labels=3, problem_type="single_label_classification", class_weights=[0.5, 2.0, 1.0])
    model = CMSSLEncoderForSequenceClassification(config).eval()
    labels = torch.tensor([0, 1, 1, 2])
    outputs = model(input_values=torch.randn(4, 1, 250), labels=labels)
    surprise = -outputs.logits.log_softmax(-1)[torch.arange(4), labels].detach().numpy()
    expected = np.average(surprise, weights=[0.5, 2, 2, 1])
    assert outputs.loss.item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(Exception, match=r"`class_weights` must hold one weight per class \(2\)"):
        encoder_config(num_labels=2, class_weights=[1.0])


def test_a_task_without_the_needed_signal_is_refused(folder, tmp_path):
    CMSSLEncoderForPreTraining(encoder_config(channels=("ecg",))).save_pretrained(tmp_path / "ecg")
    CMSSLFeatureExtractor(channels=("ecg",), patch_size=25).save_pretrained(tmp_path / "ecg")
    with pytest.raises(ValueError, match=r"The task simulated_hr reads ppg, but the model .* reads ecg"):
        run(folder, tmp_path / "run", str(tmp_path / "ecg"))


def test_too_few_subjects_are_refused(folder, encoder, tmp_path):
    with pytest.raises(ValueError, match=r"2 subject\(s\) are too few: the .* split would be empty"):
        run(folder, tmp_path / "run", encoder, people=PEOPLE | {"num_subjects": 2})
    with pytest.raises(ValueError, match=r"4 subject\(s\) are too few for 5 folds"):
        run(folder, tmp_path / "run", encoder, people=PEOPLE | {"num_subjects": 4}, fold=0)


def test_a_model_that_has_seen_test_subjects_is_refused_but_its_architecture_is_not(folder, encoder, tmp_path):
    run(folder, tmp_path / "first", encoder)
    tested = sorted(subjects(tmp_path / "first")["test"])
    leaky = tmp_path / "leaky"
    CMSSLEncoderForPreTraining(encoder_config()).save_pretrained(leaky)
    CMSSLFeatureExtractor(patch_size=25).save_pretrained(leaky)
    seen = {"identity": {"data": {"dataset": "simulated", "splits": {"train": {"subjects": tested}}}}}
    (leaky / "run.json").write_text(json.dumps(seen))
    with pytest.raises(ValueError, match=f"was pre-trained on {len(tested)} of the test subjects of simulated"):
        run(folder, tmp_path / "run", str(leaky))
    run(folder, tmp_path / "run", str(leaky), random_weights=True)


def test_a_model_of_which_nothing_is_recorded_is_tested_only_when_told_so_and_the_card_says_it(
    folder, encoder, tmp_path
):
    with pytest.raises(ValueError, match="give `--accept_unknown_provenance true`"):
        run(folder, tmp_path / "run", encoder, accept_unknown_provenance=False)
    run(folder, tmp_path / "run", encoder, accept_unknown_provenance=True)
    assert "Which subjects the starting weights have seen is not known" in (tmp_path / "run" / "README.md").read_text()
    # The architecture alone has seen nobody.
    run(folder, tmp_path / "random", encoder, random_weights=True, accept_unknown_provenance=False)
    assert "is not known" not in (tmp_path / "random" / "README.md").read_text()


def test_an_encoder_that_is_not_whole_is_refused_and_a_new_head_is_not_reported(tmp_path, capfd):
    model = CMSSLEncoderForSequenceClassification(encoder_config(num_labels=1))
    weights = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("encoder.")}
    model.save_pretrained(tmp_path / "no head", state_dict=dict(weights))
    weights.pop("encoder.patch_projection.weight")
    model.save_pretrained(tmp_path / "no layer", state_dict=weights)
    config = encoder_config(num_labels=1)
    assert from_pretrained(str(tmp_path / "no head"), config).encoder is not None
    assert "LOAD REPORT" not in "".join(capfd.readouterr())
    with pytest.raises(ValueError, match=r"lacks 1 weights of the encoder, such as encoder\.patch_projection\.weight"):
        from_pretrained(str(tmp_path / "no layer"), config)


def test_a_new_model_is_given_the_band_that_is_asked_for():
    arguments = TaskArguments(task="bidmc_rr", from_scratch="small", pass_band=[0.08, 8.0])
    _, extractor = starting_parts(TASKS["bidmc_rr"], arguments, DataArguments())
    assert extractor.pass_bands["ppg"] == [0.08, 8.0]
    times = np.arange(7500) / 125
    slow = extractor(ppg=np.sin(2 * np.pi * times) + np.sin(2 * np.pi * 0.2 * times), sampling_rate=125)
    power = np.abs(np.fft.rfft(slow["input_values"][0][0])) ** 2
    assert power[12] > 0.5 * power[60]  # 0.2 Hz and 1 Hz in windows of 60 s


@pytest.mark.parametrize("band", [[8.0], [8.0, 0.5], [0.0, 8.0]])
def test_a_band_that_cannot_be_is_refused(band):
    with pytest.raises(ValueError, match="`pass_band` takes the lowest and the highest frequency"):
        TaskArguments(task="bidmc_rr", from_scratch="small", pass_band=band)


def test_a_trained_model_keeps_its_band(folder, encoder):
    with pytest.raises(ValueError, match=r"`pass_band` is \[0.08, 8.0\], but .* was trained on signals of \[0.5, 8"):
        run(folder, folder / "band", encoder, pass_band=[0.08, 8.0])
