"""Sessions of an Empatica E4: a folder or zip file with a text file for each sensor."""

import io
import zipfile
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from cmssl_hf.models.cmssl.files_cmssl import SignalFile
from cmssl_hf.models.cmssl.tables_cmssl import as_numbers, bounded, import_pandas


#: Names and unit of what the files hold, by the `info.txt` of the maker. `HR.csv` and `IBI.csv` are computed from the BVP.
_SENSORS = {
    "BVP": (("BVP",), ""),
    "ACC": (("ACC_X", "ACC_Y", "ACC_Z"), "1/64 g"),
    "EDA": (("EDA",), "uS"),
    "TEMP": (("TEMP",), "degC"),
}
#: Seconds since 1970 of the first sample, and Hz.
_STARTS, _RATES = (1e9, 4e9), (0, 1024)
#: A file that begins later than the others is filled in front.
_LARGEST_DELAY = 86400.0

Opener = Callable[[str], IO[bytes]]


def recognises(path: Path, head: bytes) -> bool:
    if path.is_dir():
        return any((path / f"{sensor}.csv").is_file() for sensor in _SENSORS)
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06")) or path.suffix.lower() == ".zip"


def open_empatica(path: Path) -> SignalFile:
    """Reads the two lines in front of the samples of each file: the time of the first one, and the rate.

    Raises:
        ValueError: if it is damaged, encrypted, or another kind of zip file.
    """
    if path.is_dir():
        held = [sensor for sensor in _SENSORS if (path / f"{sensor}.csv").is_file()]
        return _session(path, held, lambda sensor: (path / f"{sensor}.csv").open("rb"))
    members = _members(path)

    def open_member(sensor: str) -> IO[bytes]:
        try:
            with zipfile.ZipFile(path) as archive:
                # What it states of its size is not trusted.
                return bounded(archive.open(members[sensor]), path.stat().st_size)
        except Exception as error:
            raise ValueError(f"{path} cannot be read: {error}") from error

    return _session(path, list(members), open_member)


def _members(path: Path) -> dict[str, zipfile.ZipInfo]:
    """The members of a zip file that are files of sensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    # Parsers of damaged files raise almost anything.
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a zip file: {error}") from error
    members: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        name = PurePosixPath(entry.filename)
        if name.suffix != ".csv" or name.stem not in _SENSORS or name.name.startswith("._"):
            continue
        if name.stem in members:
            raise ValueError(
                f"{path} holds several sessions: {members[name.stem].filename}, {entry.filename}. Unpack it."
            )
        if entry.flag_bits & 1:
            raise ValueError(f"{path} is encrypted; unpack it.")
        members[name.stem] = entry
    if not members:
        raise ValueError(
            f"{path} is a zip file (or a spreadsheet), but no session of an Empatica E4: unpack it, or save as CSV."
        )
    return {sensor: members[sensor] for sensor in _SENSORS if sensor in members}


def _session(path: Path, sensors: list[str], open_sensor: Opener) -> SignalFile:
    names: list[str] = []
    units: list[str] = []
    rates: list[float] = []
    starts: list[float] = []
    sources: list[tuple[str, int, float]] = []
    for sensor in sensors:
        columns, unit = _SENSORS[sensor]
        start, rate = _header(f"{path}, {sensor}.csv", open_sensor, sensor)
        names += columns
        rates += [rate] * len(columns)
        units += [unit] * len(columns)
        sources += [(sensor, column, start) for column in range(len(columns))]
        starts.append(start)
    first = min(starts)
    if max(starts) - first > _LARGEST_DELAY:
        raise ValueError(f"{path}: its files begin more than a day apart.")

    def load(position: int) -> np.ndarray:
        sensor, column, start = sources[position]
        samples = _samples(f"{path}, {sensor}.csv", open_sensor, sensor, column)
        return np.concatenate((np.full(round((start - first) * rates[position]), np.nan), samples))

    return SignalFile(str(path), names, rates, units, load, start=datetime.fromtimestamp(first, timezone.utc))


def _header(where: str, open_sensor: Opener, sensor: str) -> tuple[float, float]:
    try:
        with io.TextIOWrapper(open_sensor(sensor), "ascii") as file:
            start, rate = (float(file.readline(200).split(",")[0]) for _ in range(2))
    # Parsers of damaged files raise almost anything.
    except Exception as error:
        raise ValueError(f"{where} cannot be read: {error}") from error
    if not (_STARTS[0] <= start < _STARTS[1] and _RATES[0] < rate <= _RATES[1]):
        raise ValueError(f"{where} does not begin with a time and a rate, but {start:g} and {rate:g}.")
    return start, rate


def _samples(where: str, open_sensor: Opener, sensor: str, column: int) -> np.ndarray:
    pd = import_pandas()
    try:
        with open_sensor(sensor) as file:
            width = len(_SENSORS[sensor][0])
            # One more column than there are, for cells that would be left out without a word.
            table = pd.read_csv(
                file,
                header=None,
                names=range(width + 1),
                skiprows=2,
                skipinitialspace=True,
                skip_blank_lines=False,
                index_col=False,
            )
    # Parsers of damaged files raise almost anything.
    except Exception as error:
        raise ValueError(f"{where} cannot be read: {type(error).__name__}: {error}") from error
    if table[width].notna().any():
        raise ValueError(f"{where} has rows with more than {width} cells.")
    return as_numbers(table[column].to_numpy(), where)
