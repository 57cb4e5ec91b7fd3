"""CSV tables of releases. A cell that does not hold what its column should is named by file, row and column."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cmssl_hf.building.errors import DamagedRecordError, damaged_if_unreadable


def read_table(path: Path, columns: Mapping[str, type | None], header: bool = True) -> pd.DataFrame:
    """Reads columns of a CSV file, with or without a byte order mark and with the line ends of any system.

    Args:
        path: the file.
        columns: for each column that is read `float` (NaN where a cell is empty), `int` (none is empty), `str` (none is empty),
            or `None`, text that may be missing. Spaces around names and texts do not count.
        header: whether the first row names the columns; else they are `columns`, in this order.

    Raises:
        DamagedRecordError: if the file cannot be read, lacks a column, or a cell is something else.
    """
    names = None if header else [*columns]
    with damaged_if_unreadable(path):
        table = pd.read_csv(
            path, dtype=str, encoding="utf-8-sig", index_col=False, header="infer" if header else None, names=names
        ).rename(columns=str.strip)
    missing = [name for name in columns if name not in table]
    if missing:
        raise DamagedRecordError(f"{path} has no column {', '.join(missing)}; it has {', '.join(table.columns)}.")
    return pd.DataFrame(
        {name: _converted(table[name], kind, path, name, header) for name, kind in columns.items()}, index=table.index
    )


def damaged_cell(path: Path, position: int, column: str, problem: str, header: bool = True) -> DamagedRecordError:
    """The error about the cell at `position` (from 0) of a column: rows are counted from 1 and the header is one."""
    return DamagedRecordError(f"{path}, row {position + 1 + header}, column `{column}`: {problem}.")


def _converted(column: pd.Series, kind: type | None, path: Path, name: str, header: bool) -> np.ndarray:
    cells = column.str.strip().to_numpy(dtype=object, na_value=np.nan)
    if kind is None:
        return cells
    if kind is str:
        empty = np.flatnonzero([cell is np.nan or cell == "" for cell in cells])
        if len(empty):
            raise damaged_cell(path, empty[0], name, "the cell is empty", header)
        return cells
    try:
        numbers = cells.astype(np.float64)
    except ValueError:
        position = next(i for i, cell in enumerate(cells) if not _is_number(cell))
        raise damaged_cell(path, position, name, f"{cells[position]!r} is not a number", header) from None
    if kind is float:
        return numbers
    return whole_numbers(pd.Series(numbers, column.index, name=name), path, header)


def whole_numbers(column: pd.Series, path: Path, header: bool = True) -> np.ndarray:
    """Numbers of a column from `read_table` as int64.

    Raises:
        DamagedRecordError: if one is not a whole number.
    """
    numbers = column.to_numpy()
    wrong = np.flatnonzero(~(np.isfinite(numbers) & (numbers == np.round(numbers)) & (np.abs(numbers) < 2.0**63)))
    if len(wrong):
        value = numbers[wrong[0]]
        problem = "the cell is empty" if math.isnan(value) else f"{value:g} is not a whole number"
        raise damaged_cell(path, column.index[wrong[0]], str(column.name), problem, header)
    return numbers.astype(np.int64)


def _is_number(cell: Any) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
