"""A run that is finished: its command computes nothing, adds nothing, and needs no checkpoints."""

import json
import sys

import pandas as pd
import pytest

from cmssl_hf.training.engine.checkpoints import last_whole_checkpoint, remove_checkpoints
from cmssl_hf.training.engine.run_folder import RunFolder
from cmssl_hf.training.engine.trainer import StageTrainer
from helpers.checkout import ROOT
from helpers.stages import TINY_ENCODER, run_encoder, run_finetuning, run_tokenizer
from helpers.trainers import finetuning_trainer, run_trainer


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def files(folder):
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name[0] != "."
    )


@pytest.fixture
def computes_nothing(monkeypatch):
    def forbid():
        for name in ("train", "evaluation_loop", "log"):
            monkeypatch.setattr(StageTrainer, name, lambda *a, **k: pytest.fail("computed again"))

    return forbid


def test_finished_fine_tuning_gives_its_results_and_leaves_everything_as_it_is(
    cache, tmp_path, monkeypatch, computes_nothing
):
    monkeypatch.chdir(tmp_path)
    options = {
        "model_options": {"summary_file": str(tmp_path / "summary.csv"), "config_overrides": TINY_ENCODER},
        "report_to": "tensorboard",
        "max_steps": 2,
    }
    results = run_finetuning(tmp_path / "run", cache, "small", **options)
    # Logs are in the run's own folder.
    assert list((tmp_path / "run" / "runs").glob("events.out.tfevents.*"))
    remove_checkpoints(tmp_path / "run")
    before, summary = files(tmp_path), (tmp_path / "summary.csv").read_text()
    computes_nothing()
    assert run_finetuning(tmp_path / "run", cache, "small", **options) == results
    assert files(tmp_path) == before
    assert (tmp_path / "summary.csv").read_text() == summary
    assert len(pd.read_csv(tmp_path / "summary.csv")) == 1


def test_finished_pre_training_gives_its_results(cache, tmp_path, computes_nothing):
    metrics = run_tokenizer(tmp_path / "tokenizer", cache, max_steps=5)
    encoder_metrics = run_encoder(tmp_path / "encoder", cache, tmp_path / "tokenizer", max_steps=2)
    computes_nothing()
    assert run_tokenizer(tmp_path / "tokenizer", cache, max_steps=5) == metrics
    assert run_encoder(tmp_path / "encoder", cache, tmp_path / "tokenizer", max_steps=2) == encoder_metrics


def test_run_that_was_killed_before_its_results_logs_into_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RunFolder, "note_results", lambda *_: None)
    for _ in range(2):
        run_trainer(finetuning_trainer(tmp_path / "run", max_steps=2, report_to="tensorboard"), tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_record_of_an_older_version_is_finished_once_the_test_is_done(tmp_path):
    folder = RunFolder(tmp_path, {"task": "bidmc_hr"})
    folder.open()
    for results, is_finished in (({"eval_loss": 1.0}, False), ({"encoder": {"mae": 1.0}, "constant": {}}, True)):
        record = json.loads((tmp_path / "run.json").read_text()) | {"results": results}
        (tmp_path / "run.json").write_text(json.dumps(record))
        assert folder.results == (results if is_finished else None)


def test_sweep_keeps_models_and_no_checkpoints(cache, tmp_path, monkeypatch, capsys, computes_nothing):
    sys.path.insert(0, str(ROOT / "scripts"))
    import run_finetuning as script

    overrides = ",".join(f"{name}={value}" for name, value in TINY_ENCODER.items())
    command = [
        "run_finetuning", "-m", "small", "-e", "simulated_hr", "--seeds", "0", "1", "--output_dir", str(tmp_path / "sweep"),
        "--cache_dir", str(cache), "--dataset_options", "num_subjects=20,seconds_per_subject=60.0", "--max_steps", "1",
        "--config_overrides", overrides, "--use_cpu", "true", "--report_to", "none", "--disable_tqdm", "true",
        "--fp16", "false", "--bf16", "false",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", command)
    script.main()
    table = capsys.readouterr().out.splitlines()[-3:]
    folders = [tmp_path / "sweep" / "simulated_hr" / "small" / f"seed{seed}" for seed in (0, 1)]
    for folder in folders:
        assert (folder / "model.safetensors").is_file()
        assert last_whole_checkpoint(folder) is None
        assert not list(folder.rglob("optimizer.pt"))
    assert len(pd.read_csv(tmp_path / "sweep" / "summary.csv")) == 2
    computes_nothing()
    script.main()
    assert capsys.readouterr().out.splitlines()[-3:] == table
    assert len(pd.read_csv(tmp_path / "sweep" / "summary.csv")) == 2
