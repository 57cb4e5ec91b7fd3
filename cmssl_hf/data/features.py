"""From raw windows to the models' input, once: cached, memory-mapped columns `input_values` and `quality_issues`."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, LargeList, List, Value
from datasets.fingerprint import Hasher

from ..models.cmssl.feature_extraction_cmssl import CMSSLFeatureExtractor
from ..models.cmssl.quality_cmssl import QUALITY_ISSUES, find_quality_issues
from ..private_access import fingerprint_of


logger = logging.getLogger(__name__)

INPUT_VALUES = List(List(Value("float32")))
#: What some models read beside the values, such as the lead of each heartbeat.
INPUT_IDS = List(Value("int64"))
QUALITY = List(Value("string"))

_RAW_SIGNALS = ("ecg", "ppg", "signal")
_NAMED_RECORDS = 10


def extract_features(
    dataset: Dataset,
    feature_extractor: CMSSLFeatureExtractor,
    *,
    drop_unusable: bool = False,
    num_proc: int | None = None,
    batch_size: int = 512,
) -> Dataset:
    """Replaces the raw signals of a dataset by `input_values (channels, samples)`, without padding, and `quality_issues`.

    The result is cached beside the dataset, keyed by dataset and feature extractor. `transformers.Trainer` trains on it with
    `DataCollatorWithPadding(feature_extractor)`; [`WindowsDataset`] reads it faster and augments it.

    Args:
        dataset: pairs (columns `ecg` and/or `ppg`) or labelled windows (column `signal`, read as the extractor's one
            channel), one list of samples in each row, with its `sampling_rate` in Hz. Other columns stay: `label`, for
            training; `record_id`, by which messages name a window; `subject_id`, by which people are kept apart.
        feature_extractor: decides channels, rate and filters.
        drop_unusable: leaves out windows that cannot be used (samples or rates that are missing or not finite, a constant
            signal, less than a patch), with a warning that names their records.
        num_proc: number of processes.
        batch_size: rows processed at a time.

    Raises:
        ValueError: if the dataset lacks a column that is needed or one holds something else; if windows cannot be used and
            are not dropped, or none is left. The message names the records.
    """
    columns = columns_of_channels(dataset, feature_extractor)
    raw = [name for name in _RAW_SIGNALS if name in dataset.column_names]
    kept = {name: feature for name, feature in dataset.features.items() if name not in raw}
    ids = dict.fromkeys(ids_of(feature_extractor), INPUT_IDS)
    features = Features({**kept, "input_values": INPUT_VALUES, **ids, "quality_issues": QUALITY})
    extracted = dataset.with_format("arrow").map(
        _extract_batch,
        batched=True,
        batch_size=batch_size,
        features=features,
        num_proc=num_proc if num_proc and num_proc > 1 else None,
        fn_kwargs={"feature_extractor": feature_extractor, "columns": columns},
        new_fingerprint=Hasher.hash((fingerprint_of(dataset), "extract_features", feature_extractor.to_json_string())),
        desc="Extracting features",
    )
    extracted = extracted.with_format(None)
    if len(extracted) < len(dataset):
        message = _describe_unusable(dataset, extracted, feature_extractor, columns)
        if not drop_unusable or len(extracted) == 0:
            raise ValueError(message)
        logger.warning("%s These windows are left out.", message)
    return extracted


def ids_of(feature_extractor: CMSSLFeatureExtractor) -> list[str]:
    """What a model reads beside values and masks, such as the leads of heartbeats: columns of the same names."""
    return [name for name in feature_extractor.model_input_names if name not in ("input_values", "attention_mask")]


def columns_of_channels(dataset: Dataset, feature_extractor: CMSSLFeatureExtractor) -> dict[str, str]:
    """The column that holds each channel of the extractor.

    Raises:
        ValueError: if there is none or it holds no lists of samples, or the column `sampling_rate` is missing or no number.
    """
    channels = feature_extractor.channels
    if "signal" in dataset.column_names:
        if len(channels) != 1:
            raise ValueError(
                f"The dataset has one signal per row, but the model reads {' and '.join(channels)}: use a configuration with"
                " pairs."
            )
        columns = {channels[0]: "signal"}
        _check_columns(dataset, columns)
        return columns
    missing = [channel for channel in channels if channel not in dataset.column_names]
    if missing:
        raise ValueError(
            f"The model reads {' and '.join(channels)}, but the dataset has no column {' and '.join(missing)}; its columns"
            f" are {', '.join(dataset.column_names)}."
        )
    columns = {channel: channel for channel in channels}
    _check_columns(dataset, columns)
    return columns


def _check_columns(dataset: Dataset, columns: dict[str, str]) -> None:
    for name in columns.values():
        feature = dataset.features[name]
        samples = feature.feature if isinstance(feature, (List, LargeList)) else None
        if isinstance(samples, (List, LargeList)) or hasattr(feature, "shape"):
            raise ValueError(
                f"Each row of the column {name!r} holds several leads, but the model reads one: a list of samples. A dataset"
                " of this package chooses it by its option `lead`; of your own data, give one lead."
            )
        if not isinstance(samples, Value) or not _is_numeric(samples):
            raise ValueError(f"Each row of the column {name!r} must be a list of samples, but is {feature}.")
    if "sampling_rate" not in dataset.column_names:
        raise ValueError(
            "The dataset has no column 'sampling_rate', the rate of each row's signals in Hz; its columns are"
            f" {', '.join(dataset.column_names)}."
        )
    rate = dataset.features["sampling_rate"]
    if not isinstance(rate, Value) or not _is_numeric(rate):
        raise ValueError(f"The column 'sampling_rate' must hold a number in Hz in each row, but holds {rate}.")


def _is_numeric(feature: Value) -> bool:
    return bool(pa.types.is_integer(feature.pa_type) or pa.types.is_floating(feature.pa_type))


def _extract_batch(table: pa.Table, feature_extractor: CMSSLFeatureExtractor, columns: dict[str, str]) -> pa.Table:
    return extract_table(table, feature_extractor, columns)[0]


def extract_table(
    table: pa.Table, feature_extractor: CMSSLFeatureExtractor, columns: dict[str, str]
) -> tuple[pa.Table, dict[int, str]]:
    """Replaces the raw signals in a table of windows by `input_values`, a list of channels of float32 samples, and
    `quality_issues`, such as `["ppg_clipped"]`: what is wrong with them (`find_quality_issues`).

    Args:
        table: windows with their `sampling_rate`.
        feature_extractor: decides channels, rate and filters.
        columns: the column that holds each channel, from `columns_of_channels`.

    Returns:
        The rows that can be used, and why the others cannot, by their place in `table`.
    """
    rates = table["sampling_rate"].to_numpy().astype(np.float64)
    signals = {channel: _rows_of(table[column]) for channel, column in columns.items()}
    windows: dict[int, dict[str, np.ndarray]] = {}
    issues: dict[int, list[str]] = {}
    problems = {
        int(row): f"the sampling rate is {rates[row]}." for row in np.flatnonzero(~(np.isfinite(rates) & (rates > 0)))
    }
    for channel, rows in signals.items():
        problems |= {row: f"`{channel}` is missing." for row, samples in enumerate(rows) if not len(samples)}
    complete = np.array([row for row in range(len(table)) if row not in problems], dtype=np.int64)
    for rate in np.unique(rates[complete]):
        rows = complete[rates[complete] == rate]
        of_rate = {channel: [all_rows[row] for row in rows] for channel, all_rows in signals.items()}
        outcomes = dict(zip(rows.tolist(), _extract_usable(feature_extractor, of_rate, float(rate))))
        problems |= {row: str(outcome) for row, outcome in outcomes.items() if isinstance(outcome, ValueError)}
        usable = [row for row in outcomes if row not in problems]
        for row in usable:
            windows[row], issues[row] = outcomes[row], []
        for channel, all_rows in signals.items() if usable else ():
            raw = [all_rows[row] for row in usable]
            for row, found in zip(usable, find_quality_issues(raw, float(rate), channel)):
                issues[row] += [f"{channel}_{issue}" for issue in found]
    kept = sorted(windows)
    table = table.drop_columns([name for name in _RAW_SIGNALS if name in table.column_names])
    if problems:
        table = table.take(pa.array(kept, pa.int64()))
    names = ids_of(feature_extractor)
    values = [windows[row]["input_values"] for row in kept]
    if names:  # of any number of rows, which the collator makes of one channel again
        values = [rows.reshape(1, -1) for rows in values]
    table = table.append_column("input_values", input_values_to_arrow(values))
    for name in names:
        ids = [windows[row][name] for row in kept]
        table = table.append_column(name, pa.array(ids, pa.list_(pa.int64())))
    quality = pa.array([issues[row] for row in kept], pa.list_(pa.string()))
    return table.append_column("quality_issues", quality), problems


def _extract_usable(
    feature_extractor: CMSSLFeatureExtractor, signals: dict[str, list[np.ndarray]], sampling_rate: float
) -> list[dict[str, np.ndarray] | ValueError]:
    """The model's inputs but for masks, for each window, or why there are none; in halves, until what cannot be used is alone."""
    number = len(next(iter(signals.values())))
    try:
        # A single window not in a list, so that the message does not speak of a batch.
        batch: dict[str, Any] = {channel: rows[0] if number == 1 else rows for channel, rows in signals.items()}
        features = feature_extractor(**batch, sampling_rate=sampling_rate, padding=False)
        names = ["input_values", *ids_of(feature_extractor)]
        return [dict(zip(names, window)) for window in zip(*(features[name] for name in names))]
    except ValueError as error:
        if number == 1:
            return [error]
    halves = (slice(0, number // 2), slice(number // 2, None))
    return [
        outcome
        for half in halves
        for outcome in _extract_usable(
            feature_extractor, {channel: rows[half] for channel, rows in signals.items()}, sampling_rate
        )
    ]


def name_records(records: Iterable[str]) -> str:
    """Records with the number of their windows where it is not one, such as `r1 (3), r7`; the first few of many."""
    counts = Counter(records)
    named = [f"{record} ({number})" if number > 1 else str(record) for record, number in counts.items()]
    more = f" and {len(named) - _NAMED_RECORDS} more" if len(named) > _NAMED_RECORDS else ""
    return ", ".join(named[:_NAMED_RECORDS]) + more


def _describe_unusable(
    dataset: Dataset, extracted: Dataset, feature_extractor: CMSSLFeatureExtractor, columns: dict[str, str]
) -> str:
    where, candidates = "", dataset
    if "record_id" in dataset.column_names:
        ids = dataset.with_format(None)["record_id"][:]
        lost = Counter(ids) - Counter(extracted["record_id"][:])
        where = f", of {name_records(lost.elements())}"
        # What is cached does not say why, but these rows do.
        candidates = dataset.select([row for row, record in enumerate(ids) if record in lost])
    split = f"{dataset.split}: " if dataset.split is not None else ""
    message = f"{split}{len(dataset) - len(extracted)} of {len(dataset)} windows cannot be used{where}."
    first_row = 0
    for table in candidates.with_format("arrow").iter(512):
        _, problems = extract_table(table, feature_extractor, columns)
        if problems:
            row = min(problems)
            named = f"record {table['record_id'][row]}" if where else f"row {first_row + row}"
            return f"{message} In {named}: {problems[row]}"
        first_row += len(table)
    return message


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
    if "quality_issues" not in dataset.column_names:
        raise ValueError(
            "The dataset has no column `quality_issues`, by which windows are chosen: prepare it again, or extract its features."
        )
    found = dataset.select_columns(["quality_issues"]).with_format(None)["quality_issues"]
    kept = [row for row, of_window in enumerate(found) if not set(of_window) & set(issues)]
    if not kept:
        raise ValueError(f"All {len(dataset)} windows have one of the quality issues {', '.join(issues)}.")
    return dataset.select(kept)


def _rows_of(column: pa.ChunkedArray) -> list[np.ndarray]:
    """Rows of a list column, as views of one array where no sample is missing; a missing one is NaN, a missing row empty."""
    rows = column.combine_chunks()
    if isinstance(rows, pa.ChunkedArray):
        rows = rows.chunk(0)
    samples = rows.flatten()
    if samples.null_count:
        samples = samples.cast(pa.float64()).fill_null(np.nan)
    lengths = pc.list_value_length(rows).fill_null(0).to_numpy(zero_copy_only=False)
    return np.split(samples.to_numpy(zero_copy_only=False), np.cumsum(lengths)[:-1])


def input_values_to_arrow(windows: Sequence[np.ndarray]) -> pa.Array:
    """Windows `(channels, samples)` as an Arrow array of lists of lists of float32."""
    if not windows:
        return pa.array([], pa.list_(pa.list_(pa.float32())))
    samples = np.concatenate([window.reshape(-1) for window in windows]).astype(np.float32, copy=False)
    lengths = np.repeat([window.shape[1] for window in windows], [window.shape[0] for window in windows])
    channel_offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    row_offsets = np.concatenate(([0], np.cumsum([window.shape[0] for window in windows]))).astype(np.int32)
    channels = pa.ListArray.from_arrays(channel_offsets, pa.array(samples))
    return pa.ListArray.from_arrays(row_offsets, channels)
