"""Holter ECGs of the ISHNE (Badilini, Ann. Noninvasive Electrocardiol. 1998)."""

import struct
from datetime import datetime
from pathlib import Path

import numpy as np

from cmssl_hf.models.cmssl.files_cmssl import SignalFile


_MAGIC = b"ISHNE1.0"
#: Up to the block of variable length. Of it are read: where the samples are, date and time of their start, leads and their
#: resolution in nV, and the rate; names and dates of birth are not.
_HEADER_BYTES = 522
_LEADS = {1: "ECG bipolar", 2: "ECG X", 3: "ECG Y", 4: "ECG Z", 5: "I", 6: "II", 7: "III", 8: "aVR", 9: "aVL", 10: "aVF",
          11: "V1", 12: "V2", 13: "V3", 14: "V4", 15: "V5", 16: "V6", 17: "ECG ES", 18: "ECG AS", 19: "ECG AI"}  # fmt: skip
_MOST_LEADS = 12


def recognises(path: Path, head: bytes) -> bool:
    return head.startswith((_MAGIC, b"ANN  1.0")) or path.suffix.lower() == ".ecg"


def open_ishne(path: Path) -> SignalFile:
    """Reads the header.

    Raises:
        ValueError: if the file is none of this kind, damaged or truncated.
    """
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    if head.startswith(b"ANN  1.0"):
        raise ValueError(f"{path} holds annotations of beats, no waveform.")
    if not head.startswith(_MAGIC) or len(head) < _HEADER_BYTES:
        raise ValueError(f"{path} cannot be read as a Holter ECG of the ISHNE: it begins with {head[:8]!r}.")
    stated, _, begin = struct.unpack_from("<iii", head, 14)
    date, time = struct.unpack_from("<3h", head, 138), struct.unpack_from("<3h", head, 150)
    (num_leads,) = struct.unpack_from("<h", head, 156)
    leads, resolutions = struct.unpack_from("<12h", head, 158), struct.unpack_from("<12h", head, 206)
    (rate,) = struct.unpack_from("<h", head, 272)
    if not 0 < num_leads <= _MOST_LEADS or rate <= 0 or begin < _HEADER_BYTES or min(resolutions[:num_leads]) <= 0:
        raise ValueError(
            f"{path} cannot be read as a Holter ECG: it states {num_leads} leads at {rate} Hz and resolutions of"
            f" {resolutions[: max(num_leads, 0)]} nV."
        )
    held = max(path.stat().st_size - begin, 0) // (2 * num_leads)
    # Some recorders count the samples of all leads together.
    length = stated if stated <= held else stated // num_leads
    if not 0 < length <= held:
        raise ValueError(f"{path} states {stated:,} samples of {num_leads} leads, but holds {held:,}. Is it cut off?")

    def load(position: int) -> np.ndarray:
        stored = np.fromfile(path, "<i2", length * num_leads, offset=begin)
        return stored[position::num_leads] * (resolutions[position] / 1e6)

    names = [_LEADS.get(lead, f"ECG {position + 1}") for position, lead in enumerate(leads[:num_leads])]
    return SignalFile(
        str(path), names, [float(rate)] * num_leads, ["mV"] * num_leads, load, path.name, _start(date, time)
    )


def _start(date: tuple[int, ...], time: tuple[int, ...]) -> datetime | None:
    day, month, year = date
    hour, minute, second = time
    try:
        return datetime(year, month, day, hour, minute, second)
    except ValueError:
        return None
