"""Answers of pipelines as rows of a table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


_NOT_COLUMNS = ("windows", "recording")


def answer_rows(answer: Mapping[str, Any], per_window: bool) -> list[dict[str, Any]]:
    """The rows of one recording: one for each of its windows, or one for all of it; none if it has no windows."""
    if not answer["windows"]:
        return []
    rows: list[dict[str, Any]] = []
    for one in answer["windows"] if per_window else [answer]:
        columns = [_columns(name, value) for name, value in one.items() if name not in _NOT_COLUMNS]
        rows.append({name: cell for cells in columns for name, cell in cells.items()})
    return rows


def _columns(name: str, value: Any) -> dict[str, Any]:
    """An entry of an answer as columns. Names of labels stand for their values, other mappings get a column for each of theirs,
    pairs are an interval, and lists of words become one text."""
    if isinstance(value, Mapping):
        parts = {str(key) if name == "value" else f"{name}_{key}": part for key, part in value.items()}
        return {column: cell for key, part in parts.items() for column, cell in _columns(key, part).items()}
    if value is None:
        return {}
    if isinstance(value, str):
        return {name: value}
    if isinstance(value, (Sequence, np.ndarray)):
        if all(isinstance(part, str) for part in value):
            return {name: ";".join(value)}
        if name == "value":
            name = "feature"
        elif len(value) == 2:
            return {f"{name}_low": _number(value[0]), f"{name}_high": _number(value[1])}
        return {f"{name}_{index}": _number(part) for index, part in enumerate(value)}
    return {name: _number(value)}


def _number(value: Any) -> Any:
    """A number that JSON knows; what is not finite is missing."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    return None if value is None or not np.isfinite(value) else float(value)
