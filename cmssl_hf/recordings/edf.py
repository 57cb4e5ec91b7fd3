"""EDF, EDF+ and BDF files (Kemp et al. 1992; Kemp and Olivan 2003; BioSemi), by pyedflib."""

from pathlib import Path

import numpy as np

from cmssl_hf.models.cmssl.files_cmssl import SignalFile

from .edf_gaps import open_edf_with_gaps
from .errors import naming_the_extra


_VERSIONS = (b"0       ", b"\xffBIOSEMI")
#: Of the whole header for the file, and of each signal's part.
_HEADER_BYTES = 256
_CONTINUOUS = (b"EDF+C", b"BDF+C")
_DISCONTINUOUS = (b"EDF+D", b"BDF+D")


def recognises(path: Path, head: bytes) -> bool:
    return head[:8] in _VERSIONS or path.suffix.lower() in (".edf", ".bdf")


def open_edf(path: Path) -> SignalFile:
    """Reads the header.

    Raises:
        ValueError: if the file is none of this kind, damaged or truncated.
        ImportError: if pyedflib is not installed.
    """
    if _check(path)[192:197] in _DISCONTINUOUS:
        return open_edf_with_gaps(path)
    with naming_the_extra():
        import pyedflib

    def reader() -> pyedflib.EdfReader:
        try:
            return pyedflib.EdfReader(str(path), annotations_mode=pyedflib.DO_NOT_READ_ANNOTATIONS)
        # The parser of damaged files raises almost anything.
        except Exception as error:
            raise ValueError(f"{path} cannot be read as EDF or BDF: {error}") from error

    def load(position: int) -> np.ndarray:
        with reader() as file:
            return file.readSignal(position)

    with reader() as file:
        try:
            number = range(file.signals_in_file)
            names = [label.strip() for label in file.getSignalLabels()]
            rates = [float(file.getSampleFrequency(position)) for position in number]
            units = [file.getPhysicalDimension(position).strip() for position in number]
        except Exception as error:
            raise ValueError(f"{path} cannot be read as EDF or BDF: {error}") from error
        try:
            start = file.getStartdatetime()
        # Of a time that there is not.
        except ValueError:
            start = None
    return SignalFile(str(path), names, rates, units, load, path.name, start)


def _check(path: Path) -> bytes:
    """The header of the file, which is refused if it is of another kind, or states more than the file holds, before memory is taken
    for it."""
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
        if head[:8] not in _VERSIONS:
            raise ValueError(f"{path} cannot be read as EDF or BDF: it begins with {head[:8]!r}.")
        try:
            num_records, num_signals = int(head[236:244]), max(int(head[252:256]), 0)
            sizes_at = _HEADER_BYTES + 216 * num_signals
            file.seek(sizes_at)
            sizes = [int(file.read(8)) for _ in range(num_signals)]
        # Not what stands there: it may be of another field.
        except ValueError:
            raise ValueError(f"{path} cannot be read as EDF or BDF: its header is damaged.") from None
    sample_bytes = 2 if head[:8] == _VERSIONS[0] else 3
    stated = _HEADER_BYTES * (num_signals + 1) + num_records * sum(sizes) * sample_bytes
    held = path.stat().st_size
    if num_records < 1 or num_signals < 1 or min(sizes) < 1 or stated > held:
        raise ValueError(
            f"{path} cannot be read as EDF or BDF: it states {num_signals:,} signals in {num_records:,} records, {stated:,} bytes,"
            f" but has {held:,}. Is it cut off?"
        )
    return head
