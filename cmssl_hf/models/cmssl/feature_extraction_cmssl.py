"""Feature extractor: raw ECG and PPG at any rate to the input of the models."""

from collections.abc import Mapping, Sequence

import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import PaddingStrategy, TensorType

from .signal_processing_cmssl import PASS_BANDS, band_pass, resample, standardize


_FLOAT32 = np.finfo(np.float32)


class CMSSLFeatureExtractor(SequenceFeatureExtractor):
    r"""
    Turns raw windows of ECG and/or PPG into `input_values` at the models' sampling rate: resampled (polyphase, real
    duration kept), band-passed per modality, standardised per window and channel, padded to whole patches, and masked.

    Args:
        channels (`tuple[str, ...]`, *optional*, defaults to `("ppg",)`):
            Signals that a window must hold, in the order of the channel axis; the same as in the model's config.
        sampling_rate (`int`, *optional*, defaults to 125):
            Rate of the output in Hz.
        patch_size (`int`, *optional*, defaults to 125):
            Outputs are padded to a multiple of this many samples.
        padding_value (`float`, *optional*, defaults to 0.0):
            Value of the padding.
        do_band_pass (`bool`, *optional*, defaults to `True`):
            Whether to band-pass each signal. Switch it off for signals that are already filtered, or where the respiratory
            baseline of the PPG (below 0.5 Hz) is wanted.
        pass_bands (`dict[str, tuple[float, float]]`, *optional*):
            Pass bands in Hz per channel; ECG 0.5-40 and PPG 0.5-8 by default.
        do_standardize (`bool`, *optional*, defaults to `True`):
            Whether to scale each window and channel to mean 0 and standard deviation 1.
    """

    model_input_names = ["input_values", "attention_mask"]
    _auto_class = "AutoFeatureExtractor"

    def __init__(
        self,
        channels: Sequence[str] = ("ppg",),
        sampling_rate: int = 125,
        patch_size: int = 125,
        padding_value: float = 0.0,
        do_band_pass: bool = True,
        pass_bands: Mapping[str, Sequence[float]] | None = None,
        do_standardize: bool = True,
        **kwargs,
    ):
        channels = tuple(channels)
        if not channels or len(set(channels)) != len(channels) or not set(channels) <= set(PASS_BANDS):
            raise ValueError(f"`channels` must name one or more of {sorted(PASS_BANDS)} once each, but is {channels}.")
        # It follows from `channels`, and would otherwise be read back from a saved folder.
        kwargs.pop("feature_size", None)
        super().__init__(
            feature_size=len(channels), sampling_rate=sampling_rate, padding_value=padding_value, **kwargs
        )
        self.channels = channels
        self.patch_size = patch_size
        self.do_band_pass = do_band_pass
        self.pass_bands = {name: list(band) for name, band in {**PASS_BANDS, **(pass_bands or {})}.items()}
        self.do_standardize = do_standardize

    def __call__(
        self,
        ecg: np.ndarray | Sequence | None = None,
        ppg: np.ndarray | Sequence | None = None,
        *,
        sampling_rate: float | Mapping[str, float],
        padding: bool | str | PaddingStrategy = True,
        max_length: int | None = None,
        truncation: bool = False,
        return_attention_mask: bool | None = None,
        return_tensors: str | TensorType | None = None,
    ) -> BatchFeature:
        """
        Args:
            ecg (`np.ndarray` or list):
                ECG of one window, 1-d, or of a batch: a list of 1-d arrays or an array `(batch, samples)`.
            ppg (`np.ndarray` or list):
                PPG likewise; synchronous with `ecg` where the models read both.
            sampling_rate (`float` or `dict[str, float]`):
                Rate of the given signals in Hz; a dictionary by channel where ECG and PPG have their own.
            padding, max_length, truncation, return_attention_mask, return_tensors:
                As in [`SequenceFeatureExtractor.pad`]; lengths are in samples of the output and are rounded up to patches.

        Returns:
            [`BatchFeature`] with `input_values` (float32, `(batch, channels, samples)`) and `attention_mask` (int32,
            `(batch, samples)`, 1 = real signal).

        Raises:
            ValueError: if a signal is missing, of the wrong shape, shorter than one patch, constant, or holds NaN or
                infinite samples; if a signal is given that the model does not read; or if batch sizes or durations differ.
        """
        windows = self._windows({"ecg": ecg, "ppg": ppg})
        rates = self._rates(sampling_rate)
        processed = {name: self._process(name, windows[name], rates[name]) for name in self.channels}
        stacked = [self._stack(index, signals) for index, signals in enumerate(zip(*processed.values()))]
        features = self.pad(
            BatchFeature({"input_values": stacked}),
            padding=padding,
            max_length=max_length,
            truncation=truncation,
            pad_to_multiple_of=self.patch_size,
            return_attention_mask=return_attention_mask,
        )
        features["input_values"] = [
            np.asarray(values, dtype=np.float32).reshape(len(values), len(self.channels)).T
            for values in features["input_values"]
        ]
        return features.convert_to_tensors(return_tensors)

    def _windows(self, signals: dict[str, np.ndarray | Sequence | None]) -> dict[str, list[np.ndarray]]:
        """Lists of float64 windows per channel of the model; all lists have the same length."""
        superfluous = [name for name, signal in signals.items() if signal is not None and name not in self.channels]
        missing = [name for name in self.channels if signals[name] is None]
        if superfluous or missing:
            raise ValueError(
                f"This feature extractor reads {' and '.join(self.channels)}"
                + (f", but {' and '.join(missing)} is missing" if missing else "")
                + (f", but was given {' and '.join(superfluous)}" if superfluous else "")
                + "."
            )
        windows = {name: self._as_batch(name, signals[name]) for name in self.channels}
        sizes = {name: len(batch) for name, batch in windows.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"All signals must have as many windows, but have {sizes}.")
        return windows

    @staticmethod
    def _as_batch(name: str, signal: np.ndarray | Sequence) -> list[np.ndarray]:
        try:
            batched = len(signal) > 0 and np.ndim(signal[0]) > 0
            batch = [np.asarray(window, dtype=np.float64) for window in (signal if batched else [signal])]
        except (TypeError, ValueError) as error:
            raise ValueError(f"`{name}` must hold numbers: {error}") from error
        if len(signal) == 0:
            raise ValueError(f"`{name}` is empty.")
        for index, window in enumerate(batch):
            where = f"`{name}`" + (f" (window {index} of the batch)" if batched else "")
            if window.ndim != 1:
                raise ValueError(f"{where} must be a 1-d array of samples, but has shape {window.shape}.")
            if not np.isfinite(window).all():
                first = int(np.flatnonzero(~np.isfinite(window))[0])
                raise ValueError(
                    f"{where} holds NaN or infinite samples (the first at position {first}). Cut the window elsewhere or"
                    " interpolate short gaps."
                )
            if np.abs(window).max(initial=0.0) > _FLOAT32.max:
                raise ValueError(f"{where} holds values too large to be processed ({np.abs(window).max():.3g}).")
            if window.size and np.ptp(window) == 0:
                raise ValueError(f"{where} is constant ({window[0]}): no signal was recorded.")
            if window.size and np.ptp(window) < _FLOAT32.tiny:
                raise ValueError(f"{where} varies too little to be processed ({np.ptp(window):.3g}).")
        return batch

    def _rates(self, sampling_rate: float | Mapping[str, float]) -> dict[str, float]:
        if sampling_rate is None:
            raise ValueError("`sampling_rate` is required: the rate of the given signals in Hz.")
        if not isinstance(sampling_rate, Mapping):
            return dict.fromkeys(self.channels, float(sampling_rate))
        missing = [name for name in self.channels if name not in sampling_rate]
        if missing:
            raise ValueError(f"`sampling_rate` gives no rate for {' and '.join(missing)}.")
        return {name: float(sampling_rate[name]) for name in self.channels}

    def _process(self, name: str, windows: list[np.ndarray], sampling_rate: float) -> list[np.ndarray]:
        """Windows at the output rate, filtered and standardised; those of one length are processed together."""
        by_length: dict[int, list[int]] = {}
        for index, window in enumerate(windows):
            by_length.setdefault(len(window), []).append(index)
        processed: list[np.ndarray] = [None] * len(windows)
        for length, indices in by_length.items():
            signals = resample(np.stack([windows[index] for index in indices]), sampling_rate, self.sampling_rate)
            if signals.shape[-1] < self.patch_size:
                raise ValueError(
                    f"`{name}` (window {indices[0]} of the batch) lasts {length / sampling_rate:.3g} s, but at least one"
                    f" patch of {self.patch_size / self.sampling_rate:.3g} s is needed."
                )
            if self.do_band_pass:
                signals = band_pass(signals, self.sampling_rate, tuple(self.pass_bands[name]))
            if self.do_standardize:
                signals = standardize(signals)
            with np.errstate(over="ignore"):
                signals = signals.astype(np.float32)
            if not np.isfinite(signals).all():
                bad = indices[int(np.flatnonzero(~np.isfinite(signals).all(-1))[0])]
                raise ValueError(f"`{name}` (window {bad} of the batch) holds values too large to be processed.")
            for index, signal in zip(indices, signals):
                processed[index] = signal
        return processed

    def _stack(self, index: int, signals: tuple[np.ndarray, ...]) -> np.ndarray:
        """Channels of one window as `(samples, channels)`, or `(samples,)` for one channel, the layout of `pad`."""
        lengths = {name: len(signal) for name, signal in zip(self.channels, signals)}
        # Rates that do not divide each other round to lengths that differ by a sample.
        if max(lengths.values()) - min(lengths.values()) > 1:
            seconds = {name: round(length / self.sampling_rate, 3) for name, length in lengths.items()}
            raise ValueError(f"The signals of window {index} must have one duration, but last {seconds} seconds.")
        if len(signals) == 1:
            return signals[0]
        shortest = min(lengths.values())
        return np.stack([signal[:shortest] for signal in signals], axis=-1)


__all__ = ["CMSSLFeatureExtractor"]
