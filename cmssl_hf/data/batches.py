"""The way from windows of a memory-mapped dataset to batches of tensors, without Python lists in between."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset

from ..private_access import selected_rows
from .augmentation import Augmentation, WindowAugmentation
from .batched_augmentation import KEYS, BatchedAugmentation


#: The windows `(channels, samples)` of one batch: an array `(rows, channels, samples)`, or a list where lengths differ.
Windows = np.ndarray | list[np.ndarray]


class WindowReader:
    """Reads windows of a column `input_values` in any order, copying each once, from where the file is mapped to the batch.

    `datasets` itself gathers rows to a table, which is then copied to one piece of memory and from there to the batch.

    Args:
        dataset: with a column `input_values (channels, samples)`.
        channel: index of the one channel that is read, or `None` for all.
    """

    def __init__(self, dataset: Dataset, channel: int | None = None):
        self._dataset = dataset
        self._channel = channel
        self._map()

    def _map(self) -> None:
        self._column: pa.ChunkedArray = self._dataset.data.column("input_values")
        self._first_rows = np.cumsum([0, *(len(chunk) for chunk in self._column.chunks)])
        # Views of mapped memory, by chunk, made when the first window of a chunk is read.
        self._views: dict[int, Windows] = {}
        # Where a dataset was shuffled, filtered or sorted, this says which row of the table each of its rows is.
        self._rows = selected_rows(self._dataset)

    def __getstate__(self) -> dict[str, Any]:
        # A process that is not forked maps the file itself.
        return {"_dataset": self._dataset, "_channel": self._channel}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()

    def read(self, positions: Sequence[int] | np.ndarray) -> Windows:
        """Windows of the dataset at `positions`; an array can be written to, the windows of a list cannot."""
        rows = np.asarray(positions) if self._rows is None else self._rows[np.asarray(positions)].astype(np.int64)
        chunks = np.searchsorted(self._first_rows, rows, side="right") - 1
        within = rows - self._first_rows[chunks]
        return stack_if_alike([self._of_chunk(chunk)[row] for chunk, row in zip(chunks.tolist(), within.tolist())])

    def _of_chunk(self, number: int) -> Windows:
        if number not in self._views:
            windows = _rows_to_numpy(self._column.chunk(number))
            if self._channel is not None:
                windows = keep_channel(windows, self._channel)
            self._views[number] = windows
        return self._views[number]


def stack_if_alike(windows: list[np.ndarray]) -> Windows:
    """Copies windows of one length to one array."""
    if any(window.shape != windows[0].shape for window in windows):
        return windows
    # Several times faster than `np.stack`, which reshapes each.
    return np.concatenate(windows).reshape(len(windows), *windows[0].shape)


def keep_channel(windows: Windows, channel: int) -> Windows:
    """The windows with one of their channels, without a copy."""
    keep = slice(channel, channel + 1)
    return windows[:, keep] if isinstance(windows, np.ndarray) else [window[keep] for window in windows]


def input_values_to_numpy(column: pa.ChunkedArray) -> Windows:
    """A column `input_values` as one array `(rows, channels, samples)`, or as a list of `(channels, samples)` where lengths
    differ; without copies as far as Arrow allows."""
    if column.num_chunks == 1:
        return _rows_to_numpy(column.chunk(0))
    rows = column.combine_chunks()
    return _rows_to_numpy(rows.chunk(0) if isinstance(rows, pa.ChunkedArray) else rows)


def _rows_to_numpy(rows: pa.ListArray) -> Windows:
    channel_lists = rows.flatten()
    samples: np.ndarray = channel_lists.flatten().to_numpy(zero_copy_only=False)
    num_channels = len(channel_lists) // len(rows)
    lengths = np.diff(channel_lists.offsets.to_numpy())
    if np.all(lengths == lengths[0]):
        return samples.reshape(len(rows), num_channels, int(lengths[0]))
    ends = np.cumsum(lengths.reshape(len(rows), num_channels).sum(1))
    return [window.reshape(num_channels, -1) for window in np.split(samples, ends[:-1])]


_PROVENANCE = ("subject_id", "record_id", "start_time")


@dataclass
class WindowBatch:
    """Rows of a dataset on their way to the collator.

    Attributes:
        windows: their `input_values`.
        table: their other columns, or `None` if they have none.
        augmentation: changes that the collator makes to them, or `None`.
        generators: one source of randomness per row for the augmentation.
        keys: epoch and position of each row `(rows, 2)`, where they are augmented later on a device.
    """

    windows: Windows
    table: pa.Table | None = None
    augmentation: WindowAugmentation | None = None
    generators: Sequence[np.random.Generator] = ()
    keys: np.ndarray | None = None


class WindowsDataset(TorchDataset[WindowBatch]):
    """Map-style dataset that hands whole batches of rows to [`WindowsCollator`], also in a plain `transformers.Trainer` with
    `remove_unused_columns=False`.

    Args:
        dataset: dataset with a column `input_values` and those that the collator reads.
        columns: the columns that are read.
        augmentation: applied to every window, or `None`. Seed, epoch and position in the dataset decide what happens to a
            window, so that neither the number of processes nor an interruption changes it.
        seed: of the augmentation.
        channel: index of the one channel that is read, or `None` for all.
        longest: windows of more samples are cut to as many, at a place that is drawn like the augmentation; `None` leaves all as
            they are.

    Attributes:
        augments_on_device: whether windows are read as they are, and changed by [`augmented`] when they are a batch.
    """

    augments_on_device = False

    def __init__(
        self,
        dataset: Dataset,
        columns: Sequence[str],
        augmentation: WindowAugmentation | None = None,
        seed: int = 0,
        channel: int | None = None,
        longest: int | None = None,
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
        self.longest = longest
        # In shared memory: workers that outlive an epoch have copies of this object.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def __getitem__(self, index: int) -> WindowBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> WindowBatch:
        table = self._others[list(indices)] if self._others.column_names else None
        windows = self._windows.read(indices)
        if self.longest is not None:
            windows = stack_if_alike([self._cut(window, index) for window, index in zip(windows, indices)])
        batch = WindowBatch(windows, table)
        if self.augmentation is not None and self.augments_on_device:
            batch.keys = np.array([(self.epoch, int(index)) for index in indices], dtype=np.int64)
        elif self.augmentation is not None:
            batch.augmentation = self.augmentation
            epoch = self.epoch
            batch.generators = [np.random.default_rng((self.seed, epoch, int(index))) for index in indices]
        return batch

    def _cut(self, window: np.ndarray, index: int) -> np.ndarray:
        surplus = window.shape[-1] - (self.longest or 0)
        if surplus <= 0:
            return window
        # Another stream than that of the augmentation.
        start = np.random.default_rng((self.seed, self.epoch, int(index), 1)).integers(surplus + 1)
        return window[..., start : start + self.longest]

    def augmented(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A collated batch, changed on its device if that is still to be done."""
        if KEYS not in inputs or not isinstance(self.augmentation, Augmentation):
            return inputs
        return BatchedAugmentation(self.augmentation, self.seed)(inputs)

    def provenance(self, indices: Sequence[int]) -> pa.Table:
        """Where windows come from: `subject_id`, `record_id` and `start_time` (s) of each, in the order of `indices`."""
        return self._provenance[list(indices)]

    def set_epoch(self, epoch: int) -> None:
        """Called at the start of each epoch; workers of a data loader, forked or spawned, hear of it too."""
        self._epoch.fill_(epoch)


def _read_as_tables(dataset: Dataset, columns: list[str]) -> Dataset:
    return dataset.select_columns(columns).with_format("arrow")


@dataclass
class WindowsCollator:
    """Makes tensors of a [`WindowBatch`].

    Attributes:
        patch_size: windows are padded to whole patches of this many samples.
        label_column: column of the labels, if there is one; codes are padded with -100.
        codes_per_patch: labels that each patch has, where they are codes.
        id_columns: further inputs of models that read heartbeats: a number for each, 0 for padding. The `input_values` of such
            a window, one channel in the dataset, become `(batch, heartbeats, samples)`.
    """

    patch_size: int
    label_column: str | None = None
    codes_per_patch: int | None = None
    id_columns: Sequence[str] = ()

    def __call__(self, batch: WindowBatch | list[WindowBatch]) -> dict[str, torch.Tensor]:
        batch = joined(batch)
        values, labels = batch.windows, self._labels(batch)
        if batch.augmentation is not None:
            values, labels = batch.augmentation(values, labels, batch.generators)
        features = self.pad(values)
        if labels is not None:
            if self.codes_per_patch is not None:
                num_codes = features["input_values"].shape[-1] // self.patch_size * self.codes_per_patch
                # The tokenizer's patches may end before the last one of the encoder does.
                labels = np.pad(labels, ((0, 0), (0, num_codes - labels.shape[1])), constant_values=-100)
            features["labels"] = torch.from_numpy(labels)
        for name in self.id_columns:
            ids = labels_to_numpy(self._table(batch, name)[name])
            features[name] = torch.from_numpy(np.where(ids == -100, 0, ids))
            features["input_values"] = features["input_values"].reshape(*ids.shape, -1)
            features.pop("attention_mask", None)
        if batch.keys is not None:
            features[KEYS] = torch.from_numpy(batch.keys)
        return features

    def _labels(self, batch: WindowBatch) -> np.ndarray | None:
        if self.label_column is None:
            return None
        return labels_to_numpy(self._table(batch, self.label_column)[self.label_column])

    @staticmethod
    def _table(batch: WindowBatch, column: str) -> pa.Table:
        if batch.table is None:
            raise ValueError(
                f"The collator reads the column {column!r}, but windows are all that is read of the dataset."
            )
        return batch.table

    def pad(self, values: Windows) -> dict[str, torch.Tensor]:
        """`input_values` of whole patches and, where any are padded, their `attention_mask`."""
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


def joined(batches: WindowBatch | list[WindowBatch]) -> WindowBatch:
    """One batch of several, from loaders that fetch rows one by one."""
    if isinstance(batches, WindowBatch):
        return batches
    tables = [batch.table for batch in batches if batch.table is not None]
    return WindowBatch(
        stack_if_alike([window for batch in batches for window in batch.windows]),
        pa.concat_tables(tables) if tables else None,
        batches[0].augmentation,
        [generator for batch in batches for generator in batch.generators],
        None if batches[0].keys is None else np.concatenate([batch.keys for batch in batches]),
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
    flat: np.ndarray = rows.flatten().to_numpy(zero_copy_only=False)
    dtype = np.int64 if np.issubdtype(flat.dtype, np.integer) else np.float32
    lengths = np.diff(rows.offsets.to_numpy())
    if np.all(lengths == lengths[0]):
        return flat.reshape(len(rows), -1).astype(dtype)
    padded = np.full((len(rows), lengths.max()), -100, dtype=dtype)
    padded[np.arange(lengths.max()) < lengths[:, None]] = flat
    return padded
