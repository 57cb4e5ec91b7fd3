"""Finds the format of a file and reads it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple, cast

import numpy as np

from cmssl_hf.models.cmssl import recordings_cmssl
from cmssl_hf.models.cmssl.channels_cmssl import kind_of
from cmssl_hf.models.cmssl.files_cmssl import SignalFile, Table

from . import aecg, apple_health, dicom, edf, empatica, ishne, opensignals, parquet, polar, refused


@dataclass(frozen=True)
class Signal:
    """One channel of a recording.

    Attributes:
        samples: array `(samples,)` of floats; NaN where nothing was recorded.
        sampling_rate: in Hz.
        unit: such as `"mV"`, `"uV"` or `"adu"` (the numbers of a converter); `None` if the file states none.
        kind: what the name says it is; `None` for another signal.
    """

    samples: np.ndarray
    sampling_rate: float
    unit: str | None
    kind: Literal["ecg", "ppg"] | None


@dataclass(frozen=True)
class Recording:
    """The signals of a file, which begin together, without a field that tells whose they are.

    Attributes:
        name: of the file.
        signals: by their names.
        start: when the first samples were recorded, as the file states it; `None` if it does not.
    """

    name: str
    signals: dict[str, Signal]
    start: datetime | None = None


def read_recording(path: str | Path, channel: str | None = None, sampling_rate: float | None = None) -> Recording:
    """Reads a file or folder in one of the formats of `FORMATS`, or a WFDB record, or a table of numbers in a text file.

    Args:
        path: of a file, of a WFDB record with or without `.hea`, or of a folder of an Empatica E4.
        channel: name of the only signal to read; all by default.
        sampling_rate: in Hz, for tables that do not state theirs; another one than the file's is refused.

    Raises:
        ValueError: if the file is empty, damaged, encrypted or of another kind, states no rate, or has no such channel; the
            message names the file and lists what there is.
        FileNotFoundError: if there is no such file.
        ImportError: if the package that reads such files is not installed.
    """
    found = recordings_cmssl.read_recording(path, None, sampling_rate=sampling_rate, column=channel)
    signals = {
        name: Signal(
            samples,
            found.sampling_rates[name],
            _unit(found.units.get(name, "")),
            cast('Literal["ecg", "ppg"] | None', kind_of(name)),
        )
        for name, samples in found.signals.items()
    }
    return Recording(str(path), signals, found.start)


def _unit(unit: str) -> str | None:
    """One spelling of the units of ECG: the micro sign and the Greek letter look alike."""
    unit = unit.strip(" []()").replace("µ", "u").replace("μ", "u")
    return {"mv": "mV", "uv": "uV", "nv": "nV", "v": "V"}.get(unit.lower(), unit) or None


class Format(NamedTuple):
    """How files of one format are known and opened.

    Attributes:
        recognises: whether a path with these first bytes (none of a folder) is one.
        open: reads the header; raises `ValueError` if it is damaged.
    """

    recognises: Callable[[Path, bytes], bool]
    open: Callable[[Path], SignalFile | Table]


#: The first one that recognises a file reads it.
FORMATS: tuple[Format, ...] = (
    Format(refused.recognises, refused.refuse),
    Format(edf.recognises, edf.open_edf),
    Format(dicom.recognises, dicom.open_dicom),
    Format(parquet.recognises, parquet.open_parquet),
    Format(ishne.recognises, ishne.open_ishne),
    Format(aecg.recognises, aecg.open_aecg),
    Format(empatica.recognises, empatica.open_empatica),
    Format(opensignals.recognises, opensignals.open_opensignals),
    Format(polar.recognises, polar.open_polar),
    Format(apple_health.recognises, apple_health.open_apple_health),
)

_HEAD_BYTES = 4096


def open_file(path: Path) -> SignalFile | Table | None:
    """The file, if it is in one of `FORMATS`.

    Raises:
        ValueError: if it cannot be read; the message names it.
    """
    head = b""
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    return next((known.open(path) for known in FORMATS if known.recognises(path, head)), None)
