"""The signal processing that belongs to the input format of the models: numpy and scipy only.

It stands beside the modelling files, not in `cmssl_hf.signals` (which re-exports it), because a model pushed to the Hub
carries this folder and nothing else of the library. Signals are float arrays with time on the last axis.
"""

from fractions import Fraction
from functools import lru_cache

import numpy as np
from scipy import signal as scipy_signal


#: Pass bands in Hz, as in PulseDB (Wang et al. 2023, doi:10.3389/fdgth.2022.1090854).
PASS_BANDS = {"ecg": (0.5, 40.0), "ppg": (0.5, 8.0)}

#: A window is flat when a run of (nearly) equal samples covers more than this share of it.
LONGEST_FLAT_SHARE = 0.5
#: Samples are nearly equal when they differ by less than this share of the largest magnitude (of 1, where that is smaller).
FLAT_TOLERANCE = 1e-9

_FILTER_ORDER = 3
# Rates such as 62.4725 Hz (MIMIC) have no small fraction; the ratio is then kept to within 1e-6.
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
        ValueError: if a rate is not a positive, finite number, or one is thousands of times the other.
    """
    ratio = resampling_ratio(sampling_rate, target_sampling_rate)
    signal = np.asarray(signal)
    if sampling_rate == target_sampling_rate:
        return signal
    # `padtype="line"` keeps the offset of a raw signal from ringing at both ends.
    return scipy_signal.resample_poly(signal, ratio.numerator, ratio.denominator, axis=-1, padtype="line")


def resampling_ratio(sampling_rate: float, target_sampling_rate: float) -> Fraction:
    """How many samples [`resample`] makes of one.

    Raises:
        ValueError: as [`resample`].
    """
    for name, rate in (("sampling_rate", sampling_rate), ("target_sampling_rate", target_sampling_rate)):
        if not np.isfinite(rate) or rate <= 0:
            raise ValueError(f"`{name}` must be a positive number of Hz, but is {rate!r}.")
    quotient = target_sampling_rate / sampling_rate
    # Not even a fraction can be made of infinity, to which a rate near zero leads.
    in_range = quotient <= _LARGEST_RESAMPLING_FACTOR
    ratio = Fraction(quotient).limit_denominator(_LARGEST_RESAMPLING_FACTOR) if in_range else None
    if not ratio:
        raise ValueError(f"Resampling from {sampling_rate} Hz to {target_sampling_rate} Hz is out of range.")
    return ratio


@lru_cache(maxsize=32)
def _band_pass_sections(low: float, high: float, sampling_rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Sections of the filter, and their states after a constant of 1."""
    nyquist = sampling_rate / 2
    if low >= nyquist:
        raise ValueError(
            f"A pass band of {low}-{high} Hz needs more than {2 * low} Hz, but the rate is {sampling_rate}."
        )
    if high >= nyquist:
        sections = scipy_signal.butter(_FILTER_ORDER, low, "highpass", fs=sampling_rate, output="sos")
    else:
        sections = scipy_signal.butter(_FILTER_ORDER, (low, high), "bandpass", fs=sampling_rate, output="sos")
    return sections, scipy_signal.sosfilt_zi(sections)


def band_pass(signal: np.ndarray, sampling_rate: float, band: tuple[float, float]) -> np.ndarray:
    """Zero-phase Butterworth band-pass along the last axis (third order, applied forwards and backwards).

    Where the upper edge lies at or above half the sampling rate only the high-pass half is applied.

    Args:
        signal: array of shape `(..., samples)`.
        sampling_rate: rate of `signal` in Hz.
        band: lower and upper edge in Hz, e.g. `PASS_BANDS["ppg"]`.
    """
    sections, steady_state = _band_pass_sections(float(band[0]), float(band[1]), float(sampling_rate))
    signal = np.asarray(signal, dtype=np.float64)
    # scipy's default padding is longer than very short windows; a second of reflection settles a 0.5 Hz edge.
    padding = min(signal.shape[-1] - 1, int(sampling_rate))
    # As `sosfiltfilt`, which takes more time for the steady state, each time anew, than for the filter.
    first, last = signal[..., :1], signal[..., -1:]
    before, after = signal[..., padding:0:-1], signal[..., -2 : -padding - 2 : -1]
    filtered = np.concatenate((2 * first - before, signal, 2 * last - after), axis=-1)
    steady_state = steady_state.reshape(len(sections), *[1] * (signal.ndim - 1), 2)
    for _ in range(2):
        filtered, _state = scipy_signal.sosfilt(sections, filtered, axis=-1, zi=steady_state * filtered[..., :1])
        filtered = filtered[..., ::-1]
    return filtered[..., padding : filtered.shape[-1] - padding]


def standardize(signal: np.ndarray) -> np.ndarray:
    """Scales to mean 0 and standard deviation 1 along the last axis; a constant signal becomes zeros, one whose variance is
    beyond float64 becomes NaN."""
    signal = np.asarray(signal, dtype=np.float64)
    centred = signal - signal.mean(axis=-1, keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"):
        deviation = centred.std(axis=-1, keepdims=True)
    deviation[np.isinf(deviation)] = np.nan
    return np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation != 0)


def longest_constant_run(signal: np.ndarray) -> int:
    """Length in samples of the longest run of equal values in a signal of shape `(samples,)`."""
    signal = np.asarray(signal, dtype=np.float64)
    if signal.size == 0:
        return 0
    tolerance = FLAT_TOLERANCE * max(1.0, float(np.max(np.abs(signal))))
    with np.errstate(over="ignore"):
        changes = np.flatnonzero(np.abs(np.diff(signal)) > tolerance)
    edges = np.concatenate(([-1], changes, [signal.size - 1]))
    return int(np.max(np.diff(edges)))


def reason_to_drop(signal: np.ndarray) -> str | None:
    """Why a window of shape `(samples,)` cannot be used: `"missing"` (NaN or infinite samples), `"flat"` (constant over
    more than `LONGEST_FLAT_SHARE` of it), or `None` if it can."""
    if signal.size == 0 or not np.isfinite(signal).all():
        return "missing"
    if longest_constant_run(signal) > LONGEST_FLAT_SHARE * signal.size:
        return "flat"
    return None
