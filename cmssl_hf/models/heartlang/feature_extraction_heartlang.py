"""Feature extractor of HeartLang: raw ECG at any rate to heartbeats with their leads and seconds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import signal as scipy_signal
from transformers import BatchFeature
from transformers.utils import TensorType

from ..cmssl.feature_extraction_cmssl import CMSSLFeatureExtractor
from ..cmssl.signal_processing_cmssl import resampling_ratio, standardize


#: The id of each lead is its place here, counted from 1.
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

_FILTER_ORDER = 5
#: What the published weights read at once, in s.
_PIECE_SECONDS = 10


class HeartLangFeatureExtractor(CMSSLFeatureExtractor):
    r"""
    Turns raw windows of ECG into beats as HeartLang was trained on: resampled to 100 Hz (by the Fourier transform), filtered
    (Butterworth of order 5, 0.67-40 Hz, both ways), not scaled, so in mV; R-peaks by `wfdb`'s XQRS on the first lead; each beat
    from halfway to the one before to halfway to the next, with the R-peak in the middle of 96 samples where it fits. All beats
    of the first lead come first, then those of the second. Windows longer than 10 s are read in pieces.

    Args:
        leads (`Sequence[str]`, *optional*, defaults to `("II",)`):
            Leads that a window holds, among I, II, III, aVR, aVL, aVF and V1 to V6, in their order.
        channels (`tuple[str, ...]`, *optional*, defaults to `("ecg",)`):
            ECG, and nothing else.
        sampling_rate (`int`, *optional*, defaults to 100):
            Rate in Hz that beats are cut at.
        patch_size (`int`, *optional*, defaults to 96):
            Samples of a beat.
        max_beats (`int`, *optional*, defaults to 256):
            Beats of a piece; of more, those of the last leads are lost, as in the published code.
        pass_bands (`dict[str, tuple[float, float]]`, *optional*):
            Pass band in Hz; ECG 0.67-40 by default.
        do_standardize (`bool`, *optional*, defaults to `False`):
            Whether to scale each window to mean 0 and standard deviation 1, for signals in unknown units.
        kwargs:
            All other arguments of [`CMSSLFeatureExtractor`].

    Raises:
        ValueError: as [`CMSSLFeatureExtractor`], and if another signal or an unknown lead is asked for.
    """

    model_input_names = ["input_values", "lead_ids", "time_ids"]

    # Its code is no part of what it saves, which needs this package.
    _auto_class = None

    def __init__(
        self,
        leads: Sequence[str] = ("II",),
        channels: Sequence[str] = ("ecg",),
        sampling_rate: int = 100,
        patch_size: int = 96,
        max_beats: int = 256,
        pass_bands: Mapping[str, Sequence[float]] | None = None,
        do_standardize: bool = False,
        **kwargs: Any,
    ):
        if tuple(channels) != ("ecg",):
            raise ValueError(f"HeartLang reads ecg alone, but `channels` is {tuple(channels)}. PaPaGei reads PPG.")
        leads = (leads,) if isinstance(leads, str) else tuple(leads)
        if not leads or len(set(leads)) != len(leads) or not set(leads) <= set(LEADS):
            raise ValueError(f"`leads` must name one or more of {', '.join(LEADS)} once each, but is {leads}.")
        super().__init__(
            channels=channels,
            sampling_rate=sampling_rate,
            patch_size=patch_size,
            pass_bands={"ecg": (0.67, 40.0), **(pass_bands or {})},
            do_standardize=do_standardize,
            **kwargs,
        )
        self.leads = leads
        self.max_beats = max_beats

    @property
    def shortest_seconds(self) -> float:
        """Duration of the shortest window that can be read: one that may hold two beats."""
        return 2.0

    def __call__(
        self,
        *signals: np.ndarray | Sequence,
        ecg: np.ndarray | Sequence | None = None,
        ppg: np.ndarray | Sequence | None = None,
        sampling_rate: float | Mapping[str, float],
        max_length: int | None = None,
        return_tensors: str | TensorType | None = None,
        **padding: Any,
    ) -> BatchFeature:
        """
        Args:
            signals (`np.ndarray` or list):
                The ECG, without its name.
            ecg (`np.ndarray` or list):
                ECG of one window in mV, or of a batch, as for [`CMSSLFeatureExtractor`]. With several `leads` each window is an
                array `(leads, samples)`.
            ppg:
                Not read.
            sampling_rate (`float` or `dict[str, float]`):
                Rate of the given signals in Hz.
            max_length (`int`, *optional*):
                At least as many whole pieces of 10 s as fit into this many samples of the output rate.
            return_tensors:
                As in [`CMSSLFeatureExtractor.pad`].
            padding:
                Its other arguments, which do nothing: what is too short is padded with beats of zeros.

        Returns:
            [`BatchFeature`] with `input_values` (float32, `(batch, pieces * max_beats, patch_size)`), and `lead_ids` and
            `time_ids` (int64, `(batch, pieces * max_beats)`), 0 where there is no beat.

        Raises:
            ValueError: as [`CMSSLFeatureExtractor`]; if windows have another number of leads.
            ModuleNotFoundError: if wfdb is not installed.
        """
        given = self._by_name(signals, {"ecg": ecg, "ppg": ppg})
        if len(self.leads) > 1 and given["ecg"] is not None:
            given = {**given, "ecg": self._leads_apart(given["ecg"])}
        rate = self._rates(sampling_rate)["ecg"]
        processed = self._process("ecg", self._windows(given)["ecg"], rate)
        number = len(self.leads)
        windows = [np.stack(processed[first : first + number]) for first in range(0, len(processed), number)]
        rows = [self._sentences(window) for window in windows]
        piece = _PIECE_SECONDS * self.sampling_rate
        pieces = max(*(len(row) for row in rows), (max_length or 0) // piece, 1)
        features: dict[str, list[np.ndarray]] = {name: [] for name in self.model_input_names}
        for row in rows:
            row = [*row, *[self._sentence([], [], [])] * (pieces - len(row))]
            for name, parts in zip(self.model_input_names, zip(*row)):
                features[name].append(np.concatenate(parts))
        return BatchFeature({name: np.stack(values) for name, values in features.items()}, return_tensors)

    def nothing(self, num_samples: int) -> dict[str, np.ndarray]:
        pieces = max(1, num_samples // (_PIECE_SECONDS * self.sampling_rate))
        parts = zip(*[self._sentence([], [], [])] * pieces)
        return {name: np.concatenate(part)[None] for name, part in zip(self.model_input_names, parts)}

    def _leads_apart(self, ecg: np.ndarray | Sequence) -> list[np.ndarray]:
        """All leads of all windows, one after the other."""
        windows = [ecg] if np.ndim(ecg[0]) == 1 else list(ecg)
        for index, window in enumerate(windows):
            if np.ndim(window) != 2 or len(window) != len(self.leads):
                raise ValueError(
                    f"Window {index} of `ecg` must have shape ({len(self.leads)}, samples), for the leads"
                    f" {', '.join(self.leads)}, but has shape {np.shape(window)}."
                )
        return [lead for window in windows for lead in window]

    def _condition(self, name: str, signals: np.ndarray, sampling_rate: float) -> np.ndarray:
        number = round(signals.shape[-1] * resampling_ratio(sampling_rate, self.sampling_rate))
        if number == 0:
            return signals[..., :0]
        if sampling_rate != self.sampling_rate:
            signals = scipy_signal.resample(signals, number, axis=-1)
        if self.do_band_pass:
            sections = scipy_signal.butter(
                _FILTER_ORDER, self.pass_bands[name], "bandpass", fs=self.sampling_rate, output="sos"
            )
            # What `filtfilt` extends by, whose filter is one of 11 coefficients.
            padding = min(33, signals.shape[-1] - 1)
            signals = scipy_signal.sosfiltfilt(sections, signals, axis=-1, padlen=padding)
        if self.do_standardize:
            signals = standardize(signals)
        return signals

    def _sentences(self, window: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Beats, lead ids and time ids of each piece of a window `(leads, samples)`."""
        piece = _PIECE_SECONDS * self.sampling_rate
        shortest = round(self.shortest_seconds * self.sampling_rate)
        starts = [start for start in range(0, window.shape[-1], piece) if window.shape[-1] - start >= shortest]
        sentences = []
        for start in starts:
            signals = window[:, start : start + piece]
            peaks = _r_peaks(signals[0], self.sampling_rate)
            beats = [beat for signal in signals for beat in cut_beats(signal, peaks, self.patch_size)]
            leads = [LEADS.index(lead) + 1 for lead in self.leads for _ in peaks]
            times = [int(peak // self.sampling_rate) + 1 for _ in self.leads for peak in peaks]
            sentences.append(self._sentence(beats, leads, times))
        return sentences

    def _sentence(
        self, beats: Sequence[np.ndarray], leads: Sequence[int], times: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        number = min(len(beats), self.max_beats)
        values = np.zeros((self.max_beats, self.patch_size), dtype=np.float32)
        lead_ids, time_ids = np.zeros((2, self.max_beats), dtype=np.int64)
        if number:
            values[:number] = beats[:number]
        lead_ids[:number], time_ids[:number] = leads[:number], times[:number]
        return values, lead_ids, time_ids


def _r_peaks(signal: np.ndarray, sampling_rate: int) -> np.ndarray:
    from ... import naming_the_extra

    with naming_the_extra():
        from wfdb.processing import xqrs_detect
    return np.asarray(xqrs_detect(sig=signal.astype(np.float64), fs=sampling_rate, verbose=False), dtype=np.int64)


def cut_beats(signal: np.ndarray, peaks: np.ndarray, size: int) -> list[np.ndarray]:
    """The beats of a signal `(samples,)` around its R-peaks, each `(size,)`.

    A beat goes from halfway to the peak before to halfway to the next one, the first and the last one half of `size` beyond their
    peak; one that is longer than `size` is cut to half of it on both sides. Its peak is in the middle, unless more than half of
    `size` lies before it: then it begins at the first sample, and what does not fit is lost.
    """
    half, last = size // 2, len(peaks) - 1
    beats = []
    for index, peak in enumerate(peaks):
        start = peak - half if index == 0 else (peak + peaks[index - 1]) // 2
        start = max(int(start), 0)
        if index < last:
            end = (peak + peaks[index + 1]) // 2
        else:
            end = start + size if index == 0 else peak + half
        end = min(int(end), len(signal))
        if end - start > size:
            start = max(int(peak) - half, 0)
            end = min(start + size, len(signal))
        offset = max(half - (int(peak) - start), 0)
        samples = signal[start:end][: size - offset]
        beat = np.zeros(size)
        beat[offset : offset + len(samples)] = samples
        beats.append(beat)
    return beats


__all__ = ["LEADS", "HeartLangFeatureExtractor", "cut_beats"]
