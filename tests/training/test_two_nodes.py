"""Two launchers, each with a process of its own, as on two machines: they train what one process trains, and a machine that is
lost ends the other one."""

import contextlib
import os
import socket
import subprocess
import sys
import time

import psutil
import pytest
import torch
from safetensors.torch import load_file

from cmssl_hf.training.engine.checkpoints import last_whole_checkpoint
from cmssl_hf.training.tokenizer import pretrain_tokenizer
from helpers.checkout import ROOT
from helpers.launched import STAGE, arguments, flags


TOLERANCE = 1e-5


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def start(rank, port, stage_flags, log):
    """The launcher of the machine `rank`."""
    launcher = [
        *("--config_file", ROOT / "scripts" / "accelerate" / "cpu_2.yaml", "--num_machines", 2, "--num_processes", 2),
        *("--machine_rank", rank, "--main_process_ip", "127.0.0.1", "--main_process_port", port),
    ]
    command = [sys.executable, "-m", "accelerate.commands.launch", *launcher, *STAGE, *stage_flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as output:
        return subprocess.Popen(
            list(map(str, command)),
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


@contextlib.contextmanager
def two_machines(stage_flags, folder):
    port = free_port()
    folder.mkdir(parents=True)
    machines = [start(rank, port, stage_flags, folder / f"{rank}.log") for rank in (0, 1)]
    try:
        yield machines
    finally:
        for machine in machines:
            lose(machine)


def lose(machine):
    """Kills a launcher and what it has started, which is in a session of its own."""
    with contextlib.suppress(psutil.NoSuchProcess):
        launcher = psutil.Process(machine.pid)
        for process in (*launcher.children(recursive=True), launcher):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.mark.long
def test_two_machines_train_as_one_process_and_continue_when_one_was_lost(tmp_path):
    # The whole, on two machines at once and by one process.
    with two_machines(flags(tmp_path / "two", tmp_path / "cache", 8), tmp_path / "logs") as machines:
        codes = [machine.wait(1500) for machine in machines]
    assert codes == [0, 0], (tmp_path / "logs" / "0.log").read_text()[-3000:]
    pretrain_tokenizer(*arguments(flags(tmp_path / "one", tmp_path / "cache", 16)))
    one = load_file(tmp_path / "one" / "model.safetensors")
    assert_same(load_file(tmp_path / "two" / "model.safetensors"), one)

    # One machine is lost after the first checkpoint.
    lost = tmp_path / "lost"
    with two_machines(flags(lost, tmp_path / "cache", 8), tmp_path / "first logs") as machines:
        while machines[0].poll() is None and not any(lost.glob("checkpoint-*")):
            time.sleep(0.01)
        lose(machines[1])
        assert machines[0].wait(600) != 0
    assert not (lost / "model.safetensors").exists()
    assert last_whole_checkpoint(lost) is not None

    with two_machines(flags(lost, tmp_path / "cache", 8), tmp_path / "second logs") as machines:
        assert [machine.wait(1500) for machine in machines] == [0, 0]
    log = (tmp_path / "second logs" / "0.log").read_text()
    assert "step 30: loss" in log and "step 5: loss" not in log
    assert_same(load_file(lost / "model.safetensors"), one)


def assert_same(weights, expected):
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=TOLERANCE, msg=lambda m, n=name: f"{n}: {m}")
