"""Tables of numbers in text files: their separator, decimal mark, header and units are found, or they are refused."""

import contextlib
import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Any, cast

import numpy as np

from .channels_cmssl import signal_words


#: Ends of the names of such files.
TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")

#: The start of a file, from which its form is found.
_HEAD_BYTES = 2**16
#: Lines of it by which a separator is judged, evenly spaced.
_JUDGED_LINES = 300
#: Separators of cells, the ones that mean nothing else first.
_SEPARATORS = ("\t", ";", "|", ",", " ")
#: Bytes to which a compressed file of any size may unpack, and for each of its bytes: numbers pack to a tenth.
_LARGEST_UNPACKED, _LARGEST_COMPRESSION = 2**26, 100
#: Stands for the separator of files of one column; no text has it.
_NO_SEPARATOR = "\x1f"

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
_TIME = re.compile(r"[\d.:/TZ+ -]*\d\d:\d\d(:\d\d([.,]\d*)?)?\S*|\d{1,4}([/.-])\d{1,2}\3\d{1,4}\b.*")
_MISSING = {"", "nan", "na", "n/a", "null", "none", "-", "inf", "-inf"}
_UNIT = re.compile(
    r"[\[(]?([nµuμm]?s|sec|seconds?|[nµuμm]?v|a\.?u\.?|n\.?u\.?|adc|counts?|hz|bpm|min|minutes?|h|hours?|mmhg|kpa|(deg|°)?c|%|g|units?|-|float|int|datetime)?[\])]?",
    re.IGNORECASE,
)
_COMMENT = ("#", "%", "//")
_STATED_RATE = re.compile(
    r"(?:\b(?:sampl\w*[ _-]*(?:rate|freq\w*)|fs|srate)\b|^\W*(?:rate|freq\w*)\b|\b(?:sampled|recorded|acquired) (?:at|with)\b)"
    r"\W{0,4}(?:\[?\(?hz\W{1,4})?(\d+(?:\.\d+)?)\s*(k?)(?:hz)?",
    re.IGNORECASE,
)
_STATED_INTERVAL = re.compile(
    r"\bsampl\w*[ _-]*(?:interval|period|time)\b\W{0,4}(?:\(?\[?([mµμu]?)s\W{1,4})?(\d+(?:\.\d+)?)\s*(?:([mµμu]?)s(?:ec\w*)?\b)?",
    re.IGNORECASE,
)
#: More cells than this share that hold another thing than a number, or nothing at all, make a column none of numbers.
_LARGEST_TEXT_SHARE, _LARGEST_MISSING_SHARE = 0.1, 0.5

#: Files of an Empatica E4 have two lines before the samples: the time of the first one in seconds since 1970, and the rate. What
#: they hold, only their names tell.
_E4_START = (1e9, 4e9)


@dataclass(frozen=True)
class TableFile:
    """The form of a file that holds a table.

    Attributes:
        path: of the file.
        names: of the columns; empty for one without a name.
        sampling_rate: rate in Hz that the file states in words, if it does.
        units: of the columns, from a line of their own; empty if there is none.
        description: the text in front of the header.
        separator: of the cells.
        decimal: mark of the numbers.
        num_lines: in front of the first row of numbers.
        encoding: of the text.
    """

    path: Path
    names: tuple[str, ...]
    sampling_rate: float | None
    separator: str
    decimal: str
    num_lines: int
    encoding: str
    units: tuple[str, ...] = ()
    description: str = ""

    def columns(self, positions: Sequence[int]) -> list[np.ndarray]:
        """Columns as numbers or, for those with texts in them, as texts.

        Raises:
            ValueError: if rows have more cells than the table has columns, or the file cannot be read.
        """
        pd, width = import_pandas(), len(self.names)
        try:
            # One more column than there are, for cells that would be left out without a word.
            table = pd.read_csv(
                _content(self.path),
                sep=r"\s+" if self.separator == " " else self.separator,
                decimal=self.decimal,
                header=None,
                names=range(width + 1),
                skiprows=self.num_lines,
                index_col=False,
                skipinitialspace=True,
                # An empty line among the samples of a single column is one that is missing.
                skip_blank_lines=width > 1,
                encoding=self.encoding,
                low_memory=False,
            )
        # Parsers of damaged files raise almost anything.
        except Exception as error:
            raise ValueError(f"{self.path} cannot be read as a table: {type(error).__name__}: {error}") from error
        if table[width].notna().any():
            row = int(np.argmax(table[width].notna()))
            raise ValueError(
                f"{self.path} has more cells in row {row + 1:,} of its numbers than the {width} of its columns."
            )
        return [table[position].to_numpy() for position in positions]


class _Bounded(io.RawIOBase):
    """What a compressed file unpacks to, up to a number of bytes."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self._file, self._limit, self._left = file, limit, limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._file.read(len(buffer))
        self._left -= len(content)
        if self._left < 0:
            raise ValueError(f"it unpacks to more than {self._limit:,} bytes.")
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()


def bounded(file: IO[bytes], packed_bytes: int) -> io.BufferedReader:
    """The content of a compressed file, whose reading raises `ValueError` where it unpacks to more than recordings do.

    Args:
        file: that unpacks.
        packed_bytes: size of the compressed file.
    """
    return io.BufferedReader(_Bounded(file, largest_unpacked(packed_bytes)), 2**16)


def largest_unpacked(packed_bytes: int) -> int:
    """Bytes to which recordings of that size unpack at most."""
    return max(_LARGEST_UNPACKED, _LARGEST_COMPRESSION * packed_bytes)


def _content(path: Path) -> Path | io.BufferedReader:
    if path.suffix.lower() != ".gz":
        return path
    return bounded(cast(IO[bytes], gzip.open(path)), path.stat().st_size)


def import_pandas() -> ModuleType:
    """pandas, which only those need who read tables."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError("Reading tables needs pandas: `pip install pandas`.") from error
    return pandas


def read_table(path: Path) -> TableFile:
    """Finds the form of a file; `TableFile.columns` reads it.

    Raises:
        ValueError: if it is not understood.
        FileNotFoundError: if there is no such file.
        ImportError: if pandas is not installed.
    """
    import_pandas()
    encoding, lines = _head(path)
    separator, rows, width = _split(lines)
    first = next(
        (i for i, cells in enumerate(rows) if _is_row(cells, width) and all(map(_is_data, rows[i : i + 2]))), None
    )
    if first is None:
        raise ValueError(f"{path} cannot be read as a table: its first {len(rows):,} lines hold no rows of numbers.")
    # Samples that are missing at the beginning are of the signal, too.
    while first and any(rows[first - 1]) and all(cell.lower() in _MISSING for cell in rows[first - 1]):
        first -= 1
    rates = {rate for line in lines[:first] if (rate := _stated_rate(line))}
    if len(rates) > 1:
        raise ValueError(f"{path} states several rates: {', '.join(f'{rate:g}' for rate in sorted(rates))} Hz.")
    rate = next(iter(rates), None)
    form: dict[str, Any] = {
        "separator": separator,
        "decimal": _decimal_mark(rows[first:], separator),
        "encoding": encoding,
    }
    # As pandas writes a table without names, with its index.
    if not rows[first][0] and rows[first][1:] == [str(number) for number in range(width - 1)]:
        return TableFile(path, tuple(rows[first]), rate, num_lines=first + 1, **form)
    names, units = _header(path, lines[:first], rows[:first], separator, width)
    form["description"] = " ".join(
        line for line, cells in zip(lines[:first], rows) if cells[:width] != list(names or ())
    )
    if names is None:
        return _without_header(path, rows, first, width, rate, form)
    return TableFile(path, names, rate, num_lines=first, units=units, **form)


def _stated_rate(line: str) -> float | None:
    if match := _STATED_RATE.search(line):
        return float(match[1]) * (1000 if match[2] else 1)
    if (match := _STATED_INTERVAL.search(line)) and float(match[2]):
        unit = (match[1] or match[3] or "").lower()
        return round({"": 1, "m": 1e3}.get(unit, 1e6) / float(match[2]), 6)
    return None


def _head(path: Path) -> tuple[str, list[str]]:
    """Encoding and the first lines."""
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            content = file.read(_HEAD_BYTES)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no file {path}.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif b"\0" in content:
        raise ValueError(f"{path} cannot be read as a table: it is no text.")
    else:
        try:
            # A character may be cut in two.
            content[: content.rfind(b"\n") + 1 or None].decode("utf-8")
            encoding = "utf-8-sig"
        except UnicodeDecodeError:
            encoding = "cp1252"
    text = content[: len(content) // 2 * 2].decode(encoding, errors="replace")
    lines = re.split(r"\r\n|\r|\n", text)
    if len(content) == _HEAD_BYTES and len(lines) > 1:
        lines.pop()
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise ValueError(f"{path} cannot be read as a table: it is empty.")
    return encoding, lines


def _split(lines: list[str]) -> tuple[str, list[list[str]], int]:
    """The separator, the cells of all lines, and the number of columns, judged from lines of the second half."""
    tail = range(len(lines) // 2, len(lines), 1 + len(lines) // (2 * _JUDGED_LINES))
    for separator in _SEPARATORS:
        if separator != " " and not any(separator in lines[i] for i in tail):
            continue
        rows = _cells(lines, separator)
        lengths = Counter(len(rows[i]) for i in tail if rows[i])
        length, count = max(lengths.items(), key=lambda item: item[1], default=(0, 0))
        if length < 2 or count < 0.9 * lengths.total() or np.mean([_is_data(rows[i]) for i in tail]) <= 0.5:
            continue
        if separator != "," or length > 2 or not _is_decimal_comma(lines, rows, tail):
            break
    else:
        separator, rows, length = _NO_SEPARATOR, _cells(lines, _NO_SEPARATOR), 1
    # A separator may stand behind the last cell, and a cell may be empty in most rows.
    return separator, rows, max((_width(cells) for cells in rows[tail.start :] if len(cells) == length), default=0)


def _cells(lines: list[str], separator: str) -> list[list[str]]:
    if separator == " ":
        return [line.split() for line in lines]
    rows = []
    for line in lines:
        cells = line.split(separator) if line else []
        if '"' in line:
            with contextlib.suppress(csv.Error):
                cells = next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
        rows.append([cell.strip() for cell in cells])
    return rows


def _is_decimal_comma(lines: list[str], rows: list[list[str]], tail: range) -> bool:
    """Whether lines with one comma are numbers of one column: its header has none."""
    if not all(_DECIMAL_COMMA.fullmatch(lines[i].strip()) or _NUMBER.fullmatch(lines[i].strip()) for i in tail):
        return False
    header = [
        i for i, cells in enumerate(rows) if not _is_data(cells) and any(cells) and not lines[i].startswith(_COMMENT)
    ]
    return bool(header) and len(rows[header[-1]]) == 1


def _decimal_mark(rows: list[list[str]], separator: str) -> str:
    """The mark with which pandas reads the numbers at once; `as_numbers` looks at what that leaves as text."""
    cells = [cell for cells in rows for cell in cells]
    commas = [cell for cell in cells if "," in cell and _DECIMAL_COMMA.fullmatch(cell)]
    points = any("." in cell and _NUMBER.fullmatch(cell) for cell in cells)
    return "," if separator != "," and not points and not all(map(_THOUSANDS.fullmatch, commas)) else "."


def _width(cells: list[str]) -> int:
    """Number of cells up to the last one with something in it."""
    return max((i + 1 for i, cell in enumerate(cells) if cell), default=0)


def _is_row(cells: list[str], width: int) -> bool:
    return 0 < _width(cells) <= width


def _is_data(cells: list[str]) -> bool:
    """Whether a line is one of numbers and times: nothing but them, or most of it and at least one number."""
    given = [cell for cell in cells if cell]
    known = [bool(_NUMBER.fullmatch(c) or _DECIMAL_COMMA.fullmatch(c) or _TIME.fullmatch(c)) for c in given]
    return any(known) and sum(known) + sum(cell.lower() in _MISSING for cell in given) > len(given) / 2


def _header(
    path: Path, lines: list[str], rows: list[list[str]], separator: str, width: int
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Names of the columns, if there are, and their units: the last line in front of the numbers that is neither a comment nor
    one of units, and that one. A comment is one of names if it has as many cells, as numpy writes it."""
    units: tuple[str, ...] = ()
    texts = [cells for line, cells in zip(lines, rows) if any(cells) and not line.lstrip().startswith(_COMMENT)]
    if len(texts) > 1 and all(_UNIT.fullmatch(cell) for cell in texts[-1]):
        units = tuple(texts.pop())
    if texts:
        names = texts[-1]
        if not width <= len(names) or any(names[width:]):
            raise ValueError(
                f"{path} cannot be read as a table: its header names {_width(names)} columns ({', '.join(names)[:80]}), but its rows"
                f" have {width} cells. Are its decimal marks commas like its separator?"
            )
        return tuple(names[:width]), units
    comments = [line.lstrip(" #%/").strip() for line in lines if line.strip()]
    if comments:
        (cells,) = _cells(comments[-1:], separator)
        named = not any(map(_NUMBER.fullmatch, cells)) and "{" not in comments[-1]
        if len(cells) == width and named and (width > 1 or re.fullmatch(r"\w+( ?[\[(]\S*[\])])?", cells[0])):
            return tuple(cells), ()
    return None, ()


def _without_header(path, rows, first, width, rate, form) -> TableFile:
    """A column without a name, or a file of an Empatica E4."""
    stem = path.name.split(".")[0]
    start = [float(row[0]) for row in rows[first : first + 2] if _NUMBER.fullmatch(row[0])]
    if width > 1:
        raise ValueError(
            f"{path} has no header that names its {width} columns; add one, or save the signal's column alone."
        )
    if len(start) == 2 and _E4_START[0] <= start[0] < _E4_START[1] and 0 < start[1] <= 1024:
        name = " ".join(signal_words(stem)[-1:]).upper() or f"Empatica E4 {stem}"
        return TableFile(path, (name,), start[1], num_lines=first + 2, **form)
    return TableFile(path, ("",), rate, num_lines=first, **form)


def as_numbers(values: np.ndarray, name: str) -> np.ndarray:
    """Samples of a column; cells that hold no number become NaN.

    Args:
        values: numbers or texts, with decimal points or commas.
        name: what messages call the column.

    Raises:
        ValueError: if too many cells hold no number, or commas can be decimal marks as well as separators of thousands.
    """
    cells: Any = values
    if values.dtype.kind in "iuf":
        numbers, texts = values.astype(np.float64), np.zeros(len(values), dtype=bool)
    else:
        pd = import_pandas()
        cells = pd.Series(values).fillna("").astype(str).str.strip()
        commas = cells.str.contains(",", regex=False)
        if commas.any():
            others = pd.to_numeric(cells[~commas], errors="coerce").notna().any()
            if others and cells[commas].str.fullmatch(_THOUSANDS).all():
                raise ValueError(
                    f"{name}: the comma of {cells[commas].iloc[0]!r} can be a decimal mark or one of thousands."
                )
            cells = cells.where(
                ~commas | cells.str.contains(".", regex=False), cells.str.replace(",", ".", regex=False)
            )
        numbers = pd.to_numeric(cells, errors="coerce").to_numpy(np.float64)
        texts = np.isnan(numbers) & ~cells.str.lower().isin(_MISSING).to_numpy()
    missing = np.isnan(numbers)
    if texts.sum() > _LARGEST_TEXT_SHARE * len(texts):
        example = cells[np.argmax(texts)]
        raise ValueError(
            f"{name}: {texts.sum():,} of {len(texts):,} cells hold no number, the first {example[:40]!r}."
        )
    if missing.sum() > _LARGEST_MISSING_SHARE * len(missing):
        raise ValueError(f"{name}: {missing.sum():,} of {len(missing):,} cells hold no number; keep the rows that do.")
    return numbers


__all__ = ["TABLE_SUFFIXES", "TableFile", "as_numbers", "bounded", "import_pandas", "read_table"]
