"""Results of a task: scores of models, constants and classical methods, and the files and tables made of them."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from filelock import FileLock
from scipy.special import softmax

from ..baselines import CLASSICAL_METHODS
from ..metrics import load_metric
from ..tasks import Task


def score(task: Task, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Metrics of predictions in physical units (regression) or logits (classification) against labels.

    Of one class out of several the metrics rank probabilities: logits are free to move up and down together, from window to
    window, so that their order over windows says nothing.
    """
    metric = load_metric(task.problem_type)
    if task.problem_type == "single_label_classification":
        predictions = softmax(np.asarray(predictions, dtype=np.float64), axis=-1)
    if task.problem_type == "regression":
        predictions = predictions.reshape(len(predictions), -1)
        labels = labels.reshape(len(labels), -1)
        if predictions.shape[1] == 1:
            return metric.compute(predictions=predictions[:, 0], references=labels[:, 0])
        return metric.compute(predictions=predictions, references=labels, output_names=task.label_names)
    return metric.compute(predictions=predictions, references=labels)


def constant_predictions(
    task: Task, train_labels: np.ndarray, num_windows: int, num_classes: int | None = None
) -> np.ndarray:
    """What a model that ignores its input would predict: the mean of the training labels (regression), or the log odds of
    each class in the training set (classification)."""
    if task.problem_type == "regression":
        mean = train_labels.reshape(len(train_labels), -1).mean(0)
        return np.tile(mean, (num_windows, 1))
    if task.problem_type == "single_label_classification":
        # A share of the labels may lack classes that others have.
        share = np.bincount(train_labels, minlength=num_classes or 0) / len(train_labels)
    else:
        share = train_labels.mean(0)
    share = np.clip(share, 1e-6, 1 - 1e-6)
    return np.tile(np.log(share / (1 - share)), (num_windows, 1))


def classical_predictions(task: Task, windows: Dataset, fallback: float) -> tuple[np.ndarray, int]:
    """Predictions of the task's classical method from raw signals.

    Args:
        task: a task with a `classical_method`.
        windows: rows with `signal` and `sampling_rate`.
        fallback: predicted where the method finds nothing.

    Returns:
        Predictions `(windows, 1)` and the number of windows that got the fallback.

    Raises:
        ValueError: if the task has no `classical_method`.
    """
    if task.classical_method is None:
        raise ValueError(f"There is no classical method for {task.name}.")
    method = CLASSICAL_METHODS[task.classical_method]
    rows: Iterable[dict] = windows.select_columns(["signal", "sampling_rate"]).with_format("numpy")
    predictions = np.array([method(row["signal"], float(row["sampling_rate"])) for row in rows])
    failed = ~np.isfinite(predictions)
    return np.where(failed, fallback, predictions)[:, None], int(failed.sum())


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
    """Appends one row to the CSV of all runs, in place of an earlier one of the same `output_dir`; metrics that earlier rows do
    not have become new columns. Several processes may do so at once."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = pd.DataFrame([{"finished": datetime.now(timezone.utc).isoformat(timespec="seconds"), **row}])
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():
            # As text, so that what is there stays as it was written.
            there = pd.read_csv(path, dtype=str, keep_default_na=False)
            if "output_dir" in row and "output_dir" in there:
                there = there[there["output_dir"] != row["output_dir"]]
            rows = pd.concat([there, rows])
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


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """Markdown table of the validation metrics of a stage, those about its speed left out."""
    rows = {
        name.removeprefix("eval_").replace("_", " "): value
        for name, value in metrics.items()
        if not name.endswith(("_runtime", "_per_second", "epoch"))
    }
    return pd.DataFrame({"validation": rows.keys(), "": rows.values()}).to_markdown(index=False, floatfmt=".4g")


def where_things_are(folder: str | Path) -> str:
    """Where the model of a finished run is, and what else is in its folder: a line each."""
    folder = Path(folder)
    kinds = {
        "model": [folder],
        "card": [folder / "README.md"],
        "figures": sorted(folder.glob("*.png")),
        "predictions": [folder / "predictions.csv"],
        "logs": sorted(folder.glob("**/events.out.tfevents.*"))[:1],
    }
    found = {kind: [path for path in paths if path.exists()] for kind, paths in kinds.items()}
    if found["logs"]:
        found["logs"] = [found["logs"][0].parent]
    return "\n".join(f"{kind + ':':13}{', '.join(map(str, paths))}" for kind, paths in found.items() if paths)
