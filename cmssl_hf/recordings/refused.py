"""Files of devices that hold no waveform, or none that is read, and what to do instead."""

from pathlib import Path
from typing import NoReturn

from cmssl_hf.models.cmssl.tables_cmssl import TABLE_SUFFIXES


_SUFFIXES = {
    ".fit": "FIT files hold heart rates and steps, no waveform",
    ".gpx": "GPX files hold places and heart rates, no waveform",
    ".tcx": "TCX files hold places and heart rates, no waveform",
    ".xlsx": "spreadsheets are not read; save it as CSV",
    ".xls": "spreadsheets are not read; save it as CSV",
    ".h5": "HDF5 files have no common form; save its signals as CSV or Parquet",
    ".hdf5": "HDF5 files have no common form; save its signals as CSV or Parquet",
    ".pdf": "a PDF holds a picture of a recording, not its samples",
    ".avro": "files of the Empatica EmbracePlus are not read; save its BVP as CSV",
}
_HEADS = {
    b"\x89HDF\r\n\x1a\n": _SUFFIXES[".h5"],
    b"%PDF": _SUFFIXES[".pdf"],
    b"\xd0\xcf\x11\xe0": _SUFFIXES[".xls"],
    b"Obj\x01": _SUFFIXES[".avro"],
}
_IN_XML = {
    b"<gpx": _SUFFIXES[".gpx"],
    b"<TrainingCenterDatabase": _SUFFIXES[".tcx"],
    b"<HealthData": "the export of Apple Health holds steps and heart rates, no waveform; its ECGs are in `electrocardiograms/`",
    b"HKQuantityType": "the export of Apple Health holds steps and heart rates, no waveform; its ECGs are in `electrocardiograms/`",
}


def reason(path: Path, head: bytes) -> str | None:
    """Why a file with these first bytes is not read; `None` for others."""
    if path.is_dir():
        return None
    if not head and not path.name.lower().endswith((".hea", *TABLE_SUFFIXES)):
        return "it is empty"
    if head[8:12] == b".FIT":
        return _SUFFIXES[".fit"]
    if head.lstrip(b"\xef\xbb\xbf \r\n").startswith(b"<"):
        return next((why for start, why in _IN_XML.items() if start in head), None)
    return next((why for start, why in _HEADS.items() if head.startswith(start)), _SUFFIXES.get(path.suffix.lower()))


def recognises(path: Path, head: bytes) -> bool:
    return reason(path, head) is not None


def refuse(path: Path) -> NoReturn:
    """Raises a `ValueError` that says why the file is not read."""
    head = b""
    with path.open("rb") as file:
        head = file.read(4096)
    raise ValueError(f"{path} cannot be read: {reason(path, head)}.")
