"""Windows of a recording: where they lie, what is wrong with them, and which a model can read."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from .quality_cmssl import find_quality_issues, measure_quality
from .recordings_cmssl import Recording
from .signal_processing_cmssl import reason_to_drop
from .time_axis_cmssl import LONGEST_FILLED_GAP, fill_short_gaps, gaps


#: Windows of which more than this share would have to be filled are not used.
LARGEST_FILLED_SHARE = 0.25


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


def quality_issues(signals: Mapping[str, np.ndarray], sampling_rates: Mapping[str, float]) -> list[str]:
    """What is wrong with one window, such as `["ppg_clipped"]` (`find_quality_issues`)."""
    return [
        f"{channel}_{issue}"
        for channel, signal in signals.items()
        for issue in find_quality_issues([signal], sampling_rates[channel], channel)[0]
    ]


def quality(signals: Mapping[str, np.ndarray], sampling_rates: Mapping[str, float]) -> float:
    """How much of one window is pulse, in the worst of its channels (`measure_quality`)."""
    return min(measure_quality(signal, sampling_rates[channel], channel) for channel, signal in signals.items())


def reason_not_to_use(
    signals: Mapping[str, np.ndarray],
    filled: Mapping[str, np.ndarray],
    sampling_rates: Mapping[str, float],
    patch_seconds: float,
) -> str | None:
    """Why no model can read one window, `"short"`, `"missing"` or `"flat"`; `None` if one can."""
    if any(len(signal) / sampling_rates[channel] < patch_seconds - 1e-9 for channel, signal in signals.items()):
        return "short"
    if any(samples.sum() > LARGEST_FILLED_SHARE * len(samples) for samples in filled.values()):
        return "missing"
    return next(filter(None, map(reason_to_drop, signals.values())), None)


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


__all__ = ["describe_gaps", "fill_gaps", "quality", "quality_issues", "reason_not_to_use", "window_times"]
