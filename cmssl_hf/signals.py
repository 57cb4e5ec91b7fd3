"""Signal processing for ECG and PPG with numpy and scipy only.

Resampling, band-pass filters, standardisation and the names of channels are those of the models' feature extractor and
pipelines, so that dataset builders, models and classical methods agree to the last bit; beat detection is added here. Signals are float arrays with time on
the last axis; rates are in Hz and times in seconds.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from .models.cmssl.recordings_cmssl import CHANNEL_PATTERNS, first_match
from .models.cmssl.signal_processing_cmssl import FLAT_TOLERANCE, PASS_BANDS, band_pass, resample, standardize


__all__ = [
    "CHANNEL_PATTERNS",
    "PASS_BANDS",
    "band_pass",
    "bridge_gaps",
    "detect_pulse_onsets",
    "detect_pulse_peaks",
    "detect_r_peaks",
    "first_match",
    "heart_rate_from_beats",
    "long_gaps",
    "resample",
    "standardize",
]

# Durations of a wave and of a beat in s, and offsets of the threshold: the published optima. The wave of a PPG is its systole.
_PULSE_SECONDS, _PULSE_OFFSET = (0.111, 0.667), 0.02
_QRS_BAND = (8.0, 20.0)
_QRS_SECONDS, _QRS_OFFSET = (0.097, 0.611), 0.08
_SHORTEST_INTERVAL = 0.3


def bridge_gaps(signal: np.ndarray) -> np.ndarray:
    """Replaces missing samples (NaN or infinite) by straight lines between their neighbours, at the ends by the nearest
    sample; without any finite sample the signal becomes zeros.

    Args:
        signal: array of shape `(samples,)`.

    Raises:
        ValueError: if the signal has more than one axis.
    """
    samples = np.asarray(signal, dtype=np.float64)
    if samples.ndim != 1:
        raise ValueError(f"One signal of shape `(samples,)` is needed, but its shape is {samples.shape}.")
    finite = np.isfinite(samples)
    if finite.all():
        return samples
    if not finite.any():
        return np.zeros_like(samples)
    return np.interp(np.arange(len(samples)), np.flatnonzero(finite), samples[finite])


def long_gaps(signal: np.ndarray, sampling_rate: float) -> NDArray[np.bool_]:
    """Where a beat may be lost: the samples of gaps (NaN or infinite samples) of at least 0.3 s, the shortest interval between
    beats.

    Args:
        signal: array of shape `(samples,)`.
        sampling_rate: rate in Hz.

    Returns:
        Boolean array of the same shape.
    """
    missing = ~np.isfinite(np.asarray(signal, dtype=np.float64))
    edges = np.flatnonzero(np.diff(missing, prepend=False, append=False))
    for start, stop in zip(edges[::2], edges[1::2]):
        if stop - start < _SHORTEST_INTERVAL * sampling_rate:
            missing[start:stop] = False
    return missing


def detect_pulse_peaks(ppg: np.ndarray, sampling_rate: float) -> np.ndarray:
    """Systolic peaks of a PPG, the maxima of its pulses (Elgendi et al. 2013, doi:10.1371/journal.pone.0076585).

    Args:
        ppg: array of shape `(samples,)`. Gaps are bridged (`bridge_gaps`), and no peak is reported in `long_gaps`.
        sampling_rate: rate in Hz.

    Returns:
        Integer sample positions, increasing; none for a constant signal. A pulse that the window cuts before its peak has
        none.

    Raises:
        ValueError: if `ppg` has more than one axis.
    """
    filtered = _filtered(ppg, sampling_rate, PASS_BANDS["ppg"])
    peaks = _peaks_of_waves(np.maximum(filtered, 0.0), sampling_rate, _PULSE_SECONDS, _PULSE_OFFSET)
    return peaks[~long_gaps(ppg, sampling_rate)[peaks]]


def detect_pulse_onsets(ppg: np.ndarray, sampling_rate: float) -> np.ndarray:
    """Onsets (feet) of the pulses of a PPG: before each systolic peak, where the tangent of the steepest upstroke meets the
    level of the preceding minimum (Kazanavicius et al. 2005, "intersecting tangents").

    Args:
        ppg: array of shape `(samples,)`. Gaps are bridged (`bridge_gaps`), and no onset is reported in `long_gaps`.
        sampling_rate: rate in Hz.

    Returns:
        Positions in samples, with fractions, increasing. A pulse whose minimum may lie before the window has none.

    Raises:
        ValueError: if `ppg` has more than one axis.
    """
    filtered = _filtered(ppg, sampling_rate, PASS_BANDS["ppg"])
    missing = long_gaps(ppg, sampling_rate)
    slope = np.gradient(filtered) if len(filtered) > 1 else filtered
    reach = round(0.5 * sampling_rate)
    onsets = []
    previous = 0
    for peak in detect_pulse_peaks(ppg, sampling_rate):
        start = max(previous, peak - reach)
        foot = start + int(np.argmin(filtered[start : peak + 1]))
        steepest = foot + int(np.argmax(slope[foot : peak + 1]))
        if foot > start and slope[steepest] > 0 and not missing[foot : steepest + 1].any():
            onsets.append(steepest - (filtered[steepest] - filtered[foot]) / slope[steepest])
        previous = peak
    return np.asarray(onsets, dtype=np.float64)


def detect_r_peaks(ecg: np.ndarray, sampling_rate: float) -> np.ndarray:
    """R-peaks of an ECG, the largest deflections of its QRS complexes (Elgendi 2013, doi:10.1371/journal.pone.0073557).

    Args:
        ecg: array of shape `(samples,)`; either polarity. Gaps are bridged (`bridge_gaps`), and no peak is reported in
            `long_gaps`.
        sampling_rate: rate in Hz.

    Returns:
        Integer sample positions, increasing; none for a constant signal.

    Raises:
        ValueError: if `ecg` has more than one axis.
    """
    filtered = _filtered(ecg, sampling_rate, _QRS_BAND)
    peaks = _peaks_of_waves(np.abs(filtered), sampling_rate, _QRS_SECONDS, _QRS_OFFSET)
    return peaks[~long_gaps(ecg, sampling_rate)[peaks]]


def _filtered(signal: np.ndarray, sampling_rate: float, band: tuple[float, float]) -> np.ndarray:
    bridged = bridge_gaps(signal)
    if bridged.size == 0 or np.ptp(bridged) <= FLAT_TOLERANCE * np.abs(bridged).max():
        # Filters leave rounding errors of a constant, which have maxima too.
        return np.zeros_like(bridged)
    return band_pass(bridged, sampling_rate, band)


def _peaks_of_waves(
    deflection: np.ndarray, sampling_rate: float, seconds: tuple[float, float], offset: float
) -> NDArray[np.int64]:
    """Maxima of the waves of a deflection `(samples,)` >= 0: where the mean of its square over a wave exceeds that over a beat by
    `offset` times the mean of all, for at least the time of a wave; of waves closer than 0.3 s the largest counts.

    Args:
        seconds: of a wave and of a beat.
    """
    energy = deflection**2
    wave, beat = (max(1, round(duration * sampling_rate)) for duration in seconds)
    threshold = uniform_filter1d(energy, beat, mode="nearest") + offset * energy.mean() if energy.size else energy
    above = uniform_filter1d(energy, wave, mode="nearest") > threshold
    edges = np.flatnonzero(np.diff(above, prepend=False, append=False))
    peaks: list[int] = []
    for start, stop in zip(edges[::2], edges[1::2]):
        peak = start + int(np.argmax(deflection[start:stop]))
        if stop - start < wave or peak in (0, len(deflection) - 1):
            continue
        if not peaks or peak - peaks[-1] > _SHORTEST_INTERVAL * sampling_rate:
            peaks.append(peak)
        elif deflection[peak] > deflection[peaks[-1]]:
            peaks[-1] = peak
    return np.asarray(peaks, dtype=np.int64)


def heart_rate_from_beats(beats: np.ndarray, sampling_rate: float) -> float:
    """Heart rate in beats per minute from the median interval between beats; NaN with fewer than two beats."""
    if len(beats) < 2:
        return float("nan")
    return float(60.0 * sampling_rate / np.median(np.diff(beats)))
