"""The three kinds of MATLAB v7.3 files of PulseDB: Segment files, Subset files and Info files."""

import dataclasses
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from cmssl_hf.building.errors import DamagedRecordError, damaged_if_unreadable
from cmssl_hf.building.matlab import CellArray, read_elements


logger = logging.getLogger(__name__)

SEGMENT_SAMPLES = 1250
#: Fields of a Segment file; the filtered ones are channels of a Subset file too.
SIGNAL_FIELDS = {"filtered": {"ecg": "ECG_F", "ppg": "PPG_F"}, "raw": {"ecg": "ECG_Raw", "ppg": "PPG_Raw"}}

_SUBSET_CHANNELS = {"ecg": 0, "ppg": 1}
_SOURCE_DIGITS = {"0": "mimic", "1": "vitaldb"}

# A signal of this many segments takes 5 MB as float64, and 20 MB in a slice of a Subset file.
_SEGMENTS_AT_A_TIME = 512
_SUBSET_SLICE = 2048
_CELLS_AT_A_TIME = 4096


@dataclass
class Segments:
    """Some segments: signals `(segments, 1250)` by modality, pressures in mmHg, ages in years, all NaN where unknown.

    `start_time` (s, in the recording) and `segment_index` (position in the Segment file, from 1) are `None` where the file
    does not tell.
    """

    signals: dict[str, np.ndarray]
    subject_id: np.ndarray
    record_id: np.ndarray
    sbp: np.ndarray
    dbp: np.ndarray
    age: np.ndarray
    sex: np.ndarray
    start_time: np.ndarray | None = None
    segment_index: np.ndarray | None = None


@dataclass(frozen=True)
class SegmentFile:
    """All segments of one subject, or those at the positions `rows` (from 0)."""

    path: str
    subject_id: str
    rows: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return self.path

    @property
    def subjects(self) -> frozenset[str]:
        return frozenset([self.subject_id])

    def of_subjects(self, subjects: set[str]) -> "SegmentFile | None":
        """The part of it that is of these subjects."""
        return self if self.subject_id in subjects else None

    def read(self, modalities: Sequence[str], signals: str) -> Iterator[Segments]:
        """Reads the segments, some at a time.

        Args:
            modalities: `"ecg"` and/or `"ppg"`.
            signals: `"filtered"` or `"raw"`.

        Raises:
            DamagedRecordError: if the file cannot be read, is not the subject's, or lacks a wanted segment.
        """
        with damaged_if_unreadable(self.path), h5py.File(self.path) as file:
            rows, sex = self._rows_and_sex(file["Subj_Wins"])
        for first in range(0, len(rows), _SEGMENTS_AT_A_TIME):
            # Not open while others have the segments: a dropped generator would close it when h5py is gone already.
            with damaged_if_unreadable(self.path), h5py.File(self.path) as file:
                segments = self._read(
                    file["Subj_Wins"], rows[first : first + _SEGMENTS_AT_A_TIME], sex, modalities, signals
                )
            yield segments

    def _rows_and_sex(self, struct: h5py.Group) -> tuple[np.ndarray, str | None]:
        if "MATLAB_empty" in struct.attrs:
            return np.arange(0), None
        number = self.subject_id.partition("_")[2]
        first_segment = slice(1)
        sex = _sex(*CellArray(struct["Gender"], first_segment).texts())
        if CellArray(struct["SubjectID"], first_segment).texts() != [number]:
            raise DamagedRecordError(f"{self.path} does not hold the segments of {number}.")
        available = len(CellArray(struct["CaseID"]))
        rows = np.arange(available) if self.rows is None else np.array(self.rows)
        if rows.max(initial=-1) >= available:
            raise DamagedRecordError(f"{self.path} has {available} segments, but not the wanted {rows.max() + 1}.")
        return rows, sex

    def _read(self, struct, rows, sex, modalities, signals) -> Segments:
        fields = {modality: CellArray(struct[SIGNAL_FIELDS[signals][modality]]) for modality in modalities}
        others = {name: CellArray(struct[name]) for name in ("CaseID", "SegSBP", "SegDBP", "Age")}
        return Segments(
            signals={name: field.vectors(SEGMENT_SAMPLES, rows) for name, field in fields.items()},
            subject_id=np.full(len(rows), self.subject_id),
            record_id=np.array([f"{self.subject_id}_{case}" for case in others["CaseID"].texts(rows)]),
            sbp=others["SegSBP"].numbers(rows),
            dbp=others["SegDBP"].numbers(rows),
            age=others["Age"].numbers(rows),
            sex=np.full(len(rows), sex),
            start_time=CellArray(struct["T"]).vectors(SEGMENT_SAMPLES, rows)[:, 0] if "T" in struct else None,
            segment_index=rows + 1,
        )


@dataclass(frozen=True)
class SubsetSlice:
    """The segments from `start` (from 0) of a Subset file that are of certain `subjects`.

    Of all segments of the slice, `subject_ids` are the subjects, and `segment_indices` the positions in the Segment files
    (from 1) where an Info file tells.
    """

    path: str
    start: int
    subject_ids: tuple[str, ...]
    subjects: frozenset[str]
    segment_indices: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return f"{self.path}, segments {self.start + 1} to {self.start + len(self.subject_ids)}"

    def of_subjects(self, subjects: set[str]) -> "SubsetSlice | None":
        """The part of it that is of these subjects."""
        common = self.subjects & subjects
        return dataclasses.replace(self, subjects=common) if common else None

    def read(self, modalities: Sequence[str], signals: str) -> Iterator[Segments]:
        """Reads the slice, and yields some segments at a time.

        Args:
            modalities: `"ecg"` and/or `"ppg"`.
            signals: `"filtered"`; a Subset file holds no others.

        Raises:
            DamagedRecordError: if they cannot be read.
        """
        rows = slice(self.start, self.start + len(self.subject_ids))
        subject_id = np.array(self.subject_ids)
        # Sex belongs to the person: one text to read instead of hundreds.
        _, first_segments, person = np.unique(subject_id, return_index=True, return_inverse=True)
        with damaged_if_unreadable(self), h5py.File(self.path) as file:
            subset = file["Subset"]
            channels = {name: subset["Signals"][:, _SUBSET_CHANNELS[name], rows] for name in modalities}
            numbers = {name: read_elements(subset[name], rows) for name in ("SBP", "DBP", "Age")}
            sexes = [_sex(text) for text in CellArray(subset["Gender"], rows).texts(first_segments)]
        sex = np.array(sexes, dtype=object)[person]
        wanted = np.flatnonzero(np.isin(subject_id, [*self.subjects]))
        for first in range(0, len(wanted), _SEGMENTS_AT_A_TIME):
            some = wanted[first : first + _SEGMENTS_AT_A_TIME]
            yield Segments(
                signals={name: np.ascontiguousarray(values[:, some].T) for name, values in channels.items()},
                subject_id=subject_id[some],
                record_id=subject_id[some],
                sbp=numbers["SBP"][some],
                dbp=numbers["DBP"][some],
                age=numbers["Age"][some],
                sex=sex[some],
                segment_index=None if self.segment_indices is None else np.array(self.segment_indices)[some],
            )


def subset_slices(path: Path, info: Mapping[str, Sequence[int]] | None) -> list[SubsetSlice]:
    """The slices of a Subset file.

    Args:
        path: the Subset file.
        info: what `read_info` returns for its Info file, if there is one.

    Raises:
        DamagedRecordError: if it cannot be read.
    """
    with damaged_if_unreadable(path), h5py.File(path) as file:
        signals = file["Subset/Signals"]
        if signals.ndim != 3 or signals.shape[:2] != (SEGMENT_SAMPLES, 3):
            raise DamagedRecordError(f"{path}: Signals should have shape (1250, 3, N), but has {signals.shape}.")
        # Slices end where compressed chunks end, so that no chunk is decompressed twice.
        chunk = signals.chunks[2] if signals.chunks else 1
        step = max(chunk, _SUBSET_SLICE // chunk * chunk)
    with damaged_if_unreadable(path):
        subjects = [subject_identity(text) for text in _read_cells(path, "Subset/Subject", CellArray.texts)]
    indices = None
    if info is not None:
        if [subject for subject, rows in info.items() for _ in rows] == subjects:
            indices = [index for rows in info.values() for index in rows]
        else:
            logger.warning("%s does not list the segments of its Info file; `segment_index` stays empty.", path)
    return [
        SubsetSlice(
            path=str(path),
            start=start,
            subject_ids=tuple(subjects[start : start + step]),
            subjects=frozenset(subjects[start : start + step]),
            segment_indices=indices and tuple(indices[start : start + step]),
        )
        for start in range(0, len(subjects), step)
    ]


def read_info(path: Path) -> dict[str, list[int]]:
    """Reads an Info file: the positions (from 1) of its segments in the Segment file of each subject, in the order in
    which the release writes a subset.

    Raises:
        DamagedRecordError: if it cannot be read.
    """
    with damaged_if_unreadable(path), h5py.File(path) as file:
        # The variable may have any name; MATLAB's own groups begin with "#".
        struct = next(name for name in file if not name.startswith("#"))
    with damaged_if_unreadable(path):
        names = _read_cells(path, f"{struct}/Subj_Name", CellArray.texts)
        indices = [int(index) for index in _read_cells(path, f"{struct}/Subj_SegIDX", CellArray.numbers)]
        info = {subject_identity(name): [] for name in sorted(set(names))}
        for name, index in zip(names, indices):
            info[subject_identity(name)].append(index)
    return info


def _read_cells(path: Path, name: str, read: Callable[[CellArray], Sequence]) -> list:
    """Reads all elements of a long cell array.

    The file is opened for some elements at a time, because HDF5 keeps 4 kB for every element until it is closed.
    """
    values = []
    while len(values) % _CELLS_AT_A_TIME == 0:
        with h5py.File(path) as file:
            some = read(CellArray(file[name], slice(len(values), len(values) + _CELLS_AT_A_TIME)))
        if len(some) == 0:
            break
        values += list(some)
    return values


def subject_identity(text: str) -> str:
    """`"mimic_p000003"` for the release's `"p0000030"`: the same number is another person in the other source.

    Raises:
        ValueError: if it is not a SubjectID that ends in the digit of its source.
    """
    match = re.fullmatch(r"(p\d{6})_?([01])", text)
    if match is None:
        raise ValueError(f"{text!r} is not a SubjectID followed by the digit of its source.")
    return f"{_SOURCE_DIGITS[match[2]]}_{match[1]}"


def _sex(text: str) -> str | None:
    return text.upper() or None
