"""Files that hold signals with a rate for each, and the readers of more formats than this folder has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class SignalFile:
    """What the header of a file says, and its samples when they are asked for.

    Attributes:
        name: what messages call the file.
        names: of the signals, which begin together; empty where one has none.
        sampling_rates: of the signals in Hz.
        units: of the signals; empty where one has none.
        load: reads one signal `(samples,)` by its position; NaN where nothing was recorded. Raises `ValueError`.
        description: what else tells what a signal is whose name says nothing.
        start: when the first samples were recorded, if that is known.
    """

    name: str
    names: Sequence[str]
    sampling_rates: Sequence[float]
    units: Sequence[str]
    load: Callable[[int], np.ndarray]
    description: str = ""
    start: datetime | None = None


class Table(Protocol):
    """A file of columns with one rate, or with times beside them; `TableFile` is one."""

    @property
    def names(self) -> Sequence[str]: ...
    @property
    def units(self) -> Sequence[str]: ...
    @property
    def sampling_rate(self) -> float | None: ...
    @property
    def description(self) -> str: ...
    def columns(self, positions: Sequence[int]) -> list[np.ndarray]: ...


FileReader = Callable[[Path], SignalFile | Table | None]

_READERS: list[FileReader] = []


def register_file_reader(read: FileReader) -> None:
    """Lets pipelines read more formats.

    Args:
        read: opens a file or folder, or returns `None` for one of another format. Raises `ValueError` if it is damaged.
    """
    if read not in _READERS:
        _READERS.append(read)


def open_registered(path: Path) -> SignalFile | Table | None:
    """The file, if a registered reader knows its format."""
    return next((file for read in _READERS if (file := read(path)) is not None), None)


__all__ = ["FileReader", "SignalFile", "Table", "open_registered", "register_file_reader"]
