"""Model cards say what the run has recorded, in a form that the Hub understands, with code that works."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from cmssl_hf import (
    CMSSLEncoderForPreTraining,
    CMSSLEncoderForSequenceClassification,
    CMSSLFeatureExtractor,
    CMSSLTokenizerModel,
)
from cmssl_hf.building.simulation import draw_subject, simulate_recording
from cmssl_hf.training.engine.run_folder import model_identity
from cmssl_hf.training.model_card import write_model_card
from helpers.tiny import PATCH, encoder_config, tokenizer_config


def described_data(dataset: str, config: str | None, *splits: str, **options) -> dict:
    sizes = {"train": (30, 9123), "validation": (4, 812), "test": (5, 1017)}
    return {
        "dataset": dataset,
        "config": config,
        "options": options,
        "splits": {
            split: {
                "fingerprint": "0",
                "num_windows": sizes[split][1],
                "subjects": [str(i) for i in range(sizes[split][0])],
            }
            for split in splits
        },
    }


def finished_run(stage: str, model, data: dict, results: dict, builds_on: dict | None = None, **identity) -> dict:
    return {
        "identity": {
            "stage": stage,
            "data": data,
            "model": model_identity(model.config),
            "training": {"learning_rate": 0.00037, "num_train_epochs": 3.0, "max_steps": 1234, "seed": 17},
            **identity,
        },
        "environment": {"python": "3.11.7", "platform": "somewhere", "torch": "2.13.0", "commit": None},
        "builds_on": builds_on,
        "results": results,
    }


def save(folder: Path, run: dict, model) -> Path:
    model.save_pretrained(folder)
    CMSSLFeatureExtractor(channels=model.config.channels, patch_size=PATCH).save_pretrained(folder)
    (folder / "run.json").write_text(json.dumps(run))
    return folder


TOKENIZER_RESULTS = {
    "eval_loss": 0.8127,
    "eval_ecg_explained_variance": 0.6213,
    "eval_codes_in_use": 11,
    "eval_perplexity": 7.6931,
    "eval_unused_code_ratio": 0.3125,
    "eval_runtime": 1.9,
    "eval_samples_per_second": 345.1,
    "epoch": 3.0,
}
HEART_RATE_RESULTS = {
    "encoder": {"mae": 1.4142, "rmse": 2.7183, "r2": float("nan")},
    "constant": {"mae": 12.691, "rmse": 15.413, "r2": -0.1},
    "pulse_peaks": {"mae": 1.0031, "rmse": 1.8125, "r2": 0.97},
}


@pytest.fixture
def tokenizer_run(tmp_path) -> Path:
    model = CMSSLTokenizerModel(tokenizer_config(window_seconds=10.0))
    run = finished_run("tokenizer", model, described_data("pulsedb", None, "train", "validation"), TOKENIZER_RESULTS)
    return save(tmp_path / "tokenizer", run, model)


@pytest.fixture
def encoder_run(tmp_path, tokenizer_run) -> Path:
    model = CMSSLEncoderForPreTraining(encoder_config())
    run = finished_run(
        "encoder",
        model,
        described_data("pulsedb", None, "train", "validation"),
        {"eval_cross_entropy": 5.6612, "eval_top5_accuracy": 0.157},
        builds_on=json.loads((tokenizer_run / "run.json").read_text()),
    )
    return save(tmp_path / "encoder", run, model)


@pytest.fixture
def heart_rate_run(tmp_path, encoder_run) -> Path:
    model = CMSSLEncoderForSequenceClassification(
        encoder_config(
            problem_type="regression", id2label={0: "heart_rate"}, label_mean=70.0, label_std=10.0, label_unit="bpm"
        )
    )
    run = finished_run(
        "finetuning",
        model,
        described_data("bidmc", "hr", "train", "validation", "test", stride_seconds=2),
        HEART_RATE_RESULTS,
        builds_on=json.loads((encoder_run / "run.json").read_text()),
        task="bidmc_hr",
        freeze_encoder=False,
        augmentation={"time_stretch": 1.33},
    )
    return save(tmp_path / "heart_rate", run, model)


def rows_of_tables(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]


def test_finetuned(heart_rate_run):
    card = write_model_card(heart_rate_run)
    stored = ModelCard.load(heart_rate_run / "README.md")
    assert stored.content == card.content
    assert stored.data.library_name == "transformers"
    assert {"ppg", "bidmc_hr", "physiological-signal-regression"} <= set(stored.data.tags)
    results = {result.metric_type: result for result in stored.data.eval_results}
    # R2 was not a number, which YAML has no honest place for.
    assert {name: result.metric_value for name, result in results.items()} == {"mae": 1.4142, "rmse": 2.7183}
    assert stored.data.model_name == "heart_rate"
    assert (results["mae"].dataset_type, results["mae"].dataset_config, results["mae"].dataset_split) == (
        "bidmc",
        "hr",
        "test",
    )
    assert results["mae"].dataset_args == {"stride_seconds": 2}
    rows = rows_of_tables(card.text)
    assert ["encoder", "1.414", "2.718", "nan"] in rows
    assert ["constant", "12.691", "15.413", "-0.100"] in rows
    assert ["pulse_peaks", "1.003", "1.812", "0.970"] in rows
    assert ["finetuning", "bidmc/hr", "test", "5", "1,017", "ODC-By 1.0"] in rows
    assert ["`learning_rate`", "0.00037"] in rows
    assert ["answers", "heart_rate (bpm)"] in rows
    assert "not a medical device" in card.text
    assert "seed 17" in card.text
    assert "@article{pimentel2016robust" in card.text and "@article{wang2023pulsedb" in card.text


def test_what_intervals_were_worth(heart_rate_run):
    run = json.loads((heart_rate_run / "run.json").read_text())
    assert "When not to believe it" not in write_model_card(heart_rate_run).text
    run["limits"] = {
        "num_subjects": 12,
        "coverage": [{"asked": 0.9, "covered": 0.9137, "width": 12.81}],
        "risk": [{"answered": 1.0, "error": 1.4142}, {"answered": 0.5, "error": 0.7071}],
    }
    (heart_rate_run / "run.json").write_text(json.dumps(run))
    text = write_model_card(heart_rate_run).text
    rows = rows_of_tables(text)
    for row in (
        ["interval of", "held the label", "mean width (bpm)"],
        ["90%", "91.4%", "12.8"],
        ["100%", "1.41"],
        ["50%", "0.707"],
    ):
        assert row in rows
    assert "calibrated on 12 validation subjects" in text


def test_what_may_leak(heart_rate_run):
    text = write_model_card(heart_rate_run).text
    assert "bidmc and pulsedb are both drawn from the MIMIC waveform databases" in text
    assert "No test subject, by dataset and identifier, was in the training or validation data" in text
    run = json.loads((heart_rate_run / "run.json").read_text())
    run["builds_on"] = None
    for initialisation, expected in (
        ("small", "It started from random weights: no pre-training."),
        ("random weights", "It started from random weights: no pre-training."),
        ("f3a9", "Which subjects the starting weights have seen is not known"),
    ):
        run["identity"]["initialisation"] = initialisation
        (heart_rate_run / "run.json").write_text(json.dumps(run))
        text = write_model_card(heart_rate_run).text
        assert expected in text
        assert "MIMIC waveform" not in text


def test_licence_of_the_data(heart_rate_run):
    """VitalDB, a part of PulseDB, restricts commercial use; BIDMC does not."""
    card = write_model_card(heart_rate_run)
    assert (card.data.license, card.data.license_name) == ("other", "terms-of-the-training-data")
    assert "CC BY-NC-SA 4.0" in card.text
    run = json.loads((heart_rate_run / "run.json").read_text())
    run["builds_on"] = None
    (heart_rate_run / "run.json").write_text(json.dumps(run))
    assert write_model_card(heart_rate_run).data.license == "apache-2.0"


def test_codebook_health(tokenizer_run):
    card = write_model_card(tokenizer_run)
    rows = rows_of_tables(card.text)
    for row in (
        ["codes in use", "11 of 16"],
        ["perplexity", "7.693"],
        ["unused code ratio", "0.3125"],
        ["ecg explained variance", "0.6213"],
        ["window in training", "10 s (median)"],
        ["signals", "ECG and PPG"],
    ):
        assert row in rows
    assert card.data.pipeline_tag == "feature-extraction"
    metrics = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert metrics == {
        name.removeprefix("eval_"): value
        for name, value in TOKENIZER_RESULTS.items()
        if name not in ("eval_runtime", "eval_samples_per_second", "epoch")
    }
    assert {result.dataset_split for result in card.data.eval_results} == {"validation"}


@pytest.mark.parametrize("run", ["tokenizer_run", "encoder_run", "heart_rate_run"])
def test_code_works(run, request):
    folder = request.getfixturevalue(run)
    text = write_model_card(folder).text
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    rng = np.random.default_rng(0)
    recording = simulate_recording(draw_subject(rng, 0.0), 12, 125, rng)
    names = {"ecg": recording.ecg, "ppg": recording.ppg}
    torch.manual_seed(0)
    exec(code, names)
    if run == "tokenizer_run":
        assert names["codes"].shape == (1, 60)
        assert names["signals"].shape == (1, 2, 1500)
    elif run == "encoder_run":
        assert names["features"].shape == (16,)
    else:
        assert list(names["answer"]["value"]) == ["heart_rate"]


def test_network_without_attention_and_its_second_head(heart_rate_run, tmp_path):
    run = json.loads((heart_rate_run / "run.json").read_text())
    run["identity"]["model"] |= {"num_hidden_layers": 0, "interval_head": True}
    (tmp_path / "run.json").write_text(json.dumps(run))
    card = write_model_card(tmp_path).text
    assert "A convolutional network that reads one signal" in card and "transformer that reads" not in card
    assert "the mean of two heads, of which one knows the intervals between R-peaks alone" in card
    assert "A transformer that reads one signal" in write_model_card(heart_rate_run).text


def test_name_of_the_model(heart_rate_run):
    card = write_model_card(heart_rate_run, "someone/heart-rate")
    assert '\nname = "someone/heart-rate"\n' in card.text
    assert str(heart_rate_run) not in card.content
    assert card.data.model_name == "heart-rate"


def test_refusals(tmp_path, heart_rate_run):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        write_model_card(tmp_path)
    run = json.loads((heart_rate_run / "run.json").read_text())
    del run["results"]
    (heart_rate_run / "run.json").write_text(json.dumps(run))
    with pytest.raises(ValueError, match="is not finished"):
        write_model_card(heart_rate_run)
