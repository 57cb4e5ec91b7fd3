"""Saved folders carry their code: they load with `trust_remote_code=True` where `cmssl_hf` is not installed."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForPreTraining, AutoModelForSequenceClassification
from transformers.dynamic_module_utils import get_imports

import cmssl_hf
from cmssl_hf import (
    CMSSLEncoderConfig,
    CMSSLEncoderForPreTraining,
    CMSSLEncoderForSequenceClassification,
    CMSSLEncoderModel,
    CMSSLFeatureExtractor,
    CMSSLTokenizerConfig,
    CMSSLTokenizerForSequenceClassification,
    CMSSLTokenizerModel,
)


SIZES = {
    "patch_size": 25,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "codebook_size": 8,
    "initializer_range": 0.3,
}

# Runs in a process that cannot import this package, and answers with the outputs of each folder.
LOAD_REMOTELY = """
import importlib.abc, json, sys

class NotInstalled(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "cmssl_hf":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
import numpy as np, torch, transformers

inputs = {name: torch.tensor(value) for name, value in np.load("inputs.npz").items()}
outputs = {}
for folder, auto_class, again in json.loads(sys.argv[1]):
    model = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    if again:
        # What was loaded as remote code is saved with its code, too.
        model.save_pretrained(folder + "_again")
        model = getattr(transformers, auto_class).from_pretrained(folder + "_again", trust_remote_code=True)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
    signals = {name: inputs[name].numpy() for name in extractor.channels}
    with torch.no_grad():
        output = model(**extractor(**signals, sampling_rate=100, return_tensors="pt"))
    outputs[f"{folder}/{auto_class}"] = output["reconstruction" if "reconstruction" in output else 0].numpy()
np.savez("outputs.npz", **outputs)
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("saved")
    encoder_config = {**SIZES, "channels": ("ppg",), "num_labels": 1}
    models = {
        "tokenizer": CMSSLTokenizerModel(
            CMSSLTokenizerConfig(**SIZES, num_decoder_attention_heads=2, num_decoder_layers=1)
        ),
        "encoder": CMSSLEncoderModel(CMSSLEncoderConfig(**encoder_config)),
        "pretrained": CMSSLEncoderForPreTraining(CMSSLEncoderConfig(**encoder_config)),
        "finetuned": CMSSLEncoderForSequenceClassification(
            CMSSLEncoderConfig(**encoder_config, problem_type="regression", label_mean=80.0, label_std=12.0)
        ),
        "finetuned_tokenizer": CMSSLTokenizerForSequenceClassification(
            CMSSLTokenizerConfig(**SIZES, num_labels=1, given_channels=("ppg",))
        ),
    }
    for name, model in models.items():
        model.save_pretrained(root / name)
        channels = getattr(model.config, "given_channels", None) or model.config.channels
        CMSSLFeatureExtractor(channels=channels, patch_size=25).save_pretrained(root / name)
    return root


def local_outputs(folder: Path, model_class: type, inputs: dict) -> np.ndarray:
    model = model_class.from_pretrained(folder)
    extractor = CMSSLFeatureExtractor.from_pretrained(folder)
    signals = {name: inputs[name] for name in extractor.channels}
    with torch.no_grad():
        output = model(**extractor(**signals, sampling_rate=100, return_tensors="pt"))
    return output["reconstruction" if "reconstruction" in output else 0].numpy()


def test_folders_load_where_the_package_is_not_installed(folders, tmp_path):
    generator = np.random.default_rng(0)
    inputs = {name: generator.normal(size=(3, 450)).cumsum(-1) for name in ("ecg", "ppg")}
    np.savez(tmp_path / "inputs.npz", **inputs)
    # Each Auto class that can make something of a folder: the encoder of a pre-trained or fine-tuned model, too.
    cases = [
        ("tokenizer", "AutoModel", CMSSLTokenizerModel, True),
        ("tokenizer", "AutoModelForPreTraining", CMSSLTokenizerModel, False),
        ("encoder", "AutoModel", CMSSLEncoderModel, False),
        ("pretrained", "AutoModelForPreTraining", CMSSLEncoderForPreTraining, False),
        ("pretrained", "AutoModel", CMSSLEncoderModel, True),
        ("finetuned", "AutoModelForSequenceClassification", CMSSLEncoderForSequenceClassification, True),
        ("finetuned", "AutoModel", CMSSLEncoderModel, False),
        (
            "finetuned_tokenizer",
            "AutoModelForSequenceClassification",
            CMSSLTokenizerForSequenceClassification,
            True,
        ),
    ]
    arguments = json.dumps([(str(folders / name), auto_class, again) for name, auto_class, _, again in cases])
    environment = {
        **os.environ,
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-I", "-c", LOAD_REMOTELY, arguments]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    outputs = np.load(tmp_path / "outputs.npz")
    for name, auto_class, model_class, _ in cases:
        expected = local_outputs(folders / name, model_class, inputs)
        difference = np.abs(outputs[f"{folders / name}/{auto_class}"] - expected).max()
        assert difference <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(("folder", "kind"), [("pretrained", "Encoder"), ("tokenizer", "Tokenizer")])
def test_a_new_head_on_remote_code(folders, folder, kind):
    """`auto_map` names what the folder of a pre-trained model can become, e.g. a model to fine-tune."""
    auto_map = json.loads((folders / folder / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModelForSequenceClassification"].endswith(f".CMSSL{kind}ForSequenceClassification")
    for name in auto_map.values():
        module, class_name = name.split(".")
        assert f"class {class_name}(" in (folders / folder / f"{module}.py").read_text()


@pytest.mark.parametrize("name", ["tokenizer", "encoder", "pretrained", "finetuned", "finetuned_tokenizer"])
def test_folders_hold_every_file_that_they_import(folders, name):
    files = {path.name for path in (folders / name).glob("*.py")}
    assert files
    for file in files:
        for node in ast.walk(ast.parse((folders / name / file).read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1
                assert f"{node.module}.py" in files, f"{file} imports {node.module}"


def test_model_files_import_little():
    """What a folder carries must run where only the libraries that every transformers user has are installed; transformers
    refuses to load it where one of these imports is missing."""
    allowed = {"torch", "transformers", "numpy", "scipy", "huggingface_hub", "safetensors"} | sys.stdlib_module_names
    for path in (Path(cmssl_hf.__file__).parent / "models" / "cmssl").glob("*_cmssl*.py"):
        assert set(get_imports(path)) <= allowed, path.name


def test_installed_code_needs_no_trust(folders):
    assert type(AutoModelForPreTraining.from_pretrained(folders / "pretrained")) is CMSSLEncoderForPreTraining
    model = AutoModelForSequenceClassification.from_pretrained(folders / "finetuned", trust_remote_code=True)
    assert type(model) is CMSSLEncoderForSequenceClassification
