"""Heartbeats of a recording beside a model's answer to it, and how the intervals between them vary.

Beats are found by `cmssl_hf.signals`; which intervals count, and what they amount to, is said by neurokit2 (Makowski et al. 2021,
doi:10.3758/s13428-020-01516-y), of the extra `[beats]`.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import naming_the_extra
from .models.cmssl.quality_cmssl import BEAT_INTERVALS
from .signals import detect_pulse_onsets, detect_r_peaks, long_gaps


#: The detectors' thresholds follow the mean power of what they are given: in pieces, an artefact hides no beat far from it.
_PIECE_SECONDS, _MARGIN_SECONDS = 30.0, 2.0
#: The lowest frequencies of `LF` need about two minutes (Task Force 1996), and intervals all along.
_LF_SECONDS, _LF_SHARE = 120.0, 0.8
#: Beats below which an artefact cannot be told.
_FEWEST_BEATS = 4


@dataclass(frozen=True)
class Heartbeats:
    """
    Attributes:
        channel: `"ecg"` or `"ppg"`.
        times: of the R-peaks or the pulse onsets in seconds `(beats,)`, increasing.
        accepted: which of the intervals between them count `(beats - 1,)`.
    """

    channel: str
    times: np.ndarray
    accepted: NDArray[np.bool_]

    def between(self, start: float, end: float) -> "Heartbeats":
        """Those in a part of the recording, by its start and end in seconds."""
        first, last = np.searchsorted(self.times, (start, end))
        return Heartbeats(self.channel, self.times[first:last], self.accepted[first : max(last - 1, first)])


def beat_times(signal: np.ndarray, sampling_rate: float, channel: str) -> np.ndarray:
    """R-peaks of an ECG or pulse onsets of a PPG in seconds `(beats,)`, of a recording of any length.

    Args:
        signal: array of shape `(samples,)`.
        sampling_rate: in Hz.
        channel: `"ecg"` or `"ppg"`.
    """
    detect = detect_r_peaks if channel == "ecg" else detect_pulse_onsets
    piece, margin = (round(seconds * sampling_rate) for seconds in (_PIECE_SECONDS, _MARGIN_SECONDS))
    found = []
    for start in range(0, len(signal), piece):
        before = max(0, start - margin)
        beats = before + detect(signal[before : start + piece + margin], sampling_rate)
        found.append(beats[(beats >= start) & (beats < start + piece)] / sampling_rate)
    return np.concatenate(found) if found else np.empty(0)


def find_heartbeats(answer: Mapping[str, Any]) -> Heartbeats:
    """R-peaks of the ECG of a recording or, without one, pulse onsets of its PPG.

    An interval is accepted if it lies within those of 30 to 220 beats per minute, in no gap, in no window that is flat or that the
    answer flags as without a pulse, and if neither of its beats is ectopic, missed, extra, long or short (Lipponen and Tarvainen
    2019, doi:10.1080/03091902.2019.1640306).

    Args:
        answer: of a pipeline to one recording, with `return_recording=True`.

    Raises:
        ValueError: if the answer does not hold the recording.
        ModuleNotFoundError: if neurokit2 is not installed.
    """
    recording = answer.get("recording")
    if recording is None:
        raise ValueError("The answer holds no recording: call the pipeline with `return_recording=True`.")
    channel = "ecg" if "ecg" in recording.signals else "ppg"
    signal, rate = recording.signals[channel], recording.sampling_rates[channel]
    times = beat_times(signal, rate, channel)
    intervals = np.diff(times)
    accepted = (intervals >= BEAT_INTERVALS[0]) & (intervals <= BEAT_INTERVALS[1])
    missing = np.concatenate(([0], np.cumsum(long_gaps(signal, rate))))
    at = np.clip((times * rate).astype(int), 0, len(signal))
    accepted &= missing[at[1:]] == missing[at[:-1]]
    for window in answer["windows"]:
        if window.get("reason") == "flat" or f"{channel}_no_pulse" in window.get("quality_issues", ()):
            accepted &= (times[1:] <= window["start"]) | (times[:-1] >= window["end"])
    return Heartbeats(channel, times, accepted & _are_normal(times))


def _are_normal(times: np.ndarray) -> NDArray[np.bool_]:
    """Which intervals have no artefact at either end."""
    normal = np.ones(len(times), dtype=bool)
    if len(times) >= _FEWEST_BEATS:
        # Of a perfectly regular pulse, differences are divided by none.
        with np.errstate(divide="ignore", invalid="ignore"):
            found, _ = _neurokit().signal_fixpeaks(times, sampling_rate=1, iterative=False, method="Kubios")
        for kind in ("ectopic", "missed", "extra", "longshort"):
            normal[found[kind]] = False
    return normal[1:] & normal[:-1]


def heart_rate_variability(beats: Heartbeats) -> dict[str, float]:
    """What the accepted intervals amount to (Task Force 1996, doi:10.1161/01.CIR.93.5.1043).

    Returns:
        - `heart_rate` (bpm): of the mean interval;
        - `sdnn` (ms): standard deviation of the intervals;
        - `rmssd` (ms): root mean square of the differences between successive ones;
        - `pnn50` (%): differences of more than 50 ms, as a share of the intervals;
        - `lf_hf`: power at 0.04-0.15 Hz over that at 0.15-0.4 Hz, by Welch's method; NaN below two minutes or with over a fifth left out;
        - `accepted_share`: of the intervals.

        NaN where there are too few intervals.

    Raises:
        ModuleNotFoundError: if neurokit2 is not installed.
    """
    nan = float("nan")
    found = dict.fromkeys(("heart_rate", "sdnn", "rmssd", "pnn50", "lf_hf"), nan)
    found["accepted_share"] = float(beats.accepted.mean()) if len(beats.accepted) else nan
    intervals, ends = np.diff(beats.times)[beats.accepted], beats.times[1:][beats.accepted]
    if len(intervals) < _FEWEST_BEATS - 1:
        return found
    neurokit2, given = _neurokit(), {"RRI": 1000 * intervals, "RRI_Time": ends}
    with warnings.catch_warnings():
        # Of what is not asked for, such as averages over five minutes.
        warnings.simplefilter("ignore")
        variation = neurokit2.hrv_time(given).iloc[0]
        span = ends[-1] - ends[0] + intervals[0]
        if span >= _LF_SECONDS and intervals.sum() >= _LF_SHARE * span:
            found["lf_hf"] = float(neurokit2.hrv_frequency(given, silent=True)["HRV_LFHF"].iloc[0])
    found["heart_rate"] = float(60_000 / variation["HRV_MeanNN"])
    return found | {name.lower(): float(variation[f"HRV_{name}"]) for name in ("SDNN", "RMSSD", "pNN50")}


def _neurokit() -> ModuleType:
    with naming_the_extra("beats"):
        import neurokit2
    return neurokit2


__all__ = ["Heartbeats", "beat_times", "find_heartbeats", "heart_rate_variability"]
