"""Signal processing for ECG and PPG with numpy and scipy only.

Resampling, band-pass filters, standardisation and the names of channels are those of the models' feature extractor and
pipelines, so that dataset builders, models and classical methods agree to the last bit; beat detection is added here. Signals are float arrays with time on
the last axis; rates are in Hz and times in seconds.
"""

import numpy as np
from scipy import signal as scipy_signal

from .models.cmssl.recordings_cmssl import CHANNEL_PATTERNS, first_match
from .models.cmssl.signal_processing_cmssl import PASS_BANDS, band_pass, resample, standardize


__all__ = [
    "CHANNEL_PATTERNS",
    "PASS_BANDS",
    "band_pass",
    "detect_pulse_onsets",
    "detect_pulse_peaks",
    "detect_r_peaks",
    "first_match",
    "heart_rate_from_beats",
    "resample",
    "standardize",
]


def detect_pulse_peaks(ppg: np.ndarray, sampling_rate: float) -> np.ndarray:
    """Systolic peaks of a PPG: prominent maxima of the 0.5-8 Hz signal at least 0.33 s (180 bpm) apart.

    Args:
        ppg: array of shape `(samples,)`.
        sampling_rate: rate in Hz.

    Returns:
        Integer sample positions, increasing.
    """
    filtered = standardize(band_pass(ppg, sampling_rate, PASS_BANDS["ppg"]))
    distance = max(1, round(0.33 * sampling_rate))
    return scipy_signal.find_peaks(filtered, distance=distance, prominence=0.5)[0]


def detect_pulse_onsets(ppg: np.ndarray, sampling_rate: float) -> np.ndarray:
    """Onsets (feet) of the pulses of a PPG: before each systolic peak, where the tangent of the steepest upstroke meets the
    level of the preceding minimum (Kazanavicius et al. 2005, "intersecting tangents").

    Args:
        ppg: array of shape `(samples,)`.
        sampling_rate: rate in Hz.

    Returns:
        Positions in samples, with fractions, increasing. A pulse whose minimum may lie before the window has none.
    """
    filtered = band_pass(ppg, sampling_rate, PASS_BANDS["ppg"])
    slope = np.gradient(filtered)
    reach = round(0.5 * sampling_rate)
    onsets = []
    previous = 0
    for peak in detect_pulse_peaks(ppg, sampling_rate):
        start = max(previous, peak - reach)
        foot = start + int(np.argmin(filtered[start : peak + 1]))
        steepest = foot + int(np.argmax(slope[foot : peak + 1]))
        if foot > start and slope[steepest] > 0:
            onsets.append(steepest - (filtered[steepest] - filtered[foot]) / slope[steepest])
        previous = peak
    return np.asarray(onsets, dtype=np.float64)


def detect_r_peaks(ecg: np.ndarray, sampling_rate: float) -> np.ndarray:
    """R-peaks of an ECG after Pan and Tompkins (1985): maxima of the smoothed, squared slope of the 5-15 Hz signal,
    each moved to the largest deflection within 75 ms.

    Args:
        ecg: array of shape `(samples,)`; either polarity.
        sampling_rate: rate in Hz.

    Returns:
        Integer sample positions, increasing.
    """
    qrs_band = band_pass(ecg, sampling_rate, (5.0, 15.0))
    window = max(1, round(0.12 * sampling_rate))
    energy = np.convolve(np.gradient(qrs_band) ** 2, np.ones(window) / window, mode="same")
    distance = max(1, round(0.3 * sampling_rate))
    threshold = 0.3 * np.percentile(energy, 98)
    candidates = scipy_signal.find_peaks(energy, distance=distance, height=threshold)[0]
    reach = round(0.075 * sampling_rate)
    deflection = np.abs(qrs_band)
    peaks = [
        max(0, peak - reach) + int(np.argmax(deflection[max(0, peak - reach) : peak + reach + 1]))
        for peak in candidates
    ]
    return np.unique(np.asarray(peaks, dtype=np.int64))


def heart_rate_from_beats(beats: np.ndarray, sampling_rate: float) -> float:
    """Heart rate in beats per minute from the median interval between beats; NaN with fewer than two beats."""
    if len(beats) < 2:
        return float("nan")
    return float(60.0 * sampling_rate / np.median(np.diff(beats)))
