"""Scores of a task: of a model, of always predicting the same, and of a classical method, on the same windows."""

from collections.abc import Iterable

import numpy as np
from datasets import Dataset

from ..baselines import CLASSICAL_METHODS
from ..metrics import load_metric
from ..tasks import Task


def score(task: Task, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Metrics of predictions in physical units (regression) or logits (classification) against labels."""
    metric = load_metric(task.problem_type)
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
    """
    method = CLASSICAL_METHODS[task.classical_method]
    rows: Iterable[dict] = windows.select_columns(["signal", "sampling_rate"]).with_format("numpy")
    predictions = np.array([method(row["signal"], float(row["sampling_rate"])) for row in rows])
    failed = ~np.isfinite(predictions)
    return np.where(failed, fallback, predictions)[:, None], int(failed.sum())
