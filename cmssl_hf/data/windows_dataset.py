"""The way from memory-mapped Arrow tables to batches of tensors, without Python lists in between."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset

from .augmentation import Augmentation
from .window_reader import WindowReader, Windows, stack_if_alike


_PROVENANCE = ("subject_id", "record_id", "start_time")


@dataclass
class WindowBatch:
    """Rows of a dataset on their way to the collator.

    Attributes:
        windows: their `input_values`.
        table: their other columns, or `None` if they have none.
        augmentation: changes that the collator makes to them, or `None`.
        generators: one source of randomness per row for the augmentation.
    """

    windows: Windows
    table: pa.Table | None = None
    augmentation: Augmentation | None = None
    generators: Sequence[np.random.Generator] = ()


class WindowsDataset(TorchDataset):
    """Map-style dataset that hands whole batches of rows to [`WindowsCollator`].

    Args:
        dataset: dataset with a column `input_values` and those that the collator reads.
        columns: the columns that are read.
        augmentation: applied to every window, or `None`. Seed, epoch and position in the dataset decide what happens to a
            window, so that neither the number of processes nor an interruption changes it.
        seed: of the augmentation.
        channel: index of the one channel that is read, or `None` for all.
    """

    def __init__(
        self,
        dataset: Dataset,
        columns: Sequence[str],
        augmentation: Augmentation | None = None,
        seed: int = 0,
        channel: int | None = None,
    ):
        missing = [column for column in columns if column not in dataset.column_names]
        if missing:
            raise ValueError(
                f"The dataset has no column {', '.join(missing)}; it has {', '.join(dataset.column_names)}."
            )
        self.dataset = dataset
        self._windows = WindowReader(dataset, channel)
        self._others = _read_as_tables(dataset, [column for column in columns if column != "input_values"])
        self._provenance = _read_as_tables(dataset, [name for name in _PROVENANCE if name in dataset.column_names])
        self.augmentation = augmentation if augmentation is not None and augmentation.active else None
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> WindowBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> WindowBatch:
        table = self._others[list(indices)] if self._others.column_names else None
        batch = WindowBatch(self._windows.read(indices), table)
        if self.augmentation is not None:
            batch.augmentation = self.augmentation
            batch.generators = [np.random.default_rng((self.seed, self.epoch, int(index))) for index in indices]
        return batch

    def provenance(self, indices: Sequence[int]) -> pa.Table:
        """Where windows come from: `subject_id`, `record_id` and `start_time` (s) of each, in the order of `indices`."""
        return self._provenance[list(indices)]

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader of `accelerate` at the start of each epoch."""
        self.epoch = epoch


def _read_as_tables(dataset: Dataset, columns: list[str]) -> Dataset:
    return dataset.select_columns(columns).with_format("arrow")


@dataclass
class WindowsCollator:
    """Makes tensors of a [`WindowBatch`].

    Attributes:
        patch_size: windows are padded to whole patches of this many samples.
        label_column: column of the labels, if there is one; codes are padded with -100.
        codes_per_patch: labels that each patch has, where they are codes.
    """

    patch_size: int
    label_column: str | None = None
    codes_per_patch: int | None = None

    def __call__(self, batch: WindowBatch | list[WindowBatch]) -> dict[str, torch.Tensor]:
        if isinstance(batch, list):
            batch = _join(batch)
        values = batch.windows
        labels = None if self.label_column is None else labels_to_numpy(batch.table[self.label_column])
        if batch.augmentation is not None:
            values, labels = batch.augmentation(values, labels, batch.generators)
        features = self._pad(values)
        if self.codes_per_patch is not None:
            num_codes = features["input_values"].shape[-1] // self.patch_size * self.codes_per_patch
            # The tokenizer's patches may end before the last one of the encoder does.
            labels = np.pad(labels, ((0, 0), (0, num_codes - labels.shape[1])), constant_values=-100)
        if labels is not None:
            features["labels"] = torch.from_numpy(labels)
        return features

    def _pad(self, values: Windows) -> dict[str, torch.Tensor]:
        lengths = np.array([window.shape[-1] for window in values])
        padded_length = -(-int(lengths.max()) // self.patch_size) * self.patch_size
        if isinstance(values, np.ndarray) and padded_length == lengths[0]:
            # torch asks for memory that can be written to, which that of Arrow cannot.
            return {"input_values": torch.from_numpy(np.require(values, np.float32, ["C", "W"]))}
        padded = np.zeros((len(values), values[0].shape[0], padded_length), dtype=np.float32)
        for row, window in enumerate(values):
            padded[row, :, : window.shape[-1]] = window
        mask = np.arange(padded_length) < lengths[:, None]
        return {"input_values": torch.from_numpy(padded), "attention_mask": torch.from_numpy(mask.astype(np.int64))}


def _join(batches: list[WindowBatch]) -> WindowBatch:
    """One batch of several, from loaders that fetch rows one by one."""
    tables = [batch.table for batch in batches if batch.table is not None]
    return WindowBatch(
        stack_if_alike([window for batch in batches for window in batch.windows]),
        pa.concat_tables(tables) if tables else None,
        batches[0].augmentation,
        [generator for batch in batches for generator in batch.generators],
    )


def labels_to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """Labels `(rows,)` or `(rows, labels)`: float32 for regression and multi-hot labels, int64 for classes and codes, the
    latter padded with -100 where rows differ in length."""
    rows = column.combine_chunks()
    if isinstance(rows, pa.ChunkedArray):
        rows = rows.chunk(0)
    if not pa.types.is_list(rows.type):
        values = rows.to_numpy(zero_copy_only=False)
        return np.array(values, dtype=np.int64 if np.issubdtype(values.dtype, np.integer) else np.float32)
    flat = rows.flatten().to_numpy(zero_copy_only=False)
    dtype = np.int64 if np.issubdtype(flat.dtype, np.integer) else np.float32
    lengths = np.diff(rows.offsets.to_numpy())
    if np.all(lengths == lengths[0]):
        return flat.reshape(len(rows), -1).astype(dtype)
    padded = np.full((len(rows), lengths.max()), -100, dtype=dtype)
    padded[np.arange(lengths.max()) < lengths[:, None]] = flat
    return padded
