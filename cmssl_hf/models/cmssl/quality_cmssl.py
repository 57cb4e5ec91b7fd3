"""What is wrong with a window of ECG or PPG, judged from the raw signal alone: numpy and scipy only.

These are warnings about windows that a model can still read; those that it cannot are refused (`reason_to_drop`).
"""

from collections.abc import Sequence

import numpy as np
from scipy import fft

from .signal_processing_cmssl import FLAT_TOLERANCE, PASS_BANDS, band_pass, standardize


#: What [`judge_windows`] finds, in this order.
QUALITY_ISSUES = ("flat", "clipped", "out_of_range", "no_pulse", "inverted")

#: A lead is off or a sensor lost when nothing changes for this many seconds: no heart pauses for as long in every beat.
FLAT_SECONDS = 1.0
#: Share of samples that stay at the largest or smallest value of the window, beyond which an amplifier was at its limit.
CLIPPED_SHARE = 0.01
#: The whole range in terms of that of the middle 98 % of samples, beyond which single samples are not of the heart. Peaks of
#: beats are wider than that: at 30 beats per minute R waves of 40 ms take 2 % of the time.
RANGE_RATIO = 6.0
#: Beat intervals in seconds: 30 to 220 beats per minute.
BEAT_INTERVALS = (0.27, 2.0)
#: Skewness of the slope of a PPG, below minus which it is upside down. Of windows of 10 s with a pulse 0.04 % (BIDMC), 0.2 %
#: (Challenge 2015) and 0.6 % (wrist, Stress-Predict) are taken for it, and 99, 89 and 63 % are found when turned over.
INVERTED_SKEWNESS = 0.2

#: Where the energy of QRS complexes lies, in Hz (Pan and Tompkins 1985, doi:10.1109/TBME.1985.325532).
_QRS_BAND = (5.0, 15.0)
_QRS_SECONDS = 0.12


def judge_windows(
    signals: np.ndarray | Sequence[np.ndarray], sampling_rate: float, channel: str
) -> tuple[list[list[str]], np.ndarray]:
    """Finds what is wrong with windows, and measures how much of them is pulse.

    The issues:

    - `"flat"`: constant for `FLAT_SECONDS` or longer;
    - `"clipped"`: more than `CLIPPED_SHARE` of the samples repeat the largest or the smallest value;
    - `"out_of_range"`: single samples lie far outside of the range of the others (`RANGE_RATIO`);
    - `"no_pulse"`: no beat-to-beat periodicity: the autocorrelation (of the PPG, or of the smoothed slope of the ECG, which is
      large in every QRS complex whatever its shape) at the `BEAT_INTERVALS` is not above the `1 / sqrt(seconds)` that 19 of
      20 windows of white noise stay below. Periodicity is the core of the published indices (Orphanidou et al. 2015,
      doi:10.1109/JBHI.2014.2338351). Atrial fibrillation passes in most windows, but not in all;
    - `"inverted"`: a PPG with a pulse that falls faster than it rises, where systole makes it rise faster: the 5, 50 and 95 %
      quantiles of its slope have a skewness (Bowley's) below `-INVERTED_SKEWNESS`. Never for ECG, which has no one polarity.

    The quality is the share of the power of its beats that returns in the next beat, as that autocorrelation, counted from what
    white noise reaches; times the share of the window that is not constant for `FLAT_SECONDS`. It is near 1 for a clean regular
    pulse, 0 for constants and, for 19 of 20 windows, white noise. An irregular rhythm, such as atrial fibrillation, is not bad
    quality, but returns less: compare it with others of its kind.

    Args:
        signals: windows of finite samples: an array `(windows, samples)` or arrays `(samples,)`, in any unit.
        sampling_rate: in Hz.
        channel: `"ecg"` or `"ppg"`.

    Returns:
        For each window those of `QUALITY_ISSUES` that it has, an empty list for a good one, and its quality: array
        `(windows,)`. Windows of fewer than three samples are `"flat"`, and have no pulse.
    """
    issues: list[list[str]] = [["flat", "no_pulse"] for _ in signals]
    qualities = np.zeros(len(signals))
    lengths = np.array([len(signal) for signal in signals])
    for length in np.unique(lengths[lengths >= 3]):
        rows = np.flatnonzero(lengths == length).tolist()
        windows = np.stack([np.asarray(signals[row], dtype=np.float64) for row in rows])
        # Differences and sums of the largest numbers would overflow.
        windows /= np.maximum(np.abs(windows).max(axis=-1, keepdims=True), np.finfo(np.float64).tiny)
        beats = _beat_signal(windows, sampling_rate, channel)
        returning, of_noise = _returning_share(beats, sampling_rate), _returning_share_of_noise(length / sampling_rate)
        # What filters leave of a constant is no pulse either.
        returning[np.ptp(windows, axis=-1) <= FLAT_TOLERANCE] = 0.0
        is_flat, has_no_pulse = _is_flat(windows, sampling_rate), ~(returning > of_noise)
        found = (
            is_flat,
            _is_clipped(windows),
            _is_out_of_range(windows),
            has_no_pulse,
            ~has_no_pulse & _falls_faster(beats) if channel == "ppg" else np.zeros(len(windows), dtype=bool),
        )
        for row, flags in zip(rows, np.transpose(found)):
            issues[row] = [name for name, flag in zip(QUALITY_ISSUES, flags) if flag]
        qualities[rows] = np.clip((returning - of_noise) / max(1 - of_noise, 1e-9), 0, 1)
        for index in np.flatnonzero(is_flat):
            qualities[rows[index]] *= 1 - _flat_share(windows[index], sampling_rate)
    return issues, qualities


def find_quality_issues(
    signals: np.ndarray | Sequence[np.ndarray], sampling_rate: float, channel: str
) -> list[list[str]]:
    """The issues of windows (`judge_windows`)."""
    return judge_windows(signals, sampling_rate, channel)[0]


def measure_quality(signal: np.ndarray, sampling_rate: float, channel: str) -> float:
    """The quality of one window `(samples,)` (`judge_windows`)."""
    return float(judge_windows([signal], sampling_rate, channel)[1][0])


def _flat_share(window: np.ndarray, sampling_rate: float) -> float:
    num_steps = max(1, round(FLAT_SECONDS * sampling_rate) - 1)
    still = np.concatenate(([False], np.abs(np.diff(window)) <= FLAT_TOLERANCE, [False]))
    first, after = np.flatnonzero(~still[:-1] & still[1:]), np.flatnonzero(still[:-1] & ~still[1:])
    runs = after - first
    return float((runs[runs >= num_steps] + 1).sum() / len(window))


def _is_flat(windows: np.ndarray, sampling_rate: float) -> np.ndarray:
    num_steps = max(1, round(FLAT_SECONDS * sampling_rate) - 1)
    still = np.abs(np.diff(windows, axis=-1)) <= FLAT_TOLERANCE
    if still.shape[-1] < num_steps:
        return np.all(still, axis=-1)
    counts = np.cumsum(still, axis=-1, dtype=np.int64)
    ended = counts[:, num_steps - 1 :].copy()
    ended[:, 1:] -= counts[:, :-num_steps]
    return (ended == num_steps).any(axis=-1)


def _is_clipped(windows: np.ndarray) -> np.ndarray:
    limits = windows.max(axis=-1, keepdims=True), windows.min(axis=-1, keepdims=True)
    shares = [((windows[:, 1:] == limit) & (windows[:, :-1] == limit)).mean(axis=-1) for limit in limits]
    return np.sum(shares, axis=0) > CLIPPED_SHARE


def _is_out_of_range(windows: np.ndarray) -> np.ndarray:
    low, high = np.quantile(windows, (0.01, 0.99), axis=-1)
    return np.ptp(windows, axis=-1) > RANGE_RATIO * (high - low)


def _returning_share(beats: np.ndarray, sampling_rate: float) -> np.ndarray:
    """The autocorrelation of `beats (windows, samples)` at the best of the `BEAT_INTERVALS`; 0 where it has no maximum."""
    num_samples = beats.shape[-1]
    first, last = round(BEAT_INTERVALS[0] * sampling_rate), round(BEAT_INTERVALS[1] * sampling_rate)
    last = min(last, num_samples - 2)
    if first < 1 or last <= first:
        return np.zeros(len(beats))
    beats = standardize(beats)
    # Padded by as much as the largest lag reaches beyond the end.
    size = fft.next_fast_len(num_samples + last + 2, real=True)
    power = np.abs(fft.rfft(beats, size)) ** 2
    autocorrelation = fft.irfft(power, size)[:, : last + 2] / (num_samples - np.arange(last + 2))
    # Only maxima within the interval: the slope down from lag 0 is no period.
    before, middle, after = (autocorrelation[:, first + shift : last + 1 + shift] for shift in (-1, 0, 1))
    return np.where((middle > before) & (middle >= after), middle, 0.0).max(axis=-1)


def _returning_share_of_noise(seconds: float) -> float:
    return float(1 / np.sqrt(seconds))


def _falls_faster(pulses: np.ndarray) -> np.ndarray:
    slopes = np.diff(pulses, axis=-1)
    low, middle, high = np.quantile(slopes, (0.05, 0.5, 0.95), axis=-1)
    return high + low - 2 * middle < -INVERTED_SKEWNESS * (high - low)


def _beat_signal(windows: np.ndarray, sampling_rate: float, channel: str) -> np.ndarray:
    """A signal that is large once per beat."""
    nyquist = sampling_rate / 2
    if channel == "ppg" or nyquist <= _QRS_BAND[0]:
        low, high = PASS_BANDS["ppg"]
        return band_pass(windows, sampling_rate, (low, high)) if nyquist > low else windows
    slope = np.abs(np.gradient(band_pass(windows, sampling_rate, _QRS_BAND), axis=-1))
    width = min(max(1, round(_QRS_SECONDS * sampling_rate)), slope.shape[-1])
    sums = np.pad(np.cumsum(slope, axis=-1), ((0, 0), (1, 0)))
    smooth = np.zeros_like(slope)
    smooth[:, : slope.shape[-1] - width + 1] = sums[:, width:] - sums[:, :-width]
    return smooth


__all__ = ["QUALITY_ISSUES", "find_quality_issues", "judge_windows", "measure_quality"]
