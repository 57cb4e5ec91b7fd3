"""Loader processes and a small /dev/shm: said in one line, before anything waits for ever."""

import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from cmssl_hf.training.engine import shared_memory
from cmssl_hf.training.engine.checkpoints import CheckpointError
from cmssl_hf.training.engine.shared_memory import SharedMemoryError, full_shared_memory_explained
from helpers.checkout import ROOT
from helpers.trainers import finetuning_trainer


Usage = namedtuple("Usage", "total used free")
# 4 windows of 100 samples and 4 labels, float32 all, in two batches of each of two processes.
NEEDED = 4 * (4 * 100 + 4) * 2 * 2


@pytest.mark.parametrize(("free", "is_refused"), [(NEEDED - 1, True), (NEEDED, False)])
def test_batches_that_do_not_fit_are_refused_before_the_first_step(free, is_refused, tmp_path, monkeypatch):
    disk_usage = shutil.disk_usage
    monkeypatch.setattr(
        shared_memory.shutil,
        "disk_usage",
        lambda path: Usage(free, 0, free) if str(path) == "/dev/shm" else disk_usage(path),
    )
    monkeypatch.setattr(Path, "is_dir", lambda path, is_dir=Path.is_dir: str(path) == "/dev/shm" or is_dir(path))
    trainer = finetuning_trainer(tmp_path, dataloader_num_workers=2, max_steps=1, save_steps=1, eval_steps=1)
    if is_refused:
        with pytest.raises(SharedMemoryError, match=r"4 batches that .*`--dataloader_num_workers 0`.*--shm-size"):
            trainer.train()
        assert trainer.state.global_step == 0
    else:
        trainer.train()
    # Without loader processes there is no need for any.
    finetuning_trainer(tmp_path / "alone", max_steps=1, save_steps=1, eval_steps=1).train()


@pytest.mark.parametrize(
    ("error", "num_workers", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 2, SharedMemoryError),
        (RuntimeError("unable to allocate shared memory(shm) for file </torch_1>"), 2, SharedMemoryError),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."), 2, SharedMemoryError),
        (OSError(errno.ENOSPC, "No space left on device"), 0, OSError),
        (RuntimeError("shapes do not fit"), 2, RuntimeError),
        (CheckpointError("checkpoint-2 could not be written"), 2, CheckpointError),
    ],
)
def test_shared_memory_that_gets_full_is_named(error, num_workers, expected, tmp_path):
    arguments = finetuning_trainer(tmp_path, dataloader_num_workers=num_workers).args
    with pytest.raises(expected) as raised, full_shared_memory_explained(arguments):
        raise error
    assert type(raised.value) is expected


@pytest.mark.long
def test_command_in_a_container_with_little_shared_memory_ends_at_once(tmp_path):
    mount = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    if not shutil.which("unshare") or subprocess.run(["unshare", "-m", "bash", "-c", mount]).returncode:
        pytest.skip("needs the right to mount")
    script = ROOT / "scripts" / "finetune.py"
    flags = {
        "task": "simulated_hr", "model_name_or_path": "small", "cache_dir": tmp_path / "cache", "max_steps": 2,
        "config_overrides": "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=32",
        "dataset_options": "num_subjects=20,seconds_per_subject=60", "use_cpu": "true", "report_to": "none",
        "output_dir": tmp_path / "run", "dataloader_num_workers": 2, "per_device_train_batch_size": 48,
    }  # fmt: skip
    command = [
        sys.executable,
        str(script),
        *(str(part) for name, value in flags.items() for part in (f"--{name}", value)),
    ]
    result = subprocess.run(
        ["unshare", "-m", "bash", "-c", f'{mount} && exec "$@"', "bash", *command],
        capture_output=True, text=True, timeout=200, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 1
    assert "error: Shared memory (/dev/shm) has 0.0" in result.stderr
    assert "Traceback" not in result.stderr
