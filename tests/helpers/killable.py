"""A stage as a process that can be killed at a chosen moment, for tests of what an interruption leaves behind.

Processes are forked from a server that has imported everything, so that a start costs a fraction of a second.
"""

import json
import multiprocessing
import os
import resource
import signal
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from cmssl_hf.training.arguments import DataArguments
from cmssl_hf.training.encoder import EncoderArguments, EncoderTrainer, EncoderTrainingArguments, pretrain_encoder
from cmssl_hf.training.engine import checkpoints
from cmssl_hf.training.engine.command import orderly_end, run_stage
from cmssl_hf.training.engine.parsing import parse_arguments
from cmssl_hf.training.engine.run_folder import RunFolder
from cmssl_hf.training.engine.trainer import StageTrainer
from cmssl_hf.training.finetuning import FinetuningArguments, FinetuningTrainer, TaskArguments, finetune
from cmssl_hf.training.tokenizer import (
    TokenizerArguments,
    TokenizerTrainer,
    TokenizerTrainingArguments,
    pretrain_tokenizer,
)


STAGES = {
    "tokenizer": (pretrain_tokenizer, TokenizerArguments, TokenizerTrainingArguments),
    "encoder": (pretrain_encoder, EncoderArguments, EncoderTrainingArguments),
    "finetuning": (finetune, TaskArguments, FinetuningArguments),
}
TRAINERS = {"tokenizer": TokenizerTrainer, "encoder": EncoderTrainer, "finetuning": FinetuningTrainer}

#: What a process can be killed or asked to end in the middle of, and how often each happens in a run of `flags`.
MOMENTS = {
    "training_step": 12,
    "prediction_step": 18,
    "_save_optimizer_and_scheduler": 6,
    "_save_rng_state": 6,
    "write_manifest": 6,
    "rotate_checkpoints": 6,
    "half a file": 6,
    "save_model": 7,
    "note_results": 1,
}

# The training batches of all attempts at a run: a line with the step and a checksum of the windows for each.
ORDER_FILE = "order.txt"

PEOPLE = "num_subjects=10,seconds_per_subject=60"  # 8 / 1 / 1 people with 6 windows each
TINY = "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=32"
MODELS = {
    "tokenizer": {
        "config_overrides": f"{TINY},num_decoder_layers=1,num_decoder_attention_heads=2,decoder_mlp_size=32,"
        "codebook_size=16,codebook_dim=8,hidden_dropout_prob=0.1",
        "dataset": "simulated",
        "noise": 0.1,
        "warm_start_steps": 4,
        "kmeans_windows": 40,
    },
    "encoder": {"config_overrides": TINY, "dataset": "simulated", "tokenizer": "{runs}/tokenizer"},
    "finetuning": {
        "task": "simulated_hr",
        "model_name_or_path": "{runs}/encoder",
        "time_stretch": 1.2,
        "amplitude_jitter": 0.1,
    },
}


def flags(stage, runs, folder, cache, **options):
    values = {
        "dataset_options": PEOPLE,
        "cache_dir": cache,
        "output_dir": folder,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "per_device_train_batch_size": 8,  # 6 steps per epoch
        "per_device_eval_batch_size": 2,
        "max_steps": 12,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "learning_rate": 3e-3,
        "logging_steps": 5,
    }
    values |= MODELS[stage] | options
    return [part for name, value in values.items() for part in (f"--{name}", str(value).format(runs=runs))]


def start(
    stage: str,
    flags: Sequence[str],
    log: Path,
    moment: tuple[str, int] | None = None,
    number: int = signal.SIGKILL,
    file_size_limit: int | None = None,
    environment: Mapping[str, str] = MappingProxyType({}),
):
    """Starts a stage in a process of its own.

    Args:
        stage: one of `STAGES`.
        flags: of its command.
        log: receives its standard output and error.
        moment: one of `MOMENTS` and the number of its occurrence, at which the process sends `number` to itself.
        number: a signal.
        file_size_limit: bytes beyond which writing a file fails, as it does when a disk is full.
        environment: variables of the process, such as a launcher sets.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([run.__module__ for run, *_ in STAGES.values()])
    process = context.Process(
        target=_run,
        args=(stage, list(flags), str(log), moment, number, file_size_limit, dict(environment)),
        daemon=True,
    )
    process.start()
    return process


def finish(process, timeout: float = 120) -> int:
    """Waits for a process and returns its exit code; one that hangs is killed."""
    process.join(timeout)
    if process.is_alive():
        process.kill()
        process.join()
        raise TimeoutError(f"The stage did not end within {timeout} s.")
    return process.exitcode


def kill_while_saving(process, run_folder: Path, delay: float, occurrence: int, timeout: float = 120) -> int:
    """Kills a process `delay` seconds after it began to write its `occurrence`-th checkpoint, wherever it is by then."""
    unfinished = run_folder / checkpoints._UNFINISHED_FOLDER
    began, seen, deadline = 0, False, time.monotonic() + timeout
    while process.is_alive() and time.monotonic() < deadline:
        if unfinished.exists() and not seen:
            began += 1
            if began == occurrence:
                time.sleep(delay)
                process.kill()
                break
        seen = unfinished.exists()
        time.sleep(0.0005)
    return finish(process)


def _run(stage, flags: list[str], log: str, moment, number: int, file_size_limit: int | None, environment) -> None:
    os.environ.update(environment)
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    run, model_arguments, training_arguments = STAGES[stage]
    parsed = parse_arguments((model_arguments, DataArguments, training_arguments), flags)
    _record_order(Path(parsed[-1].output_dir).with_suffix(f".{ORDER_FILE}"))
    if file_size_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size_limit, resource.RLIM_INFINITY))
    if moment is not None:
        _signal_at(TRAINERS[stage], *moment, number)
    try:
        with orderly_end():
            run_stage(run, *parsed)
    finally:
        sys.stderr.flush()


def _record_order(file: Path) -> None:
    training_step = StageTrainer.training_step

    def recorded(self, model, inputs, *args, **kwargs):
        with file.open("a") as order:
            order.write(f"{self.state.global_step} {zlib.crc32(inputs['input_values'].numpy().tobytes())}\n")
        return training_step(self, model, inputs, *args, **kwargs)

    StageTrainer.training_step = recorded


def _signal_at(trainer: type, name: str, occurrence: int, number: int) -> None:
    """Sends a signal to this process right before the work of the `occurrence`-th call."""
    if name == "half a file":
        owner, name, before = checkpoints, "write_manifest", _truncate_a_file
    elif name in ("write_manifest", "rotate_checkpoints"):
        owner, before = checkpoints, None
    elif name == "note_results":
        owner, before = RunFolder, None
    else:
        owner, before = trainer, None
    original: Callable = getattr(owner, name)
    calls = 0

    def signalled(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == occurrence:
            if before is not None:
                before(*args)
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    setattr(owner, name, signalled)


def _truncate_a_file(folder: Path, num_processes: int) -> None:
    path = folder / "model.safetensors"
    os.truncate(path, path.stat().st_size // 2)


def batches_by_step(run_folder: Path) -> dict[int, set[str]]:
    """The checksums of the batches that all attempts at a run have trained on at each step."""
    batches: dict[int, set[str]] = {}
    for line in run_folder.with_suffix(f".{ORDER_FILE}").read_text().splitlines():
        step, checksum = line.split()
        batches.setdefault(int(step), set()).add(checksum)
    return batches


def without_times(entry: dict) -> dict:
    return {name: value for name, value in entry.items() if not name.endswith(("time", "per_second"))}


def log_of(run_folder: Path) -> list[dict]:
    """What the run logged up to its last checkpoint, without speeds."""
    last = checkpoints.last_whole_checkpoint(run_folder)
    return [without_times(e) for e in json.loads(Path(last, "trainer_state.json").read_text())["log_history"]]
