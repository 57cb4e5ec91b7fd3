"""Models that come with the package: how they get there, that they answer, and what is uploaded of them."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModel, pipeline

import cmssl_hf
from cmssl_hf import CMSSLEncoderForSequenceClassification, CMSSLFeatureExtractor
from cmssl_hf.building.simulation import draw_subject, simulate_recording
from cmssl_hf.shipped import pretrained_names
from helpers.checkout import ROOT
from helpers.hub_server import HubServer
from helpers.scripts import load_script
from helpers.tiny import encoder_config


NAMES = ["ecg-diagnosis", "ecg-encoder", "heart-rate", "ppg-encoder", "respiration", "rhythm", "tokenizer"]
LIMIT = 25 * 2**20


@pytest.fixture
def run(tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "run"
    config = encoder_config(num_labels=1, problem_type="regression", label_mean=75.0, label_std=10.0)
    CMSSLEncoderForSequenceClassification(config).save_pretrained(folder)
    CMSSLFeatureExtractor(patch_size=config.patch_size).save_pretrained(folder)
    (folder / "run.json").write_text('{"identity": {"data": null}, "weights": {"model.safetensors": "0"}}')
    (folder / "README.md").write_text('# A model\n\n```python\nname = "runs/somewhere"\n```\n')
    return folder


def test_all_are_there_and_small():
    assert pretrained_names() == NAMES
    files = [file for name in NAMES for file in (ROOT / "cmssl_hf" / "pretrained" / name).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < LIMIT
    assert {file.name for file in files} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "run.json",
    }


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(
        ValueError, match="No model called 'heart_rate' comes with the package; there are ecg-diagnosis"
    ):
        cmssl_hf.pretrained("heart_rate")


@pytest.mark.parametrize("name", NAMES)
def test_each_has_a_card_that_names_its_data(name):
    folder = ROOT / "cmssl_hf" / "pretrained" / name
    card = (folder / "README.md").read_text()
    assert f'name = cmssl_hf.pretrained("{name}")' in card
    assert "ODC-By" in card or "CC BY 4.0" in card or "CC-BY-4.0" in card
    # No string is a path of the machine that trained it.
    for text in (card, *(file.read_text() for file in folder.glob("*.json"))):
        assert '"/' not in text and "`/" not in text


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_stored_in_half_precision_and_loaded_in_single(name):
    model = AutoModel.from_pretrained(cmssl_hf.pretrained(name))
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    stored = load_file(f"{cmssl_hf.pretrained(name)}/model.safetensors")
    assert {tensor.dtype for tensor in stored.values() if tensor.is_floating_point()} == {torch.float16}
    assert AutoFeatureExtractor.from_pretrained(cmssl_hf.pretrained(name)).channels == model.config.channels


def test_a_pipeline_without_a_model_knows_a_simulated_heart_rate_and_rhythm():
    generator = np.random.default_rng(3)
    recording = simulate_recording(draw_subject(generator, arrhythmia_share=0.0), 60, 125, generator)
    answer = pipeline("physiological-signal-regression")(recording.ppg, sampling_rate=125)
    assert answer["unit"] == "bpm"
    assert answer["value"]["heart_rate"] == pytest.approx(recording.heart_rate(0, 60), abs=4)
    predict = pipeline("physiological-signal-regression", model=cmssl_hf.pretrained("respiration"))
    breaths = predict(recording.ppg, sampling_rate=125)
    assert breaths["unit"] == "breaths/min"
    assert breaths["value"]["respiratory_rate"] == pytest.approx(recording.respiratory_rate(0, 60), abs=4)
    rhythm = pipeline("physiological-signal-classification")(recording.ecg[:3750], sampling_rate=125)
    assert "windows" in rhythm


def test_packing_keeps_the_answers_and_tells_where_the_model_is(run, tmp_path, monkeypatch):
    script = load_script("pack_pretrained")
    monkeypatch.setattr(script, "PRETRAINED", tmp_path / "pretrained")
    folder = script.pack(run, "mine")
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "float32" and "auto_map" not in config
    assert 'name = cmssl_hf.pretrained("mine")' in (folder / "README.md").read_text()
    own, packed = (CMSSLEncoderForSequenceClassification.from_pretrained(place).eval() for place in (run, folder))
    signals = torch.randn(4, 1, 100, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(own(signals).logits, packed(signals).logits, atol=0.05, rtol=1e-3)
    assert not list(folder.glob("*.py"))


def test_packing_refuses_a_model_that_rounding_changes(run, tmp_path, monkeypatch):
    script = load_script("pack_pretrained")
    monkeypatch.setattr(script, "PRETRAINED", tmp_path / "pretrained")
    model = CMSSLEncoderForSequenceClassification.from_pretrained(run)
    with torch.no_grad():
        model.encoder.patch_projection.weight.mul_(1e6)  # beyond what half precision holds
    model.save_pretrained(run)
    with pytest.raises(ValueError, match=r"In half precision .*run answers otherwise"):
        script.pack(run, "mine")
    assert not (tmp_path / "pretrained" / "mine").exists()


def test_what_is_uploaded_loads_without_the_package(tmp_path):
    with HubServer() as hub:
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path),
            "HF_TOKEN": "hf_test",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
        }
        command = [sys.executable, "scripts/push_pretrained.py", "--namespace", "someone", "--names", "heart-rate"]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
        assert result.returncode == 0, result.stderr
        _, files = hub.repositories["models/someone/cmssl-heart-rate"].at("main")
    assert {"README.md", "config.json", "model.safetensors", "pipeline_cmssl.py", "run.json"} <= set(files)
    assert 'name = "someone/cmssl-heart-rate"' in files["README.md"].content.decode()
    assert "custom_pipelines" in json.loads(files["config.json"].content)
