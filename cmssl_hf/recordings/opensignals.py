"""Text files of OpenSignals, which records from BITalino and biosignalsplux."""

import functools
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from cmssl_hf.models.cmssl.files_cmssl import SignalFile
from cmssl_hf.models.cmssl.tables_cmssl import TableFile, as_numbers


_MAGIC = b"# OpenSignals Text File Format"
_LARGEST_HEADER = 2**16
#: Sensors that say nothing about what was recorded.
_NEUTRAL = ("RAW", "CUSTOM", "")
#: With the lost samples a signal may be this many times as long as the file.
_LARGEST_GROWTH = 20


def recognises(path: Path, head: bytes) -> bool:
    return head.removeprefix(b"\xef\xbb\xbf").startswith(_MAGIC)


def open_opensignals(path: Path) -> SignalFile:
    """Reads the header. Signals are called after their sensors and are the numbers of the converter (`adu`); samples that were lost
    on the way, by the numbers of their frames (`nSeq`), are NaN.

    Raises:
        ValueError: if the file is damaged.
    """
    with path.open("rb") as file:
        lines = file.read(_LARGEST_HEADER).decode("utf-8-sig", errors="replace").splitlines()
    ends = [number for number, line in enumerate(lines) if line.strip() == "# EndOfHeader"]
    try:
        if not ends:
            raise ValueError("its header has no end.")
        devices = json.loads(lines[1].lstrip("# "))
        columns: list[str | None] = []
        frames: list[int | None] = []
        rates: set[float] = set()
        for device in devices.values():
            frames += [len(columns) if device["column"][0] == "nSeq" else None] * len(device["column"])
            columns += _names(device)
            rates.add(float(device["sampling rate"]))
        if len(rates) != 1:
            raise ValueError(f"its devices have several rates: {sorted(rates)}.")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as a file of OpenSignals: {type(error).__name__}: {error}") from error
    positions = [position for position, name in enumerate(columns) if name is not None]
    if not positions:
        raise ValueError(f"{path} holds no signal.")
    table = TableFile(path, tuple(name or "" for name in columns), None, "\t", ".", ends[0] + 1, "utf-8-sig")
    read = functools.cache(lambda: table.columns(range(len(columns))))

    def load(signal: int) -> np.ndarray:
        position = positions[signal]
        samples = as_numbers(read()[position], f"{path}, column {columns[position]!r}")
        counted = frames[position]
        return samples if counted is None else _with_gaps(samples, read()[counted], path)

    names = [columns[position] or "" for position in positions]
    start = _start(next(iter(devices.values())))
    return SignalFile(str(path), names, [*rates] * len(names), ["adu"] * len(names), load, path.name, start)


def _names(device: dict[str, Any]) -> list[str | None]:
    """What the columns of a device are called; `None` for numbers of frames and digital lines."""
    sensors = dict(zip(device["label"], device["sensor"]))
    names: list[str | None] = []
    for column in map(str, device["column"]):
        sensor = str(sensors.get(column, "")).strip()
        names.append(None if column not in sensors else column if sensor.upper() in _NEUTRAL else sensor)
    return names


def _with_gaps(samples: np.ndarray, counted: np.ndarray, path: Path) -> np.ndarray:
    """Samples at their places by the numbers of their frames, which begin again at 0 after a power of two."""
    frames = as_numbers(counted, f"{path}, column 'nSeq'")
    if not len(frames) or not ((frames >= 0) & (frames < 2**53) & (frames == np.round(frames))).all():
        raise ValueError(f"{path}: the column nSeq does not count frames.")
    period = 2 ** int(np.ceil(np.log2(frames.max() + 1)))
    steps = np.mod(np.diff(frames) - 1, period) + 1
    length = 1 + steps.sum()
    if length > _LARGEST_GROWTH * len(samples):
        raise ValueError(f"{path}: by its column nSeq {length - len(samples):,.0f} of {length:,.0f} samples are lost.")
    whole = np.full(int(length), np.nan)
    whole[np.concatenate(([0], np.cumsum(steps))).astype(np.int64)] = samples
    return whole


def _start(device: dict[str, Any]) -> datetime | None:
    told = f"{device.get('date')} {device.get('time')}"
    for form in ("%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%d %H:%M:%S"):
        try:
            return datetime.strptime(told, form)
        except ValueError:
            pass
    return None
