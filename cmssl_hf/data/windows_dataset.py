"""The way from memory-mapped Arrow tables to batches of tensors, without Python lists in between."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset

from .augmentation import Augmentation


_PROVENANCE = ("subject_id", "record_id", "start_time")


@dataclass
class WindowBatch:
    """Rows of a dataset on their way to the collator.

    Attributes:
        table: the rows.
        augmentation: changes that the collator makes to them, or `None`.
        generators: one source of randomness per row for the augmentation.
    """

    table: pa.Table
    augmentation: Augmentation | None = None
    generators: Sequence[np.random.Generator] = ()


class WindowsDataset(TorchDataset):
    """Map-style dataset that hands whole batches of Arrow rows to [`WindowsCollator`].

    Args:
        dataset: dataset with a column `input_values` and those that the collator reads.
        columns: the columns that are read.
        augmentation: applied to every window, or `None`. Seed, epoch and position in the dataset decide what happens to a
            window, so that neither the number of processes nor an interruption changes it.
        seed: of the augmentation.
    """

    def __init__(
        self, dataset: Dataset, columns: Sequence[str], augmentation: Augmentation | None = None, seed: int = 0
    ):
        missing = [column for column in columns if column not in dataset.column_names]
        if missing:
            raise ValueError(
                f"The dataset has no column {', '.join(missing)}; it has {', '.join(dataset.column_names)}."
            )
        self.dataset = dataset.select_columns(list(columns)).with_format("arrow")
        self._provenance = dataset.select_columns(
            [name for name in _PROVENANCE if name in dataset.column_names]
        ).with_format("arrow")
        self.augmentation = augmentation if augmentation is not None and augmentation.active else None
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> WindowBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> WindowBatch:
        table = self.dataset[list(indices)]
        if self.augmentation is None:
            return WindowBatch(table)
        generators = [np.random.default_rng((self.seed, self.epoch, int(index))) for index in indices]
        return WindowBatch(table, self.augmentation, generators)

    def provenance(self, indices: Sequence[int]) -> pa.Table:
        """Where windows come from: `subject_id`, `record_id` and `start_time` (s) of each, in the order of `indices`."""
        return self._provenance[list(indices)]

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader of `accelerate` at the start of each epoch."""
        self.epoch = epoch


def input_values_to_numpy(column: pa.ChunkedArray) -> list[np.ndarray] | np.ndarray:
    """A column `input_values` as one array `(rows, channels, samples)`, or as a list of `(channels, samples)` where lengths
    differ; without copies as far as Arrow allows."""
    rows = column.combine_chunks()
    if isinstance(rows, pa.ChunkedArray):
        rows = rows.chunk(0)
    channel_lists = rows.flatten()
    samples = channel_lists.flatten().to_numpy(zero_copy_only=False)
    num_channels = len(channel_lists) // len(rows)
    lengths = np.diff(channel_lists.offsets.to_numpy())
    if np.all(lengths == lengths[0]):
        return samples.reshape(len(rows), num_channels, int(lengths[0]))
    ends = np.cumsum(lengths.reshape(len(rows), num_channels).sum(1))
    return [window.reshape(num_channels, -1) for window in np.split(samples, ends[:-1])]


@dataclass
class WindowsCollator:
    """Makes tensors of a [`WindowBatch`].

    Attributes:
        patch_size: windows are padded to whole patches of this many samples.
        channel: index of the one channel that is kept, or `None` for all.
        label_column: column of the labels, if there is one; codes are padded with -100.
        codes_per_patch: labels that each patch has, where they are codes.
    """

    patch_size: int
    channel: int | None = None
    label_column: str | None = None
    codes_per_patch: int | None = None

    def __call__(self, batch: WindowBatch | list[WindowBatch]) -> dict[str, torch.Tensor]:
        if isinstance(batch, list):
            # Loaders that fetch rows one by one.
            tables = pa.concat_tables([part.table for part in batch])
            generators = [generator for part in batch for generator in part.generators]
            batch = WindowBatch(tables, batch[0].augmentation, generators)
        values = input_values_to_numpy(batch.table["input_values"])
        if self.channel is not None:
            keep = slice(self.channel, self.channel + 1)
            values = values[:, keep] if isinstance(values, np.ndarray) else [window[keep] for window in values]
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

    def _pad(self, values: np.ndarray | list[np.ndarray]) -> dict[str, torch.Tensor]:
        lengths = np.array([window.shape[-1] for window in values])
        padded_length = -(-int(lengths.max()) // self.patch_size) * self.patch_size
        if isinstance(values, np.ndarray) and padded_length == lengths[0]:
            # Arrow memory is read-only; torch asks for a writable copy, which is the batch itself.
            return {"input_values": torch.from_numpy(np.array(values, dtype=np.float32))}
        padded = np.zeros((len(values), values[0].shape[0], padded_length), dtype=np.float32)
        for row, window in enumerate(values):
            padded[row, :, : window.shape[-1]] = window
        mask = np.arange(padded_length) < lengths[:, None]
        return {"input_values": torch.from_numpy(padded), "attention_mask": torch.from_numpy(mask.astype(np.int64))}


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
