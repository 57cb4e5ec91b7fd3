"""Intervals over subjects: the bootstrap, and metrics of resampled people."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata


@dataclass(frozen=True)
class Interval:
    """A value with the bounds of its interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def resample_subjects(subjects: Sequence, num_resamples: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Yields the rows of `num_resamples` draws of as many subjects as there are, with replacement; a subject comes with all its rows.

    Windows of one person resemble each other, so that a bootstrap over windows would promise too much.

    Args:
        subjects: the subject of each row.
        num_resamples: number of draws.
        seed: of the draws; the same for everything that is compared.
    """
    _, index = np.unique(np.asarray(subjects), return_inverse=True)
    order = np.argsort(index, kind="stable")
    rows_of = np.split(order, np.cumsum(np.bincount(index))[:-1])
    generator = np.random.default_rng(seed)
    draws = generator.integers(0, len(rows_of), size=(num_resamples, len(rows_of)))
    for draw in draws:
        yield np.concatenate([rows_of[subject] for subject in draw])


def bootstrap(
    metric: Callable[[np.ndarray], float],
    subjects: Sequence,
    *,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval (Efron 1979) of a metric over subjects.

    For a paired difference let `metric` return the difference of two metrics on the same rows.

    Args:
        metric: from row indices, which may repeat, to a number. NaN (a draw without any positive of a class, say) is left
            out.
        subjects: the subject of each row.
        num_resamples: number of draws.
        level: of the interval.
        seed: of the draws.

    Returns:
        The metric on all rows with its interval; NaN bounds where there are fewer than two subjects.
    """
    value = float(metric(np.arange(len(subjects))))
    if len(np.unique(np.asarray(subjects))) < 2:
        return Interval(value, float("nan"), float("nan"))
    drawn = np.array([metric(rows) for rows in resample_subjects(subjects, num_resamples, seed)], dtype=np.float64)
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) == 0:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


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
