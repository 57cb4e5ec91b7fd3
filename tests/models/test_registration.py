"""`import cmssl_hf` makes the models known to transformers, whatever a process imports first."""

import os
import subprocess
import sys

import pytest


CHECK_REGISTRATION = """
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForPreTraining
from transformers import AutoModelForSequenceClassification
import cmssl_hf

tokenizer_config = AutoConfig.for_model("cmssl_tokenizer", num_hidden_layers=1, codebook_size=8)
encoder_config = AutoConfig.for_model("cmssl_encoder", num_hidden_layers=1, codebook_size=8)
assert type(AutoModel.from_config(tokenizer_config)) is cmssl_hf.CMSSLTokenizerModel
assert type(AutoModelForPreTraining.from_config(tokenizer_config)) is cmssl_hf.CMSSLTokenizerModel
assert type(AutoModel.from_config(encoder_config)) is cmssl_hf.CMSSLEncoderModel
assert type(AutoModelForPreTraining.from_config(encoder_config)) is cmssl_hf.CMSSLEncoderForPreTraining
model = AutoModelForSequenceClassification.from_config(encoder_config)
assert type(model) is cmssl_hf.CMSSLEncoderForSequenceClassification

import tempfile
with tempfile.TemporaryDirectory() as folder:
    cmssl_hf.CMSSLFeatureExtractor(channels=("ecg",)).save_pretrained(folder)
    feature_extractor = AutoFeatureExtractor.from_pretrained(folder)
assert type(feature_extractor) is cmssl_hf.CMSSLFeatureExtractor
assert feature_extractor.channels == ("ecg",)

from transformers.pipelines import PIPELINE_REGISTRY
assert "physiological-signal-regression" in PIPELINE_REGISTRY.get_supported_tasks()
"""


def run_python(code: str) -> str:
    """Standard output of `code` in a fresh interpreter."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    "first_import",
    [
        "import cmssl_hf",
        "from transformers import AutoModel",
        pytest.param("from cmssl_hf import CMSSLTokenizerModel", marks=pytest.mark.long),
        pytest.param("from cmssl_hf import CMSSLEncoderForSequenceClassification", marks=pytest.mark.long),
        pytest.param("from transformers import Trainer", marks=pytest.mark.long),
        pytest.param("from cmssl_hf import CMSSLFeatureExtractor", marks=pytest.mark.long),
        pytest.param("from cmssl_hf import CMSSLEncoderConfig", marks=pytest.mark.long),
        pytest.param("import cmssl_hf.models.cmssl.modeling_cmssl_layers", marks=pytest.mark.long),
        pytest.param("from transformers import pipeline", marks=pytest.mark.long),
        pytest.param("import cmssl_hf.models.cmssl.pipeline_cmssl", marks=pytest.mark.long),
    ],
)
def test_auto_classes_know_the_models(first_import):
    run_python(f"{first_import}\n{CHECK_REGISTRATION}")


def test_import_without_torch_and_transformers():
    """Builders and signal processing serve where neither is installed."""
    run_python("""
from importlib.machinery import PathFinder

find_installed = PathFinder.find_spec
PathFinder.find_spec = classmethod(
    lambda cls, name, path=None, target=None: (
        None if name.split(".")[0] in ("torch", "transformers") else find_installed(name, path, target)
    )
)
import numpy as np
import cmssl_hf
import cmssl_hf.signals, cmssl_hf.building.windows, cmssl_hf.building.splits

assert cmssl_hf.signals.resample(np.arange(500.0), 500, 125).shape == (125,)
try:
    cmssl_hf.CMSSLEncoderModel
except ModuleNotFoundError as error:
    assert error.name in ("torch", "transformers")
else:
    raise AssertionError("the models need torch")
""")
