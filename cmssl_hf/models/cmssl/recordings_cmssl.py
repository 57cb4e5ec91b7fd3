"""Recordings as people have them - arrays, dictionaries, WFDB records, CSV files - as the signals that a model reads."""

import numbers
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


#: Regular expressions for the names of a modality's channels, the preferred ones first: lead II before other leads.
CHANNEL_PATTERNS: dict[str, tuple[str, ...]] = {
    "ecg": (
        r"(ML|LEAD )?II",
        r"(ML|LEAD )?(I|III|V[1-9]?R?|AV[RLF])|MCL[1-6]?|MV[1-6]",
        r"(ECG|EKG).*",
    ),
    "ppg": (r"(PLETH|PPG).*", r"BVP.*"),
}

_NEEDS_WFDB = "Reading WFDB records needs wfdb: `pip install wfdb`."

#: Formats of WFDB that are FLAC streams; a sample in any other takes at least a byte.
_COMPRESSED_FORMATS = ("508", "516", "524")
#: Samples in a byte of FLAC, where the signal is constant: the largest block has 65,535 samples, the smallest frame 10 bytes.
_LARGEST_COMPRESSION = 6554
#: Samples of a record of several segments, whose gaps are in no file: 24 days at 125 Hz.
_LARGEST_GAPPED_RECORD = 2**28


@dataclass(frozen=True)
class Recording:
    """Synchronous signals that begin together.

    Attributes:
        name: what messages call it.
        signals: array `(samples,)` per channel, in any unit; NaN where nothing was recorded.
        sampling_rates: rate of each channel in Hz.
    """

    name: str
    signals: dict[str, np.ndarray]
    sampling_rates: dict[str, float]

    @property
    def duration(self) -> float:
        """Seconds for which all signals last."""
        return min(len(signal) / self.sampling_rates[channel] for channel, signal in self.signals.items())

    def cut(self, start: float, end: float) -> dict[str, np.ndarray]:
        """The signals between two times in seconds, as views."""
        return {
            channel: signal[round(start * self.sampling_rates[channel]) : round(end * self.sampling_rates[channel])]
            for channel, signal in self.signals.items()
        }


def first_match(names: Sequence[str], patterns: Sequence[str]) -> int | None:
    """Position of the first name that wholly matches the earliest possible pattern, whatever its case; `None` if none does.
    Commas and spaces around a name do not count."""
    for pattern in patterns:
        for position, name in enumerate(names):
            if re.fullmatch(pattern, name.strip(" ,"), re.IGNORECASE):
                return position
    return None


def refuse_unsafe_header(header: str | os.PathLike) -> None:
    """Refuses a WFDB header that should not be followed - it is metadata, which anyone may have written, or damage has changed:
    one that names files in other folders, or states more samples than its files can hold, for which memory would be taken.

    Args:
        header: the `.hea` file.

    Raises:
        ValueError: if a signal or segment is not a plain name, or the stated length is impossible.
        ImportError: if wfdb is not installed.
    """
    try:
        from wfdb.io.header import rx_record
    except ImportError as error:
        raise ImportError(_NEEDS_WFDB) from error
    # Read as wfdb reads it: what it leaves out cannot hide a path.
    lines = [line.strip() for line in Path(header).read_text(encoding="ascii", errors="ignore").splitlines()]
    first, *others = [line for line in lines if line and not line.startswith("#")] or [""]
    parts = [line.split() for line in others]
    for name, *_ in parts:
        if "/" in name or "\\" in name or name in (".", ".."):
            raise ValueError(f"it names the file {name!r}: only files beside a header are read.")
    record = rx_record.match(first)
    if record is None or not record["sig_len"]:
        return
    stated = int(record["sig_len"])
    if record["n_seg"]:
        if stated > _LARGEST_GAPPED_RECORD:
            raise ValueError(f"it states {stated:,} samples, more than {_LARGEST_GAPPED_RECORD:,}: read its segments.")
        return
    for name, *format_and_more in parts:
        file = Path(header).parent / name
        compressed = format_and_more and format_and_more[0].startswith(_COMPRESSED_FORMATS)
        # wfdb says so if a file is missing.
        if file.is_file() and stated > file.stat().st_size * (_LARGEST_COMPRESSION if compressed else 1):
            raise ValueError(f"it states {stated:,} samples, but {name} has only {file.stat().st_size:,} bytes.")


def read_recording(
    source: Any,
    channels: Sequence[str],
    *,
    sampling_rate: float | None = None,
    column: str | Mapping[str, str] | None = None,
) -> Recording:
    """Reads the channels of a model.

    Args:
        source: one of

            - an array `(samples,)`, for a model of one channel;
            - a dictionary (a row of a dataset) with an array under `"signal"` or under the name of each channel, and
              `"sampling_rate"`; or with a `"path"`, and `"column"` and `"sampling_rate"` where they are needed;
            - the path of a WFDB record, with or without `.hea`; its gaps become NaN;
            - the path of a CSV file (`.csv`, `.csv.gz`) with a header; cells that hold no number become NaN.
        channels: `"ecg"` and/or `"ppg"`.
        sampling_rate: rate in Hz, for sources that do not state theirs.
        column: name of the CSV column or WFDB channel, or a dictionary from channel to name; found by
            `CHANNEL_PATTERNS` if left out.

    Raises:
        ValueError: if the source lacks a channel or a rate or holds something else; the message names the source.
        FileNotFoundError: if there is no such file.
        ImportError: if the package that reads such files is not installed.
    """
    if isinstance(source, Mapping):
        if "path" in source:
            return read_recording(
                source["path"],
                channels,
                sampling_rate=source.get("sampling_rate", sampling_rate),
                column=source.get("column", column),
            )
        return _from_mapping(source, channels, sampling_rate)
    if isinstance(source, (str, os.PathLike)):
        path = Path(source).expanduser()
        if path.name.lower().endswith((".csv", ".csv.gz")):
            return _from_csv(path, channels, sampling_rate, column)
        return _from_wfdb(path, channels, sampling_rate, column)
    return _from_mapping({"signal": source}, channels, sampling_rate)


def _from_mapping(source: Mapping[str, Any], channels: Sequence[str], sampling_rate: float | None) -> Recording:
    keys = {channel: channel for channel in channels if channel in source}
    if len(channels) == 1 and "signal" in source:
        keys.setdefault(channels[0], "signal")
    missing = [channel for channel in channels if channel not in keys]
    name = f"the recording {source['record_id']!r}" if "record_id" in source else "the given recording"
    if missing:
        raise ValueError(
            f"The model reads {' and '.join(channels)}, but {name} holds no {' and no '.join(missing)}; it has"
            f" {', '.join(map(str, source)) or 'nothing'}."
        )
    signals = {channel: _as_signal(source[key], f"`{key}` of {name}") for channel, key in keys.items()}
    if "record_id" not in source:
        name = f"the given recording of {len(next(iter(signals.values()))):,} samples"
    rate = _checked_rate(source.get("sampling_rate", sampling_rate), name)
    return Recording(name, signals, dict.fromkeys(signals, rate))


def _as_signal(values: Any, name: str) -> np.ndarray:
    try:
        signal = np.asarray(values)
        if np.iscomplexobj(signal):
            raise TypeError("they are complex.")
        signal = signal.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a 1-d array of numbers: {error}") from error
    if signal.ndim != 1:
        raise ValueError(
            f"{name} must be a 1-d array of samples, but has shape {signal.shape}. A list is taken as several recordings: make"
            " an array of one."
        )
    return signal


def _checked_rate(sampling_rate: float | None, name: str) -> float:
    if sampling_rate is None:
        raise ValueError(f"`sampling_rate` is required for {name}: its rate in Hz.")
    if isinstance(sampling_rate, numbers.Real) and 0 < sampling_rate < float("inf"):
        return float(sampling_rate)
    raise ValueError(f"`sampling_rate` of {name} must be a positive, finite number of Hz, but is {sampling_rate!r}.")


def _chosen(
    names: Sequence[str], channels: Sequence[str], column: str | Mapping[str, str] | None, where: str
) -> dict[str, int]:
    """Position among `names` of each channel."""
    if isinstance(column, str) and len(channels) > 1:
        raise ValueError(f"The model reads {' and '.join(channels)}: `column` must give a name for each of them.")
    wanted = dict.fromkeys(channels, column) if isinstance(column, str) else dict(column or {})
    positions = {}
    for channel in channels:
        patterns = (re.escape(wanted[channel].strip(" ,")),) if channel in wanted else CHANNEL_PATTERNS[channel]
        position = 0 if len(names) == len(channels) == 1 and not wanted else first_match(names, patterns)
        if position is None:
            sought = f"called {wanted[channel]!r}" if channel in wanted else f"that looks like {channel} by its name"
            raise ValueError(f"{where} has no signal {sought}; it has {', '.join(names)}. `column` names one.")
        positions[channel] = position
    return positions


def _from_csv(
    path: Path, channels: Sequence[str], sampling_rate: float | None, column: str | Mapping[str, str] | None
) -> Recording:
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("Reading CSV files needs pandas: `pip install pandas`.") from error
    rate = _checked_rate(sampling_rate, str(path))
    try:
        names = [str(name) for name in pd.read_csv(path, nrows=0).columns]
        positions = _chosen(names, channels, column, str(path))
        table = pd.read_csv(path, usecols=sorted(set(positions.values())), low_memory=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as CSV: {error}") from error
    signals = {
        channel: pd.to_numeric(table[names[position]], errors="coerce").to_numpy(np.float64)
        for channel, position in positions.items()
    }
    return Recording(str(path), signals, dict.fromkeys(signals, rate))


def _from_wfdb(
    path: Path, channels: Sequence[str], sampling_rate: float | None, column: str | Mapping[str, str] | None
) -> Recording:
    try:
        import wfdb
    except ImportError as error:
        raise ImportError(_NEEDS_WFDB) from error
    header = path if path.suffix == ".hea" else path.with_name(f"{path.name}.hea")
    if not header.is_file():
        raise FileNotFoundError(f"There is no WFDB header {header}, and {path.name} does not end in `.csv`.")
    try:
        refuse_unsafe_header(header)
        record = wfdb.rdrecord(str(header.with_suffix("")), smooth_frames=False)
        # A signal without a description has no name.
        names, samples = [name or "" for name in record.sig_name], list(record.e_p_signal)
    # Parsers of damaged files raise almost anything.
    except Exception as error:
        raise ValueError(f"{header} cannot be read as a WFDB record: {type(error).__name__}: {error}") from error
    positions = _chosen(names, channels, column, str(header))
    signals = {channel: np.asarray(samples[position], np.float64) for channel, position in positions.items()}
    rates = {channel: float(record.fs * record.samps_per_frame[position]) for channel, position in positions.items()}
    if sampling_rate is not None and any(rate != sampling_rate for rate in rates.values()):
        raise ValueError(f"{header} states {rates} Hz, but `sampling_rate` is {sampling_rate}; leave it out.")
    return Recording(str(header.with_suffix("")), signals, rates)


__all__ = ["CHANNEL_PATTERNS", "Recording", "first_match", "read_recording", "refuse_unsafe_header"]
