"""Writes PulseDB releases of any size in the release's own format (MATLAB v7.3), with simulated signals."""

import datetime
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np


SAMPLES = 1250
SEGMENT_FOLDERS = {"0": "PulseDB_MIMIC", "1": "PulseDB_Vital"}

VECTORS = ("ECG_Raw", "PPG_Raw", "ABP_Raw", "ECG_F", "PPG_F", "ABP_F", "T")


def simulated_segments(num_segments: int, seed: int) -> dict[str, list]:
    """The fields of the segments of one subject, as they are in MATLAB: vectors of 1250, numbers and text."""
    rng = np.random.default_rng(seed)
    times = np.arange(SAMPLES) / 125
    rates = rng.uniform(0.8, 2.0, (num_segments, 1))
    pulse = np.sin(2 * np.pi * rates * times) + 0.3 * np.sin(4 * np.pi * rates * times + 1)
    beats = np.exp(-np.square(((times * rates) % 1 - 0.5) / 0.02))
    noise = 0.01 * rng.standard_normal((num_segments, SAMPLES))
    signals = {"ECG_F": beats + noise, "PPG_F": pulse + noise, "ABP_F": 20 * pulse}
    signals |= {"ECG_Raw": 0.5 + 0.1 * beats + noise, "PPG_Raw": 0.5 + 0.2 * pulse, "ABP_Raw": 90 + 20 * pulse}
    signals["T"] = times + 10.0 * np.arange(num_segments)[:, None]
    return {name: [*values] for name, values in signals.items()} | {
        "CaseID": [str(1 + index // 10) for index in range(num_segments)],
        "SegmentID": [float(index + 1) for index in range(num_segments)],
        "SegSBP": [*rng.uniform(90, 160, num_segments)],
        "SegDBP": [*rng.uniform(50, 90, num_segments)],
        "Age": [float(40 + seed % 40)] * num_segments,
        "Gender": ["MF"[seed % 2]] * num_segments,
    }


def _open(path: Path) -> h5py.File:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = h5py.File(path, "w", userblock_size=512)
    file.create_group("#refs#")
    return file


def _close(file: h5py.File) -> None:
    path = file.filename
    file.close()
    with open(path, "r+b") as stream:
        banner = f"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: {datetime.date(2023, 1, 1):%c}"
        stream.write(banner.encode().ljust(124) + b"\x00\x02IM")


def _store(file: h5py.File, value, *, row_text: bool = True, compression: str | None = None) -> h5py.Reference:
    """Stores one element of a cell or struct array: text, a number, a vector, or `None` for an empty array."""
    group = file["#refs#"]
    name = uuid.uuid4().hex
    if value is None:
        dataset = group.create_dataset(name, data=np.zeros(2, dtype=np.uint64))
        dataset.attrs["MATLAB_empty"] = np.int32(1)
        kind = "double"
    elif isinstance(value, str):
        codes = np.frombuffer(value.encode("utf-16-le"), dtype=np.uint16)
        dataset = group.create_dataset(name, data=codes[None] if row_text else codes[:, None])
        kind = "char"
    else:
        dataset = group.create_dataset(name, data=np.atleast_2d(np.asarray(value, float)), compression=compression)
        kind = "double"
    dataset.attrs["MATLAB_class"] = np.bytes_(kind)
    return dataset.ref


def _reference_array(group: h5py.Group, name: str, references: Sequence[h5py.Reference], as_row: bool) -> None:
    array = np.empty((1, len(references)) if as_row else (len(references), 1), dtype=h5py.ref_dtype)
    array.ravel()[:] = references
    group.create_dataset(name, data=array, dtype=h5py.ref_dtype)


def write_segment_file(
    release: Path,
    subject: str,
    fields: Mapping[str, Sequence],
    *,
    as_row: bool = True,
    row_text: bool = True,
    compression: str | None = None,
) -> Path:
    """Writes the Segment file of `subject` (such as `"p0000030"`).

    Args:
        release: the release's folder.
        subject: SubjectID and digit of the source.
        fields: one entry per segment each.
        as_row: whether references have shape `(1, N)` instead of `(N, 1)`.
        row_text: whether text has shape `(1, length)` instead of `(length, 1)`.
        compression: of the vectors.
    """
    number, source = subject[:7], subject[-1]
    path = release / "Segment_Files" / SEGMENT_FOLDERS[source] / f"{number}.mat"
    file = _open(path)
    struct = file.create_group("Subj_Wins")
    num_segments = len(next(iter(fields.values())))
    for name, values in {"SubjectID": [number] * num_segments, **fields}.items():
        references = [_store(file, value, row_text=row_text, compression=compression) for value in values]
        _reference_array(struct, name, references, as_row)
    _close(file)
    return path


def write_scalar_segment_file(release: Path, subject: str, fields: Mapping[str, Sequence]) -> Path:
    """Writes the Segment file of a subject with one segment: a struct that is no array, without references."""
    path = release / "Segment_Files" / SEGMENT_FOLDERS[subject[-1]] / f"{subject[:7]}.mat"
    file = _open(path)
    struct = file.create_group("Subj_Wins")
    for name, (value,) in {"SubjectID": [subject[:7]], **fields}.items():
        struct[name] = file[_store(file, value)]
    _close(file)
    return path


def copy_segment_file(template: Path, release: Path, subject: str) -> Path:
    """Copies a Segment file with another SubjectID, which takes a fraction of the time of writing one."""
    path = release / "Segment_Files" / SEGMENT_FOLDERS[subject[-1]] / f"{subject[:7]}.mat"
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(template, path)
    with h5py.File(path, "r+") as file:
        first = file[file["Subj_Wins/SubjectID"][()].flat[0]]
        first[...] = np.frombuffer(subject[:7].encode("utf-16-le"), dtype=np.uint16).reshape(first.shape)
    return path


def write_subset_file(
    release: Path, name: str, segments: Mapping[str, Mapping[str, Sequence]], *, row_text: bool = True, **storage
) -> Path:
    """Writes a Subset file with all `segments` of some subjects; `storage` as for `h5py`'s `create_dataset`."""
    path = release / "Subset_Files" / f"{name}_Subset.mat"
    file = _open(path)
    subset = file.create_group("Subset")
    rows = [(subject, fields, i) for subject, fields in sorted(segments.items()) for i in range(len(fields["SegSBP"]))]
    signals = subset.create_dataset("Signals", (SAMPLES, 3, len(rows)), dtype=float, **storage)
    for first in range(0, len(rows), 4000):
        some = rows[first : first + 4000]
        channels = np.array([[fields[name][i] for name in ("ECG_F", "PPG_F", "ABP_Raw")] for _, fields, i in some])
        signals[:, :, first : first + len(some)] = channels.T
    for name_in_subset, field in (("SBP", "SegSBP"), ("DBP", "SegDBP"), ("Age", "Age")):
        subset[name_in_subset] = np.array([[fields[field][i] for _, fields, i in rows]], dtype=float)
    texts = {"Subject": [subject for subject, _, _ in rows], "Gender": [fields["Gender"][i] for _, fields, i in rows]}
    for name_in_subset, values in texts.items():
        references = [_store(file, value, row_text=row_text) for value in values]
        _reference_array(subset, name_in_subset, references, as_row=True)
    _close(file)
    return path


def write_info_file(release: Path, name: str, entries: Sequence[tuple[str, int]]) -> Path:
    """Writes an Info file that lists (subject with the digit of its source, segment from 1)."""
    path = release / "Info_Files" / f"{name}_Info.mat"
    file = _open(path)
    struct = file.create_group(f"{name}_Info")
    _reference_array(struct, "Subj_Name", [_store(file, subject) for subject, _ in entries], as_row=True)
    _reference_array(struct, "Subj_SegIDX", [_store(file, float(index)) for _, index in entries], as_row=True)
    _close(file)
    return path
