"""`metadata.csv` and `metadata.jsonl` beside recordings: what they say of which file."""

import csv
import io
import json
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmssl_hf.building.errors import damaged_if_unreadable


#: Names of such files, whatever their case.
METADATA_FILES = ("metadata.csv", "metadata.jsonl")

_MISSING = {"", "nan", "na", "n/a", "null"}
_NAMED = 5


@dataclass(frozen=True)
class Row:
    """What is said of one file.

    Attributes:
        where: file and line, for messages.
        file_name: path relative to the folder of all recordings.
        values: the other cells by column: text, or what JSON holds; columns without a value are left out.
    """

    where: str
    file_name: str
    values: Mapping[str, Any]


def read_metadata(folder: Path, files: Iterable[Path]) -> list[Row]:
    """The rows of all metadata files; what they name lies relative to their own folder.

    Args:
        folder: of all recordings.
        files: the metadata files in it.

    Raises:
        ValueError: if one cannot be read, names no files, or a folder has two.
    """
    rows: list[Row] = []
    seen: dict[Path, Path] = {}
    for path in files:
        other = seen.setdefault(path.parent, path)
        if other != path:
            raise ValueError(f"{path.parent} has both {other.name} and {path.name}: keep one.")
        with damaged_if_unreadable(path):
            text = path.read_text(encoding="utf-8-sig")
        for number, values in (
            _rows_of_csv(path, text) if path.suffix.lower() == ".csv" else _rows_of_jsonl(path, text)
        ):
            where = f"{path}, line {number}"
            name = values.pop("file_name", None)
            if not isinstance(name, str):
                columns = ", ".join(values) or "nothing"
                raise ValueError(f"{where} names no file: a column `file_name` is needed. The line has {columns}.")
            relative = (path.parent.relative_to(folder) / name.replace("\\", "/")).as_posix()
            rows.append(Row(where, posixpath.normpath(relative), values))
    return rows


def _rows_of_csv(path: Path, text: str) -> Iterable[tuple[int, dict[str, Any]]]:
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True)
    names = [name.strip() for name in next(reader, [])]
    if len(set(names)) < len(names):
        raise ValueError(f"{path} has two columns of one name: {', '.join(names)}.")
    for cells in reader:
        if not any(cells):
            continue
        if len(cells) > len(names):
            raise ValueError(
                f"{path}, line {reader.line_num} has {len(cells)} cells, but there are {len(names)} columns."
            )
        values = {name: cell.strip() for name, cell in zip(names, cells) if cell.strip().lower() not in _MISSING}
        # Where cells are separated otherwise, commas are those of numbers.
        if separator != ",":
            values = {name: _with_decimal_point(cell) for name, cell in values.items()}
        yield reader.line_num, values


def _with_decimal_point(cell: str) -> str:
    number = cell.replace(",", ".", 1)
    try:
        float(number)
    except ValueError:
        return cell
    return number


def _rows_of_jsonl(path: Path, text: str) -> Iterable[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is no JSON: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f'{path}, line {number} is not of the form {{"file_name": ...}}.')
        values = {name: value.strip() if isinstance(value, str) else value for name, value in values.items()}
        yield (
            number,
            {
                name: value
                for name, value in values.items()
                if value is not None and value == value and not (isinstance(value, str) and value.lower() in _MISSING)
            },
        )


def match_rows(rows: Sequence[Row], recordings: Mapping[str, Path]) -> dict[str, Row]:
    """What is said of each recording.

    Args:
        rows: of all metadata.
        recordings: file of each, by its path relative to the folder, without extension.

    Raises:
        ValueError: if a row names no recording, or several may be meant, or two rows name the same; or if a recording is named
            by none.
    """
    by_name: dict[str, str] = {}
    for record_id, path in recordings.items():
        by_name[record_id.lower()] = by_name[f"{record_id}{path.name[len(Path(record_id).name) :]}".lower()] = (
            record_id
        )
    matched: dict[str, Row] = {}
    absent = []
    for row in rows:
        name = row.file_name.lower()
        record_id = by_name.get(name) or _of_wfdb(name, by_name, recordings)
        if record_id is None:
            absent.append(f"{row.file_name} ({row.where}{_elsewhere(name, by_name)})")
        elif record_id in matched:
            raise ValueError(f"{row.file_name} is named twice: {matched[record_id].where} and {row.where}.")
        else:
            matched[record_id] = row
    if absent:
        raise ValueError(f"The metadata name {len(absent)} recording(s) that are not there: {name_some(absent)}.")
    unnamed = [str(path) for record_id, path in recordings.items() if record_id not in matched]
    if unnamed:
        raise ValueError(
            f"{len(unnamed)} recording(s) of the folder are in no line of the metadata: {name_some(unnamed)}. Add lines with"
            " their `file_name`, or move them elsewhere."
        )
    return matched


def _of_wfdb(name: str, by_name: Mapping[str, str], recordings: Mapping[str, Path]) -> str | None:
    """The record whose signal file is named in place of its header."""
    record_id = by_name.get(posixpath.splitext(name)[0])
    return record_id if record_id is not None and recordings[record_id].suffix.lower() == ".hea" else None


def _elsewhere(name: str, by_name: Mapping[str, str]) -> str:
    places = [other for other in by_name if posixpath.basename(other) == posixpath.basename(name)]
    return f"; there is {' and '.join(places[:_NAMED])}: give the path" if places else ""


def name_some(names: Sequence[str]) -> str:
    """The first few of many names."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
