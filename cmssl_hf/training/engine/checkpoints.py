"""Checkpoints that are there as a whole or not at all."""

import fnmatch
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from huggingface_hub import upload_folder
from safetensors import SafetensorError
from torch import nn
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint, rotate_checkpoints, sort_checkpoints

from .trainer_hooks import HookedTrainer


logger = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.json"

#: What a run cannot continue without, beside the state of the random numbers of each process: each line names the forms that
#: one part may have, the first one unless the model is shared between devices or very large.
_PARTS = (
    ("config.json",),
    ("model.safetensors", "model.safetensors.index.json", "pytorch_model_fsdp*"),
    ("optimizer.pt", "optimizer.bin", "optimizer_0/*"),
    ("scheduler.pt",),
    (TRAINER_STATE_NAME,),
)

# Of no use to those who load the model.
_NEEDED_TO_CONTINUE_ONLY = ("optimizer*", "scheduler.pt", "scaler.pt", "rng_state*", TRAINER_STATE_NAME, MANIFEST_FILE)

# Hidden from `get_last_checkpoint` and, by its underscore, from uploads to the Hub.
_UNFINISHED_FOLDER = "_unfinished"


class CheckpointError(OSError):
    """A checkpoint that cannot be written or used; the message says why, and which one can."""


def write_manifest(folder: Path, num_processes: int = 1) -> None:
    """Lists the size and SHA-256 of each file of a checkpoint in its `manifest.json`, and waits until all is on the disk.

    Args:
        folder: the checkpoint.
        num_processes: of the run; each has random numbers of its own.

    Raises:
        CheckpointError: if a part of the checkpoint is not there.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            _flush_to_disk(path)
            files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    if missing := _missing_part(files, num_processes):
        raise CheckpointError(f"{missing} is missing")
    (folder / MANIFEST_FILE).write_text(json.dumps({"num_processes": num_processes, "files": files}, indent=2))
    _flush_to_disk(folder / MANIFEST_FILE)


def _missing_part(files: Collection[str], num_processes: int | None) -> str | None:
    """The first part that is not among the files of a checkpoint; `None` if all are."""
    states = [f"rng_state_{process}.pth" for process in range(num_processes or 1)]
    if num_processes is None:
        parts = [("rng_state.pth", *states)]
    else:
        parts = [("rng_state.pth",)] if num_processes == 1 else [(state,) for state in states]
    for forms in (*_PARTS, *parts):
        if not any(fnmatch.filter(files, form) for form in forms):
            return forms[0]
    return None


def find_damage(folder: Path) -> str | None:
    """What keeps a checkpoint from being used, e.g. `"optimizer.pt is missing"`; `None` if every file is as it was written."""
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
        # Older manifests list the files only.
        files = manifest.get("files", manifest)
        num_processes = manifest["num_processes"] if files is not manifest else None
        if num_processes is not None and (type(num_processes) is not int or not 1 <= num_processes <= len(files)):
            raise ValueError(f"{num_processes} processes")
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in files.items()}
    except FileNotFoundError:
        return f"it has no {MANIFEST_FILE}"
    except (ValueError, TypeError, KeyError, AttributeError):
        return f"its {MANIFEST_FILE} cannot be read"
    # A list that was cut short would vouch for too little.
    if missing := _missing_part(expected, num_processes):
        return f"{missing} is missing"
    for name, (size, digest) in expected.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes instead of {size:,}"
        if sha256_of(path) != digest:
            return f"{name} has changed since it was written"
    return None


def refuse_damaged(checkpoint: str) -> None:
    """Raises a `CheckpointError` that says what is damaged, if anything is."""
    if damage := find_damage(Path(checkpoint)):
        raise CheckpointError(f"{checkpoint} is damaged: {damage}.")


def last_whole_checkpoint(run_folder: str | Path) -> str | None:
    """The latest checkpoint of a run all of whose files are as they were written; `None` if there is none.

    Later ones, which are damaged, are renamed to `damaged-checkpoint-<step>`, so that none is taken for the latest, and named
    in a warning.
    """
    for checkpoint in map(Path, reversed(sort_checkpoints(str(run_folder)))):
        damage = find_damage(checkpoint)
        if damage is None:
            return str(checkpoint)
        aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.rename(aside)
        logger.warning("%s is damaged and now called %s: %s.", checkpoint, aside.name, damage)
    return None


def remove_checkpoints(run_folder: Path) -> None:
    """Deletes the checkpoints of a run; one that is finished has its best model in its folder and continues from none."""
    for checkpoint in (
        *run_folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"),
        *run_folder.glob(f"damaged-{PREFIX_CHECKPOINT_DIR}-*"),
    ):
        shutil.rmtree(checkpoint)


def best_checkpoint(run_folder: Path, state: TrainerState) -> str | None:
    """Where the best checkpoint of a run is; `None` if there is none. A state remembers the folder that the run was in when
    it was saved, which may have been moved since."""
    return state.best_model_checkpoint and str(run_folder / Path(state.best_model_checkpoint).name)


class CheckpointingTrainer(HookedTrainer):
    """A `Trainer` whose checkpoints appear when they are complete, and that deletes old ones only after that.

    They are written to a folder of their own, listed in a manifest, flushed to the disk and then renamed. A run that is
    killed or runs out of space meanwhile still has the checkpoints that it had.
    """

    _unfinished: Path | None = None

    def folder_of_checkpoints(self, trial: Any) -> str:
        # While a checkpoint is being written this is where `Trainer` puts it, and where it looks for older ones to delete.
        return super().folder_of_checkpoints(trial) if self._unfinished is None else str(self._unfinished)

    def store_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run_folder = Path(self.folder_of_checkpoints(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        written, checkpoint = run_folder / _UNFINISHED_FOLDER / name, run_folder / name
        if self.args.should_save:
            shutil.rmtree(written.parent, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            self._unfinished = written.parent
            super().store_checkpoint(model, trial)
            # Every process has written its random state.
            self.accelerator.wait_for_everyone()
            self.state.best_model_checkpoint = best_checkpoint(run_folder, self.state)
            if self.args.should_save:
                self.state.save_to_json(str(written / TRAINER_STATE_NAME))
                write_manifest(written, self.args.world_size)
                if checkpoint.exists():  # SIGTERM came after it and before the end of its epoch
                    checkpoint.rename(written.parent / "replaced")
                written.rename(checkpoint)
                shutil.rmtree(written.parent)
        # torch and safetensors report a full disk as errors of their own.
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(written.parent, ignore_errors=True)
            raise CheckpointError(_why_not_written(checkpoint, error)) from error
        finally:
            self._unfinished = None
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            rotate_checkpoints(str(run_folder), self.args.save_total_limit, self.state.best_model_checkpoint)
        if self.args.push_to_hub:
            self.push_checkpoint(str(checkpoint))

    def push_checkpoint(self, folder: str) -> None:
        if self._unfinished is not None or self.args.hub_strategy == "end" or not self.is_world_process_zero():
            return
        try:
            upload_folder(
                repo_id=self.hub_model_id,
                folder_path=folder,
                ignore_patterns=list(_NEEDED_TO_CONTINUE_ONLY),
                commit_message=f"Step {self.state.global_step}",
                token=self.args.hub_token,
                revision=self.args.hub_revision,
            )
        except OSError as error:
            logger.warning("%s could not be uploaded: %s", folder, error)

    def load_scaler(self, checkpoint: str | None) -> None:
        if self.accelerator.scaler is not None:
            super().load_scaler(checkpoint)

    def load_best(self) -> None:
        if self.state.best_model_checkpoint is not None:
            refuse_damaged(self.state.best_model_checkpoint)
        super().load_best()


def _why_not_written(checkpoint: Path, error: Exception) -> str:
    free = shutil.disk_usage(checkpoint.parent).free / 2**20
    last = get_last_checkpoint(str(checkpoint.parent))
    return f"{checkpoint} could not be written ({type(error).__name__}: {error}); {free:,.0f} MiB are free there. " + (
        f"The same command continues from {last}." if last else "There is no earlier checkpoint."
    )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in parts."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
