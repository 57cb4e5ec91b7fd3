"""SIGTERM to some or all of several processes: all save and end in an orderly way, and the restart ends with the same bits."""

import json
import signal
import socket
from pathlib import Path

import pytest
import torch

from cmssl_hf.training.engine.checkpoints import find_damage, last_whole_checkpoint
from helpers import killable
from helpers.killable import flags


pytestmark = pytest.mark.timeout(900)

NUM_PROCESSES = 2
ENDED_BY_SIGTERM = 128 + signal.SIGTERM


def run(folder, cache, moments=None):
    """Runs stage 1 in two connected processes, of which those in `moments` send SIGTERM to themselves; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # 6 steps per epoch, as with one process and twice the batch; dropout, augmentation and k-means draw random numbers.
    command = flags("tokenizer", folder.parent, folder, cache, per_device_train_batch_size=4)
    processes = []
    for rank in range(NUM_PROCESSES):
        environment = {
            "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": NUM_PROCESSES, "LOCAL_WORLD_SIZE": NUM_PROCESSES,
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }  # fmt: skip
        processes.append(
            killable.start(
                "tokenizer",
                command,
                folder.with_suffix(f".{rank}.txt"),
                (moments or {}).get(rank),
                signal.SIGTERM,
                environment={name: str(value) for name, value in environment.items()},
            )
        )
    return [killable.finish(process, timeout=300) for process in processes]


def log_of(folder, rank=0):
    return folder.with_suffix(f".{rank}.txt").read_text()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert run(folder, folder.parent / "cache") == [0, 0], log_of(folder)[-3000:]
    return folder


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param([1], id="the second"),
        pytest.param([0], id="the first", marks=pytest.mark.long),
        pytest.param([0, 1], id="both", marks=pytest.mark.long),
    ],
)
def test_all_processes_save_and_end_after_the_same_step(asked, undisturbed, tmp_path):
    folder, cache = tmp_path / "run", undisturbed.parent / "cache"
    # During step 3, in the warm start; then during the evaluation of step 6, which ends an epoch.
    for moment, step in ((("training_step", 3), 3), (("prediction_step", 4), 6)):
        codes = run(folder, cache, dict.fromkeys(asked, moment))
        assert codes == [ENDED_BY_SIGTERM] * NUM_PROCESSES, log_of(folder)[-3000:]
        checkpoint = Path(last_whole_checkpoint(folder))
        assert checkpoint.name == f"checkpoint-{step}"
        assert {path.name for path in checkpoint.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}
        assert f"Ended after step {step} of 12 because of SIGTERM" in log_of(folder)
    assert "Traceback" not in log_of(folder, 0) + log_of(folder, 1)
    assert run(folder, cache) == [0, 0], log_of(folder)[-3000:]
    assert_ended_the_same(undisturbed, folder)


def assert_ended_the_same(expected, folder):
    assert (folder / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()
    last, expected_last = (Path(last_whole_checkpoint(path)) for path in (folder, expected))
    assert last.name == expected_last.name == "checkpoint-12"
    assert find_damage(last) is None
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt"):
        assert (last / name).read_bytes() == (expected_last / name).read_bytes(), name
    for rank in range(NUM_PROCESSES):
        state, expected_state = (
            torch.load(path / f"rng_state_{rank}.pth", weights_only=False)["cpu"] for path in (last, expected_last)
        )
        assert torch.equal(state, expected_state)
    results, expected_results = (
        killable.without_times(json.loads((path / "eval_results.json").read_text())) for path in (folder, expected)
    )
    assert results == expected_results
    evaluations, expected_evaluations = (
        {
            entry["step"]: killable.without_times(entry)
            for entry in json.loads((path / "trainer_state.json").read_text())["log_history"]
            if "eval_loss" in entry
        }
        for path in (last, expected_last)
    )
    assert evaluations == expected_evaluations
