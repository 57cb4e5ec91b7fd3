"""A table on disk that grows row by row and survives interruptions."""

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO


class Table:
    """Rows of recordings, which are one JSON object a line in `<path>.partial` until the table is finished. If that file is
    there already, of the same command, its recordings are `done`, but for the last one, of which rows may be missing.

    Args:
        path: of the table: `.csv`, `.parquet`, `.json` (a list of objects) or `.jsonl` (an object a line).
        command: what must be the same for two runs to continue each other; JSON-serialisable.

    Raises:
        ValueError: if the suffix is another one, `path` is a folder, or `<path>.partial` is of another command.
        ImportError: if it is Parquet, and pyarrow is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], command: Mapping[str, Any]):
        self.path = Path(path)
        self.partial = self.path.with_name(f"{self.path.name}.partial")
        if self.path.suffix not in _WRITERS:
            raise ValueError(f"A table is written as {', '.join(_WRITERS)}, but {self.path} ends in none of them.")
        if self.path.is_dir():
            raise ValueError(f"{self.path} is a folder: no table can be written in its place.")
        if self.path.suffix == ".parquet":
            _import_pyarrow()
        self.done: set[str] = set()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        header = json.dumps({"command": command})
        if self.partial.exists():
            self._continue(header)
        else:
            self.partial.write_text(f"{header}\n", encoding="utf-8")
        self._file: TextIO = self.partial.open("a", encoding="utf-8")

    def _continue(self, header: str) -> None:
        last, begin, end = None, 0, 0
        with self.partial.open("rb") as file:
            if file.readline().decode("utf-8", errors="replace").rstrip("\n") != header:
                raise ValueError(
                    f"{self.partial} is of another command that was interrupted: give that one again, which continues it, or"
                    " delete the file."
                )
            begin = end = file.tell()
            for line in file:
                try:
                    name = json.loads(line)["file"] if line.endswith(b"\n") else None
                except ValueError:
                    name = None
                if name is None:
                    break
                if name != last:
                    self.done.update([] if last is None else [last])
                    last, begin = name, end
                end += len(line)
        os.truncate(self.partial, begin)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes the rows of one recording, each with its `file`."""
        self._file.write("".join(f"{json.dumps(row)}\n" for row in rows))
        self._file.flush()

    def finish(self) -> None:
        """Writes the table in the place of an older one."""
        self._file.close()
        written = self.path.with_name(f"{self.path.name}.writing")
        _WRITERS[self.path.suffix](self.rows, written)
        os.replace(written, self.path)
        self.partial.unlink()

    def abandon(self) -> bool:
        """Leaves what there is for another run to continue, and says whether there is anything."""
        self._file.close()
        has_rows = next(self.rows(), None) is not None
        if not has_rows:
            self.partial.unlink()
        return has_rows

    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows that were added, as they are on disk."""
        with self.partial.open(encoding="utf-8") as file:
            next(file)
            yield from map(json.loads, file)


_Rows = Callable[[], Iterator[dict[str, Any]]]


def _column_names(rows: _Rows) -> list[str]:
    return list(dict.fromkeys(name for row in rows() for name in row))


def _write_csv(rows: _Rows, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _column_names(rows))
        writer.writeheader()
        writer.writerows(rows())


def _write_json(rows: _Rows, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        separator = "[\n"
        for row in rows():
            file.write(f"{separator}{json.dumps(row)}")
            separator = ",\n"
        file.write("\n]\n" if separator == ",\n" else "[]\n")


def _write_json_lines(rows: _Rows, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in rows())


def _write_parquet(rows: _Rows, path: Path) -> None:
    pa, parquet = _import_pyarrow()
    types: dict[str, set[type]] = {}
    for row in rows():
        for name, value in row.items():
            types.setdefault(name, set()).update([] if value is None else [type(value)])
    arrow = {frozenset([int]): pa.int64(), frozenset([bool]): pa.bool_()}
    arrow |= dict.fromkeys((frozenset([float]), frozenset([int, float])), pa.float64())
    schema = pa.schema([(name, arrow.get(frozenset(kinds), pa.string())) for name, kinds in types.items()])
    with parquet.ParquetWriter(path, schema) as writer:
        for batch in _batches(rows(), 10_000):
            writer.write_table(pa.Table.from_pylist(batch, schema))


def _batches(rows: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    yield batch


def _import_pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("Writing Parquet needs pyarrow: `pip install pyarrow`.") from error
    return pyarrow, pyarrow.parquet


_WRITERS: dict[str, Callable[[_Rows, Path], None]] = {
    ".csv": _write_csv,
    ".parquet": _write_parquet,
    ".json": _write_json,
    ".jsonl": _write_json_lines,
}
