"""Recordings of a release to one Parquet file of `input_values`, which also tells what was counted on the way."""

import json
import logging
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from cmssl_hf.building.dataset_builder import SignalDatasetBuilder, SplitCounts
from cmssl_hf.building.windows import DropCounter

from ...models.cmssl.feature_extraction_cmssl import CMSSLFeatureExtractor
from ..features import QUALITY, columns_of_channels, extract_table, name_records
from .storage import SampleDtype, StorageError, store_samples


logger = logging.getLogger(__name__)

_ROWS_AT_A_TIME = 512
_SAMPLED_WINDOWS = 128

_REPLACED = ("ecg", "ppg", "signal", "sampling_rate")
_SUMMARY_KEY = "cmssl_hf"
# Byte streams of neighbouring samples compress well; Parquet stores int16 in four bytes otherwise.
_PARQUET_OPTIONS = {
    "compression": "zstd",
    "compression_level": 1,
    "column_encoding": {"input_values.list.element.list.element": "BYTE_STREAM_SPLIT"},
}


@dataclass
class ShardSummary:
    """What a shard holds and what was left out of it.

    Attributes:
        fingerprint: of the preparation that it belongs to.
        num_windows: rows of the shard.
        windows: outcomes of the windows of its recordings: `"kept"`, reasons of the builder for dropping them, and
            `"rejected"` for those of the kept ones that the feature extractor cannot use.
        damaged_records: unreadable recordings with the reason.
        error: error of the stored samples.
    """

    fingerprint: str = ""
    num_windows: int = 0
    windows: DropCounter = field(default_factory=DropCounter)
    damaged_records: dict[str, str] = field(default_factory=dict)
    error: StorageError = field(default_factory=StorageError)

    def add(self, other: "ShardSummary") -> None:
        """Adds the counts of another shard."""
        self.num_windows += other.num_windows
        self.windows.update(other.windows)
        self.damaged_records.update(other.damaged_records)
        self.error.add(other.error)

    def to_json(self) -> str:
        # `asdict` cannot copy counters.
        return json.dumps({**vars(self), "windows": dict(self.windows), "error": vars(self.error)})

    @classmethod
    def from_json(cls, text: str | bytes) -> "ShardSummary":
        content = json.loads(text)
        return cls(
            **{**content, "windows": DropCounter(content["windows"]), "error": StorageError(**content["error"])}
        )


@dataclass
class ShardWriter:
    """Writes shards.

    Attributes:
        builder: reads the recordings.
        feature_extractor: turns their windows into `input_values`.
        dtype: of the stored samples.

    Raises:
        ValueError: if the recordings do not have the channels that the feature extractor reads.
    """

    builder: SignalDatasetBuilder
    feature_extractor: CMSSLFeatureExtractor
    dtype: SampleDtype

    def __post_init__(self) -> None:
        features = self.builder.info.features
        no_rows = datasets.Dataset.from_dict({name: [] for name in features}, features=features)
        self._columns = columns_of_channels(no_rows, self.feature_extractor)

    def sample(self, record: Any) -> tuple[int, list[pa.Table]]:
        """Number of windows of a recording, and the first of them with float32 `input_values`."""
        num_windows, extracted = 0, []
        for table in self.builder.read_records([record], SplitCounts()):
            if num_windows < _SAMPLED_WINDOWS:
                usable = self._extract(table.slice(0, _SAMPLED_WINDOWS - num_windows), DropCounter())
                extracted += [usable] if len(usable) else []
            num_windows += len(table)
        return num_windows, extracted

    def storage_cost(self, tables: Sequence[pa.Table], dtype: SampleDtype) -> tuple[float, StorageError]:
        """Bytes per window on disk, and the error, of rows with float32 `input_values`."""
        stored, error = store_samples(pa.concat_tables(tables).combine_chunks(), dtype)
        target = pa.BufferOutputStream()
        with self._open(target, dtype) as writer:
            writer.write_table(stored.select(writer.schema.names).cast(writer.schema))
        return target.getvalue().size / len(stored), error

    def write(self, records: Sequence[Any], path: Path, fingerprint: str) -> ShardSummary:
        """Writes the windows of recordings to a Parquet file, which appears under its name when it is complete.

        A file of the same fingerprint stays as it is, unless recordings of it were damaged, which may have been replaced.

        Raises:
            DamagedRecordError: if a recording cannot be read and the builder's `max_damaged_share` is 0.
        """
        existing = read_summary(path)
        if existing and existing.fingerprint == fingerprint and not existing.damaged_records:
            return existing
        summary = ShardSummary(fingerprint)
        temporary = temporary_name(path)
        counts = SplitCounts(summary.windows, summary.damaged_records)
        with self._open(temporary, self.dtype) as writer:
            for table in _regroup(self.builder.read_records(records, counts)):
                stored, error = store_samples(self._extract(table, summary.windows), self.dtype)
                writer.write_table(stored.select(writer.schema.names).cast(writer.schema))
                summary.num_windows += len(stored)
                summary.error.add(error)
            writer.add_key_value_metadata({_SUMMARY_KEY: summary.to_json()})
        os.replace(temporary, path)
        return summary

    def _open(self, target: Path | pa.NativeFile, dtype: SampleDtype) -> pq.ParquetWriter:
        schema = prepared_features(self.builder.info.features, dtype).arrow_schema
        strings = [column.name for column in schema if pa.types.is_string(column.type)]
        return pq.ParquetWriter(target, schema, use_dictionary=strings, **_PARQUET_OPTIONS)

    def _extract(self, table: pa.Table, counter: DropCounter) -> pa.Table:
        extracted, problems = extract_table(table, self.feature_extractor, self._columns)
        if problems:
            counter["rejected"] += len(problems)
            records = [str(table["record_id"][row]) for row in sorted(problems)]
            logger.warning(
                "%s: %d windows rejected, of %s. In record %s: %s",
                self.builder.name,
                len(problems),
                name_records(records),
                records[0],
                problems[min(problems)],
            )
        return extracted


def temporary_name(path: Path) -> Path:
    """Where to write a file before it gets its name; no other process, on any machine, has the same."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def prepared_features(features: datasets.Features, dtype: SampleDtype) -> datasets.Features:
    """Columns of the prepared rows of a builder with these features: `input_values (channels, samples)` in place of the
    signals and their rate, and with `"int16"` the `scale` of each channel."""
    kept = {name: kind for name, kind in features.items() if name not in _REPLACED}
    kept["input_values"] = datasets.List(datasets.List(datasets.Value(dtype)))
    kept["quality_issues"] = QUALITY
    if dtype == "int16":
        kept["scale"] = datasets.List(datasets.Value("float32"))
    return datasets.Features(kept)


def read_summary(path: Path) -> ShardSummary | None:
    """The summary in a shard, or `None` if there is no such file or it is no shard."""
    try:
        return ShardSummary.from_json(pq.read_metadata(path).metadata[_SUMMARY_KEY.encode()])
    except (OSError, pa.ArrowInvalid, KeyError, TypeError):
        return None


def _regroup(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Tables of `_ROWS_AT_A_TIME` rows, the last one of fewer."""
    waiting, num_waiting = [], 0
    for table in tables:
        waiting.append(table)
        num_waiting += len(table)
        if num_waiting >= _ROWS_AT_A_TIME:
            joined = pa.concat_tables(waiting)
            whole = num_waiting - num_waiting % _ROWS_AT_A_TIME
            for first in range(0, whole, _ROWS_AT_A_TIME):
                yield joined.slice(first, _ROWS_AT_A_TIME)
            waiting, num_waiting = [joined.slice(whole)], num_waiting - whole
    if num_waiting:
        yield pa.concat_tables(waiting)
