"""From a release to Parquet shards of `input_values`: resumable, and divided over processes and machines.

    preparation = Preparation(builder, feature_extractor, "prepared/pulsedb", dtype="int16")
    plan = preparation.load_plan() or preparation.make_plan(preparation.estimate())    # in one process
    for summary in preparation.run(plan, process_index, num_processes):   # in every process, each with its part of the shards
        ...
    preparation.finish(plan)                                              # in one process, after all others

A shard holds the windows of a few recordings and appears under its name when it is whole, so what exists is done. The plan,
which recordings make up which shard, and the manifest, which completes the folder, are JSON files beside the shards.
"""

import hashlib
import json
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from cmssl_hf.building.dataset_builder import SignalDatasetBuilder

from ...models.cmssl.feature_extraction_cmssl import CMSSLFeatureExtractor
from .shards import ShardSummary, ShardWriter, read_summary, temporary_name
from .storage import SAMPLE_DTYPES, SampleDtype, StorageError


PLAN_FILE = "preparation_plan.json"
MANIFEST_FILE = "manifest.json"

#: Raised when feature extraction makes other `input_values`, or they are stored otherwise.
FEATURE_EXTRACTION_VERSION = 1

_SAMPLED_RECORDS = 12
# A file that is being written is never this old.
_LEFTOVER_SECONDS = 600


@dataclass(frozen=True)
class PlannedShard:
    """The recordings `first` to `stop` of a split, and the name of their file."""

    split: str
    first: int
    stop: int
    file: str


@dataclass
class PreparationEstimate:
    """What a preparation will take, judged from some of the recordings.

    Attributes:
        num_records: number of recordings.
        num_sampled: number of those that were read.
        num_windows: expected number of windows.
        bytes_per_window: size of a window on disk, by data type of the samples.
        errors: error of the stored samples, by data type.
    """

    num_records: int
    num_sampled: int
    num_windows: int
    bytes_per_window: dict[str, float]
    errors: dict[str, StorageError]

    def num_bytes(self, dtype: SampleDtype) -> int:
        """Expected size of all shards."""
        return round(self.num_windows * self.bytes_per_window[dtype])


class Preparation:
    """Prepares one configuration of a dataset.

    Args:
        builder: from `load_dataset_builder`.
        feature_extractor: turns its windows into `input_values`.
        output_dir: folder of the shards, one and the same for all processes.
        dtype: of the stored samples, one of `SAMPLE_DTYPES`.
        shard_bytes: size of a shard at which to aim; one recording is never divided. What is lost by an interruption.

    Raises:
        ValueError: if `dtype` is unknown, or the release is not what the builder reads.
    """

    def __init__(
        self,
        builder: SignalDatasetBuilder,
        feature_extractor: CMSSLFeatureExtractor,
        output_dir: str | os.PathLike[str],
        dtype: SampleDtype = "float32",
        shard_bytes: int = 32 * 2**20,
    ):
        if dtype not in SAMPLE_DTYPES:
            raise ValueError(f"`dtype` must be one of {SAMPLE_DTYPES}, but is {dtype!r}.")
        self.builder = builder
        self.feature_extractor = feature_extractor
        self.output_dir = Path(output_dir)
        self.dtype = dtype
        self.shard_bytes = shard_bytes
        self.records = builder.list_records()
        self._writer = ShardWriter(builder, feature_extractor, dtype)

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides about the rows, for the fingerprint and the manifest."""
        no_options = ("name", "version", "data_dir", "data_files", "description", "max_damaged_share")
        options = {key: value for key, value in asdict(self.builder.config).items() if key not in no_options}
        data_dir = self.builder.config.data_dir or ""
        listing = json.dumps(
            {
                split: [str(record).replace(data_dir, "") for record in records]
                for split, records in self.records.items()
            }
        )
        settings = {
            "dataset": self.builder.name,
            "config_name": self.builder.config.name,
            "options": options,
            "feature_extractor": self.feature_extractor.to_dict(),
            "dtype": self.dtype,
            "records": hashlib.sha256(listing.encode()).hexdigest()[:16],
            "builder_version": self.builder.code_version(),
            "feature_extraction_version": FEATURE_EXTRACTION_VERSION,
        }
        as_read: dict[str, Any] = json.loads(json.dumps(settings, default=str))
        return as_read

    @property
    def fingerprint(self) -> str:
        """Hash of the settings; shards of another fingerprint are not mistaken for those of this preparation."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]

    def estimate(self) -> PreparationEstimate:
        """Reads some recordings to judge how much disk all will take, and what each data type costs.

        Raises:
            ValueError: if none of them has a window that can be used.
        """
        records = [record for members in self.records.values() for record in members]
        chosen = [
            records[i] for i in np.unique(np.linspace(0, len(records) - 1, _SAMPLED_RECORDS).round().astype(int))
        ]
        num_windows, samples = 0, []
        for record in chosen:
            num_rows, sample = self._writer.sample(record)
            num_windows += num_rows
            samples += sample
        if not samples:
            raise ValueError(f"No window of {', '.join(map(str, chosen))} can be used.")
        sizes = [os.path.getsize(str(record)) if os.path.isfile(str(record)) else 0 for record in records]
        # Where every recording is a file of its own, long ones have large files.
        share = (
            sum(os.path.getsize(str(record)) for record in chosen) / sum(sizes)
            if all(sizes)
            else len(chosen) / len(records)
        )
        costs = {dtype: self._writer.storage_cost(samples, dtype) for dtype in SAMPLE_DTYPES}
        return PreparationEstimate(
            num_records=len(records),
            num_sampled=len(chosen),
            num_windows=round(num_windows / share),
            bytes_per_window={dtype: size for dtype, (size, _) in costs.items()},
            errors={dtype: error for dtype, (_, error) in costs.items()},
        )

    def load_plan(self) -> list[PlannedShard] | None:
        """The plan of an interrupted run in `output_dir`, or `None` if there was none.

        Raises:
            ValueError: if the folder holds another preparation.
        """
        path = self.output_dir / PLAN_FILE
        if not path.exists():
            return None
        plan = json.loads(path.read_text())
        differing = [key for key, value in self.settings.items() if plan["settings"].get(key) != value]
        if differing:
            raise ValueError(
                f"{self.output_dir} holds another preparation, which differs in {', '.join(differing)}. Give another folder,"
                " or delete it."
            )
        for leftover in self.output_dir.glob(".*.tmp"):
            if time.time() - leftover.stat().st_mtime > _LEFTOVER_SECONDS:
                leftover.unlink(missing_ok=True)
        return [PlannedShard(**shard) for shard in plan["shards"]]

    def make_plan(self, estimate: PreparationEstimate) -> list[PlannedShard]:
        """Divides the recordings into shards, and notes that in `output_dir`."""
        bytes_per_record = estimate.num_bytes(self.dtype) / estimate.num_records
        step = max(1, int(self.shard_bytes / bytes_per_record))
        plan = []
        for split, records in self.records.items():
            starts = range(0, len(records), step)
            plan += [
                PlannedShard(
                    split, first, min(first + step, len(records)), f"{split}-{i:05d}-of-{len(starts):05d}.parquet"
                )
                for i, first in enumerate(starts)
            ]
        self.output_dir.mkdir(parents=True, exist_ok=True)
        _write_json(
            self.output_dir / PLAN_FILE, {"settings": self.settings, "shards": [asdict(shard) for shard in plan]}
        )
        return plan

    def run(
        self, plan: list[PlannedShard], process_index: int = 0, num_processes: int = 1, num_proc: int = 1
    ) -> Iterator[ShardSummary]:
        """Writes the shards of this process that are not there yet, in any order; those with damaged recordings are tried
        again.

        Args:
            plan: from `load_plan` or `make_plan`, the same in all processes.
            process_index: which of the processes this is.
            num_processes: number of processes that share the plan.
            num_proc: number of processes that this one starts.

        Yields:
            The summary of each shard of this process, once it is there.

        Raises:
            DamagedRecordError: if a recording cannot be read and the builder's `max_damaged_share` is 0.
            ValueError: if more recordings cannot be read than it allows.
        """
        fingerprint, damaged = self.fingerprint, {}
        tasks = [
            (self.records[shard.split][shard.first : shard.stop], self.output_dir / shard.file, fingerprint)
            for shard in plan[process_index::num_processes]
        ]
        # Processes that do not know of each other, as `accelerate launch` starts them on machines without GPUs and MPI,
        # share the work too if each has its own order: they seldom come to the same shard at the same time.
        random.shuffle(tasks)
        for summary in self._write(tasks, num_proc):
            damaged.update(summary.damaged_records)
            self.builder.check_damaged_share(damaged)
            yield summary

    def _write(self, tasks: list[tuple[list[Any], Path, str]], num_proc: int) -> Iterator[ShardSummary]:
        if num_proc <= 1:
            for task in tasks:
                yield self._writer.write(*task)
            return
        # Not forked: torch and Arrow have threads, whose locks a fork would copy in any state.
        pool = ProcessPoolExecutor(num_proc, multiprocessing.get_context("spawn"), initializer=_end_with_parent)
        try:
            for future in as_completed([pool.submit(self._writer.write, *task) for task in tasks]):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def finish(self, plan: list[PlannedShard]) -> dict[str, Any]:
        """Writes the manifest, when all shards are there.

        Returns:
            The manifest.

        Raises:
            FileNotFoundError: if shards are missing.
            ValueError: if more recordings cannot be read than the builder's `max_damaged_share` allows.
        """
        fingerprint, total, missing = self.fingerprint, ShardSummary(), []
        splits: dict[str, tuple[ShardSummary, dict[str, int]]] = {}
        for shard in plan:
            path = self.output_dir / shard.file
            summary = read_summary(path)
            if summary is None or summary.fingerprint != fingerprint:
                missing.append(shard.file)
                continue
            split = splits.setdefault(shard.split, (ShardSummary(), {}))
            split[0].add(summary)
            split[1][shard.file] = path.stat().st_size
            total.add(summary)
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of {len(plan)} shards are missing in {self.output_dir}, the first one {missing[0]}. All"
                " processes must write to one folder that all see; run the preparation again to write what is missing."
            )
        self.builder.check_damaged_share(total.damaged_records)
        manifest = {
            "fingerprint": fingerprint,
            "settings": self.settings,
            "splits": {
                split: {
                    "num_windows": summary.num_windows,
                    "num_records": len(self.records[split]),
                    "num_bytes": sum(files.values()),
                    "windows": dict(summary.windows),
                    "damaged_records": summary.damaged_records,
                    "files": files,
                }
                for split, (summary, files) in splits.items()
            },
            "skipped_records": self.builder.skipped_records,
            "storage_error": {"largest": total.error.largest, "rms": total.error.rms},
        }
        _write_json(self.output_dir / MANIFEST_FILE, manifest)
        return manifest


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    temporary = temporary_name(path)
    temporary.write_text(json.dumps(content, indent=2))
    os.replace(temporary, path)


def _end_with_parent() -> None:
    """Ends this process when the one that started it is killed; the pool would leave it waiting for ever."""
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(process: BaseProcess) -> None:
    process.join()
    os._exit(1)
