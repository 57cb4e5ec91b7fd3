"""A dataset, a task and an objective from files outside the package, as `docs/extending.md` shows them, in every command."""

import json
import re
import sys

import numpy as np
import pytest

from cmssl_hf.extensions import import_extensions
from cmssl_hf.training import stage
from cmssl_hf.training.command import chosen_objective, command
from cmssl_hf.training.finetuning import FINETUNING
from helpers.checkout import ROOT
from helpers.registrations import registrations_forgotten


DOCUMENT = ROOT / "docs" / "extending.md"
TINY = "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=32"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with the modules of the document and recordings of ten people; what they register is forgotten."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    for name, code in re.findall(
        r"```python\n# (my_\w+\.py)\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL
    ):
        (tmp_path / name).write_text(code)
    rng = np.random.default_rng(0)
    (tmp_path / "cohort").mkdir()
    for person in range(10):
        rate = 60 + 5 * person  # bpm, for a minute at 64 Hz
        phase = 2 * np.pi * rate / 60 * np.arange(64 * 60) / 64
        ppg = np.sin(phase) + 0.3 * np.sin(2 * phase) + 0.01 * rng.normal(size=len(phase))
        np.savez(tmp_path / "cohort" / f"person{person}.npz", ppg=ppg, heart_rate=np.full(60, float(rate)))
    with registrations_forgotten():
        yield tmp_path


def test_dataset_task_and_objective_from_outside(folder):
    common = [
        "--data_dir",
        "cohort",
        "--cache_dir",
        "cache",
        "--use_cpu",
        "true",
        "--report_to",
        "none",
        "--disable_tqdm",
        "true",
    ]
    command(
        chosen_objective,
        [
            *("--import_module", "my_cohort", "--import_module", "my_objective", "--objective", "guessing"),
            *("--dataset", "my_cohort", "--dataset_config", "hr", "--config_overrides", TINY),
            *("--max_steps", "3", "--output_dir", "guessing", *common),
        ],
    )
    run = json.loads((folder / "guessing" / "run.json").read_text())
    assert run["identity"]["stage"] == "guessing" and run["identity"]["data"]["dataset"] == "my_cohort"
    assert "guess every third patch" in (folder / "guessing" / "README.md").read_text()
    report = command(
        FINETUNING,
        [
            *("--import_module", "my_cohort", "--task", "my_cohort_hr", "--model_name_or_path", "guessing"),
            *("--max_steps", "3", "--output_dir", "hr", *common),
        ],
    )
    run = json.loads((folder / "hr" / "run.json").read_text())
    assert run["builds_on"]["identity"]["stage"] == "guessing"
    # 10 people at rates 5 bpm apart: the classical method, which counts beats, knows them.
    assert run["results"]["pulse_peaks"]["mae"] < 1
    assert "pre-trained by guessing: my_cohort" in (folder / "hr" / "README.md").read_text()
    assert "my_cohort_hr, test subjects (bpm)" in report


def test_module_that_cannot_be_imported(folder):
    (folder / "broken.py").write_text("1 / 0")
    with pytest.raises(ValueError, match="`--import_module broken`: ZeroDivisionError: division by zero"):
        import_extensions(["--import_module", "broken"])
    with pytest.raises(ValueError, match="`--import_module nowhere`: ModuleNotFoundError: No module named 'nowhere'"):
        import_extensions(["--import_module", "nowhere"])


def test_other_arguments_are_left():
    assert import_extensions(["file.yaml", "--import_module", "json", "--seed", "3"]) == ["file.yaml", "--seed", "3"]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [([], "encoder"), (["--objective", "tokens"], "encoder"), (["{file}", "--seed", "1"], "encoder")],
)
def test_objective_is_that_of_the_flag_or_the_file(arguments, name, tmp_path):
    (tmp_path / "file.yaml").write_text("objective: tokens\n")
    assert chosen_objective([part.format(file=tmp_path / "file.yaml") for part in arguments]).name == name


def test_objective_that_does_not_exist(tmp_path):
    with pytest.raises(ValueError, match=r"Unknown objective .x.\. Objectives: tokens"):
        chosen_objective(["--objective", "x"])
    (tmp_path / "file.yaml").write_text("objective: y\n")
    with pytest.raises(ValueError, match="Unknown objective 'y'"):
        chosen_objective([str(tmp_path / "file.yaml")])
    assert chosen_objective([str(tmp_path / "file.yaml"), "--objective=tokens"]).name == "encoder"


def test_names_are_taken_once(folder):
    encoder = stage.get_objective("tokens")
    other = stage.Stage(**{**vars(encoder), "label": "another"})
    with pytest.raises(ValueError, match="another objective called 'tokens'"):
        stage.register_objective("tokens", other)
    with pytest.raises(ValueError, match="another stage called 'encoder'"):
        stage.register_objective("new", other)
    with pytest.raises(ValueError, match=r"Unknown stage .x.\. Stages: .*encoder"):
        stage.get_stage("x")
