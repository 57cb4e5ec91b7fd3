"""Feature extractor: raw ECG and PPG at any rate to the input of the models."""

import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import PaddingStrategy, TensorType

from .channels_cmssl import says_another
from .hub_cmssl import HubFeatureExtractorMixin
from .signal_processing_cmssl import PASS_BANDS, band_pass, resample, standardize


_FLOAT32 = np.finfo(np.float32)


class CMSSLFeatureExtractor(HubFeatureExtractorMixin, SequenceFeatureExtractor):
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
    _auto_class: str | None = "AutoFeatureExtractor"

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
        unknown = sorted(set(pass_bands or {}) - set(PASS_BANDS))
        if unknown:
            raise ValueError(f"`pass_bands` must name channels among {sorted(PASS_BANDS)}, but names {unknown}.")
        if not sampling_rate > 0 or not patch_size > 0:
            raise ValueError(f"`sampling_rate` ({sampling_rate}) and `patch_size` ({patch_size}) must be positive.")
        super().__init__(
            feature_size=len(channels), sampling_rate=sampling_rate, padding_value=padding_value, **kwargs
        )
        self.channels = channels
        self.patch_size = patch_size
        self.do_band_pass = do_band_pass
        self.pass_bands = {name: list(band) for name, band in {**PASS_BANDS, **(pass_bands or {})}.items()}
        self.do_standardize = do_standardize

    @property
    def shortest_seconds(self) -> float:
        """Duration of the shortest window that can be read: one patch."""
        return self.patch_size / self.sampling_rate

    def __call__(
        self,
        *signals: np.ndarray | Sequence,
        ecg: np.ndarray | Sequence | None = None,
        ppg: np.ndarray | Sequence | None = None,
        sampling_rate: float | Mapping[str, float],
        padding: bool | str | PaddingStrategy = True,
        max_length: int | None = None,
        truncation: bool = False,
        return_attention_mask: bool | None = None,
        return_tensors: str | TensorType | None = None,
    ) -> BatchFeature:
        """
        Args:
            signals (`np.ndarray` or list):
                The one signal that the extractor reads, without its name; an extractor of several takes them by name.
            ecg (`np.ndarray` or list):
                ECG of one window, 1-d, or of a batch: a list of 1-d arrays or an array `(batch, samples)`. Columns of tables
                (pandas, polars) and tensors serve as well; labels of rows are not read.
            ppg (`np.ndarray` or list):
                PPG likewise; synchronous with `ecg` where the models read both.
            sampling_rate (`float` or `dict[str, float]`):
                Rate of the given signals in Hz; a dictionary by channel where ECG and PPG have their own.
            padding, max_length, truncation, return_attention_mask, return_tensors:
                As in [`CMSSLFeatureExtractor.pad`].

        Returns:
            [`BatchFeature`] with `input_values` (float32, `(batch, channels, samples)`) and `attention_mask` (int32,
            `(batch, samples)`, 1 = real signal).

        Raises:
            ValueError: if a signal is missing, of the wrong shape, shorter than one patch, constant, or holds missing or
                infinite samples or anything but numbers; if a signal is given that the model does not read, or without a
                name where it reads several; or if batch sizes or durations differ.
        """
        windows = self._windows(self._by_name(signals, {"ecg": ecg, "ppg": ppg}))
        rates = self._rates(sampling_rate)
        processed = {name: self._process(name, windows[name], rates[name]) for name in self.channels}
        rows = [self.stacked(index, signals) for index, signals in enumerate(zip(*processed.values()))]
        return self.pad(
            BatchFeature({"input_values": rows}),
            padding=padding,
            max_length=max_length,
            truncation=truncation,
            return_attention_mask=return_attention_mask,
            return_tensors=return_tensors,
        )

    def nothing(self, num_samples: int) -> dict[str, np.ndarray]:
        """A window of `num_samples` at the output rate in which nothing was recorded, as the models' input of batch size 1."""
        return {
            "input_values": np.zeros((1, len(self.channels), num_samples), dtype=np.float32),
            "attention_mask": np.ones((1, num_samples), dtype=np.int32),
        }

    def pad(
        self,
        processed_features: BatchFeature | Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str | PaddingStrategy = True,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | TensorType | None = None,
    ) -> BatchFeature:
        """
        Pads rows of `input_values (channels, samples)`, as the extractor itself and `extract_features` leave them, in time and
        to whole patches; other entries of the rows, such as labels, are stacked. Rows of `(samples,)` or
        `(samples, channels)`, which are no input of the models, are treated as transformers does.

        Args:
            processed_features (`BatchFeature`, `dict` or a list of them):
                Rows, or a batch of them by name: lists, arrays or tensors.
            padding, truncation, return_attention_mask, return_tensors:
                As in [`SequenceFeatureExtractor.pad`].
            max_length (`int`, *optional*):
                In samples of the output, rounded up to whole patches.
            pad_to_multiple_of (`int`, *optional*):
                In samples of the output; the result is a multiple of the patch as well.

        Raises:
            ValueError: if rows have different names or channels, a mask does not fit its row, or another entry holds no
                numbers or has not one shape in all rows.
        """
        options: dict[str, Any] = {"padding": padding, "max_length": max_length, "truncation": truncation}
        options["return_attention_mask"] = return_attention_mask
        columns = _by_column(processed_features)
        rows = columns.get("input_values")
        if rows is None or len(rows) == 0 or self._is_transformers_layout(rows):
            options |= {"pad_to_multiple_of": pad_to_multiple_of, "return_tensors": return_tensors}
            return super().pad(columns, **options)
        if return_tensors is None and any(hasattr(values, "detach") for values in (rows, rows[0], *rows[0])):
            return_tensors = TensorType.PYTORCH
        columns = {name: _stackable(name, values) for name, values in columns.items() if name != "input_values"}
        if not (self.return_attention_mask if return_attention_mask is None else return_attention_mask):
            columns.pop("attention_mask", None)
        rows = [self._time_first(index, row) for index, row in enumerate(rows)]
        for index, (row, mask) in enumerate(zip(rows, columns.get("attention_mask", []))):
            if np.shape(mask) != row.shape[:1]:
                raise ValueError(
                    f"`attention_mask` of row {index} must have shape {row.shape[:1]}, but has shape {np.shape(mask)}."
                )
        multiple = math.lcm(self.patch_size, pad_to_multiple_of or 1)
        features = super().pad(BatchFeature({"input_values": rows, **columns}), pad_to_multiple_of=multiple, **options)
        padded = [row.reshape(len(row), len(self.channels)).T for row in features["input_values"]]
        # Without padding, rows keep their lengths and no array may hold them.
        if return_tensors is None and len({row.shape for row in padded}) == 1:
            return_tensors = TensorType.NUMPY
        features["input_values"] = padded
        return features.convert_to_tensors(return_tensors)

    def _is_transformers_layout(self, rows: Sequence) -> bool:
        shape = np.shape(_to_numpy(rows[0]))
        if len(self.channels) == 1:
            return len(shape) == 1
        return len(shape) == 2 and shape[0] != len(self.channels) == shape[1]

    def _time_first(self, index: int, row: Any) -> np.ndarray:
        """A row `(channels, samples)` as `(samples, channels)`, or `(samples,)` for one channel: the layout of transformers."""
        row = _to_numpy(row).astype(np.float32)
        if row.ndim != 2 or len(row) != len(self.channels):
            raise ValueError(
                f"Rows to pad must have shape ({len(self.channels)}, samples), but row {index} has shape {row.shape}."
            )
        return row[0] if len(row) == 1 else row.T

    def _by_name(
        self, signals: tuple[np.ndarray | Sequence, ...], named: dict[str, np.ndarray | Sequence | None]
    ) -> dict[str, np.ndarray | Sequence | None]:
        if not signals:
            return named
        if len(self.channels) > 1 or len(signals) > 1:
            arguments = ", ".join(f"{name}=..." for name in self.channels)
            raise ValueError(f"This feature extractor takes its signals by name: `extractor({arguments})`.")
        (name,) = self.channels
        if named[name] is not None:
            raise ValueError(f"`{name}` is given twice.")
        label = str(getattr(signals[0], "name", None) or " ".join(map(str, getattr(signals[0], "columns", ()))))
        if says_another(label, name):
            raise ValueError(f"This feature extractor reads {name}, but the given column is called {label!r}.")
        return {**named, name: signals[0]}

    def _windows(self, signals: dict[str, np.ndarray | Sequence | None]) -> dict[str, list[np.ndarray]]:
        """Lists of float64 windows per channel of the model; all lists have the same length."""
        given = {name: signal for name, signal in signals.items() if signal is not None}
        superfluous = [name for name in given if name not in self.channels]
        missing = [name for name in self.channels if name not in given]
        if superfluous or missing:
            raise ValueError(
                f"This feature extractor reads {' and '.join(self.channels)}"
                + (f", but {' and '.join(missing)} is missing" if missing else "")
                + (f", but was given {' and '.join(superfluous)}" if superfluous else "")
                + "."
            )
        windows = {name: self._as_batch(name, given[name]) for name in self.channels}
        sizes = {name: len(batch) for name, batch in windows.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"All signals must have as many windows, but have {sizes}.")
        return windows

    @staticmethod
    def _as_batch(name: str, signal: np.ndarray | Sequence) -> list[np.ndarray]:
        try:
            windows = _to_sequence(signal)
            batched = len(windows) > 0 and np.ndim(windows[0]) > 0
            batch = [_to_numpy(window) for window in (windows if batched else [windows])]
        except (TypeError, ValueError) as error:
            raise ValueError(f"`{name}` must hold numbers: {error}") from error
        if len(windows) == 0:
            raise ValueError(f"`{name}` is empty.")
        if len(batch) > 1 and all(window.shape == (1,) for window in batch):
            raise ValueError(f"`{name}` has shape ({len(batch)}, 1), but time is the last axis: give `{name}[:, 0]`.")
        for index, window in enumerate(batch):
            where = f"`{name}`" + (f" (window {index} of the batch)" if batched else "")
            if window.ndim != 1:
                raise ValueError(f"{where} must be a 1-d array of samples, but has shape {window.shape}.")
            # Both are NaN where one sample is.
            low, high = (window.min(), window.max()) if window.size else (0.0, 1.0)
            if not math.isfinite(low) or not math.isfinite(high):
                raise ValueError(
                    f"{where} holds NaN or infinite samples (the first at position {np.isfinite(window).argmin()}). Cut the window"
                    " elsewhere or interpolate short gaps."
                )
            if max(-low, high) > _FLOAT32.max:
                raise ValueError(f"{where} holds values too large to be processed ({max(-low, high):.3g}).")
            if low == high:
                raise ValueError(f"{where} is constant ({low}): no signal was recorded.")
            if high - low < _FLOAT32.tiny:
                raise ValueError(f"{where} varies too little to be processed ({high - low:.3g}).")
        return batch

    def _rates(self, sampling_rate: float | Mapping[str, float]) -> dict[str, float]:
        if sampling_rate is None:
            raise ValueError("`sampling_rate` is required: the rate of the given signals in Hz.")
        if not isinstance(sampling_rate, Mapping):
            sampling_rate = dict.fromkeys(self.channels, sampling_rate)
        missing = [name for name in self.channels if name not in sampling_rate]
        if missing:
            raise ValueError(f"`sampling_rate` gives no rate for {' and '.join(missing)}.")
        rates = {}
        for name in self.channels:
            rate = sampling_rate[name]
            try:
                rates[name] = float(rate)
            except (TypeError, ValueError):
                rates[name] = math.nan
            if math.isnan(rates[name]) or isinstance(rate, bool):
                raise ValueError(
                    f"`sampling_rate` must be a number of Hz, or a dictionary of one by channel, but is {rate!r}."
                )
        return rates

    def _process(self, name: str, windows: list[np.ndarray], sampling_rate: float) -> list[np.ndarray]:
        """Windows at the output rate, filtered and standardised; those of one length are processed together."""
        by_length: dict[int, list[int]] = {}
        for index, window in enumerate(windows):
            by_length.setdefault(len(window), []).append(index)
        processed: dict[int, np.ndarray] = {}
        for length, indices in by_length.items():
            signals = np.stack([windows[index] for index in indices])
            if length:
                signals = self._condition(name, signals, sampling_rate)
            if signals.shape[-1] < round(self.shortest_seconds * self.sampling_rate):
                seconds = length / sampling_rate if length else 0.0
                raise ValueError(
                    f"`{name}` (window {indices[0]} of the batch) lasts {seconds:.3g} s, but at least one"
                    f" patch of {self.shortest_seconds:.3g} s is needed."
                )
            with np.errstate(over="ignore"):
                signals = signals.astype(np.float32)
            if not np.isfinite(signals).all():
                bad = indices[int(np.flatnonzero(~np.isfinite(signals).all(-1))[0])]
                raise ValueError(f"`{name}` (window {bad} of the batch) holds values too large to be processed.")
            for index, signal in zip(indices, signals):
                processed[index] = signal
        return [processed[index] for index in range(len(windows))]

    def _condition(self, name: str, signals: np.ndarray, sampling_rate: float) -> np.ndarray:
        """Windows `(windows, samples)` of one channel at the output rate, filtered and standardised."""
        signals = resample(signals, sampling_rate, self.sampling_rate)
        if self.do_band_pass:
            low, high = self.pass_bands[name]
            signals = band_pass(signals, self.sampling_rate, (low, high))
        return standardize(signals) if self.do_standardize else signals

    def stacked(self, index: int, signals: tuple[np.ndarray, ...]) -> np.ndarray:
        """Channels of one window as `(channels, samples)`."""
        lengths = {name: len(signal) for name, signal in zip(self.channels, signals)}
        # Rates that do not divide each other round to lengths that differ by a sample.
        if max(lengths.values()) - min(lengths.values()) > 1:
            seconds = {name: round(length / self.sampling_rate, 3) for name, length in lengths.items()}
            raise ValueError(f"The signals of window {index} must have one duration, but last {seconds} seconds.")
        shortest = min(lengths.values())
        return np.stack([signal[:shortest] for signal in signals])


def _to_sequence(values: Any) -> np.ndarray | list:
    """Anything that holds values in an order as an array or a list; masked samples become NaN.

    Raises:
        TypeError, ValueError: if it does not.
    """
    if isinstance(values, (str, bytes, bytearray, Mapping, Set)):
        raise ValueError(f"it is a {type(values).__name__}.")
    columns = getattr(values, "columns", None)
    if columns is not None:
        if len(columns) != 1:
            raise ValueError(f"it is a table with the columns {', '.join(map(str, columns))}; give one of them.")
        values = values[columns[0]]
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # numpy has no bfloat16.
        values = (values.double() if values.is_floating_point() else values).numpy()
    if np.ma.isMaskedArray(values) and values.dtype.kind in "fiu":
        values = np.ma.filled(values.astype(np.float64), np.nan)
    return np.asarray(values) if hasattr(values, "__array__") else list(values)


def _to_numpy(values: Any) -> np.ndarray:
    """Numbers as an array of float64; missing ones become NaN.

    Raises:
        TypeError, ValueError: if they are none.
    """
    array = np.asarray(_to_sequence(values))
    if array.dtype.kind not in "fiuO":
        raise ValueError(f"it holds values of type {array.dtype}.")
    if array.dtype.kind == "O" and any(isinstance(value, (str, bytes, bool)) for value in array.flat):
        raise ValueError("it holds text or truth values.")
    return array.astype(np.float64, copy=False)


def _by_column(features: BatchFeature | Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows, or a batch of them, by name."""
    if isinstance(features, Mapping):
        return dict(features)
    if len(features) == 0:
        raise ValueError("There are no rows to pad.")
    names = {frozenset(row.keys()) for row in features}
    if len(names) > 1:
        raise ValueError(
            f"All rows must have the same entries, but have {' or '.join(str(sorted(n)) for n in names)}."
        )
    return {name: [row[name] for row in features] for name in features[0]}


def _stackable(name: str, values: Any) -> np.ndarray | list[np.ndarray]:
    """An entry of all rows other than the signals."""
    try:
        values = [np.asarray(_to_sequence(value) if np.ndim(value) else value) for value in values]
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` cannot be padded: {error}") from error
    if any(value.dtype.kind not in "fiub" for value in values):
        raise ValueError(f"`{name}` cannot be padded, since it holds no numbers. Remove it from the rows.")
    if name == "attention_mask":
        return [value.astype(np.int32) for value in values]
    if len({value.shape for value in values}) > 1:
        raise ValueError(f"`{name}` cannot be padded: it has not the same shape in all rows.")
    return np.stack(values)


__all__ = ["CMSSLFeatureExtractor"]
