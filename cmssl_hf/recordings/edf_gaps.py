"""EDF+ and BDF+ files with gaps (EDF+D, Kemp and Olivan 2003), which pyedflib does not read: each of their records says when it
begins."""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from cmssl_hf.models.cmssl.files_cmssl import SignalFile


#: Widths of the fields that the header has of each signal, in their order.
_FIELDS = {"label": 16, "transducer": 80, "unit": 8, "lowest": 8, "highest": 8, "digital_lowest": 8, "digital_highest": 8,
           "filters": 80, "samples": 8, "reserved": 32}  # fmt: skip
_HEADER_BYTES = 256
_ANNOTATIONS = ("EDF Annotations", "BDF Annotations")
#: The annotation that each record begins with: a time in seconds, without a text.
_BEGIN = re.compile(rb"([+-]\d+(?:\.\d*)?)\x14\x14")
#: Samples that a signal may be long with its gaps, and how many times as long as without them, whichever is more.
_LARGEST_LENGTH, _LARGEST_GROWTH = 2**24, 20


def open_edf_with_gaps(path: Path) -> SignalFile:
    """Reads the header, whose sizes fit the file, and the times of the records. What lies between them is NaN.

    Raises:
        ValueError: if the file is damaged, its records overlap, or its gaps are longer than recordings are.
    """
    try:
        return _open(path)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path} cannot be read as EDF+ or BDF+ with gaps: {error}") from error


def _open(path: Path) -> SignalFile:
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES).decode("latin-1")
        num_records, record_seconds, num_signals = int(head[236:244]), float(head[244:252]), int(head[252:256])
        fields = {
            name: [file.read(width).decode("latin-1").strip() for _ in range(num_signals)]
            for name, width in _FIELDS.items()
        }
    if not 0 < record_seconds < np.inf:
        raise ValueError(f"its records are of {record_seconds} s.")
    sizes = np.array(fields["samples"], dtype=np.int64)
    sample_bytes = 2 if head[0] == "0" else 3
    ends = np.cumsum(sizes) * sample_bytes
    records = np.memmap(path, np.uint8, "r", _HEADER_BYTES * (num_signals + 1), (num_records, int(ends[-1])))
    annotated = [position for position, label in enumerate(fields["label"]) if label in _ANNOTATIONS]
    if not annotated:
        raise ValueError("it has no annotations, which say when its records begin.")
    begin = slice(int(ends[annotated[0]] - sizes[annotated[0]] * sample_bytes), int(ends[annotated[0]]))
    onsets = np.array([*_onsets(records[:, begin])])
    signals = [position for position in range(num_signals) if position not in annotated]
    rates = [float(sizes[position] / record_seconds) for position in signals]
    places = [_places(onsets - onsets[0], rate, int(sizes[position])) for rate, position in zip(rates, signals)]
    scales = [_scale(fields, position) for position in signals]

    def load(number: int) -> np.ndarray:
        position, size = signals[number], int(sizes[signals[number]])
        end = int(ends[position])
        stored = _numbers(np.ascontiguousarray(records[:, end - size * sample_bytes : end]), sample_bytes)
        whole = np.full(places[number][-1] + size, np.nan)
        factor, offset = scales[number]
        whole[places[number][:, None] + np.arange(size)] = stored * factor + offset
        return whole

    names, units = ([fields[name][position] for position in signals] for name in ("label", "unit"))
    return SignalFile(str(path), names, rates, units, load, path.name, _start(head, float(onsets[0])))


def _onsets(annotations: np.ndarray) -> Iterator[float]:
    """When each record begins, in seconds since the start of the file."""
    for number, record in enumerate(annotations):
        match = _BEGIN.match(record.tobytes())
        if match is None:
            raise ValueError(f"record {number + 1:,} does not say when it begins.")
        yield float(match[1])


def _places(onsets: np.ndarray, rate: float, size: int) -> np.ndarray:
    """Where the first sample of each record stands in the whole signal."""
    places = np.round(onsets * rate)
    # Times are rounded, too.
    if (early := np.flatnonzero(np.diff(places) < size - 1)).size:
        raise ValueError(f"record {early[0] + 2:,} begins before the one before it ends.")
    length = places[-1] + size
    if length > max(_LARGEST_LENGTH, _LARGEST_GROWTH * size * len(places)):
        raise ValueError(f"its {len(places) * size:,} samples are spread over {length:,.0f}.")
    first = np.arange(len(places)) * size
    return np.maximum.accumulate(places.astype(np.int64) - first) + first


def _scale(fields: dict[str, list[str]], position: int) -> tuple[float, float]:
    """Factor and offset that make stored numbers physical ones."""
    names = ("lowest", "highest", "digital_lowest", "digital_highest")
    lowest, highest, digital_lowest, digital_highest = (float(fields[name][position]) for name in names)
    if (
        not digital_lowest < digital_highest
        or not np.isfinite([lowest, highest, digital_lowest, digital_highest]).all()
    ):
        raise ValueError(f"the ranges of {fields['label'][position]!r} are no ranges.")
    factor = (highest - lowest) / (digital_highest - digital_lowest)
    return factor, lowest - digital_lowest * factor


def _numbers(stored: np.ndarray, sample_bytes: int) -> np.ndarray:
    """Little-endian integers `(records, samples)` of bytes `(records, samples * sample_bytes)`."""
    if sample_bytes == 2:
        return stored.view("<i2")
    padded = np.zeros((len(stored), stored.shape[1] // 3, 4), np.uint8)
    padded[..., 1:] = stored.reshape(len(stored), -1, 3)
    return padded.view("<i4")[..., 0] >> 8


def _start(head: str, onset: float) -> datetime | None:
    try:
        day, month, year = map(int, head[168:176].split("."))
        hour, minute, second = map(int, head[176:184].split("."))
        # Years from 85 on are of the last century, as the format has it.
        start = datetime(year + (1900 if year >= 85 else 2000), month, day, hour, minute, second)
        return start + timedelta(seconds=onset)
    except (ValueError, OverflowError):
        return None
