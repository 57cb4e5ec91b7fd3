"""A folder of recordings of ECG and/or PPG, with labels, subjects and splits in a metadata file where there is one."""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from cmssl_hf.building.dataset_builder import (
    CHANNELS,
    ChannelsConfig,
    SignalDatasetBuilder,
    WindowedConfig,
    pair_features,
)
from cmssl_hf.building.errors import DamagedRecordError
from cmssl_hf.building.release_files import all_files
from cmssl_hf.building.splits import SPLITS
from cmssl_hf.building.subjects import note_on_subjects, subjects_of_paths
from cmssl_hf.building.wfdb_records import spelled_for_wfdb
from cmssl_hf.building.windows import cut_windows, usable_windows, window_starts
from cmssl_hf.models.cmssl.recording_windows_cmssl import LARGEST_FILLED_SHARE, fill_gaps
from cmssl_hf.models.cmssl.recordings_cmssl import Recording, read_recording
from cmssl_hf.models.cmssl.tables_cmssl import TABLE_SUFFIXES
from cmssl_hf.recordings import read_recording as read_all_signals
from cmssl_hf.signals import bridge_gaps, resample

from .labels import Labels, find_labels
from .metadata import METADATA_FILES, Row, match_rows, name_some, read_metadata


logger = logging.getLogger(__name__)

_SUFFIXES = (*TABLE_SUFFIXES, ".hea", ".edf", ".bdf", ".dcm", ".parquet", ".pq", ".ecg", ".xml", ".zip")
#: Files beside `BVP.csv` of an Empatica E4.
_E4_FILES = {"acc.csv", "eda.csv", "temp.csv", "hr.csv", "ibi.csv", "tags.csv", "info.txt"}
#: What lies beside recordings and is none.
_NO_RECORDINGS = ("readme", "license", "licence", "changelog", "requirements")
_SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass
class SignalFolderConfig(ChannelsConfig, WindowedConfig):
    """Options of `signalfolder`, beside those of `ChannelsConfig` and `WindowedConfig`.

    Args:
        stride_seconds: distance between the starts of two windows; the length of these if left out.
        whole_recordings: whether a row is a whole recording in place of a window.
        label: column or columns of the metadata that are predicted (see `find_labels`).
        problem_type: as in `transformers`, where the values of the column do not tell.
        skip_unlabelled: leaves recordings without a label out, which are refused otherwise.
        subject: whose a recording is, where the metadata have no `subject_id` (see `subjects_of_paths`).
        sampling_rate: of the files that do not state theirs, in Hz; a column `sampling_rate` of the metadata overrides it.
        ecg_name: name of the ECG in the files; found by what it is called if left out.
        ppg_name: the same for the PPG.
    """

    max_damaged_share: float = 0.05
    stride_seconds: float | None = None  # type: ignore[assignment]
    whole_recordings: bool = False
    label: str | Sequence[str] | None = None
    problem_type: str | None = None
    skip_unlabelled: bool = False
    subject: str | None = None
    sampling_rate: float | None = None
    ecg_name: str | None = None
    ppg_name: str | None = None

    def window_and_stride(self, sampling_rate: float) -> tuple[int, int]:
        if self.stride_seconds is not None:
            return super().window_and_stride(sampling_rate)
        return replace(self, stride_seconds=self.window_seconds).window_and_stride(sampling_rate)


@dataclass(frozen=True)
class FolderRecord:
    """A recording: `label` as it stands in a row, `sampling_rate` where the file need not state it."""

    path: str
    record_id: str
    subject_id: str
    label: Any = None
    sampling_rate: float | None = None

    def __str__(self) -> str:
        return self.path


class SignalFolder(SignalDatasetBuilder):
    """Rows hold the signals under their names, `ecg` and/or `ppg`, and `label`, that of the recording, if one is asked for."""

    BUILDER_CONFIG_CLASS = SignalFolderConfig
    BUILDER_CONFIGS = [SignalFolderConfig(name="recordings", description="any folder of recordings")]
    TITLE = "a folder of recordings"
    EXPECTED = "recordings of ECG and/or PPG, in subfolders or not, and a `metadata.csv` for labels"
    HOW_TO_GET = "See the README of the builder `signalfolder`."

    @property
    def subject_note(self):
        named = "No subject, as the metadata of the folder name them, is in two splits."
        if self.config.data_dir is None:
            return f"{named} Where they name none: {note_on_subjects(self.config.subject)}"
        return named if self._names_subjects else note_on_subjects(self.config.subject)

    @property
    def problem_type(self) -> str | None:
        """As in `transformers`; `None` without labels."""
        return None if self._labels is None else self._labels.problem_type

    @property
    def label_names(self):
        return () if self._labels is None or self.problem_type == "regression" else self._labels.names

    def _info(self):
        self._files, self._rows, self._row_of, self._labels = {}, [], {}, None
        features = None
        # Without the folder, only what holds for all folders is known.
        if self.config.data_dir is not None:
            folder = self.release_folder(None)
            files = all_files(folder)
            self._files = _recordings(folder, files)
            if not self._files:
                raise self.not_the_release(folder, "it holds no recordings")
            self._rows = read_metadata(folder, [path for path in files if path.name.lower() in METADATA_FILES])
            self._labels = self._find_labels(folder)
            self._row_of = match_rows(self._rows, self._files) if self._rows else {}
            label = {} if self._labels is None else {"label": self._labels.feature}
            features = pair_features(self._channels(), **label)
        return datasets.DatasetInfo(description=f"{__doc__}\n\n{self.subject_note}", features=features)

    @property
    def _names_subjects(self) -> bool:
        return any("subject_id" in row.values for row in self._rows)

    def _find_labels(self, folder: Path) -> Labels | None:
        label = self.config.label
        if not label:
            return None
        if not self._rows:
            raise ValueError(
                f"`label` names columns of metadata, but {folder} has no {' or '.join(METADATA_FILES)} with lines: write one with"
                f" the columns file_name and {label if isinstance(label, str) else ', '.join(label)}."
            )
        return find_labels(self._rows, [label] if isinstance(label, str) else label, self.config.problem_type)

    def _channels(self) -> tuple[str, ...]:
        """Those that are asked for, else those that the first recording has which can be read."""
        if chosen := self.config.checked_channels():
            return chosen
        problem = ""
        for record_id, path in self._files.items():
            try:
                with _readable(path) as file:
                    signals = read_all_signals(file, sampling_rate=self._rate(self._row_of.get(record_id))).signals
            except (ValueError, ImportError) as error:
                problem = problem or str(error)
                continue
            kinds = {signal.kind for signal in signals.values()}
            if found := tuple(channel for channel in CHANNELS if channel in kinds):
                return found
            problem = problem or (
                f"{path} has {', '.join(map(repr, signals))}: say what is read by `channels=['ppg']` or `['ecg']`, and how it is"
                " called by `ppg_name` or `ecg_name`."
            )
        raise ValueError(
            f"No ECG and no PPG is found in the recordings of {self.config.data_dir}. The first one: {problem}"
        )

    def download_and_prepare(self, output_dir: str | None = None, **kwargs: Any) -> None:
        # Said whether or not the rows are there already.
        if not self._names_subjects:
            logger.warning("%s: the metadata name no subjects (`subject_id`). %s", self.name, self.subject_note)
        super().download_and_prepare(output_dir, **kwargs)

    def _list_records(self, dl_manager):
        if self.config.data_dir is None:
            self.release_folder(dl_manager)
        rows = self._row_of
        labels = {row.where: value for row, value in zip(self._rows, self._labels.values)} if self._labels else {}
        unlabelled = [record_id for record_id, row in rows.items() if labels and labels[row.where] is None]
        if unlabelled and not self.config.skip_unlabelled:
            where = [f"{self._files[record_id]} ({rows[record_id].where})" for record_id in unlabelled]
            raise ValueError(
                f"{len(unlabelled)} of {len(rows)} recordings have no label in {self.config.label!r}: {name_some(where)}. Give it,"
                " or leave these recordings out by `skip_unlabelled=True`."
            )
        for record_id in unlabelled:
            self.skip_record(record_id, "no label")
        kept = [record_id for record_id in self._files if record_id not in set(unlabelled)]
        splits = self._splits([*self._files], rows)
        subjects = self._subjects([*self._files], rows, splits)
        records: dict[str, list[FolderRecord]] = {}
        for record_id in kept:
            row = rows.get(record_id)
            record = FolderRecord(
                str(self._files[record_id]),
                record_id,
                subjects[record_id],
                labels[row.where] if row and labels else None,
                self._rate(row),
            )
            records.setdefault(record.subject_id, []).append(record)
        if splits is None:
            try:
                # Whose split must not depend on what is labelled.
                return self.config.divide(records, [*subjects.values()])
            except ValueError as error:
                raise ValueError(f"{error} {self.subject_note}") from error
        return _divided(records, splits, self.subject_note)

    def _rate(self, row: Row | None) -> float | None:
        stated = row.values.get("sampling_rate") if row else None
        try:
            return self.config.sampling_rate if stated is None else float(stated)
        except (TypeError, ValueError):
            raise ValueError(f"{row.where}: the `sampling_rate` {stated!r} is no number of Hz.") from None

    def _subjects(
        self, record_ids: Sequence[str], rows: Mapping[str, Row], splits: Mapping[str, str] | None
    ) -> dict[str, str]:
        if self._names_subjects:
            missing = [rows[record_id].where for record_id in record_ids if "subject_id" not in rows[record_id].values]
            if missing:
                raise ValueError(f"{len(missing)} line(s) of the metadata have no `subject_id`: {name_some(missing)}.")
            return {record_id: str(rows[record_id].values["subject_id"]) for record_id in record_ids}
        if splits is None or _says_splits(self._rows):
            return subjects_of_paths(record_ids, self.config.subject, self.name)
        # The folders of the splits are nobody's.
        below = {record_id: record_id.partition("/")[2] for record_id in record_ids}
        people = subjects_of_paths([*dict.fromkeys(below.values())], self.config.subject, self.name)
        return {record_id: people[path] if "/" in path else record_id for record_id, path in below.items()}

    def _splits(self, record_ids: Sequence[str], rows: Mapping[str, Row]) -> dict[str, str] | None:
        """The split of each recording by the column `split`, or by folders called after the splits; `None` if neither is there."""
        if _says_splits(self._rows):
            splits = {}
            for record_id in record_ids:
                stated = rows[record_id].values.get("split")
                split = _SPLIT_NAMES.get(str(stated).lower())
                if split is None:
                    raise ValueError(
                        f"{rows[record_id].where}: `split` is {stated!r}, but must be one of {', '.join(SPLITS)}."
                    )
                splits[record_id] = split
            return splits
        tops = {record_id: record_id.partition("/")[0].lower() if "/" in record_id else "" for record_id in record_ids}
        if len(set(tops.values())) > 1 and set(tops.values()) <= _SPLIT_NAMES.keys():
            return {record_id: _SPLIT_NAMES[top] for record_id, top in tops.items()}
        return None

    def _record_tables(self, record, counter):
        names = [name for name in CHANNELS if name in self.info.features]
        columns = {name: getattr(self.config, f"{name}_name") for name in names}
        columns = {name: column for name, column in columns.items() if column is not None}
        try:
            with _readable(Path(record.path)) as file:
                recording = read_recording(file, names, sampling_rate=record.sampling_rate, column=columns or None)
        except (ValueError, ImportError) as error:
            raise DamagedRecordError(str(error)) from error
        rate = max(recording.sampling_rates.values())
        starts, window = self._windows(recording.duration, rate)
        if not len(starts):
            counter["short"] += 1
            return
        signals = _usable_signals(recording, starts, window, rate)
        kept = usable_windows([raw for raw, _ in signals.values()], counter)
        yield self.to_table(
            **{name: whole[kept] for name, (_, whole) in signals.items()},
            sampling_rate=rate,
            subject_id=record.subject_id,
            record_id=record.record_id,
            start_time=starts[kept] / rate,
            label=np.tile(record.label, (int(kept.sum()), 1)) if isinstance(record.label, list) else record.label,
        )

    def _windows(self, duration: float, rate: float) -> tuple[np.ndarray, int]:
        """First samples and length of the windows at a rate; one window, where whole recordings are asked for."""
        num_samples = round(duration * rate)
        if self.config.whole_recordings:
            return np.zeros(min(1, num_samples), dtype=np.int64), num_samples
        window, stride = self.config.window_and_stride(rate)
        return np.array(window_starts(num_samples, window, stride), dtype=np.int64), window


def _readable(path: Path) -> contextlib.AbstractContextManager[str | Path]:
    """The path under which a file is read, however it is spelled."""
    return spelled_for_wfdb(path) if path.suffix.lower() == ".hea" else contextlib.nullcontext(path)


def _says_splits(rows: Sequence[Row]) -> bool:
    return any("split" in row.values for row in rows)


def _recordings(folder: Path, files: Sequence[Path]) -> dict[str, Path]:
    """The recordings among the files of a folder, by their path without extension.

    Raises:
        ValueError: if two have the same.
    """
    of_e4 = {path.parent for path in files if path.name.lower() == "bvp.csv"}
    found: dict[str, Path] = {}
    by_small_letters: dict[str, Path] = {}
    for path in files:
        name = path.name.lower()
        suffix = next((suffix for suffix in sorted(_SUFFIXES, key=len, reverse=True) if name.endswith(suffix)), None)
        if suffix is None or name in METADATA_FILES or name.startswith(_NO_RECORDINGS):
            continue
        if path.parent in of_e4 and name in _E4_FILES:
            continue
        record_id = path.relative_to(folder).as_posix()[: -len(suffix)]
        other = by_small_letters.setdefault(record_id.lower(), path)
        if other != path:
            raise ValueError(f"Two recordings have one name: {other} and {path}. Rename one, or move it elsewhere.")
        found[record_id] = path
    return found


def _divided(
    records: Mapping[str, Sequence[FolderRecord]], splits: Mapping[str, str], note: str
) -> dict[str, list[FolderRecord]]:
    divided: dict[str, list[FolderRecord]] = {split: [] for split in SPLITS}
    for subject, members in records.items():
        by_split = {splits[record.record_id]: record for record in members}
        if len(by_split) > 1:
            places = " and ".join(f"{record} ({split})" for split, record in by_split.items())
            raise ValueError(f"Subject {subject!r} is in {len(by_split)} splits: {places}. {note}")
        divided[next(iter(by_split))].extend(members)
    return divided


def _usable_signals(
    recording: Recording, starts: np.ndarray, window: int, rate: float
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Windows of each signal as they were recorded, with short gaps filled, by which they are judged; and at the common rate.

    Args:
        recording: with gaps as NaN.
        starts: first samples at `rate`.
        window: samples at `rate`.
        rate: the highest rate of the recording in Hz.
    """
    filled, samples_filled = fill_gaps(recording)
    signals = {}
    for name, signal in filled.signals.items():
        own = recording.sampling_rates[name]
        length = min(len(signal), round(window * own / rate))
        first = np.minimum(np.round(starts * own / rate).astype(np.int64), len(signal) - length)
        raw = cut_windows(np.asarray(signal, np.float64), first, length)
        # As the pipelines do, which read no window of which more was filled.
        share = cut_windows(samples_filled.signals[name], first, length).mean(axis=1)
        raw = np.where(share[:, None] > LARGEST_FILLED_SHARE, np.nan, raw)
        if own == rate:
            signals[name] = raw, raw
            continue
        whole = resample(bridge_gaps(signal), own, rate)
        whole = np.pad(whole, (0, max(0, int(starts[-1]) + window - len(whole))), mode="edge")
        signals[name] = raw, cut_windows(whole, starts, window)
    return signals
