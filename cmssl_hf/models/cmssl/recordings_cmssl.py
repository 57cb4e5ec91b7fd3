"""Recordings as people have them - arrays, tables, WFDB records, text files - as the signals that a model reads."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .channels_cmssl import (
    CHANNEL_PATTERNS,
    SeveralSignalsError,
    choose_channels,
    every_signal,
    first_match,
    is_rate,
    numbered_names,
    says_another,
)
from .files_cmssl import SignalFile, Table, open_registered
from .recording_columns_cmssl import Recording, as_array, as_signal, checked_rate, from_columns, timed
from .tables_cmssl import TABLE_SUFFIXES, read_table
from .time_axis_cmssl import RATE_TOLERANCE, is_time
from .wfdb_cmssl import header_of, open_wfdb, refuse_unsafe_header


_KINDS_OF_FILES = (
    "WFDB records (a header `.hea`) and tables of numbers in text files (`.csv`, `.tsv`, `.txt`, also `.gz`) are read, and with"
    " cmssl_hf also EDF, BDF, Parquet, DICOM and other formats"
)
#: Keys under which it stands what `"signal"` is.
_DESCRIPTIONS = ("channel", "channel_name", "signal_name", "sig_name", "signal_type", "modality", "sensor", "kind", "type", "name",
                 "lead", "unit", "units")  # fmt: skip


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
        key: checked_rate(value, name) for key, value in source.items() if is_rate(str(key)) and value is not None
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
    return from_columns(
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
        channel: checked_rate(file.sampling_rates[position], file.name) for channel, position in positions.items()
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
        except SeveralSignalsError:
            raise
        except ValueError as error:
            raise ValueError(
                f"The model reads {' and '.join(channels)}, but {name} holds no {' and no '.join(missing)}; it has"
                f" {', '.join(map(str, source)) or 'nothing'}."
            ) from error
    signals = {channel: as_signal(source[key], f"`{key}` of {name}") for channel, key in keys.items()}
    if "record_id" not in source:
        name = f"the given recording of {len(next(iter(signals.values()))):,} samples"
    rate = _stated_rate(source, name)
    times = {key: as_array(values) for key, values in arrays.items() if is_time(key) and key not in keys.values()}
    return timed(
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
    return from_columns(
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
    return from_columns(
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


__all__ = ["CHANNEL_PATTERNS", "Recording", "first_match", "read_recording", "refuse_unsafe_header"]
