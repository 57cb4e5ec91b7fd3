"""Storing standardised samples in fewer bits, and what that costs.

A column `input_values` holds lists of channels of samples. As int16 each channel of a window is divided by a scale of its
own, its largest value over 32767, which is kept in a column `scale`.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa


SampleDtype = Literal["float32", "float16", "int16"]
SAMPLE_DTYPES: tuple[SampleDtype, ...] = ("float32", "float16", "int16")

_LARGEST_INT16 = np.iinfo(np.int16).max


@dataclass
class StorageError:
    """Error of stored samples, in the unit of the samples: standard deviations of a window, if they are standardised."""

    largest: float = 0.0
    sum_of_squares: float = 0.0
    num_samples: int = 0

    @property
    def rms(self) -> float:
        return math.sqrt(self.sum_of_squares / max(1, self.num_samples))

    def add(self, other: "StorageError") -> None:
        self.largest = max(self.largest, other.largest)
        self.sum_of_squares += other.sum_of_squares
        self.num_samples += other.num_samples


def store_samples(table: pa.Table, dtype: SampleDtype) -> tuple[pa.Table, StorageError]:
    """Converts the float32 column `input_values` of a table, adding a column `scale` if `dtype` is `"int16"`.

    Returns:
        The table, and the error that was made.
    """
    channels = _channels(table)
    samples = channels.flatten().to_numpy()
    if dtype == "float32":
        return table, StorageError(num_samples=len(samples))
    if dtype == "float16":
        stored, restored = samples.astype(np.float16), samples.astype(np.float16).astype(np.float32)
    else:
        lengths = channels.value_lengths().to_numpy()
        largest = np.maximum.reduceat(np.abs(samples), np.cumsum(lengths) - lengths) if len(samples) else samples
        scale = np.maximum(largest / _LARGEST_INT16, np.finfo(np.float32).tiny)
        stored = np.rint(samples / np.repeat(scale, lengths)).astype(np.int16)
        restored = stored * np.repeat(scale, lengths)
        per_window = table["input_values"].combine_chunks().value_lengths()
        table = table.append_column("scale", _nest(per_window, pa.array(scale)))
    difference = np.abs(restored - samples)
    error = StorageError(
        float(difference.max(initial=0.0)), float(np.square(difference, dtype=np.float64).sum()), len(samples)
    )
    return _with_samples(table, stored), error


def restore_samples(table: pa.Table) -> pa.Table:
    """Undoes `store_samples` up to its error: `input_values` is float32 and `scale` is gone."""
    channels = _channels(table)
    samples = channels.flatten().to_numpy()
    if "scale" in table.column_names:
        scale = table["scale"].combine_chunks().flatten().to_numpy()
        samples = samples * np.repeat(scale, channels.value_lengths().to_numpy())
        table = table.drop_columns("scale")
    return _with_samples(table, samples.astype(np.float32, copy=False))


def _channels(table: pa.Table) -> pa.ListArray:
    """The channels of all windows, one after another."""
    return table["input_values"].combine_chunks().flatten()


def _with_samples(table: pa.Table, samples: np.ndarray) -> pa.Table:
    windows = table["input_values"].combine_chunks()
    channels = _nest(windows.flatten().value_lengths(), pa.array(samples))
    column = _nest(windows.value_lengths(), channels)
    return table.set_column(table.column_names.index("input_values"), "input_values", column)


def _nest(lengths: pa.Array, values: pa.Array) -> pa.ListArray:
    offsets = np.concatenate(([0], np.cumsum(lengths.to_numpy()))).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, values)
