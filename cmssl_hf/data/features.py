"""From raw windows to the models' input, once: cached, memory-mapped columns `input_values` and `quality_issues`."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, List, Value
from datasets.fingerprint import Hasher

from ..models.cmssl.feature_extraction_cmssl import CMSSLFeatureExtractor
from ..models.cmssl.quality_cmssl import QUALITY_ISSUES, find_quality_issues


INPUT_VALUES = List(List(Value("float32")))
QUALITY = List(Value("string"))

_RAW_SIGNALS = ("ecg", "ppg", "signal")


def extract_features(
    dataset: Dataset,
    feature_extractor: CMSSLFeatureExtractor,
    *,
    num_proc: int | None = None,
    batch_size: int = 512,
) -> Dataset:
    """Replaces the raw signals of a dataset by `input_values (channels, samples)`, without padding, and `quality_issues`.

    The result is cached beside the dataset, keyed by dataset and feature extractor.

    Args:
        dataset: pairs (columns `ecg` and/or `ppg`) or labelled windows (column `signal`, read as the extractor's one
            channel), each row with its `sampling_rate`.
        feature_extractor: decides channels, rate and filters.
        num_proc: number of processes.
        batch_size: rows processed at a time.

    Raises:
        ValueError: if the dataset lacks a channel that the extractor reads, or a window cannot be used; the message then
            names the record.
    """
    columns = columns_of_channels(dataset, feature_extractor)
    raw = [name for name in _RAW_SIGNALS if name in dataset.column_names]
    kept = {name: feature for name, feature in dataset.features.items() if name not in raw}
    features = Features({**kept, "input_values": INPUT_VALUES, "quality_issues": QUALITY})
    extracted = dataset.with_format("arrow").map(
        extract_table,
        batched=True,
        batch_size=batch_size,
        features=features,
        num_proc=num_proc if num_proc and num_proc > 1 else None,
        fn_kwargs={"feature_extractor": feature_extractor, "columns": columns},
        new_fingerprint=Hasher.hash((dataset._fingerprint, "extract_features", feature_extractor.to_json_string())),
        desc="Extracting features",
    )
    return extracted.with_format(None)


def columns_of_channels(dataset: Dataset, feature_extractor: CMSSLFeatureExtractor) -> dict[str, str]:
    """The column that holds each channel of the extractor.

    Raises:
        ValueError: if there is none.
    """
    channels = feature_extractor.channels
    if "signal" in dataset.column_names:
        if len(channels) != 1:
            raise ValueError(
                f"The dataset has one signal per row, but the model reads {' and '.join(channels)}: use a configuration with"
                " pairs."
            )
        if isinstance(dataset.features["signal"].feature, List):
            raise ValueError(
                "Each row holds several leads, but the model reads one: choose it with the option `lead`."
            )
        return {channels[0]: "signal"}
    missing = [channel for channel in channels if channel not in dataset.column_names]
    if missing:
        raise ValueError(
            f"The model reads {' and '.join(channels)}, but the dataset has no column {' and '.join(missing)}; its columns"
            f" are {', '.join(dataset.column_names)}."
        )
    return {channel: channel for channel in channels}


def extract_table(table: pa.Table, feature_extractor: CMSSLFeatureExtractor, columns: dict[str, str]) -> pa.Table:
    """Replaces the raw signals in a table of windows by `input_values`, a list of channels of float32 samples, and
    `quality_issues`, such as `["ppg_clipped"]`: what is wrong with them (`find_quality_issues`).

    Args:
        table: windows with their `sampling_rate` and `record_id`.
        feature_extractor: decides channels, rate and filters.
        columns: the column that holds each channel, from `columns_of_channels`.

    Raises:
        ValueError: if a window cannot be used; the message names the record.
    """
    rates = table["sampling_rate"].to_numpy()
    if not np.isfinite(rates).all():
        row = int(np.flatnonzero(~np.isfinite(rates))[0])
        raise ValueError(f"In record {table['record_id'][row]}: the sampling rate is {rates[row]}.")
    signals = {channel: _rows_of(table[column]) for channel, column in columns.items()}
    windows: list = [None] * len(table)
    issues: list[list[str]] = [[] for _ in windows]
    for rate in np.unique(rates):
        rows = np.flatnonzero(rates == rate)
        of_rate = {channel: [all_rows[row] for row in rows] for channel, all_rows in signals.items()}
        extract = functools.partial(feature_extractor, sampling_rate=float(rate), padding=False)
        try:
            extracted = extract(**of_rate)["input_values"]
        except ValueError:
            _refuse_first_unusable(extract, of_rate, [str(table["record_id"][int(row)]) for row in rows])
            raise
        for row, window in zip(rows, extracted):
            windows[row] = window
        for channel, raw in of_rate.items():
            for row, found in zip(rows, find_quality_issues(raw, float(rate), channel)):
                issues[row] += [f"{channel}_{issue}" for issue in found]
    table = table.drop_columns([name for name in _RAW_SIGNALS if name in table.column_names])
    table = table.append_column("input_values", input_values_to_arrow(windows))
    return table.append_column("quality_issues", pa.array(issues, pa.list_(pa.string())))


def without_issues(dataset: Dataset, issues: Sequence[str]) -> Dataset:
    """The windows of a dataset that have none of the named `quality_issues`.

    Args:
        dataset: dataset from [`extract_features`].
        issues: for example `["ppg_no_pulse", "ecg_clipped"]`.

    Raises:
        ValueError: if there is no such issue, or no window is left.
    """
    known = [f"{channel}_{issue}" for channel in ("ecg", "ppg") for issue in QUALITY_ISSUES]
    unknown = sorted(set(issues) - set(known))
    if unknown:
        raise ValueError(f"There are no quality issues {', '.join(unknown)}; there are {', '.join(known)}.")
    found = dataset.select_columns(["quality_issues"]).with_format(None)["quality_issues"]
    kept = [row for row, of_window in enumerate(found) if not set(of_window) & set(issues)]
    if not kept:
        raise ValueError(f"All {len(dataset)} windows have one of the quality issues {', '.join(issues)}.")
    return dataset.select(kept)


def _refuse_first_unusable(extract: Callable, signals: dict[str, list[np.ndarray]], records: Sequence[str]) -> None:
    """Extracts window by window, so that the error is about one window and can name its record."""
    for *window, record in zip(*signals.values(), records):
        try:
            extract(**dict(zip(signals, window)))
        except ValueError as error:
            raise ValueError(f"In record {record}: {error}") from error


def _rows_of(column: pa.ChunkedArray) -> list[np.ndarray]:
    """Rows of a list column as views of one array."""
    rows = column.combine_chunks()
    if isinstance(rows, pa.ChunkedArray):
        rows = rows.chunk(0)
    return np.split(rows.flatten().to_numpy(), np.cumsum(rows.value_lengths().to_numpy())[:-1])


def input_values_to_arrow(windows: Sequence[np.ndarray]) -> pa.Array:
    """Windows `(channels, samples)` as an Arrow array of lists of lists of float32."""
    samples = np.concatenate([window.reshape(-1) for window in windows]).astype(np.float32, copy=False)
    lengths = np.repeat([window.shape[1] for window in windows], [window.shape[0] for window in windows])
    channel_offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    row_offsets = np.concatenate(([0], np.cumsum([window.shape[0] for window in windows]))).astype(np.int32)
    channels = pa.ListArray.from_arrays(channel_offsets, pa.array(samples))
    return pa.ListArray.from_arrays(row_offsets, channels)
