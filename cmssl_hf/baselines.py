"""Classical methods that need no training, one per kind of task: what a learnt model has to beat. numpy and scipy only."""

import itertools
from collections.abc import Callable

import numpy as np
from scipy import signal as scipy_signal

from .signals import detect_pulse_peaks, heart_rate_from_beats, resample, standardize


#: Respiratory rates that are searched, in Hz: 6 to 36 breaths per minute.
_RESPIRATORY_BAND = (0.1, 0.6)
_MODULATION_SAMPLING_RATE = 4.0


def heart_rate_from_pulse_peaks(ppg: np.ndarray, sampling_rate: float) -> float:
    """Heart rate in bpm from the median interval between the systolic peaks of a PPG `(samples,)`; NaN if none is found."""
    return heart_rate_from_beats(detect_pulse_peaks(ppg, sampling_rate), sampling_rate)


def respiratory_rate_from_spectrum(ppg: np.ndarray, sampling_rate: float) -> float:
    """Respiratory rate in breaths/min: the peak of the averaged spectra of the three respiratory modulations of a PPG
    `(samples,)` - baseline, pulse amplitude and pulse interval (Karlen et al. 2013, doi:10.1109/TBME.2013.2246160).

    NaN if fewer than four pulses are found.
    """
    ppg = np.asarray(ppg, dtype=np.float64)
    peaks = detect_pulse_peaks(ppg, sampling_rate)
    if len(peaks) < 4:
        return float("nan")
    duration = len(ppg) / sampling_rate
    times = np.arange(0, duration, 1 / _MODULATION_SAMPLING_RATE)
    troughs = np.array([ppg[start:stop].min() for start, stop in itertools.pairwise(peaks)])
    beat_times = peaks / sampling_rate
    modulations = (
        resample(ppg, sampling_rate, _MODULATION_SAMPLING_RATE)[: len(times)],
        np.interp(times, beat_times[1:], ppg[peaks[1:]] - troughs),
        np.interp(times, beat_times[1:], np.diff(beat_times)),
    )
    # Zero-padding to 0.005 Hz (0.3 breaths/min) keeps the grid from deciding the answer.
    num_frequencies = int(_MODULATION_SAMPLING_RATE / 0.005)
    spectrum = 0.0
    for modulation in modulations:
        detrended = standardize(scipy_signal.detrend(modulation))
        frequencies, power = scipy_signal.periodogram(
            detrended, _MODULATION_SAMPLING_RATE, window="hann", nfft=max(num_frequencies, len(detrended))
        )
        spectrum = spectrum + power
    searched = (frequencies >= _RESPIRATORY_BAND[0]) & (frequencies <= _RESPIRATORY_BAND[1])
    return float(60.0 * frequencies[searched][np.argmax(spectrum[searched])])


#: Methods by the name that `cmssl_hf.tasks` refers to: signal `(samples,)` and sampling rate in Hz to one value.
CLASSICAL_METHODS: dict[str, Callable[[np.ndarray, float], float]] = {
    "pulse_peaks": heart_rate_from_pulse_peaks,
    "respiratory_spectrum": respiratory_rate_from_spectrum,
}
