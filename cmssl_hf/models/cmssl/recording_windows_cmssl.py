"""Windows of a recording: where they lie, what is wrong with them, and which a model can read."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .quality_cmssl import judge_windows
from .recordings_cmssl import Recording
from .signal_processing_cmssl import reason_to_drop
from .time_axis_cmssl import LONGEST_FILLED_GAP, fill_short_gaps, gaps


#: Windows of which more than this share would have to be filled are not used.
LARGEST_FILLED_SHARE = 0.25


@dataclass(frozen=True)
class Window:
    """A piece of a recording.

    Attributes:
        start, end: in seconds.
        signals: `(samples,)` per channel, with short gaps filled.
        filled: which samples were.
    """

    start: float
    end: float
    signals: dict[str, np.ndarray]
    filled: dict[str, np.ndarray]


def window_times(recording: Recording, window_seconds: float, stride_seconds: float) -> Iterator[tuple[float, float]]:
    """Start and end in seconds of the windows of a recording. The last one ends with it and may be shorter; it is the first
    that reaches the end."""
    # Times are sums of fractions: half a sample decides what has reached the end.
    tolerance = 0.5 / max(recording.sampling_rates.values())
    for index in range(math.ceil(recording.duration / stride_seconds)):
        start = index * stride_seconds
        end = start + window_seconds
        if end < recording.duration - tolerance:
            yield start, end
            continue
        if start < recording.duration - tolerance:
            yield start, recording.duration
        return


def judge(windows: Sequence[Window], sampling_rates: Mapping[str, float]) -> tuple[list[list[str]], np.ndarray]:
    """What is wrong with windows, such as `["ppg_clipped"]`, and the quality of each, in the worst of its channels
    (`judge_windows`)."""
    issues: list[list[str]] = [[] for _ in windows]
    qualities = np.ones(len(windows))
    for channel, rate in sampling_rates.items():
        found, measured = judge_windows([window.signals[channel] for window in windows], rate, channel)
        for known, new in zip(issues, found):
            known += [f"{channel}_{issue}" for issue in new]
        qualities = np.minimum(qualities, measured)
    for known, window in zip(issues, windows):
        known += [f"{channel}_filled" for channel, samples in window.filled.items() if samples.any()]
    return issues, qualities


def reason_not_to_use(window: Window, sampling_rates: Mapping[str, float], patch_seconds: float) -> str | None:
    """Why no model can read a window, `"short"`, `"missing"` or `"flat"`; `None` if one can."""
    if any(len(signal) / sampling_rates[channel] < patch_seconds - 1e-9 for channel, signal in window.signals.items()):
        return "short"
    if any(samples.sum() > LARGEST_FILLED_SHARE * len(samples) for samples in window.filled.values()):
        return "missing"
    return next(filter(None, map(reason_to_drop, window.signals.values())), None)


def fill_gaps(recording: Recording) -> tuple[Recording, Recording]:
    """The recording with short gaps interpolated, and which samples were."""
    filled = {
        channel: fill_short_gaps(signal, recording.sampling_rates[channel], LONGEST_FILLED_GAP[channel])
        for channel, signal in recording.signals.items()
    }
    return (
        replace(recording, signals={channel: signal for channel, (signal, _) in filled.items()}),
        replace(recording, signals={channel: samples for channel, (_, samples) in filled.items()}),
    )


def describe_gaps(recording: Recording) -> str:
    """How many samples a recording lacks, where, and what can be done; nothing if it lacks none."""
    told = []
    for channel, signal in recording.signals.items():
        missing = ~np.isfinite(signal)
        if missing.any():
            start, end = max(gaps(missing), key=np.ptp) / recording.sampling_rates[channel]
            told.append(
                f" Of {channel}, {missing.sum():,} of {len(signal):,} samples are missing (NaN or infinite) in"
                f" {len(gaps(missing)):,} gaps, the longest at {start:.6g}-{end:.6g} s. Gaps of up to"
                f" {LONGEST_FILLED_GAP[channel]} s are filled, but no window with more than {LARGEST_FILLED_SHARE:.0%} of them."
            )
    return "".join([*told, " Choose shorter `window_seconds`, or interpolate longer gaps."]) if told else ""


__all__ = ["Window", "describe_gaps", "fill_gaps", "judge", "reason_not_to_use", "window_times"]
