"""Files and tables that a run leaves for people: predictions, the summary over runs, result tables."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset

from ..tasks import Task


def save_predictions(
    path: Path, windows: Dataset, predictions: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> None:
    """Writes one row per test window: where it comes from, its label(s), and what the model predicts.

    Args:
        path: of the CSV.
        windows: the test windows.
        predictions: `(windows, outputs)`, in physical units or one logit per class.
        labels: `(windows,)` or `(windows, outputs)`.
        names: of the outputs; a single one is left out of the column names.
    """
    table = windows.select_columns(["subject_id", "record_id", "start_time"]).to_pandas()
    for column, values in (("label", labels), ("prediction", predictions)):
        values = values.reshape(len(table), -1)
        columns = [column] if values.shape[1] == 1 else [f"{column}_{name}" for name in names]
        table = pd.concat([table, pd.DataFrame(values, columns=columns)], axis=1)
    table.to_csv(path, index=False)


def append_summary(path: str | Path, row: Mapping[str, Any]) -> None:
    """Appends one row to the CSV of all runs; metrics that earlier rows do not have become new columns."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = pd.DataFrame([{"finished": datetime.now(timezone.utc).isoformat(timespec="seconds"), **row}])
    if path.exists():
        # As text, so that what is there stays as it was written.
        rows = pd.concat([pd.read_csv(path, dtype=str, keep_default_na=False), rows])
    temporary = path.with_name(f".{path.name}.tmp")
    rows.to_csv(temporary, index=False)
    temporary.replace(path)


def result_table(task: Task, results: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown table with one row per method and one column per metric."""
    title = f"{task.name}, test subjects" + (f" ({task.unit})" if task.unit else "")
    table = pd.DataFrame(results).T
    table.index.name = title
    return table.to_markdown(floatfmt=".3f")


def verdict(task: Task, results: Mapping[str, Mapping[str, float]]) -> str:
    """One sentence on which row is best by the task's metric, and what the rows without training are."""
    metric = task.metric_for_best_model
    best = (max if task.greater_is_better else min)(results, key=lambda row: results[row][metric])
    others = {"constant": "always the same, from the training labels", task.classical_method: "classical, no training"}
    notes = "; ".join(f"{row}: {others[row]}" for row in results if row in others)
    return f"Best {metric}: {best} ({results[best][metric]:.3f}). {notes}."


def spread_table(results: Mapping[tuple[str, str], Sequence[Mapping[str, float]]]) -> str:
    """Markdown table of `(task, row)` to the metrics of several seeds: mean, and standard deviation where there are several.

    The decimals are those of `result_table`.
    """
    rows = []
    for (task_name, row), runs in results.items():
        table = pd.DataFrame(runs)
        cells = {
            metric: f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 and values.std() > 0 else "")
            for metric, values in table.items()
        }
        rows.append({"task": task_name, "model": row, "seeds": len(runs), **cells})
    return pd.DataFrame(rows).fillna("").to_markdown(index=False)
