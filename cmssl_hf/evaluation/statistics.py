"""Bootstrap over subjects: how far a metric, or the difference of two, would move with other people. numpy only."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
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
) -> Estimate:
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
        return Estimate(value, float("nan"), float("nan"))
    drawn = np.array([metric(rows) for rows in resample_subjects(subjects, num_resamples, seed)], dtype=np.float64)
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) == 0:
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high))
