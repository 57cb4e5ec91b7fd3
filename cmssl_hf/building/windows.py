"""Cutting recordings into windows, and the reasons for which a window is not used. numpy only.

What makes a window unusable is defined beside the models, whose pipelines refuse the same windows.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..models.cmssl.signal_processing_cmssl import (
    FLAT_TOLERANCE,
    LONGEST_FLAT_SHARE,
    longest_constant_run,
    reason_to_drop,
)


#: Samples and labels are stored as float32, in which larger ones would be infinite.
LARGEST_VALUE = float(np.finfo(np.float32).max)

__all__ = [
    "LARGEST_VALUE",
    "LONGEST_FLAT_SHARE",
    "DropCounter",
    "cut_windows",
    "longest_constant_run",
    "reason_to_drop",
    "usable_windows",
    "window_starts",
]


def window_starts(num_samples: int, window: int, stride: int) -> range:
    """First samples of all whole windows of `window` samples taken every `stride` samples.

    Raises:
        ValueError: if `window` or `stride` is not positive.
    """
    if window <= 0 or stride <= 0:
        raise ValueError(f"`window` and `stride` must be positive numbers of samples, but are {window} and {stride}.")
    return range(0, num_samples - window + 1, stride)


def cut_windows(signal: np.ndarray, starts: Sequence[int], window: int) -> np.ndarray:
    """Copies the windows of `window` samples that begin at `starts` out of a signal of shape `(samples,)`.

    Returns:
        Array of shape `(len(starts), window)` with the dtype of the signal.
    """
    if len(starts) == 0:
        return np.empty((0, window), dtype=signal.dtype)
    return np.lib.stride_tricks.sliding_window_view(signal, window)[np.asarray(starts)]


class DropCounter(Counter):
    """Counts windows by outcome: `"kept"` or the reason for which they were dropped."""

    def usable(self, *signals: np.ndarray, label: float | np.ndarray = 0.0) -> bool:
        """Whether all signals of one window can be used and its label is known (a number that float32 holds); the outcome is
        counted."""
        reason = None if _are_known(label).all() else "unlabelled"
        reason = reason or next((reason for reason in map(_reason_to_drop, signals) if reason), None)
        self[reason or "kept"] += 1
        return reason is None

    def summary(self) -> str:
        """For example `"11,872 windows kept; dropped: 210 flat, 14 missing"`."""
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.items()) if reason != "kept")
        return f"{self['kept']:,} windows kept; dropped: {dropped or 'none'}"


def usable_windows(
    windows: Sequence[np.ndarray], counter: DropCounter, labels: np.ndarray | None = None
) -> np.ndarray:
    """Which windows can be used: no signal is missing or flat in them and they have a label.

    Args:
        windows: for each signal an array of shape `(number, samples)`.
        counter: receives the outcome of every window.
        labels: numbers of shape `(number,)` or `(number, outputs)`, NaN or infinite where a window has none.

    Returns:
        Boolean mask of shape `(number,)`.
    """
    labels = np.zeros(len(windows[0])) if labels is None else labels
    usable = np.logical_and.reduce([_surely_usable(signals) for signals in windows])
    usable &= _are_known(labels).all(axis=tuple(range(1, np.ndim(labels))))
    counter["kept"] += int(usable.sum())
    for row in np.flatnonzero(~usable):
        usable[row] = counter.usable(*(signals[row] for signals in windows), label=labels[row])
    return usable


def _are_known(labels: float | np.ndarray) -> np.ndarray:
    # Neither NaN nor infinity is smaller.
    return np.abs(np.asarray(labels, dtype=np.float64)) <= LARGEST_VALUE


def _reason_to_drop(signal: np.ndarray) -> str | None:
    reason = reason_to_drop(signal)
    if reason is None and np.abs(signal.astype(np.float64)).max() > LARGEST_VALUE:
        reason = "too_large"
    return reason


def _surely_usable(signals: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """Mask of the windows that cannot be flat, because too few of their samples equal the one before; it takes a fraction
    of the time of looking for runs. Of windows that differ in length none is sure."""
    if not isinstance(signals, np.ndarray) or signals.size == 0:
        return np.zeros(len(signals), dtype=bool)
    largest = np.abs(signals).max(axis=1)
    with np.errstate(invalid="ignore"):
        steps = np.abs(np.diff(signals, axis=1))
    equal = np.count_nonzero(steps <= FLAT_TOLERANCE * np.maximum(1.0, largest)[:, None], axis=1)
    return (largest <= LARGEST_VALUE) & (equal + 1 <= LONGEST_FLAT_SHARE * signals.shape[1])
