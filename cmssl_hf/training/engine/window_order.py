"""Which windows each process reads at each step, such that the number of processes makes no difference."""

import math
from collections.abc import Iterable, Iterator, Sized
from typing import Any, Protocol

import torch
from accelerate.data_loader import DataLoaderShard, SeedableRandomSampler
from accelerate.utils import recursively_apply
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler

from .trainer_hooks import HookedTrainer


class SizedSampler(Sized, Iterable[int], Protocol):
    """What draws windows and knows how many."""


class WholeSteps(Sampler[int]):
    """The order of another sampler, continued from its beginning until the last step of the epoch is as large as the others.

    Processes take equal shares of a step. Were the last one smaller, they would have to fill their shares, each number of
    processes with other windows, and a single process would not.

    Args:
        sampler: of the training windows.
        windows_per_step: in one step of all processes together.
    """

    def __init__(self, sampler: SizedSampler, windows_per_step: int):
        self._sampler = sampler
        self._length = math.ceil(len(sampler) / windows_per_step) * windows_per_step

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        order = list(self._sampler)
        return (order[position % len(order)] for position in range(self._length))

    def set_epoch(self, epoch: int) -> None:
        """The sampler's order depends on it, if it has one for each epoch."""
        if hasattr(self._sampler, "set_epoch"):
            self._sampler.set_epoch(epoch)


class EvaluationBatches(Sampler[list[int]]):
    """The batches of one process, which are those of a single process: also the last one, which may be smaller.

    Every process has as many as the others, because some models need all of them for each: one that has none left reads the
    first window again, which does not count.

    Args:
        dataset: what is evaluated.
        batch_size: windows in each batch.
        num_processes: among which the batches are dealt out in turn.
        process_index: of this process.
    """

    def __init__(self, dataset: Sized, batch_size: int, num_processes: int, process_index: int):
        self.batch_size, self.num_processes = batch_size, num_processes
        self._num_windows = len(dataset)
        self._process_index = process_index

    def __len__(self) -> int:
        return math.ceil(self._num_windows / (self.batch_size * self.num_processes))

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(len(self)):
            first = (step * self.num_processes + self._process_index) * self.batch_size
            yield list(range(first, min(first + self.batch_size, self._num_windows))) or [0]


class SharedWindowsTrainer(HookedTrainer):
    """A `Trainer` that reads the same windows at each step, and validates in the same batches, for any number of processes
    whose batches together are equally large."""

    def train_sampler(self, dataset: Dataset | None = None) -> Sampler[int] | None:
        sampler = super().train_sampler(dataset)
        if not isinstance(sampler, Sized) or self.args.dataloader_drop_last:
            return sampler
        if isinstance(sampler, RandomSampler):
            # What accelerate would replace it by if it saw it.
            sampler = SeedableRandomSampler(sampler.data_source, data_seed=self.args.data_seed)
        num_shares = self.args.world_size * self.args.gradient_accumulation_steps
        return WholeSteps(sampler, self.args.train_batch_size * num_shares)

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        if self.args.world_size == 1:
            return super().get_eval_dataloader(eval_dataset)
        return self._shared_batches(self.eval_dataset if eval_dataset is None else eval_dataset)

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        return (
            super().get_test_dataloader(test_dataset)
            if self.args.world_size == 1
            else self._shared_batches(test_dataset)
        )

    def _shared_batches(self, dataset: Any) -> DataLoader:
        # accelerate would fill the last batches with windows from the start, in whose company others are computed with
        # another rounding.
        return DataLoaderShard(
            dataset,
            device=self.args.device,
            batch_sampler=EvaluationBatches(
                dataset, self.args.eval_batch_size, self.args.world_size, self.args.process_index
            ),
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            multiprocessing_context=self.args.dataloader_multiprocessing_context,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        loss, predictions, labels = self.predict_batch(model, inputs, prediction_loss_only, ignore_keys)
        if self.args.world_size > 1:
            # Processes exchange equally many rows; those that are added here come after all others and are cut off.
            predictions, labels = recursively_apply(self._with_rows_of_a_batch, (predictions, labels))
        return loss, predictions, labels

    def predict_batch(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Loss, predictions and labels of one batch, as `Trainer.prediction_step` returns them; overridden by the stages."""
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    def _with_rows_of_a_batch(self, rows: torch.Tensor) -> torch.Tensor:
        filled = rows.new_zeros(self.args.eval_batch_size, *rows.shape[1:])
        filled[: len(rows)] = rows
        return filled
