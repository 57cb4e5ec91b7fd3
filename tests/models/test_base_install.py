"""With nothing but numpy, scipy, torch and transformers a model can be built, saved, loaded and asked."""

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.checkout import ROOT


# These come with transformers.
IN_THE_BASE = {"filelock", "pyyaml", "tqdm"}
IMPORTED_AS = {"scikit-learn": "sklearn"}

HIDE = """
import sys
from importlib.machinery import PathFinder

hidden = set(sys.argv[1:])
find_installed = PathFinder.find_spec
PathFinder.find_spec = classmethod(
    lambda cls, name, path=None, target=None: (
        None if name.partition(".")[0] in hidden else find_installed(name, path, target)
    )
)
"""


def packages_of_extras() -> set[str]:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    names = re.findall(r"^[\w-]+", extras["train"] + extras["recordings"] + extras["onnx"], flags=re.MULTILINE)
    return {IMPORTED_AS.get(name, name) for name in map(str.lower, names) if name not in IN_THE_BASE}


def run_without(hidden: set[str], code: str, folder: Path) -> None:
    """Runs code in a fresh interpreter in which `hidden` packages are not installed."""
    result = subprocess.run(
        [sys.executable, "-c", HIDE + code, *sorted(hidden)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert result.returncode == 0, result.stderr


def test_a_model_needs_no_extra(tmp_path):
    hidden = packages_of_extras()
    assert {"datasets", "accelerate", "pandas", "wfdb", "sklearn", "onnx"} <= hidden
    run_without(
        hidden,
        """
import numpy as np
import torch
import cmssl_hf
from transformers import AutoModel, AutoModelForSequenceClassification, pipeline

sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "codebook_size": 16}
decoder = {"num_decoder_layers": 1, "num_decoder_attention_heads": 2, "decoder_mlp_size": 32, "codebook_dim": 8}
extractor = cmssl_hf.CMSSLFeatureExtractor(channels=("ppg",))
ppg = np.sin(np.arange(64 * 30) / 9)
inputs = extractor(ppg=ppg[:640], sampling_rate=64.0, return_tensors="pt")
assert inputs["input_values"].shape == (1, 1, 1250)

model = cmssl_hf.CMSSLEncoderForSequenceClassification(
    cmssl_hf.CMSSLEncoderConfig(**sizes, num_labels=1, problem_type="regression", label_mean=70.0, label_std=10.0)
).eval()
model.save_pretrained("model")
extractor.save_pretrained("model")
loaded = AutoModelForSequenceClassification.from_pretrained("model").eval()
with torch.no_grad():
    torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits, rtol=0, atol=0)

cmssl_hf.CMSSLTokenizerModel(cmssl_hf.CMSSLTokenizerConfig(**sizes | decoder)).save_pretrained("tokenizer")
codes = AutoModel.from_pretrained("tokenizer").encode(torch.randn(1, 2, 1250))
assert codes.min() >= 0 and codes.max() < 16

answer = pipeline("physiological-signal-regression", model="model")(ppg, sampling_rate=64.0)
assert len(answer["windows"]) == 3
assert not hidden & {name.partition(".")[0] for name in sys.modules}
""",
        tmp_path,
    )


@pytest.mark.parametrize(
    ("statement", "missing"),
    [
        ("cmssl_hf.load_dataset", "datasets"),
        ("from cmssl_hf import register_dataset", "datasets"),
        ("from cmssl_hf.training import finetune", "accelerate"),
        ("import cmssl_hf.training.engine.trainer", "accelerate"),
        ("cmssl_hf.register_objective", "pandas"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(statement, missing, tmp_path):
    run_without(
        {missing},
        f"""
import cmssl_hf

try:
    {statement}
except ModuleNotFoundError as error:
    assert error.name == {missing!r}
    assert str(error) == '{missing} is not installed: `pip install "cmssl_hf[train]"`.', error
else:
    raise AssertionError("{missing} is hidden")
""",
        tmp_path,
    )
