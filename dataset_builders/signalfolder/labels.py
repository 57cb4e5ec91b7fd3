"""What the columns of metadata say that there is to predict: numbers, classes, or several classes at once."""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets

from .metadata import Row, name_some


PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")

#: More classes than these are those of another column, unless the type of problem is given.
MOST_CLASSES = 100
_SEPARATORS = "|;"
_TRUTH = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class Labels:
    """What is predicted.

    Attributes:
        problem_type: as in `transformers`.
        names: classes, or names of the numbers.
        values: by row a number, an index of a class, or one number per name; `None` where there is none.
    """

    problem_type: str
    names: tuple[str, ...]
    values: list[Any]

    @property
    def feature(self) -> Any:
        """Of the column in which they stand."""
        if self.problem_type == "single_label_classification":
            return datasets.ClassLabel(names=list(self.names))
        number = datasets.Value("float32")
        is_one = self.problem_type == "regression" and len(self.names) == 1
        return number if is_one else datasets.Sequence(number)


def find_labels(rows: Sequence[Row], columns: Sequence[str], problem_type: str | None = None) -> Labels:
    """Reads labels out of metadata.

    One column of numbers is a regression, unless there are only 0 and 1; texts, truth values, 0 and 1 are classes; lists, and texts
    like `AF|PVC` or `AF;PVC`, are several classes at once. Several columns of numbers are a regression with several outputs or, if
    there are only 0 and 1, several classes that are called after the columns.

    Args:
        rows: of the metadata.
        columns: that are predicted.
        problem_type: one of `PROBLEM_TYPES`, if the values do not tell.

    Raises:
        ValueError: if there is no such column, its values are of several kinds, or there are too many classes.
    """
    if problem_type not in (None, *PROBLEM_TYPES):
        raise ValueError(f"`problem_type` must be one of {', '.join(PROBLEM_TYPES)}, but is {problem_type!r}.")
    known = list(dict.fromkeys(name for row in rows for name in row.values))
    for column in columns:
        if column not in known:
            near = difflib.get_close_matches(column, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"The metadata have no column {column!r} with values; they have {', '.join(known)}.{hint}"
            )
    if len(columns) > 1:
        return _of_several(rows, columns, problem_type)
    (column,) = columns
    cells = [row.values.get(column) for row in rows]
    given = [cell for cell in cells if cell is not None]
    numeric = [cell for cell in given if _number(cell) is not None]
    kind = problem_type or _kind(given, len(numeric))
    if kind == "regression":
        return Labels(kind, (column,), [_number_in(row, column) for row in rows])
    if kind == "multi_label_classification":
        sets = [None if cell is None else _parts(cell) for cell in cells]
        names = _classes({part for parts in sets if parts for part in parts}, column, problem_type)
        return Labels(
            kind, names, [None if parts is None else [float(name in parts) for name in names] for parts in sets]
        )
    texts = [None if cell is None else _text(cell) for cell in cells]
    names = _classes({text for text in texts if text is not None}, column, problem_type)
    return Labels(kind, names, [None if text is None else names.index(text) for text in texts])


def _of_several(rows: Sequence[Row], columns: Sequence[str], problem_type: str | None) -> Labels:
    if problem_type == "single_label_classification":
        raise ValueError(f"One of several classes stands in one column, but `label` names {', '.join(columns)}.")
    values = [
        None if any(row.values.get(column) is None for column in columns) else [_number_in(row, c) for c in columns]
        for row in rows
    ]
    binary = {number for numbers in values if numbers for number in numbers} == {0.0, 1.0}
    return Labels(problem_type or ("multi_label_classification" if binary else "regression"), tuple(columns), values)


def _kind(cells: Sequence[Any], num_numeric: int) -> str:
    if any(isinstance(cell, list) or (isinstance(cell, str) and set(cell) & set(_SEPARATORS)) for cell in cells):
        return "multi_label_classification"
    # Most of a column of numbers with a slip in it are numbers.
    if 2 * num_numeric > len(cells):
        numbers = {_number(cell) for cell in cells}
        return "single_label_classification" if numbers <= {0.0, 1.0} else "regression"
    return "single_label_classification"


def _number(cell: Any) -> float | None:
    if isinstance(cell, (list, dict)):
        return None
    try:
        number = _TRUTH[cell.lower()] if isinstance(cell, str) and cell.lower() in _TRUTH else float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _number_in(row: Row, column: str) -> float | None:
    cell = row.values.get(column)
    if cell is None:
        return None
    number = _number(cell)
    if number is None:
        raise ValueError(
            f"{row.where}, column {column!r}: {cell!r} is not a number, as the others are. Leave the cell empty where it is not"
            " known."
        )
    return number


def _text(cell: Any) -> str:
    return str(cell).lower() if isinstance(cell, bool) else str(cell)


def _parts(cell: Any) -> set[str]:
    if isinstance(cell, list):
        return {_text(part) for part in cell}
    for separator in _SEPARATORS[1:]:
        cell = str(cell).replace(separator, _SEPARATORS[0])
    return {part.strip() for part in cell.split(_SEPARATORS[0]) if part.strip()}


def _classes(texts: set[str], column: str, problem_type: str | None) -> tuple[str, ...]:
    if len(texts) > MOST_CLASSES and problem_type is None:
        raise ValueError(
            f"The column {column!r} holds {len(texts):,} different texts, such as {name_some(sorted(texts))}: are these classes? If"
            f" they are, say so with `problem_type`; more than {MOST_CLASSES} are not taken for classes otherwise."
        )
    by_small_letters: dict[str, str] = {}
    for text in sorted(texts):
        if other := by_small_letters.get(text.lower()):
            raise ValueError(f"The column {column!r} holds {other!r} and {text!r}, which differ in their case only.")
        by_small_letters[text.lower()] = text
    numbers = {text: _number(text) for text in texts}
    # Classes that are numbers in the order of these.
    return tuple(sorted(texts, key=lambda text: text if None in numbers.values() else numbers[text]))
