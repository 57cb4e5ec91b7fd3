"""Recordings as people have them - arrays, tables, WFDB records, text files - as the signals that a model reads."""

import contextlib
import numbers
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from .channels_cmssl import (
    CHANNEL_PATTERNS,
    choose_channels,
    every_signal,
    first_match,
    is_rate,
    numbered_names,
    rate_in_name,
    says_another,
    unit_in_name,
)
from .files_cmssl import SignalFile, Table, open_registered
from .tables_cmssl import TABLE_SUFFIXES, as_numbers, read_table
from .time_axis_cmssl import RATE_TOLERANCE, is_time, on_regular_grid, seconds_from
from .wfdb_cmssl import header_of, open_wfdb, refuse_unsafe_header


_KINDS_OF_FILES = (
    "WFDB records (a header `.hea`) and tables of numbers in text files (`.csv`, `.tsv`, `.txt`, also `.gz`) are read, and with"
    " cmssl_hf also EDF, BDF, Parquet, DICOM and other formats"
)
#: Keys under which it stands what `"signal"` is.
_DESCRIPTIONS = ("channel", "channel_name", "signal_name", "sig_name", "signal_type", "modality", "sensor", "kind", "type", "name",
                 "lead", "unit", "units")  # fmt: skip


@dataclass(frozen=True)
class Recording:
    """Synchronous signals that begin together.

    Attributes:
        name: what messages call it.
        signals: array `(samples,)` per channel, in any unit; NaN where nothing was recorded.
        sampling_rates: rate of each channel in Hz.
        units: of the channels, where they are known.
        start: when the first samples were recorded, if that is known.
    """

    name: str
    signals: dict[str, np.ndarray]
    sampling_rates: dict[str, float]
    units: dict[str, str] = field(default_factory=dict)
    start: datetime | None = None

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


def read_recording(
    source: Any,
    channels: Sequence[str] | None,
    *,
    sampling_rate: float | None = None,
    column: str | Mapping[str, str] | None = None,
) -> Recording:
    """Reads the channels of a model. A channel is found by its name (`CHANNEL_PATTERNS`); what has another name is not read, a
    single signal whose name says nothing (`signal`, `value`, none) is.

    Where a source holds times - a column called `time`, `t`, `Time [s]`, `timestamp_ms`, `datetime` and the like, or a time
    index - they state the rate. Irregular samples are interpolated to regular ones, and time without samples becomes NaN.

    Args:
        source: one of

            - an array, tensor or series `(samples,)`, for a model of one channel;
            - a dictionary (a row of a dataset) with an array under `"signal"` or under the name of each channel, and
              `"sampling_rate"`; or with a `"path"`, and `"column"` and `"sampling_rate"` where they are needed;
            - a table of pandas or polars;
            - the path of a WFDB record, with or without `.hea`, or of its signal file; its gaps become NaN;
            - the path of a table of numbers in a text file (`.csv`, `.tsv`, `.txt`, also `.gz`) with a header: separator,
              decimal mark and lines of units or comments are found; cells that hold no number become NaN. One column needs no
              header. `BVP.csv` of an Empatica E4 states its rate;
            - the path of a file or folder that a registered reader knows (`register_file_reader`), as those of cmssl_hf do.
        channels: `"ecg"` and/or `"ppg"`; `None` reads every signal of a file, under its own name.
        sampling_rate: rate in Hz, for sources that do not state theirs. Files and tables must not state another one.
        column: name of the column, key or WFDB channel, or a dictionary from channel to name.

    Raises:
        ValueError: if the source lacks a channel or a rate or holds something else; the message names the source.
        FileNotFoundError: if there is no such file.
        ImportError: if the package that reads such files is not installed.
    """
    if isinstance(source, (str, os.PathLike)):
        return _from_path(Path(source), channels, sampling_rate, column)
    if channels is None:
        raise ValueError("Every signal is read of files only; `channels` must say what to read.")
    if isinstance(source, Mapping):
        # Where there are samples, a path tells where they came from.
        if source.get("path") is not None and not any(map(_is_sequence, source.values())):
            return _from_description(source, channels, sampling_rate, column)
        return _from_mapping(source, channels, sampling_rate, column)
    if hasattr(source, "columns") and hasattr(source, "__getitem__"):
        return _from_data_frame(source, channels, sampling_rate, column)
    if hasattr(source, "to_numpy") and hasattr(source, "name"):
        return _from_series(source, channels, sampling_rate, column)
    if names := getattr(getattr(source, "dtype", None), "names", None):
        return _from_mapping({name: source[name] for name in names}, channels, sampling_rate, column)
    return _from_mapping({"signal": source}, channels, sampling_rate, None)


def _from_description(source: Mapping[str, Any], channels, sampling_rate, column) -> Recording:
    """A file, and what a dictionary tells of it."""
    column = source.get("column", column)
    described = _described(source)
    if column is None and len(channels) == 1 and says_another(described, channels[0]):
        raise ValueError(f"The model reads {channels[0]}, but {source['path']} is said to be {described}.")
    rate = _stated_rate(source, str(source["path"]))
    return read_recording(
        source["path"], channels, sampling_rate=sampling_rate if rate is None else rate, column=column
    )


def _described(source: Mapping[str, Any]) -> str:
    """What a dictionary says that its signal is."""
    told = [source[key] for key in _DESCRIPTIONS if key in source]
    return " ".join(word for words in told for word in ([words] if isinstance(words, str) else _texts(words)))


def _texts(values: Any) -> list[str]:
    return [value for value in values if isinstance(value, str)] if isinstance(values, (list, tuple)) else []


def _stated_rate(source: Mapping[str, Any], name: str) -> float | None:
    """The rate that a dictionary states under one or several keys."""
    rates = {
        key: _checked_rate(value, name) for key, value in source.items() if is_rate(str(key)) and value is not None
    }
    if len(set(rates.values())) > 1:
        raise ValueError(
            f"{name} contradicts itself: {', '.join(f'{key} {rate:g} Hz' for key, rate in rates.items())}."
        )
    return next(iter(rates.values()), None)


def _from_path(
    path: Path, channels: Sequence[str] | None, sampling_rate: float | None, column: str | Mapping[str, str] | None
) -> Recording:
    try:
        path = path.expanduser()
        file = _open(path)
    # The name of somebody's home, or one that is too long.
    except (OSError, RuntimeError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path} cannot be read: {error}") from error
    if isinstance(file, SignalFile):
        return _from_signal_file(file, channels, sampling_rate, column)
    return _from_columns(
        str(path),
        file.names,
        file.columns,
        channels,
        sampling_rate,
        column,
        file.sampling_rate,
        f"{path.name} {file.description}",
        units=file.units,
    )


def _open(path: Path) -> SignalFile | Table:
    header = header_of(path)
    is_table = path.name.lower().endswith(TABLE_SUFFIXES)
    if header is not None and not is_table:
        return open_wfdb(header)
    exists = path.exists()
    if exists and (file := open_registered(path)) is not None:
        return file
    if is_table:
        return read_table(path)
    if exists:
        raise ValueError(f"{path} cannot be read: {_KINDS_OF_FILES}; no header beside it names it.")
    raise FileNotFoundError(f"There is no file {path} and no WFDB header {path.name}.hea: {_KINDS_OF_FILES}.")


def _from_signal_file(
    file: SignalFile,
    channels: Sequence[str] | None,
    sampling_rate: float | None,
    column: str | Mapping[str, str] | None,
) -> Recording:
    if not file.names:
        raise ValueError(f"{file.name} holds no signal.")
    names = numbered_names(file.names)
    if channels is None:
        positions = every_signal(names, column, file.name)
    else:
        told = f"{file.description} {' '.join(file.units)}"
        positions = choose_channels(names, channels, column, file.name, told, units=file.units)
    rates = {
        channel: _checked_rate(file.sampling_rates[position], file.name) for channel, position in positions.items()
    }
    if sampling_rate is not None and any(abs(rate - sampling_rate) > RATE_TOLERANCE * rate for rate in rates.values()):
        raise ValueError(f"{file.name} states {rates} Hz, but `sampling_rate` is {sampling_rate}; leave it out.")
    signals = {channel: file.load(position) for channel, position in positions.items()}
    if not all(map(len, signals.values())):
        raise ValueError(f"{file.name} holds no samples.")
    units = {channel: file.units[position] for channel, position in positions.items() if file.units[position]}
    # A WFDB record is called without its header.
    return Recording(file.name.removesuffix(".hea"), signals, rates, units, file.start)


def _from_mapping(
    source: Mapping[str, Any],
    channels: Sequence[str],
    sampling_rate: float | None,
    column: str | Mapping[str, str] | None,
) -> Recording:
    name = f"the recording {source['record_id']!r}" if "record_id" in source else "the given recording"
    arrays = {str(key): values for key, values in source.items() if _is_sequence(values)}
    keys = {channel: channel for channel in channels if channel in source and column is None}
    if len(channels) == 1 and "signal" in source and column is None:
        keys.setdefault(channels[0], "signal")
    described = _described(source)
    keys = {channel: key for channel, key in keys.items() if key != "signal" or not says_another(described, channel)}
    if missing := [channel for channel in channels if channel not in keys]:
        try:
            names = list(arrays)
            time_positions = [position for position, key in enumerate(names) if is_time(key)]
            wanted = missing if column is None else channels
            chosen = choose_channels(names, wanted, column, name, described, time_positions)
            keys.update({channel: names[position] for channel, position in chosen.items()})
        except ValueError as error:
            raise ValueError(
                f"The model reads {' and '.join(channels)}, but {name} holds no {' and no '.join(missing)}; it has"
                f" {', '.join(map(str, source)) or 'nothing'}."
            ) from error
    signals = {channel: _as_signal(source[key], f"`{key}` of {name}") for channel, key in keys.items()}
    if "record_id" not in source:
        name = f"the given recording of {len(next(iter(signals.values()))):,} samples"
    rate = _stated_rate(source, name)
    times = {key: _as_array(values) for key, values in arrays.items() if is_time(key) and key not in keys.values()}
    return _timed(
        signals, times, {} if rate is None else {"sampling_rate": rate}, None if rate else sampling_rate, name
    )


def _is_sequence(values: Any) -> bool:
    return hasattr(values, "__len__") and not isinstance(values, (str, bytes, Mapping))


def _from_data_frame(source, channels, sampling_rate, column) -> Recording:
    def columns(positions: Sequence[int]) -> list[np.ndarray]:
        # Labels may be there twice.
        take = (lambda i: source.iloc[:, i]) if hasattr(source, "iloc") else (lambda i: source[source.columns[i]])
        return [take(position).to_numpy() for position in positions]

    names = ["" if name is None else str(name) for name in source.columns]
    return _from_columns(
        f"the given table of {len(source):,} rows",
        names,
        columns,
        channels,
        sampling_rate,
        column,
        index=_index(source),
    )


def _from_series(source, channels, sampling_rate, column) -> Recording:
    name = "" if source.name is None else str(source.name)
    where = f"the given series of {len(source):,} samples"
    return _from_columns(
        where, [name], lambda _: [source.to_numpy()], channels, sampling_rate, column, index=_index(source)
    )


def _index(source: Any) -> dict[str, np.ndarray]:
    """The index of a pandas object, if it is one of times; of several levels the one that is."""
    index: Any = getattr(source, "index", None)
    for level in range(getattr(index, "nlevels", 0)):
        values = index.get_level_values(level)
        if hasattr(values, "to_timestamp"):
            values = values.to_timestamp()
        if hasattr(values, "tz_localize"):
            return {"its index": values.tz_localize(None).to_numpy()}
        # Labels that are no whole numbers are no numbers of rows.
        unnamed = values.name is None and values.dtype.kind == "f"
        if hasattr(values, "total_seconds") or unnamed:
            return {"its index": values.to_numpy()}
        if isinstance(values.name, str) and is_time(values.name):
            return {values.name: values.to_numpy()}
    return {}


def _from_columns(
    where: str,
    names: Sequence[str],
    columns: Callable[[Sequence[int]], list[np.ndarray]],
    channels: Sequence[str] | None,
    sampling_rate: float | None,
    column: str | Mapping[str, str] | None,
    stated_rate: float | None = None,
    file_name: str = "",
    index: Mapping[str, np.ndarray] | None = None,
    units: Sequence[str] = (),
) -> Recording:
    time_positions = [position for position, name in enumerate(names) if is_time(name)]
    rate_positions = [position for position, name in enumerate(names) if is_rate(name)]
    not_signals = [*time_positions, *rate_positions]
    told = [file_name, *(unit for position, unit in enumerate(units) if position not in not_signals)]
    signal_names = numbered_names(names)
    if channels is None:
        positions = every_signal(signal_names, column, where, not_signals)
    else:
        positions = choose_channels(signal_names, channels, column, where, " ".join(told), not_signals)
    wanted = sorted({*positions.values(), *time_positions, *rate_positions})
    values = dict(zip(wanted, columns(wanted)))
    signals = {}
    for channel, position in positions.items():
        try:
            samples = as_numbers(values[position], f"{where}, column {names[position]!r}")
        except ValueError:
            # Where all signals are read, texts are none.
            if channels is None and column is None:
                continue
            raise
        signals[channel] = _as_signal(samples, where)
    if not signals:
        raise ValueError(f"{where} has no column of numbers; it has {', '.join(names)}.")
    times = {**(index or {})}
    units = units or [""] * len(names)
    times.update({f"{names[i]} {units[i]}": values[i] for i in time_positions if i not in positions.values()})
    rates = {} if stated_rate is None else {"header": stated_rate}
    for position in (positions[channel] for channel in signals):
        if (rate := rate_in_name(names[position])) is not None:
            rates[names[position]] = rate
    for position in rate_positions:
        stated = as_numbers(values[position], f"{where}, column {names[position]!r}")
        if len(stated) and np.nanmin(stated) == np.nanmax(stated):
            rates[names[position]] = _checked_rate(float(np.nanmin(stated)), where)
    recording = _timed(signals, times, rates, sampling_rate, where)
    found = {channel: units[positions[channel]] or unit_in_name(names[positions[channel]]) for channel in signals}
    return replace(recording, units={channel: unit for channel, unit in found.items() if unit})


def _timed(
    signals: dict[str, np.ndarray],
    times: Mapping[str, np.ndarray],
    stated: Mapping[str, float],
    sampling_rate: float | None,
    where: str,
) -> Recording:
    """The recording at the rate that its times or else the source or else the caller states; they must not contradict."""
    rates = dict(stated)
    num_samples = {len(signal) for signal in signals.values()}
    # Rates that do not divide each other round to lengths that differ by a sample.
    if max(num_samples) - min(num_samples) > 1:
        lengths = ", ".join(f"{channel} {len(signal):,}" for channel, signal in signals.items())
        raise ValueError(f"The signals of {where} have one rate, but not one number of samples: {lengths}.")
    # A date alone may tell the days only.
    for name, values in sorted(times.items(), key=lambda item: item[0].strip().lower() == "date"):
        if {len(values)} != num_samples or len(values) < 2:
            continue
        # Texts that are no numbers may be dates.
        with contextlib.suppress(ValueError):
            values = as_numbers(values, name) if values.dtype.kind == "O" else values
        seconds = seconds_from(values, name)
        if seconds is None or not np.isfinite(seconds).any() or np.nanmax(seconds) == np.nanmin(seconds):
            continue
        regular, rates[f"its times ({name.strip()})"] = on_regular_grid(
            np.stack([*signals.values()]), seconds, f"{where}, {name.strip()}"
        )
        signals = dict(zip(signals, regular))
        break
    if not rates:
        return Recording(where, signals, dict.fromkeys(signals, _checked_rate(sampling_rate, where)))
    if sampling_rate is not None:
        rates["`sampling_rate`"] = _checked_rate(sampling_rate, where)
    *_, rate = [rates[name] for name in rates if name != "`sampling_rate`"]
    if any(abs(other - rate) > RATE_TOLERANCE * rate for other in rates.values()):
        told = ", ".join(f"{name} {value:.6g} Hz" for name, value in rates.items())
        raise ValueError(f"{where} contradicts itself or `sampling_rate`, which can be left out: {told}.")
    return Recording(where, signals, dict.fromkeys(signals, rate))


def _as_signal(values: Any, name: str) -> np.ndarray:
    signal = _as_array(values)
    try:
        if signal.dtype.kind in "bcmM":
            kind = {"b": "truth values", "c": "complex"}.get(signal.dtype.kind, "times")
            raise TypeError(f"they are {kind}.")
        signal = signal.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} must be a 1-d array of numbers: {error}") from error
    if signal.ndim != 1:
        raise ValueError(
            f"{name} must be a 1-d array of samples, but has shape {signal.shape}. A list is taken as several recordings: make"
            " an array of one."
        )
    return signal


def _as_array(values: Any) -> np.ndarray:
    try:
        # Tensors of torch, which may be on a GPU or need gradients, and of types that numpy lacks.
        if hasattr(values, "detach"):
            values = values.detach().cpu()
            values = values.double() if values.is_floating_point() else values
        if isinstance(values, np.ma.MaskedArray):
            return np.ma.filled(values.astype(np.float64), np.nan)
        return values.to_numpy() if hasattr(values, "to_numpy") else np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"The given recording must hold numbers: {error}") from error


def _checked_rate(sampling_rate: float | None, name: str) -> float:
    if sampling_rate is None:
        raise ValueError(f"`sampling_rate` is required for {name}: its rate in Hz.")
    if (
        isinstance(sampling_rate, numbers.Real)
        and not isinstance(sampling_rate, bool)
        and 0 < sampling_rate < float("inf")
    ):
        return float(sampling_rate)
    raise ValueError(f"`sampling_rate` of {name} must be a positive, finite number of Hz, but is {sampling_rate!r}.")


__all__ = ["CHANNEL_PATTERNS", "Recording", "first_match", "read_recording", "refuse_unsafe_header"]
