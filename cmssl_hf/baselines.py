"""Classical methods, what a learnt model has to beat: rates that need no training, and features of the intervals between beats
for a linear or tree model. numpy and scipy only."""

import itertools
from collections.abc import Callable

import numpy as np
from scipy import signal as scipy_signal

from .signals import (
    PASS_BANDS,
    band_pass,
    bridge_gaps,
    detect_pulse_peaks,
    detect_r_peaks,
    long_gaps,
    resample,
    standardize,
)


#: Respiratory rates that are searched, in Hz: 6 to 36 breaths per minute.
_RESPIRATORY_BAND = (0.1, 0.6)
_MODULATION_SAMPLING_RATE = 4.0


def heart_rate_from_pulse_peaks(ppg: np.ndarray, sampling_rate: float) -> float:
    """Heart rate in bpm from the median interval between the systolic peaks of a PPG `(samples,)`; NaN if none is found.

    Of a signal with missing samples (NaN), intervals over `long_gaps` are left out, here and in the methods below.
    """
    peaks = detect_pulse_peaks(ppg, sampling_rate)
    intervals = np.diff(peaks)[_without_gap(ppg, peaks, sampling_rate)]
    return float(60.0 * sampling_rate / np.median(intervals)) if len(intervals) else float("nan")


def respiratory_rate_from_spectrum(ppg: np.ndarray, sampling_rate: float) -> float:
    """Respiratory rate in breaths/min: the peak of the averaged spectra of the three respiratory modulations of a PPG
    `(samples,)` - baseline, pulse amplitude and pulse interval (Karlen et al. 2013, doi:10.1109/TBME.2013.2246160).

    NaN if fewer than three intervals between pulses are found, or more than half of the samples are in `long_gaps`.
    """
    peaks = detect_pulse_peaks(ppg, sampling_rate)
    whole = _without_gap(ppg, peaks, sampling_rate)
    if whole.sum() < 3 or long_gaps(ppg, sampling_rate).mean() > 0.5:
        return float("nan")
    ppg = bridge_gaps(ppg)
    duration = len(ppg) / sampling_rate
    times = np.arange(0, duration, 1 / _MODULATION_SAMPLING_RATE)
    troughs = np.array([ppg[start:stop].min() for start, stop in itertools.pairwise(peaks)])
    beat_times = peaks / sampling_rate
    interval_times = beat_times[1:][whole]
    modulations = (
        resample(ppg, sampling_rate, _MODULATION_SAMPLING_RATE)[: len(times)],
        np.interp(times, interval_times, (ppg[peaks[1:]] - troughs)[whole]),
        np.interp(times, interval_times, np.diff(beat_times)[whole]),
    )
    # Zero-padding to 0.005 Hz (0.3 breaths/min) keeps the grid from deciding the answer.
    num_frequencies = int(_MODULATION_SAMPLING_RATE / 0.005)
    spectra = []
    for modulation in modulations:
        detrended = standardize(scipy_signal.detrend(modulation))
        frequencies, power = scipy_signal.periodogram(
            detrended, _MODULATION_SAMPLING_RATE, window="hann", nfft=max(num_frequencies, len(detrended))
        )
        spectra.append(power)
    spectrum = np.sum(spectra, axis=0)
    searched = (frequencies >= _RESPIRATORY_BAND[0]) & (frequencies <= _RESPIRATORY_BAND[1])
    return float(60.0 * frequencies[searched][np.argmax(spectrum[searched])])


def _without_gap(signal: np.ndarray, beats: np.ndarray, sampling_rate: float) -> np.ndarray:
    """For each interval between beats, whether no beat can have been lost in it."""
    lost = np.cumsum(long_gaps(signal, sampling_rate))
    return np.diff(lost[beats]) == 0


#: Methods by the name that `cmssl_hf.tasks` refers to: signal `(samples,)` and sampling rate in Hz to one value.
CLASSICAL_METHODS: dict[str, Callable[[np.ndarray, float], float]] = {
    "pulse_peaks": heart_rate_from_pulse_peaks,
    "respiratory_spectrum": respiratory_rate_from_spectrum,
}


#: What `rr_interval_features` returns, in this order; times in seconds, rates in beats/min.
RR_INTERVAL_FEATURES = (
    "num_intervals",
    "mean_rate",
    "median_interval",
    "std",
    "cv",
    "rmssd",
    "pnn50",
    "iqr",
    "range",
    "median_absolute_difference",
    "sample_entropy",
    "interval_entropy",
    "turning_point_ratio",
    "lag1_correlation",
    "sd1_sd2",
    "regular_share",
    "beat_correlation",
    "slope",
    "kurtosis",
)


def rr_interval_features(ecg: np.ndarray, sampling_rate: float) -> np.ndarray:
    """Features of rhythm from the intervals between the R-peaks of an ECG `(samples,)`: rate, variability (Task Force 1996,
    doi:10.1161/01.CIR.93.5.1043), irregularity (turning points and entropy as in Dash et al. 2009,
    doi:10.1007/s10439-009-9740-z; sample entropy), and how alike the beats and how noisy the recording are.

    Returns:
        Array of shape `(len(RR_INTERVAL_FEATURES),)`; NaN where there are too few beats to tell.
    """
    peaks = detect_r_peaks(ecg, sampling_rate)
    values = dict.fromkeys(RR_INTERVAL_FEATURES, np.nan)
    intervals = np.diff(peaks)[_without_gap(ecg, peaks, sampling_rate)] / sampling_rate
    values["num_intervals"] = len(intervals)
    values.update(_signal_quality(bridge_gaps(ecg), peaks, sampling_rate))
    if len(intervals) >= 3:
        steps = np.diff(intervals)
        deviation = intervals.std()
        values["mean_rate"] = 60.0 / intervals.mean()
        values["median_interval"] = np.median(intervals)
        values["std"] = deviation
        values["cv"] = deviation / intervals.mean()
        values["rmssd"] = np.sqrt((steps**2).mean())
        values["pnn50"] = (np.abs(steps) > 0.05).mean()
        values["iqr"] = np.subtract(*np.percentile(intervals, [75, 25]))
        values["range"] = np.ptp(intervals)
        values["median_absolute_difference"] = np.median(np.abs(steps))
        values["sample_entropy"] = _sample_entropy(intervals)
        shares = np.histogram(intervals, bins=np.arange(0.2, 2.25, 0.05))[0] / len(intervals)
        values["interval_entropy"] = -np.sum(shares[shares > 0] * np.log(shares[shares > 0]))
        values["turning_point_ratio"] = (steps[1:] * steps[:-1] < 0).mean()
        values["lag1_correlation"] = _correlation(intervals[1:], intervals[:-1])
        across, along = np.std(steps) / np.sqrt(2), np.std(intervals[1:] + intervals[:-1]) / np.sqrt(2)
        values["sd1_sd2"] = across / along if along > 0 else np.nan
        values["regular_share"] = (np.abs(intervals / np.median(intervals) - 1) < 0.1).mean()
    return np.array([values[name] for name in RR_INTERVAL_FEATURES])


def _signal_quality(ecg: np.ndarray, peaks: np.ndarray, sampling_rate: float) -> dict[str, float]:
    filtered = standardize(band_pass(ecg, sampling_rate, PASS_BANDS["ecg"]))
    values = {"slope": float(np.std(np.diff(filtered)) * sampling_rate), "kurtosis": float(np.mean(filtered**4))}
    reach = round(0.2 * sampling_rate)
    inner = [peak for peak in peaks if reach <= peak < len(filtered) - reach]
    if len(inner) >= 3:
        beats = np.stack([filtered[peak - reach : peak + reach] for peak in inner])
        template = np.median(beats, axis=0)
        values["beat_correlation"] = float(np.median([_correlation(beat, template) for beat in beats]))
    return values


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def _sample_entropy(series: np.ndarray, tolerance: float = 0.03) -> float:
    """Sample entropy (Richman and Moorman 2000) with templates of length 1 and a tolerance in seconds; the largest value that
    a series of this length can have where no pair of longer templates is alike."""
    near = np.abs(series[:, None] - series) <= tolerance
    short = near[:-1, :-1].sum() - (len(series) - 1)
    long = (near[:-1, :-1] & near[1:, 1:]).sum() - (len(series) - 1)
    if short == 0:
        return float("nan")
    return float(np.log(short / max(long, 1)))


#: Feature sets by the name that `cmssl_hf.tasks` refers to: signal `(samples,)` and sampling rate in Hz to `(features,)`.
CLASSICAL_FEATURES: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {"rr_intervals": rr_interval_features}
