"""Which files of those that a command is given are recordings."""

import fnmatch
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..models.cmssl.tables_cmssl import TABLE_SUFFIXES
from ..recordings.reading import FORMATS


#: Ends of names that are taken for recordings where a folder is given; a file that is named itself is read whatever its name.
RECORDING_SUFFIXES = (".hea", *TABLE_SUFFIXES, ".parquet", ".edf", ".bdf", ".dcm", ".ecg", ".xml", ".zip")


def recordings_in(paths: Iterable[str], pattern: str | None = None) -> Iterator[str]:
    """The given files, and for each folder those in it and below it that look like recordings, in the order of their names. A folder
    that is a recording itself, as those of an Empatica E4 are, counts as a file.

    Args:
        paths: files and folders.
        pattern: which names in folders, such as `"*.csv"`; those with one of `RECORDING_SUFFIXES` if left out.
    """
    for path in paths:
        if not Path(path).is_dir():
            yield path
            continue
        for folder, subfolders, names in os.walk(path):
            if any(known.recognises(Path(folder), b"") for known in FORMATS):
                subfolders.clear()
                yield folder
                continue
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            yield from (str(Path(folder, name)) for name in sorted(names) if _is_wanted(name, pattern))


def _is_wanted(name: str, pattern: str | None) -> bool:
    if pattern is not None:
        return fnmatch.fnmatch(name, pattern)
    return name.lower().endswith(RECORDING_SUFFIXES) and not name.startswith(".")
