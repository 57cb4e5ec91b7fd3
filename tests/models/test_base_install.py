"""With nothing but numpy, scipy, torch and transformers a model can be built, saved, loaded and asked; without the extras the
command reads tables and WFDB records, too."""

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import wfdb

from helpers.checkout import ROOT
from helpers.pipelines import noisy_recording, save_model


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
    names = re.findall(
        r"^[\w-]+",
        extras["train"] + extras["recordings"] + extras["attributions"] + extras["onnx"],
        flags=re.MULTILINE,
    )
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
    hidden = packages_of_extras() | {"pandas", "wfdb"}
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


def test_the_command_needs_no_extra(tmp_path):
    save_model(tmp_path / "model", num_labels=1, problem_type="regression", label_mean=70.0, label_std=10.0)
    ppg = noisy_recording(20)
    np.savetxt(tmp_path / "watch.csv", ppg, header="ppg", comments="")
    wfdb.wrsamp("record", 64, ["NU"], ["PLETH"], ppg[:, None], fmt=["16"], write_dir=str(tmp_path))
    # matplotlib comes with wfdb.
    run_without(
        packages_of_extras() - {"matplotlib"},
        """
import csv
from cmssl_hf.command_line.main import main

def run(*arguments):
    sys.argv = ["cmssl-hf", *arguments]
    try:
        main()
    except SystemExit as end:
        return end.code

files = ["watch.csv", "record.hea"]
for command in (["predict", "--model", "model"], ["embed", "--model", "model"], ["quality", "--channel", "ppg"]):
    status = run(*command, *files, "--sampling_rate", "64", "--output", "table.csv")
    assert status == 0, status
    with open("table.csv") as file:
        assert [(row["file"], row["start"]) for row in csv.DictReader(file)] == [
            ("watch.csv", "0.0"), ("watch.csv", "10.0"), ("record.hea", "0.0"), ("record.hea", "10.0")
        ]
assert run("info", "record") == 0
for command, extra in (("finetune", "train"), ("export-onnx", "onnx")):
    assert run(command).endswith(f' is not installed: `pip install "cmssl_hf[{extra}]"`.')
""",
        tmp_path,
    )


@pytest.mark.parametrize(
    ("missing", "statements"),
    [
        ("datasets", ["cmssl_hf.load_dataset", "from cmssl_hf import register_dataset"]),
        ("accelerate", ["from cmssl_hf.training import finetune"]),
        ("accelerate", ["import cmssl_hf.training.engine.trainer"]),
        ("pandas", ["cmssl_hf.register_objective"]),
    ],
)
def test_a_missing_package_is_named_with_its_extra(missing, statements, tmp_path):
    # peft does not come without accelerate, and transformers imports it where it is.
    run_without(
        {missing, "peft"} if missing == "accelerate" else {missing},
        f"""
import cmssl_hf

for statement in {statements}:
    try:
        exec(statement)
    except ModuleNotFoundError as error:
        assert error.name == {missing!r}
        assert str(error) == '{missing} is not installed: `pip install "cmssl_hf[train]"`.', error
    else:
        raise AssertionError("{missing} is hidden")
""",
        tmp_path,
    )
