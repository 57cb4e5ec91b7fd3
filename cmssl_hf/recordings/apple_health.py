"""ECGs that Apple Health exports (`electrocardiograms/ecg_*.csv`), in any language."""

import re
from datetime import datetime
from pathlib import Path

import numpy as np

from cmssl_hf.models.cmssl.files_cmssl import SignalFile


#: Words of each language, in front of which the rate stands: "512 hertz", "511,886 Hertz", "512 hercios".
_RATE = re.compile(r"(\d+(?:[.,]\d+)?)\s*([^\W\d]+)")
_UNIT = re.compile(r"[µμu]V|mV")
_DATE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}")
_SAMPLE = re.compile(r"-?\d+(?:[.,]\d+)?(?:[eE][+-]?\d+)?")
#: The samples follow these lines: name and date of birth, which are not read, date, class, symptoms, versions, rate, lead, unit.
_MOST_HEADER_LINES = 40


def recognises(path: Path, head: bytes) -> bool:
    if b"\0" in head or path.suffix.lower() != ".csv":
        return False
    lines = head.decode("utf-8-sig", errors="replace").splitlines()
    header = _header(lines)
    if header is None or header[0] is None:
        return False
    # Other files have such lines in front of a table.
    samples = [line.strip().strip('",; ') for line in lines[header[-1] :] if line.strip()]
    return not samples or _SAMPLE.fullmatch(samples[0]) is not None


def open_apple_health(path: Path) -> SignalFile:
    """Reads the samples of lead I, at the rate that the watch measured.

    Raises:
        ValueError: if the file holds no samples, or something else between them.
    """
    lines = path.read_text("utf-8-sig", errors="replace").splitlines()
    header = _header(lines)
    if header is None or header[0] is None:
        raise ValueError(f"{path} cannot be read as an ECG of Apple Health: it states no rate.")
    rate, unit, lead, start, first = header
    cells = [line.strip().strip('",; ') for line in lines[first:] if line.strip()]
    if not cells:
        raise ValueError(f"{path} holds no samples.")
    for number, cell in enumerate(cells):
        if not _SAMPLE.fullmatch(cell):
            raise ValueError(f"{path}: sample {number + 1:,} is no number, but {cell[:40]!r}.")
    samples = np.array([cell.replace(",", ".") for cell in cells], np.float64)
    return SignalFile(str(path), [lead], [rate], [unit], lambda _: samples, "ECG", start)


def _header(lines: list[str]) -> tuple[float | None, str, str, datetime | None, int] | None:
    """Rate, unit, lead, start, and the number of lines in front of the samples; `None` for another kind of file."""
    rate: float | None = None
    start: datetime | None = None
    lead = "I"
    for number, line in enumerate(lines[:_MOST_HEADER_LINES]):
        value = line.partition(",")[2].strip().strip('"')
        if "," not in line:
            continue
        if match := _RATE.fullmatch(value):
            rate = float(match[1].replace(",", "."))
        elif _UNIT.fullmatch(value):
            return rate, value, lead, start, number + 1
        elif _DATE.fullmatch(value):
            start = datetime.strptime(value, "%Y-%m-%d %H:%M:%S %z")
        # "Lead I", "Ableitung I", "I誘導"
        elif rate and (match := re.fullmatch(r"(?:[^\W\d_]+[\s-]+)?(I{1,3})(?:\W.*|[^\W\da-zA-Z]+)?", value)):
            lead = match[1]
    return None
