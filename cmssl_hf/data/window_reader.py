"""Random access to the windows of a memory-mapped dataset."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset


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
        selected = self._dataset._indices
        self._rows = None if selected is None else selected.column(0).to_numpy()

    def __getstate__(self) -> dict[str, Any]:
        # A process that is not forked maps the file itself.
        return {"_dataset": self._dataset, "_channel": self._channel}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()

    def read(self, positions: Sequence[int]) -> Windows:
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
    samples = channel_lists.flatten().to_numpy(zero_copy_only=False)
    num_channels = len(channel_lists) // len(rows)
    lengths = np.diff(channel_lists.offsets.to_numpy())
    if np.all(lengths == lengths[0]):
        return samples.reshape(len(rows), num_channels, int(lengths[0]))
    ends = np.cumsum(lengths.reshape(len(rows), num_channels).sum(1))
    return [window.reshape(num_channels, -1) for window in np.split(samples, ends[:-1])]
