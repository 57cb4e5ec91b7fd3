"""Reading WFDB records whose files may be spelled in another case, as on disks that do not tell cases apart."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import wfdb

from cmssl_hf.building.errors import DamagedRecordError, damaged_if_unreadable
from cmssl_hf.building.release_files import beside
from cmssl_hf.models.cmssl.recordings_cmssl import refuse_unsafe_header


def read_header(header: Path) -> wfdb.Record | wfdb.MultiRecord:
    """Reads a header; segments of a multi-segment record are not looked at.

    Raises:
        DamagedRecordError: if it cannot be read or should not be followed (see `refuse_unsafe_header`).
    """
    with spelled_for_wfdb(header) as record:
        return wfdb.rdheader(record)


def read_record(header: Path, without_date: bool = False, **options: Any) -> wfdb.Record:
    """Reads a record.

    Args:
        header: its header.
        without_date: whether to pass over time and date, which wfdb refuses where they are impossible.
        options: those of `wfdb.rdrecord`.

    Raises:
        DamagedRecordError: if it cannot be read or should not be followed (see `refuse_unsafe_header`).
    """
    with spelled_for_wfdb(header, without_date) as record:
        return wfdb.rdrecord(record, **options)


@contextlib.contextmanager
def spelled_for_wfdb(header: Path, without_date: bool = False) -> Iterator[str]:
    """Path, without extension, under which wfdb finds a record and the files that its header names.

    Raises:
        DamagedRecordError: if the header cannot be read or should not be followed, or whatever fails inside the block.
    """
    with damaged_if_unreadable(header), contextlib.ExitStack() as stack:
        refuse_unsafe_header(header)
        lines = header.read_text(encoding="ascii", errors="ignore").splitlines()
        first = next((number for number, line in enumerate(lines) if line.strip() and not line.startswith("#")), -1)
        dated = without_date and first >= 0 and len(lines[first].split()) > 4
        files = {name: beside(header, name) for name in _named_files(lines)}
        misspelled = header.suffix != ".hea" or any(file.name != name for name, file in files.items())
        if not dated and not misspelled:
            yield str(header.with_suffix(""))
            return
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        if dated:
            lines[first] = " ".join(lines[first].split()[:4])
        copy = Path(folder, f"{header.stem}.hea")
        copy.write_text("\n".join(lines) + "\n")
        for name, file in files.items():
            if file.is_file():
                _link(file.resolve(), copy.with_name(name))
        try:
            refuse_unsafe_header(copy)
            yield str(copy.with_suffix(""))
        except Exception as error:
            message = str(error).replace(folder, str(header.parent))
            raise DamagedRecordError(f"{header} cannot be read: {type(error).__name__}: {message}") from error


def _named_files(lines: list[str]) -> set[str]:
    """The signal files of a single-segment record."""
    content = [line.split() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not content or "/" in content[0][0]:
        return set()
    return {fields[0] for fields in content[1:] if fields[0] != "~"}


def _link(file: Path, link: Path) -> None:
    try:
        link.symlink_to(file)
    # Not every file system and user may link.
    except OSError:
        shutil.copy(file, link)
