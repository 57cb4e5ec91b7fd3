"""Loader processes pass batches on through shared memory, of which containers often have little."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from ...data.batches import WindowsDataset
from .checkpoints import CheckpointError


_SHARED_MEMORY = Path("/dev/shm")
#: Batches that each loader process has ready, where `dataloader_prefetch_factor` does not say.
_BATCHES_READY = 2
_HELP = (
    "Read the data in the training's own process (`--dataloader_num_workers 0`), with fewer loader processes or in smaller"
    " batches, or give the container more shared memory (`docker run --shm-size 8g`)."
)


class SharedMemoryError(OSError):
    """Shared memory is too small for the batches that loader processes have ready; the message says what helps."""


def refuse_small_shared_memory(
    arguments: TrainingArguments, dataset: WindowsDataset, collate: Callable[[Any], dict[str, Any]], batch_size: int
) -> None:
    """Checks that the batches that loader processes have ready fit into shared memory, judged from the first batch: where they
    do not, the loader processes would fail and the training would wait for them.

    Raises:
        SharedMemoryError: if they do not fit.
    """
    if arguments.dataloader_num_workers == 0 or not _SHARED_MEMORY.is_dir():
        return
    batch = collate(dataset.__getitems__(list(range(min(batch_size, len(dataset))))))
    num_ready = arguments.dataloader_num_workers * (arguments.dataloader_prefetch_factor or _BATCHES_READY)
    num_ready *= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    needed = num_ready * sum(tensor.nbytes for tensor in batch.values())
    free = shutil.disk_usage(_SHARED_MEMORY).free
    if free < needed:
        raise SharedMemoryError(
            f"Shared memory ({_SHARED_MEMORY}) has {free / 2**20:.3g} MiB free, but the {num_ready} batches that loader processes"
            f" have ready take {needed / 2**20:.3g} MiB. {_HELP}"
        )


@contextlib.contextmanager
def full_shared_memory_explained(arguments: TrainingArguments) -> Iterator[None]:
    """What loader processes fail with when shared memory gets full meanwhile becomes a `SharedMemoryError`."""
    try:
        yield
    except CheckpointError:
        raise
    except (OSError, RuntimeError) as error:
        is_full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        is_full |= any(words in str(error) for words in ("shared memory", "(shm)", "Bus error"))
        if arguments.dataloader_num_workers == 0 or not is_full:
            raise
        raise SharedMemoryError(f"Shared memory ({_SHARED_MEMORY}) is full. {_HELP}") from error
