"""Feature extractor of PaPaGei: raw PPG at any rate to the input that its published weights were trained on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import signal as scipy_signal

from ..cmssl.feature_extraction_cmssl import CMSSLFeatureExtractor
from ..cmssl.signal_processing_cmssl import resample, resampling_ratio, standardize


_FILTER_ORDER = 4
_STOP_BAND_DB = 20
_SMOOTHED_SECONDS = 0.050
#: Below, the published preparation does not smooth.
_LOWEST_SMOOTHED_RATE = 75.0


class PaPaGeiFeatureExtractor(CMSSLFeatureExtractor):
    r"""
    Turns raw windows of PPG into `input_values (batch, 1, samples)` as PaPaGei was trained on: filtered at their own rate as by
    pyPPG (Chebyshev II of order 4, 0.5-12 Hz, both ways; from 75 Hz on a moving mean of 50 ms, both ways), standardised,
    resampled to 125 Hz, and filled up to pieces of 10 s with zeros. Time is not stretched.

    Args:
        channels (`tuple[str, ...]`, *optional*, defaults to `("ppg",)`):
            PPG, and nothing else.
        patch_size (`int`, *optional*, defaults to 1250):
            Samples of a piece.
        pass_bands (`dict[str, tuple[float, float]]`, *optional*):
            Pass band in Hz; PPG 0.5-12 by default.
        kwargs:
            All other arguments of [`CMSSLFeatureExtractor`].

    Raises:
        ValueError: as [`CMSSLFeatureExtractor`], and if another signal is asked for.
    """

    # Its code is no part of what it saves, which needs this package.
    _auto_class = None

    def __init__(
        self,
        channels: Sequence[str] = ("ppg",),
        patch_size: int = 1250,
        pass_bands: dict[str, Sequence[float]] | None = None,
        **kwargs: Any,
    ):
        if tuple(channels) != ("ppg",):
            raise ValueError(f"PaPaGei reads ppg alone, but `channels` is {tuple(channels)}. HeartLang reads ECG.")
        super().__init__(
            channels=channels, patch_size=patch_size, pass_bands={"ppg": (0.5, 12.0), **(pass_bands or {})}, **kwargs
        )

    @property
    def shortest_seconds(self) -> float:
        """Duration of the shortest window that can be read."""
        return 1.0

    def _condition(self, name: str, signals: np.ndarray, sampling_rate: float) -> np.ndarray:
        resampling_ratio(sampling_rate, self.sampling_rate)  # refuses rates before they reach a filter
        if self.do_band_pass:
            low, high = self.pass_bands[name]
            signals = _smoothed(_chebyshev(signals, sampling_rate, low, high), sampling_rate)
        if self.do_standardize:
            signals = standardize(signals)
        return resample(signals, sampling_rate, self.sampling_rate)

    def stacked(self, index: int, signals: tuple[np.ndarray, ...]) -> np.ndarray:
        window = super().stacked(index, signals)
        return np.pad(window, ((0, 0), (0, -window.shape[-1] % self.patch_size)))


def _chebyshev(signals: np.ndarray, sampling_rate: float, low: float, high: float) -> np.ndarray:
    nyquist = sampling_rate / 2
    if low >= nyquist:
        raise ValueError(f"At {sampling_rate} Hz there is nothing of {low}-{high} Hz.")
    band, kind = (low, "highpass") if high >= nyquist else ([low, high], "bandpass")
    sections = scipy_signal.cheby2(_FILTER_ORDER, _STOP_BAND_DB, band, kind, fs=sampling_rate, output="sos")
    # What `filtfilt` extends by, whose filter is one of 9 coefficients.
    padding = min(27, signals.shape[-1] - 1)
    return scipy_signal.sosfiltfilt(sections, signals, axis=-1, padlen=padding)


def _smoothed(signals: np.ndarray, sampling_rate: float) -> np.ndarray:
    if sampling_rate < _LOWEST_SMOOTHED_RATE:
        return signals
    width = round(sampling_rate * _SMOOTHED_SECONDS)
    padding = min(3 * width, signals.shape[-1] - 1)
    return scipy_signal.filtfilt(np.full(width, 1 / width), 1, signals, axis=-1, padlen=padding)


__all__ = ["PaPaGeiFeatureExtractor"]
