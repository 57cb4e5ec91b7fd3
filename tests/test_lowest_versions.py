"""The lower bounds of `setup.cfg` are true: the package works where each of its requirements has the lowest version that is allowed.

Needs a package index.
"""

import configparser
import importlib.metadata
import os
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

from helpers.checkout import ROOT, copy_package


pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

# What reads and writes by the libraries most: wfdb, h5py, pandas, scikit-learn and evaluate, pyarrow and datasets, matplotlib, scipy.
READING_AND_WRITING = [
    "tests/dataset_builders/test_bidmc.py",
    "tests/dataset_builders/test_pulsedb.py",
    "tests/dataset_builders/test_ptb_xl.py",
    "tests/metrics/test_metrics.py",
    "tests/data/test_prepare_data.py",
    "tests/training/test_reconstruction_report.py",
    "tests/models/test_feature_extraction.py",
]

SMOKE = """
import json
from pathlib import Path

import numpy as np
import torch
import wfdb
from transformers import AutoModelForSequenceClassification, pipeline

import cmssl_hf
from cmssl_hf.training import (
    DataArguments,
    EncoderArguments,
    EncoderTrainingArguments,
    FinetuningArguments,
    TaskArguments,
    TokenizerArguments,
    TokenizerTrainingArguments,
    finetune,
    pretrain_encoder,
    pretrain_tokenizer,
)

cmssl_hf.register_task(
    cmssl_hf.Task("simulated_rhythm", "simulated", "rhythm", channel="ppg", problem_type="single_label_classification")
)
people = {"num_subjects": 40, "seconds_per_subject": 60.0, "arrhythmia_share": 1.0}
encoder_sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
tokenizer_sizes = encoder_sizes | {
    "num_decoder_layers": 1, "num_decoder_attention_heads": 2, "decoder_mlp_size": 32, "codebook_size": 16, "codebook_dim": 8
}
data = DataArguments(dataset="simulated", dataset_config="pairs", cache_dir="cache", dataset_options=people)
steps = {
    "use_cpu": True, "max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1,
    "report_to": "tensorboard", "per_device_train_batch_size": 8, "learning_rate": 1e-3,
}

rows = cmssl_hf.load_dataset("simulated", "hr", cache_dir="cache", **people)["train"]
extractor = cmssl_hf.CMSSLFeatureExtractor(channels=("ppg",))
inputs = extractor(ppg=np.array(rows[0]["signal"]), sampling_rate=rows[0]["sampling_rate"], return_tensors="pt")
assert inputs["input_values"].shape == (1, 1, 1250)

pretrain_tokenizer(
    TokenizerArguments(config_overrides=tokenizer_sizes),
    data,
    TokenizerTrainingArguments("tokenizer", warm_start_steps=1, kmeans_windows=32, **steps),
)
pretrain_encoder(
    EncoderArguments(tokenizer="tokenizer", channel="ppg", config_overrides=encoder_sizes),
    data,
    EncoderTrainingArguments("encoder", **steps),
)
for task, metric in (("simulated_hr", "eval_mae"), ("simulated_rhythm", "eval_f1_macro")):
    finetune(
        TaskArguments(task=task, model_name_or_path="encoder"),
        DataArguments(cache_dir="cache", dataset_options=people),
        FinetuningArguments(task, **steps),
    )
    results = json.loads(Path(task, "eval_results.json").read_text())
    assert np.isfinite(results[metric]), results
    assert Path(task, "README.md").is_file()

model = AutoModelForSequenceClassification.from_pretrained("simulated_hr").eval()
model.save_pretrained("again")
again = AutoModelForSequenceClassification.from_pretrained("again").eval()
with torch.no_grad():
    torch.testing.assert_close(again(**inputs).logits, model(**inputs).logits, rtol=0, atol=0)

ppg = np.sin(np.arange(125 * 30) / 15)
wfdb.wrsamp("record", fs=125, units=["NU"], sig_name=["PLETH"], p_signal=ppg[:, None], fmt=["16"])
predict = pipeline("physiological-signal-regression", model="simulated_hr")
answers = [predict(ppg, sampling_rate=125), predict("record.hea")]
assert [len(answer["windows"]) for answer in answers] == [3, 3]
"""


def lowest_versions() -> list[str]:
    """Every requirement of `setup.cfg` at its lower bound, but torch, of which another version than the one of the tests would
    bring gigabytes along: it stays the version that runs this."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"] + setup["options.extras_require"]["train"]
    lowest = [f"torch=={importlib.metadata.version('torch')}"]
    for requirement in map(Requirement, lines.split("\n")[1:]):
        (bound,) = [part.version for part in requirement.specifier if part.operator == ">="]
        if requirement.name != "torch":
            lowest.append(f"{requirement.name}=={bound}")
    return lowest


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Interpreter of an environment with the lowest versions and this package."""
    folder = tmp_path_factory.mktemp("lowest")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv/bin/python"
    install = [python, "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, "--only-binary", ":all:", *lowest_versions(), "pytest", "pytest-timeout"], check=True)
    subprocess.run([*install, "--no-deps", copy_package(folder / "source")], check=True)
    return python


def run(*command, folder) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert result.returncode == 0, f"{result.stdout[-4000:]}\n{result.stderr[-4000:]}"


def test_stages_and_pipelines_work_with_the_lowest_versions(python, tmp_path):
    run(python, "-c", SMOKE, folder=tmp_path)


def test_what_reads_and_writes_passes_its_tests_with_the_lowest_versions(python):
    # Not `python -m pytest`, which would import the checkout, not what was installed.
    run(python.with_name("pytest"), "-p", "no:cacheprovider", *READING_AND_WRITING, folder=ROOT)
