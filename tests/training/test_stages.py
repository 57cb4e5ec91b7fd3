"""The three stages on simulated people, and what a user does with the model they leave."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    pipeline,
)

from cmssl_hf import (
    CMSSLEncoderForPreTraining,
    CMSSLEncoderForSequenceClassification,
    CMSSLFeatureExtractor,
    CMSSLTokenizerModel,
)
from cmssl_hf.data import codes, features
from cmssl_hf.data.loading import load_dataset
from cmssl_hf.tasks import TASKS, Task
from cmssl_hf.training import finetuning
from cmssl_hf.training.arguments import DataArguments
from cmssl_hf.training.encoder import EncoderArguments
from cmssl_hf.training.labels import describe_labels
from cmssl_hf.training.tokenizer import TokenizerArguments, TokenizerTrainingArguments, pretrain_tokenizer
from helpers.stages import PEOPLE, run_encoder, run_finetuning, run_tokenizer, training
from helpers.tiny import TINY_TOKENIZER


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, cache):
    """All three stages, once."""
    folder = tmp_path_factory.mktemp("runs")
    results = {"folder": folder}
    results["tokenizer"] = run_tokenizer(folder / "tokenizer", cache)
    results["encoder"] = run_encoder(folder / "encoder", cache, folder / "tokenizer")
    results["hr"] = run_finetuning(
        folder / "hr",
        cache,
        folder / "encoder",
        model_options={"time_stretch": 1.3, "noise": 0.1, "summary_file": str(folder / "summary.csv")},
        max_steps=40,
        eval_steps=20,
        save_steps=20,
    )
    return results


@pytest.fixture(scope="module")
def heart_rates(cache):
    return load_dataset("simulated", "hr", cache_dir=cache, **PEOPLE)


def test_tokenizer_run(runs, cache):
    metrics = runs["tokenizer"]
    assert {"eval_ecg_l1", "eval_ppg_explained_variance", "eval_perplexity", "eval_commitment_loss"} <= set(metrics)
    model = CMSSLTokenizerModel.from_pretrained(runs["folder"] / "tokenizer")
    assert model.config.channels == ("ecg", "ppg")
    extractor = CMSSLFeatureExtractor.from_pretrained(runs["folder"] / "tokenizer")
    assert extractor.channels == ("ecg", "ppg")
    rows = load_dataset("simulated", "pairs", cache_dir=cache, **PEOPLE)["validation"]
    inputs = extractor(ecg=rows["ecg"][:], ppg=rows["ppg"][:], sampling_rate=125, return_tensors="pt")
    with torch.no_grad():
        _, counts = np.unique(model.eval().encode(**inputs).numpy(), return_counts=True)
    assert metrics["eval_codes_in_use"] == len(counts)
    assert metrics["eval_perplexity"] == pytest.approx(np.exp(scipy.stats.entropy(counts)), rel=1e-6)


def test_stored_tokenizer_gives_the_metrics_that_were_reported(runs, cache):
    folder = runs["folder"] / "tokenizer"
    model = CMSSLTokenizerModel.from_pretrained(folder).eval()
    rows = load_dataset("simulated", "pairs", cache_dir=cache, split="validation", **PEOPLE)
    inputs = CMSSLFeatureExtractor.from_pretrained(folder)(
        ecg=rows["ecg"][:], ppg=rows["ppg"][:], sampling_rate=125, return_tensors="pt"
    )
    with torch.no_grad():
        output = model(**inputs)
    assert runs["tokenizer"]["eval_codes_in_use"] == len(output.codes.unique())
    error = (output.reconstruction - inputs["input_values"])[:, 1].abs().mean().item()
    assert runs["tokenizer"]["eval_ppg_l1"] == pytest.approx(error, rel=1e-4)


def test_encoder_run(runs):
    assert runs["encoder"]["eval_cross_entropy"] < np.log(16) * 1.5
    config = AutoConfig.from_pretrained(runs["folder"] / "encoder")
    assert (config.channels, config.codebook_size, config.hidden_size) == (("ppg",), 16, 32)
    assert CMSSLFeatureExtractor.from_pretrained(runs["folder"] / "encoder").channels == ("ppg",)


def test_encoder_is_probed(runs):
    probes = {name for name in runs["encoder"] if name.startswith("eval_probe_")}
    assert probes == {
        "eval_probe_heart_rate_r2",
        "eval_probe_interval_variation_r2",
        "eval_probe_pulse_transit_time_r2",
    }
    assert all(runs["encoder"][name] <= 1 for name in probes)


def test_label_standardisation_ends_in_the_config(runs, heart_rates):
    config = AutoConfig.from_pretrained(runs["folder"] / "hr")
    labels = np.array(heart_rates["train"]["label"])
    assert config.label_mean == pytest.approx([labels.mean()], rel=1e-5)
    assert config.label_std == pytest.approx([labels.std()], rel=1e-5)
    assert (config.label_unit, config.id2label) == ("bpm", {0: "heart_rate"})
    assert config.problem_type == "regression"


def test_validation_people_calibrate_the_model(runs, heart_rates):
    folder = runs["folder"] / "hr"
    calibration = AutoConfig.from_pretrained(folder).calibration
    assert (calibration["num_subjects"], calibration["num_windows"]) == (2, len(heart_rates["validation"]))
    # Two people are too few for more.
    assert list(calibration["quantiles"]) == ["0.5"]
    limits = json.loads((folder / "run.json").read_text())["limits"]
    table = pd.read_csv(folder / "predictions.csv", dtype={"subject_id": str})
    error = (table["prediction"] - table["label"]).abs()
    assert limits["risk"][0]["error"] == pytest.approx(error.mean(), rel=1e-5)
    predict = pipeline("physiological-signal-regression", model=str(folder))
    held = []
    for row in heart_rates["test"]:
        (window,) = predict(row)["windows"]
        low, high = window["interval"]["heart_rate"]
        held.append(low <= row["label"] <= high)
    assert limits["coverage"][0]["covered"] == pytest.approx(np.mean(held))
    assert "| interval of" in (folder / "README.md").read_text()


def test_results_are_those_of_predictions_csv(runs, heart_rates):
    table = pd.read_csv(runs["folder"] / "hr" / "predictions.csv", dtype={"subject_id": str})
    test = heart_rates["test"]
    for column in ("subject_id", "record_id", "start_time"):
        assert table[column].tolist() == test[column][:]
    np.testing.assert_allclose(table["label"], test["label"], rtol=1e-6)
    error = table["prediction"] - table["label"]
    assert runs["hr"]["encoder"]["mae"] == pytest.approx(error.abs().mean(), rel=1e-5)
    assert runs["hr"]["encoder"]["rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-5)


def test_rows_beside_ours(runs, heart_rates):
    labels = np.array(heart_rates["test"]["label"])
    constant = np.abs(labels - np.mean(heart_rates["train"]["label"])).mean()
    assert runs["hr"]["constant"]["mae"] == pytest.approx(constant, rel=1e-5)
    assert runs["hr"]["pulse_peaks"]["mae"] < constant


def test_summary_has_one_row(runs):
    table = pd.read_csv(runs["folder"] / "summary.csv")
    assert len(table) == 1
    row = table.iloc[0]
    assert (row["task"], row["model"], row["test_windows"], row["test_subjects"]) == ("simulated_hr", "encoder", 12, 2)
    assert row["mae"] == pytest.approx(runs["hr"]["encoder"]["mae"])


def test_run_file_tells_the_whole_story(runs):
    run = json.loads((runs["folder"] / "hr" / "run.json").read_text())
    assert run["results"] == runs["hr"]
    stages = []
    while run is not None:
        stages.append(run["identity"]["stage"])
        run = run.get("builds_on")
    assert stages == ["finetuning", "encoder", "tokenizer"]


LOAD_AND_PREDICT = """
import json, sys
import numpy as np, torch
import cmssl_hf
from transformers import AutoFeatureExtractor, AutoModelForSequenceClassification

folder, signals = sys.argv[1], np.load(sys.argv[2])
model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
extractor = AutoFeatureExtractor.from_pretrained(folder)
with torch.no_grad():
    print(json.dumps({
        rate: [model(**extractor(ppg=ppg, sampling_rate=float(rate), return_tensors="pt")).logits.item()
               for ppg in signals[rate]]
        for rate in signals.files
    }))
"""


def test_stored_model_predicts_from_raw_arrays_at_any_rate_in_a_new_process(runs, cache, tmp_path):
    slow = load_dataset("simulated", "hr", cache_dir=cache, split="test", sampling_rate=64.0, **PEOPLE)
    fast = load_dataset("simulated", "hr", cache_dir=cache, split="test", **PEOPLE)
    np.savez(tmp_path / "signals.npz", **{"64": np.array(slow["signal"][:]), "125": np.array(fast["signal"][:])})
    assert np.load(tmp_path / "signals.npz")["64"].shape == (12, 640)
    output = subprocess.run(
        [sys.executable, "-c", LOAD_AND_PREDICT, str(runs["folder"] / "hr"), str(tmp_path / "signals.npz")],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    ).stdout
    predicted = {rate: np.array(values) for rate, values in json.loads(output).items()}
    table = pd.read_csv(runs["folder"] / "hr" / "predictions.csv")
    np.testing.assert_allclose(predicted["125"], table["prediction"], atol=0.01)
    # Noise and motion are drawn per sample and differ between the rates; the signals are otherwise the same.
    assert np.abs(predicted["64"] - predicted["125"]).mean() < 0.05 * np.std(predicted["125"])


@pytest.mark.parametrize(
    ("channels", "channel"), [(("ecg", "ppg"), "ecg"), (("ppg",), "ppg"), (("ecg",), "ecg"), (("ecg",), "ppg")]
)
def test_other_pairings_of_tokens_and_encoder(channels, channel, tmp_path, cache):
    run_tokenizer(tmp_path / "tokenizer", cache, channels, max_steps=5)
    metrics = run_encoder(tmp_path / "encoder", cache, tmp_path / "tokenizer", channel, max_steps=2)
    assert np.isfinite(metrics["eval_cross_entropy"])
    assert AutoConfig.from_pretrained(tmp_path / "encoder").channels == (channel,)


def test_encoder_with_coarser_patches_names_several_codes_for_each(runs, cache, tmp_path):
    fine = AutoConfig.from_pretrained(runs["folder"] / "tokenizer").patch_size
    metrics = run_encoder(
        tmp_path / "encoder",
        cache,
        runs["folder"] / "tokenizer",
        overrides={"patch_size": 2 * fine},
        model_options={"time_stretch": 1.3, "augmented_copies": 1, "masked_share": 0.2, "noise": 0.1},
        max_steps=2,
    )
    assert np.isfinite(metrics["eval_cross_entropy"])
    model = CMSSLEncoderForPreTraining.from_pretrained(tmp_path / "encoder")
    assert model.config.codes_per_patch == 2
    logits = model(torch.randn(1, 1, 8 * fine)).logits
    assert logits.shape == (1, 8, model.config.codebook_size)


@pytest.mark.parametrize("options", [{"time_stretch": 1.3}, {"augmented_copies": 1}])
def test_changes_of_the_tokens_need_copies(options):
    with pytest.raises(ValueError, match="change the tokens and are done in `augmented_copies`: give both or neither"):
        EncoderArguments(tokenizer="somewhere", **options)


@pytest.mark.parametrize("model", ["scratch", "encoder", "frozen"])
@pytest.mark.parametrize("task", ["simulated_bp", "simulated_rr"])
def test_other_regressions(task, model, runs, cache, tmp_path):
    name = "small" if model == "scratch" else runs["folder"] / "encoder"
    results = run_finetuning(
        tmp_path / "run", cache, name, task, model_options={"freeze_encoder": model == "frozen"}, max_steps=2
    )
    row = {"scratch": "small from scratch", "encoder": "encoder", "frozen": "encoder, frozen"}[model]
    outputs = len(TASKS[task].label_names)
    stored = CMSSLEncoderForSequenceClassification.from_pretrained(tmp_path / "run")
    assert list(results)[:2] == [row, "constant"]
    assert stored.config.num_labels == outputs
    assert len(stored.config.label_mean) == outputs
    pretrained = CMSSLEncoderForSequenceClassification.from_pretrained(runs["folder"] / "encoder").encoder.state_dict()
    same = all(
        tensor.shape == pretrained[name].shape and torch.equal(tensor, pretrained[name])
        for name, tensor in stored.encoder.state_dict().items()
    )
    assert same == (model == "frozen")


@pytest.fixture
def rhythm_task(monkeypatch):
    task = Task("rhythm", "simulated", "rhythm", "ppg", "single_label_classification")
    monkeypatch.setitem(TASKS, "rhythm", task)
    return task


def test_multi_class(rhythm_task, cache, tmp_path):
    results = run_finetuning(
        tmp_path / "run", cache, "small", "rhythm", model_options={"time_stretch": 1.2}, max_steps=4
    )
    assert {"auroc", "auc_pr", "balanced_accuracy", "kappa", "f1_weighted"} <= set(results["small from scratch"])
    assert results["constant"]["auroc"] == 0.5
    config = AutoConfig.from_pretrained(tmp_path / "run")
    assert list(config.id2label.values()) == ["sinus_rhythm", "ectopic_beats", "atrial_fibrillation"]
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert {"label", "prediction_sinus_rhythm", "prediction_atrial_fibrillation"} <= set(table)


def test_model_of_one_task_can_be_fine_tuned_for_another(runs, rhythm_task, cache, tmp_path):
    run_finetuning(tmp_path / "bp", cache, runs["folder"] / "encoder", "simulated_bp", max_steps=2)
    folder = tmp_path / "bp"
    config = AutoConfig.from_pretrained(folder)
    describe_labels(config, rhythm_task, ["a", "b"], np.array([0, 1]))
    assert (config.label_mean, config.label_std, config.label_unit) == (None, None, None)


# What is refused


def test_folder_of_a_different_run_is_refused_and_untouched(runs, cache):
    before = (runs["folder"] / "tokenizer" / "run.json").read_bytes()
    with pytest.raises(FileExistsError, match=r"training\.seed \(42 there, 43 now\)"):
        run_tokenizer(runs["folder"] / "tokenizer", cache, seed=43)
    with pytest.raises(FileExistsError, match=r"stage \('tokenizer' there, 'encoder' now\)"):
        run_encoder(runs["folder"] / "tokenizer", cache, runs["folder"] / "tokenizer")
    assert (runs["folder"] / "tokenizer" / "run.json").read_bytes() == before


def test_another_encoder_of_the_same_settings_is_another_run(runs, cache, tmp_path):
    run_finetuning(tmp_path / "hr", cache, runs["folder"] / "encoder", max_steps=2)
    run_tokenizer(tmp_path / "tokenizer", cache, ("ppg",), max_steps=5)
    run_encoder(tmp_path / "encoder", cache, tmp_path / "tokenizer")
    with pytest.raises(FileExistsError, match="It differs in initialisation"):
        run_finetuning(tmp_path / "hr", cache, tmp_path / "encoder", max_steps=2)


def test_repeating_a_finished_run_computes_nothing_anew(runs, cache, monkeypatch):
    for module, name in ((features, "extract_table"), (codes, "_encode_batch")):
        monkeypatch.setattr(module, name, lambda *a, **k: pytest.fail("computed again"))
    again = run_encoder(runs["folder"] / "encoder", cache, runs["folder"] / "tokenizer")
    assert again["eval_loss"] == pytest.approx(runs["encoder"]["eval_loss"])


@pytest.mark.parametrize("stage", ["encoder", "finetuning"])
def test_subjects_of_pre_training_are_not_tested_on(stage, runs, cache, tmp_path):
    model = runs["folder"] / {"encoder": "encoder", "finetuning": "hr"}[stage]
    with pytest.raises(ValueError, match="was pre-trained on 2 of the test subjects of simulated"):
        run_finetuning(tmp_path, cache, model, data={"dataset_options": PEOPLE | {"split_seed": 1}})
    assert not any(tmp_path.iterdir())


def test_tokenizer_that_needs_a_signal_the_data_lack(runs, cache, tmp_path):
    with pytest.raises(ValueError, match="one signal per row, but the model reads ecg and ppg"):
        run_encoder(tmp_path, cache, runs["folder"] / "tokenizer", dataset_config="hr")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"codebook_size": 32}, r"`codebook_size` must be that of its tokenizer \(16\).* but it is 32"),
        ({"patch_size": 25}, r"`patch_size` \(25\) must hold a whole number of its tokenizer's patches \(125\)"),
        ({"codes_per_patch": 2}, r"`patch_size` \(125\) must hold .* \(125\), which is its `codes_per_patch`"),
        ({"channels": ["ecg"]}, "The encoder reads ppg, but `config_overrides` ask for ecg"),
    ],
)
def test_encoder_that_does_not_fit_its_tokenizer(overrides, message, runs, cache, tmp_path):
    with pytest.raises(ValueError, match=message):
        run_encoder(tmp_path, cache, runs["folder"] / "tokenizer", overrides=overrides)


def test_models_of_another_stage_are_refused(runs, cache, tmp_path):
    with pytest.raises(ValueError, match="encoder holds a cmssl_encoder, not a tokenizer of stage 1"):
        run_encoder(tmp_path, cache, runs["folder"] / "encoder")
    BertConfig().save_pretrained(tmp_path / "text")
    with pytest.raises(ValueError, match="text holds a bert, but a model of this package is fine-tuned"):
        run_finetuning(tmp_path, cache, tmp_path / "text")


def test_a_tokenizer_is_fine_tuned(runs, cache, tmp_path):
    """From the signal of the task alone, with the codes of stage 1 and without its decoder."""
    results = run_finetuning(tmp_path / "run", cache, runs["folder"] / "tokenizer", learning_rate=0.0)
    assert np.isfinite(results["tokenizer"]["mae"])
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    stage_1 = AutoModel.from_pretrained(runs["folder"] / "tokenizer")
    assert model.config.given_channels == ("ppg",)
    for name in ("encoder", "codebook"):
        ours, theirs = (getattr(each, name).state_dict() for each in (model, stage_1))
        for key, tensor in theirs.items():
            torch.testing.assert_close(ours[key], tensor, rtol=0, atol=0)
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "run").channels == ("ppg",)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["builds_on"]["identity"]["stage"] == "tokenizer"
    card = (tmp_path / "run" / "README.md").read_text()
    assert "It started from a pre-trained tokenizer (stage 1: simulated)" in card
    assert re.search(r"\| empty slots +\| ECG ", card) and re.search(r"\| signals +\| PPG ", card)
    with pytest.raises(ValueError, match=r"names fields that do not exist: piece_seconds. See `CMSSLTokenizerConfig`"):
        run_finetuning(
            tmp_path / "other",
            cache,
            runs["folder"] / "tokenizer",
            model_options={"config_overrides": {"piece_seconds": 10}},
        )


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("ptb_xl", {}, "The task ptb_xl reads ecg, but the model .*encoder reads ppg"),
        ("simulated_hr", {"data": {"dataset": "bidmc"}}, "reads the dataset simulated, not bidmc"),
        ("simulated_bp", {"model_options": {"time_stretch": 1.2}}, "labels of simulated_bp are no rates"),
        (
            "simulated_hr",
            {"data": {"dataset_options": PEOPLE | {"modality": "ecg"}}},
            "The task simulated_hr reads ppg, but `dataset_options` ask for ecg",
        ),
        ("nothing", {}, "Unknown task 'nothing'"),
    ],
)
def test_task_that_does_not_fit(task, options, message, runs, cache, tmp_path):
    with pytest.raises(ValueError, match=message):
        run_finetuning(tmp_path, cache, runs["folder"] / "encoder", task, **options)
    assert not any(tmp_path.iterdir())


def test_constant_labels_are_refused(runs, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(finetuning, "labels_of", lambda rows: np.full(len(rows), 70.0, dtype=np.float32))
    with pytest.raises(ValueError, match="training labels of simulated_hr are constant"):
        run_finetuning(tmp_path, cache, runs["folder"] / "encoder")


def test_windows_shorter_than_a_patch_name_their_record(cache, tmp_path):
    model = TokenizerArguments(config_overrides=TINY_TOKENIZER)
    data = DataArguments(
        dataset="simulated",
        cache_dir=str(cache),
        dataset_options=PEOPLE | {"window_seconds": 0.8, "stride_seconds": 0.8},
    )
    with pytest.raises(ValueError, match=r"In record simulated\d{5}: .* lasts 0\.8 s, but at least one patch of 1 s"):
        pretrain_tokenizer(model, data, training(TokenizerTrainingArguments, tmp_path))
