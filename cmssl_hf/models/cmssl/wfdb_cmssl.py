"""WFDB records: one or several segments, one or several rates, gaps as NaN."""

import os
from pathlib import Path

import numpy as np

from .files_cmssl import SignalFile


_NEEDS_WFDB = "Reading WFDB records needs wfdb: `pip install wfdb`."

#: Formats of WFDB that are FLAC streams; a sample in any other takes at least a byte.
_COMPRESSED_FORMATS = ("508", "516", "524")
#: Samples in a byte of FLAC, where the signal is constant: the largest block has 65,535 samples, the smallest frame 10 bytes.
_LARGEST_COMPRESSION = 6554
#: Samples of a record of several segments, whose gaps are in no file: 24 days at 125 Hz.
_LARGEST_GAPPED_RECORD = 2**28


def refuse_unsafe_header(header: str | os.PathLike) -> None:
    """Refuses a WFDB header that should not be followed - it is metadata, which anyone may have written, or damage has changed:
    one that names files in other folders, or states more samples than its files can hold, for which memory would be taken.

    Args:
        header: the `.hea` file.

    Raises:
        ValueError: if it states no record, a signal or segment is not a plain name, or the stated length is impossible.
        ImportError: if wfdb is not installed.
    """
    _refuse_unsafe(Path(header), is_segment=False)


def _refuse_unsafe(header: Path, is_segment: bool) -> None:
    try:
        from wfdb.io.header import rx_record
    except ImportError as error:
        raise ImportError(_NEEDS_WFDB) from error
    # Read as wfdb reads it: what it leaves out cannot hide a path.
    lines = [line.strip() for line in header.read_text(encoding="ascii", errors="ignore").splitlines()]
    first, *others = [line for line in lines if line and not line.startswith("#")] or [""]
    parts = [line.split() for line in others]
    for name, *_ in parts:
        if "/" in name or "\\" in name or name in (".", ".."):
            raise ValueError(f"it names the file {name!r}: only files beside a header are read.")
    record = rx_record.match(first)
    if record is None:
        raise ValueError("its first line states no record.")
    if not record["sig_len"]:
        return
    stated = int(record["sig_len"])
    if record["n_seg"]:
        if stated > _LARGEST_GAPPED_RECORD:
            raise ValueError(f"it states {stated:,} samples, more than {_LARGEST_GAPPED_RECORD:,}: read its segments.")
        for segment in {header.with_name(f"{name}.hea") for name, *_ in parts}:
            if is_segment:
                raise ValueError(f"the segment {header.name} has segments.")
            if segment.is_file():
                _refuse_unsafe(segment, is_segment=True)
        return
    for name, *format_and_more in parts:
        file = header.parent / name
        compressed = format_and_more and format_and_more[0].startswith(_COMPRESSED_FORMATS)
        # wfdb says so if a file is missing.
        if file.is_file() and stated > file.stat().st_size * (_LARGEST_COMPRESSION if compressed else 1):
            raise ValueError(f"it states {stated:,} samples, but {name} has only {file.stat().st_size:,} bytes.")


def header_of(path: Path) -> Path | None:
    """The header of a WFDB record that is given by its name, its header or one of its signal files."""
    if not path.name:
        return None
    for header in (path, path.with_name(f"{path.name}.hea")):
        if header.suffix == ".hea" and header.is_file():
            return header
    header = path.with_suffix(".hea")
    if header.is_file() and path.name in header.read_text(encoding="ascii", errors="ignore").split():
        return header
    return None


def open_wfdb(header: Path) -> SignalFile:
    """Reads a record.

    Args:
        header: its `.hea` file.

    Raises:
        ValueError: if it cannot be read.
        ImportError: if wfdb is not installed.
    """
    try:
        import wfdb
    except ImportError as error:
        raise ImportError(_NEEDS_WFDB) from error
    try:
        refuse_unsafe_header(header)
        record = wfdb.rdrecord(str(header.with_suffix("")), smooth_frames=False)
        # A signal without a description has no name.
        names, samples = [name or "" for name in record.sig_name], list(record.e_p_signal)
        rates = [float(record.fs * number) for number in record.samps_per_frame]
        start = record.base_datetime
    except FileNotFoundError as error:
        missing = Path(error.filename or header).name
        raise ValueError(f"{header} cannot be read as a WFDB record: {missing} is missing.") from error
    # Parsers of damaged files raise almost anything.
    except Exception as error:
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        raise ValueError(f"{header} cannot be read as a WFDB record: {kind}{error}") from error
    return SignalFile(
        str(header),
        names,
        rates,
        [unit or "" for unit in record.units],
        lambda position: np.asarray(samples[position], np.float64),
        header.name,
        start,
    )


__all__ = ["header_of", "open_wfdb", "refuse_unsafe_header"]
