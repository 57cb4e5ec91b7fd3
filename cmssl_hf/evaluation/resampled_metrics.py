"""The metrics of `cmssl_hf.metrics` that intervals are given for, quick enough for thousands of draws. numpy and scipy only."""

from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata


def primary_metric(problem_type: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """From predictions and labels to the metric that tasks are compared by: MAE, macro F1 or macro AUROC."""
    return {
        "regression": mean_absolute_error,
        "single_label_classification": macro_f1,
        "multi_label_classification": macro_auroc,
    }[problem_type]


def mean_absolute_error(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Mean over windows and outputs."""
    return float(np.abs(predictions.reshape(len(labels), -1) - labels.reshape(len(labels), -1)).mean())


def macro_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Mean F1 over the classes that occur in the labels or are predicted, as in scikit-learn.

    Args:
        predictions: a score per class `(windows, classes)`.
        labels: class indices `(windows,)`.
    """
    num_classes = predictions.shape[1]
    predicted = predictions.argmax(1)
    confusion = np.bincount(labels * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, -1)
    occurrences = confusion.sum(0) + confusion.sum(1)
    occurring = occurrences > 0
    return float((2 * np.diag(confusion)[occurring] / occurrences[occurring]).mean())


def macro_auroc(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Mean area under the ROC curve over the labels that have both positives and negatives, by the rank sum; NaN if none has.

    Args:
        predictions: a score per label `(windows, labels)`.
        labels: multi-hot `(windows, labels)`, or class indices `(windows,)`.
    """
    if labels.ndim == 1:
        labels = labels[:, None] == np.arange(predictions.shape[1])
    labels = labels > 0.5
    areas = []
    for scores, positive in zip(predictions.T, labels.T):
        number = int(positive.sum())
        if 0 < number < len(positive):
            rank_sum = rankdata(scores)[positive].sum()
            areas.append((rank_sum - number * (number + 1) / 2) / (number * (len(positive) - number)))
    return float(np.mean(areas)) if areas else float("nan")
