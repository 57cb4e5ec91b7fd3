"""Runs that are killed, asked to end, or out of disk space: the same command ends with what an undisturbed run ends with."""

import json
import random
import signal
from pathlib import Path

import pytest
import torch

from cmssl_hf.training.engine.checkpoints import MANIFEST_FILE, find_damage, last_whole_checkpoint, write_manifest
from helpers import killable
from helpers.killable import MODELS, flags
from helpers.tiny import write_checkpoint_files


pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The three stages, undisturbed."""
    runs = tmp_path_factory.mktemp("runs")
    for stage in MODELS:
        process = killable.start(stage, flags(stage, runs, runs / stage, runs / "cache"), runs / "log.txt")
        assert killable.finish(process) == 0, (runs / "log.txt").read_text()[-3000:]
    return runs


def assert_ended_the_same(expected: Path, folder: Path) -> None:
    assert (folder / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()
    last, expected_last = (Path(last_whole_checkpoint(path)) for path in (folder, expected))
    assert last.name == expected_last.name
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt"):
        assert (last / name).read_bytes() == (expected_last / name).read_bytes(), name
    # Python's own generator is left out: other libraries draw from it, a training does not.
    random_state, expected_random_state = (
        torch.load(path / "rng_state.pth", weights_only=False)["cpu"] for path in (last, expected_last)
    )
    assert torch.equal(random_state, expected_random_state)
    results, expected_results = (
        killable.without_times(json.loads((path / "eval_results.json").read_text())) for path in (folder, expected)
    )
    assert results == expected_results
    state, expected_state = (json.loads((path / "trainer_state.json").read_text()) for path in (last, expected_last))
    for name in ("best_global_step", "best_metric", "global_step", "stateful_callbacks"):
        assert state[name] == expected_state[name]
    assert Path(state["best_model_checkpoint"]).parent == folder
    assert find_damage(Path(state["best_model_checkpoint"])) is None
    if (expected / "predictions.csv").exists():
        assert (folder / "predictions.csv").read_bytes() == (expected / "predictions.csv").read_bytes()
    batches, expected_batches = map(killable.batches_by_step, (folder, expected))
    assert batches == expected_batches
    assert all(len(checksums) == 1 for checksums in batches.values())


# One in the middle of training, one of evaluation, and one while a checkpoint is being written, for each stage.
SHORT = {
    "tokenizer": [("training_step", 3), ("prediction_step", 14), ("half a file", 1)],
    "encoder": [("_save_optimizer_and_scheduler", 3), ("prediction_step", 5)],
    "finetuning": [("rotate_checkpoints", 3), ("save_model", 4), ("note_results", 1)],
}


@pytest.mark.parametrize("stage", MODELS)
def test_killed_run_ends_as_if_nothing_had_happened(stage, runs, tmp_path):
    command = flags(stage, runs, tmp_path / "run", runs / "cache")
    for moment in SHORT[stage]:
        process = killable.start(stage, command, tmp_path / "log.txt", moment)
        assert killable.finish(process) == -signal.SIGKILL, (tmp_path / "log.txt").read_text()[-3000:]
    assert killable.finish(killable.start(stage, command, tmp_path / "log.txt")) == 0
    assert_ended_the_same(runs / stage, tmp_path / "run")
    assert killable.log_of(tmp_path / "run") == killable.log_of(runs / stage)


@pytest.mark.long
@pytest.mark.parametrize("stage", MODELS)
def test_run_killed_at_many_moments_ends_as_if_nothing_had_happened(stage, runs, tmp_path):
    chance = random.Random(stage)
    killed = number = 0
    while killed < 24:
        number += 1
        folder = tmp_path / f"run{number}"
        # A cache of its own, so that the first attempts are killed while the data are being prepared.
        command = flags(stage, runs, folder, tmp_path / f"cache{number}" if number == 1 else runs / "cache")
        code = -signal.SIGKILL
        while code:
            kind = chance.choice(["any time", "saving", *killable.MOMENTS])
            if kind == "any time":
                process = killable.start(stage, command, tmp_path / "log.txt")
                process.join(chance.uniform(0, 6))
                process.kill()
                code = killable.finish(process)
            elif kind == "saving":
                process = killable.start(stage, command, tmp_path / "log.txt")
                code = killable.kill_while_saving(process, folder, chance.uniform(0, 0.05), chance.randint(1, 6))
            else:
                moment = (kind, chance.randint(1, max(1, killable.MOMENTS[kind] // 2)))
                code = killable.finish(killable.start(stage, command, tmp_path / "log.txt", moment))
            assert code in (0, -signal.SIGKILL), (tmp_path / "log.txt").read_text()[-3000:]
            killed += code != 0
        assert_ended_the_same(runs / stage, folder)
    print(f"{stage}: {killed} kills in {number} runs")


def test_sigterm_saves_and_ends_in_order(runs, tmp_path):
    command = flags("finetuning", runs, tmp_path / "run", runs / "cache")
    log = tmp_path / "log.txt"
    # During step 3, during the evaluation of step 6, which ends an epoch, and right after the 12th and last.
    for moment, step in ((("training_step", 3), 3), (("prediction_step", 6), 6), (("training_step", 6), 12)):
        process = killable.start("finetuning", command, log, moment, signal.SIGTERM)
        assert killable.finish(process) == 128 + signal.SIGTERM, log.read_text()[-3000:]
        assert Path(last_whole_checkpoint(tmp_path / "run")).name == f"checkpoint-{step}"
        assert f"Ended after step {step} of 12 because of SIGTERM" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert killable.finish(killable.start("finetuning", command, log)) == 0
    assert_ended_the_same(runs / "finetuning", tmp_path / "run")


def test_checkpoint_that_cannot_be_written_leaves_the_last_one(runs, tmp_path):
    command = flags("encoder", runs, tmp_path / "run", runs / "cache")
    log = tmp_path / "log.txt"
    process = killable.start("encoder", command, log, ("training_step", 4))
    assert killable.finish(process) == -signal.SIGKILL
    # Larger files cannot be written, as if the disk were full; the optimizer's state is the largest of all.
    limit = (tmp_path / "run" / "checkpoint-2" / "model.safetensors").stat().st_size + 1000
    process = killable.start("encoder", command, log, file_size_limit=limit)
    assert killable.finish(process) == 1
    assert "checkpoint-4 could not be written" in log.read_text()
    assert "MiB are free there. The same command continues from" in log.read_text()
    assert sorted(path.name for path in (tmp_path / "run").glob("*check*")) == ["checkpoint-2"]
    assert not (tmp_path / "run" / "_unfinished").exists()
    assert killable.finish(killable.start("encoder", command, log)) == 0
    assert_ended_the_same(runs / "encoder", tmp_path / "run")


DAMAGES = {
    "shorter": (lambda file: file.write_bytes(file.read_bytes()[:-1]), "bytes instead of"),
    "one bit": (
        lambda file: file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:]),
        "has changed",
    ),
    "missing": (lambda file: file.unlink(), "is missing"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_checkpoint_is_put_aside(damage, message, tmp_path, caplog):
    for step in (8, 9, 10):
        folder = tmp_path / f"checkpoint-{step}"
        write_checkpoint_files(folder)
        write_manifest(folder)
    damage(tmp_path / "checkpoint-10" / "optimizer.pt")
    (tmp_path / "checkpoint-9" / MANIFEST_FILE).write_text("{")
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-8")
    assert message in caplog.text
    assert "its manifest.json cannot be read" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-8",
        "damaged-checkpoint-10",
        "damaged-checkpoint-9",
    ]
