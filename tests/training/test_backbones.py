"""Models of other work are fine-tuned by the same command as ours, and their cards say what they are."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, pipeline

from cmssl_hf import CMSSLFeatureExtractor
from cmssl_hf.data.batches import WindowsCollator, WindowsDataset
from cmssl_hf.data.features import extract_features
from cmssl_hf.models.heartlang.configuration_heartlang import HeartLangConfig
from cmssl_hf.models.heartlang.feature_extraction_heartlang import HeartLangFeatureExtractor
from cmssl_hf.models.heartlang.modeling_heartlang import HeartLangModel
from cmssl_hf.models.papagei.configuration_papagei import PaPaGeiConfig
from cmssl_hf.models.papagei.feature_extraction_papagei import PaPaGeiFeatureExtractor
from cmssl_hf.models.papagei.modeling_papagei import PaPaGeiModel
from cmssl_hf.models.resnet1d.configuration_resnet1d import ResNet1DConfig
from cmssl_hf.models.resnet1d.modeling_resnet1d import ResNet1DModel
from cmssl_hf.tasks import TASKS, Task
from helpers.pipelines import REGRESSION, noisy_recording
from helpers.stages import run_finetuning


PEOPLE = {"num_subjects": 12, "seconds_per_subject": 20.0}
ECG_HR = Task("simulated_ecg_hr", "simulated", "hr", "ecg", "regression", ("heart_rate",), "bpm", label_is_rate=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of untrained models, as converters leave them."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    narrow = {"base_filters": 4, "num_blocks": 5}
    for name, model, extractor in (
        ("papagei", PaPaGeiModel(PaPaGeiConfig(**narrow, embedding_size=8)), PaPaGeiFeatureExtractor()),
        ("resnet1d", ResNet1DModel(ResNet1DConfig(**narrow)), CMSSLFeatureExtractor()),
        (
            "heartlang",
            HeartLangModel(HeartLangConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, head_dim=8,
                                           intermediate_size=16)),
            HeartLangFeatureExtractor(leads=("I",)),
        ),
    ):  # fmt: skip
        model.save_pretrained(root / name)
        extractor.save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def finetuned(models, cache, folder, name, task="simulated_hr", people=None, **options):
    short = {"max_steps": 2, "learning_rate": 1e-3}
    data = {"dataset_options": PEOPLE | (people or {})}
    return run_finetuning(
        folder, cache, models / name, task, data, {"accept_unknown_provenance": True} | options, **short
    )


@pytest.mark.parametrize(("name", "title"), [("papagei", "PaPaGei"), ("resnet1d", "ResNet-1D")])
def test_models_of_ppg(models, cache, tmp_path, name, title):
    results = finetuned(models, cache, tmp_path / "run", name)
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    errors = (table.filter(like="prediction").iloc[:, 0] - table.filter(like="label").iloc[:, 0]).abs()
    assert results[name]["mae"] == pytest.approx(errors.mean(), rel=1e-4)
    before = json.loads((models / name / "config.json").read_text())
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    assert model.config.base_filters == before["base_filters"] and model.config.label_unit == "bpm"
    answer = pipeline(REGRESSION, model=str(tmp_path / "run"))(noisy_recording(20), sampling_rate=64)
    assert np.isfinite(answer["value"]["heart_rate"])
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"# Heart rate from PPG ({title})" in card
    assert "import cmssl_hf\n" in card and "trust_remote_code" not in card
    assert "joint vocabulary" not in card and "cm-ssl" not in card.partition("\n---")[0]


def test_a_model_of_heartbeats(models, cache, tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, ECG_HR.name, ECG_HR)
    results = finetuned(models, cache, tmp_path / "run", "heartlang", ECG_HR.name, {"modality": "ecg"})
    assert np.isfinite(results["heartlang"]["mae"])
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    assert model.config.window_seconds is None
    start = HeartLangModel.from_pretrained(models / "heartlang")
    changed = (model.encoder.lead_embeddings.weight - start.lead_embeddings.weight).abs().amax(1)
    # The beats of lead I and the padding were seen, and no other lead.
    assert (changed[:2] > 0).all() and changed[2:].max() < 1e-4
    with pytest.raises(ValueError, match="reads heartbeats, which are cut before the training"):
        finetuned(models, cache, tmp_path / "noise", "heartlang", ECG_HR.name, {"modality": "ecg"}, noise=0.1)


def test_batches_hold_heartbeats_of_windows_of_any_length():
    """Those of the dataset are what the extractor makes of all windows at once."""
    times = np.arange(2000) / 100
    beats = np.exp(-((((times % 0.8) - 0.4) / 0.02) ** 2)) + 0.01 * np.random.default_rng(0).standard_normal(2000)
    windows = [beats[:800], beats]
    dataset = Dataset.from_dict({"signal": windows, "sampling_rate": [100.0, 100.0], "label": [1.0, 2.0]})
    extractor = HeartLangFeatureExtractor(max_beats=32)
    extracted = extract_features(dataset, extractor)
    rows = WindowsDataset(extracted, ["input_values", "lead_ids", "time_ids", "label"])
    batch = WindowsCollator(96, label_column="label", id_columns=["lead_ids", "time_ids"])(rows.__getitems__([0, 1]))
    expected = extractor(windows, sampling_rate=100, return_tensors="pt")
    assert batch.keys() == {*expected, "labels"}
    assert batch["input_values"].shape == (2, 64, 96) and expected["lead_ids"][0].sum() > 0
    for name, values in expected.items():
        torch.testing.assert_close(batch[name], values)


def test_a_task_of_another_signal_is_refused(models, cache, tmp_path):
    with pytest.raises(ValueError, match=r"The task simulated_hr reads ppg, but the model .*heartlang reads ecg"):
        finetuned(models, cache, tmp_path / "run", "heartlang")
    with pytest.raises(ValueError, match=r"The task ptb_xl reads ecg, but the model .*papagei reads ppg"):
        run_finetuning(tmp_path / "run", cache, models / "papagei", "ptb_xl")


def test_what_the_weights_have_decided_cannot_be_changed(models, cache, tmp_path):
    with pytest.raises(ValueError, match=r"ask for num_blocks=4, but .*papagei has num_blocks=5"):
        finetuned(models, cache, tmp_path / "run", "papagei", config_overrides={"num_blocks": 4})
