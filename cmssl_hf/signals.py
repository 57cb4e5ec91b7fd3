"""Signal processing for ECG and PPG with numpy and scipy only.

Everything that turns raw samples into what the models see lives here, so that dataset builders, the feature extractor
and the classical baselines agree to the last bit: resampling, band-pass filters, standardisation and beat detection.
Signals are float arrays with time on the last axis; rates are in Hz and times in seconds.
"""

from fractions import Fraction
from functools import lru_cache

import numpy as np
from scipy import signal as scipy_signal


#: Pass bands in Hz, as in PulseDB (Wang et al. 2023, doi:10.3389/fdgth.2022.1090854).
PASS_BANDS = {"ecg": (0.5, 40.0), "ppg": (0.5, 8.0)}

_FILTER_ORDER = 3
# Rates such as 62.4725 Hz (MIMIC) have no small fraction; the ratio is then kept to within 1e-4.
_LARGEST_RESAMPLING_FACTOR = 2000


def resample(signal: np.ndarray, sampling_rate: float, target_sampling_rate: float) -> np.ndarray:
    """Resamples along the last axis with a polyphase anti-aliasing filter; the duration is kept.

    Args:
        signal: array of shape `(..., samples)`.
        sampling_rate: rate of `signal` in Hz.
        target_sampling_rate: wanted rate in Hz.

    Returns:
        Array of shape `(..., ceil(samples * target_sampling_rate / sampling_rate))`.

    Raises:
        ValueError: if a rate is not a positive, finite number.
    """
    for name, rate in (("sampling_rate", sampling_rate), ("target_sampling_rate", target_sampling_rate)):
        if not np.isfinite(rate) or rate <= 0:
            raise ValueError(f"`{name}` must be a positive number of Hz, but is {rate!r}.")
    signal = np.asarray(signal)
    if sampling_rate == target_sampling_rate:
        return signal
    ratio = Fraction(target_sampling_rate / sampling_rate).limit_denominator(_LARGEST_RESAMPLING_FACTOR)
    if ratio == 0:
        raise ValueError(f"Resampling from {sampling_rate} Hz to {target_sampling_rate} Hz is out of range.")
    # `padtype="line"` keeps the offset of a raw signal from ringing at both ends.
    return scipy_signal.resample_poly(signal, ratio.numerator, ratio.denominator, axis=-1, padtype="line")


@lru_cache(maxsize=32)
def _band_pass_sections(low: float, high: float, sampling_rate: float) -> np.ndarray:
    nyquist = sampling_rate / 2
    if low >= nyquist:
        raise ValueError(f"A pass band of {low}-{high} Hz needs more than {2 * low} Hz, but the rate is {sampling_rate}.")
    if high >= nyquist:
        return scipy_signal.butter(_FILTER_ORDER, low, "highpass", fs=sampling_rate, output="sos")
    return scipy_signal.butter(_FILTER_ORDER, (low, high), "bandpass", fs=sampling_rate, output="sos")


def band_pass(signal: np.ndarray, sampling_rate: float, band: tuple[float, float]) -> np.ndarray:
    """Zero-phase Butterworth band-pass along the last axis (third order, applied forwards and backwards).

    Where the upper edge lies at or above half the sampling rate only the high-pass half is applied.

    Args:
        signal: array of shape `(..., samples)`.
        sampling_rate: rate of `signal` in Hz.
        band: lower and upper edge in Hz, e.g. `PASS_BANDS["ppg"]`.
    """
    sections = _band_pass_sections(float(band[0]), float(band[1]), float(sampling_rate))
    signal = np.asarray(signal, dtype=np.float64)
    # scipy's default padding is longer than very short windows; a second of reflection settles a 0.5 Hz edge.
    padding = min(signal.shape[-1] - 1, int(sampling_rate))
    return scipy_signal.sosfiltfilt(sections, signal, axis=-1, padlen=padding)


def standardize(signal: np.ndarray) -> np.ndarray:
    """Scales to mean 0 and standard deviation 1 along the last axis; a constant signal becomes zeros."""
    signal = np.asarray(signal, dtype=np.float64)
    centred = signal - signal.mean(axis=-1, keepdims=True)
    deviation = centred.std(axis=-1, keepdims=True)
    return np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)


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
        max(0, peak - reach) + int(np.argmax(deflection[max(0, peak - reach) : peak + reach + 1])) for peak in candidates
    ]
    return np.unique(np.asarray(peaks, dtype=np.int64))


def heart_rate_from_beats(beats: np.ndarray, sampling_rate: float) -> float:
    """Heart rate in beats per minute from the median interval between beats; NaN with fewer than two beats."""
    if len(beats) < 2:
        return float("nan")
    return float(60.0 * sampling_rate / np.median(np.diff(beats)))
