"""Columns of numbers and times as a recording: which are its signals, and at what rate."""

import contextlib
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np

from .channels_cmssl import choose_channels, every_signal, is_rate, numbered_names, rate_in_name, unit_in_name
from .tables_cmssl import as_numbers
from .time_axis_cmssl import RATE_TOLERANCE, is_time, on_regular_grid, seconds_from


@dataclass(frozen=True)
class Recording:
    """Synchronous signals that begin together.

    Attributes:
        name: what messages call it.
        signals: array `(samples,)` per channel, in any unit; NaN where nothing was recorded.
        sampling_rates: rate of each channel in Hz.
        units: of the channels, where they are known.
        start: when the first samples were recorded, if that is known.
    """

    name: str
    signals: dict[str, np.ndarray]
    sampling_rates: dict[str, float]
    units: dict[str, str] = field(default_factory=dict)
    start: datetime | None = None

    @property
    def duration(self) -> float:
        """Seconds for which all signals last."""
        return min(len(signal) / self.sampling_rates[channel] for channel, signal in self.signals.items())

    def cut(self, start: float, end: float) -> dict[str, np.ndarray]:
        """The signals between two times in seconds, as views."""
        return {
            channel: signal[round(start * self.sampling_rates[channel]) : round(end * self.sampling_rates[channel])]
            for channel, signal in self.signals.items()
        }


def from_columns(
    where: str,
    names: Sequence[str],
    columns: Callable[[Sequence[int]], list[np.ndarray]],
    channels: Sequence[str] | None,
    sampling_rate: float | None,
    column: str | Mapping[str, str] | None,
    stated_rate: float | None = None,
    file_name: str = "",
    index: Mapping[str, np.ndarray] | None = None,
    units: Sequence[str] = (),
) -> Recording:
    """The recording that columns hold.

    Args:
        where: what messages call the source.
        names: of the columns.
        columns: reads those at some positions.
        channels: to find among the columns; `None` takes every column of numbers.
        sampling_rate: in Hz, if the caller states it.
        column: that the caller names, or a dictionary from channel to such.
        stated_rate: in Hz, if a header states it.
        file_name: and what else tells what a column is whose name says nothing.
        index: times beside the columns.
        units: of the columns.

    Raises:
        ValueError: if channels or rates are missing or contradict each other.
    """
    time_positions = [position for position, name in enumerate(names) if is_time(name)]
    rate_positions = [position for position, name in enumerate(names) if is_rate(name)]
    not_signals = [*time_positions, *rate_positions]
    told = [file_name, *(unit for position, unit in enumerate(units) if position not in not_signals)]
    signal_names = numbered_names(names)
    if channels is None:
        positions = every_signal(signal_names, column, where, not_signals)
    else:
        positions = choose_channels(signal_names, channels, column, where, " ".join(told), not_signals)
    wanted = sorted({*positions.values(), *time_positions, *rate_positions})
    values = dict(zip(wanted, columns(wanted)))
    signals = {}
    for channel, position in positions.items():
        try:
            samples = as_numbers(values[position], f"{where}, column {names[position]!r}")
        except ValueError:
            # Where all signals are read, texts are none.
            if channels is None and column is None:
                continue
            raise
        signals[channel] = as_signal(samples, where)
    if not signals:
        raise ValueError(f"{where} has no column of numbers; it has {', '.join(names)}.")
    times = {**(index or {})}
    units = units or [""] * len(names)
    times.update({f"{names[i]} {units[i]}": values[i] for i in time_positions if i not in positions.values()})
    rates = {} if stated_rate is None else {"header": stated_rate}
    for position in (positions[channel] for channel in signals):
        if (rate := rate_in_name(names[position])) is not None:
            rates[names[position]] = rate
    for position in rate_positions:
        stated = as_numbers(values[position], f"{where}, column {names[position]!r}")
        if len(stated) and np.nanmin(stated) == np.nanmax(stated):
            rates[names[position]] = checked_rate(float(np.nanmin(stated)), where)
    recording = timed(signals, times, rates, sampling_rate, where)
    found = {channel: units[positions[channel]] or unit_in_name(names[positions[channel]]) for channel in signals}
    return replace(recording, units={channel: unit for channel, unit in found.items() if unit})


def timed(
    signals: dict[str, np.ndarray],
    times: Mapping[str, np.ndarray],
    stated: Mapping[str, float],
    sampling_rate: float | None,
    where: str,
) -> Recording:
    """The recording at the rate that its times or else the source or else the caller states; they must not contradict."""
    rates = dict(stated)
    num_samples = {len(signal) for signal in signals.values()}
    # Rates that do not divide each other round to lengths that differ by a sample.
    if max(num_samples) - min(num_samples) > 1:
        lengths = ", ".join(f"{channel} {len(signal):,}" for channel, signal in signals.items())
        raise ValueError(f"The signals of {where} have one rate, but not one number of samples: {lengths}.")
    # A date alone may tell the days only.
    for name, values in sorted(times.items(), key=lambda item: item[0].strip().lower() == "date"):
        if {len(values)} != num_samples or len(values) < 2:
            continue
        # Texts that are no numbers may be dates.
        with contextlib.suppress(ValueError):
            values = as_numbers(values, name) if values.dtype.kind == "O" else values
        seconds = seconds_from(values, name)
        if seconds is None or not np.isfinite(seconds).any() or np.nanmax(seconds) == np.nanmin(seconds):
            continue
        regular, rates[f"its times ({name.strip()})"] = on_regular_grid(
            np.stack([*signals.values()]), seconds, f"{where}, {name.strip()}"
        )
        signals = dict(zip(signals, regular))
        break
    if not rates:
        return Recording(where, signals, dict.fromkeys(signals, checked_rate(sampling_rate, where)))
    if sampling_rate is not None:
        rates["`sampling_rate`"] = checked_rate(sampling_rate, where)
    *_, rate = [rates[name] for name in rates if name != "`sampling_rate`"]
    if any(abs(other - rate) > RATE_TOLERANCE * rate for other in rates.values()):
        told = ", ".join(f"{name} {value:.6g} Hz" for name, value in rates.items())
        raise ValueError(f"{where} contradicts itself or `sampling_rate`, which can be left out: {told}.")
    return Recording(where, signals, dict.fromkeys(signals, rate))


def as_signal(values: Any, name: str) -> np.ndarray:
    signal = as_array(values)
    try:
        if signal.dtype.kind in "bcmM":
            kind = {"b": "truth values", "c": "complex"}.get(signal.dtype.kind, "times")
            raise TypeError(f"they are {kind}.")
        signal = signal.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} must be a 1-d array of numbers: {error}") from error
    if signal.ndim != 1:
        raise ValueError(
            f"{name} must be a 1-d array of samples, but has shape {signal.shape}. A list is taken as several recordings: make"
            " an array of one."
        )
    return signal


def as_array(values: Any) -> np.ndarray:
    try:
        # Tensors of torch, which may be on a GPU or need gradients, and of types that numpy lacks.
        if hasattr(values, "detach"):
            values = values.detach().cpu()
            values = values.double() if values.is_floating_point() else values
        if isinstance(values, np.ma.MaskedArray):
            return np.ma.filled(values.astype(np.float64), np.nan)
        return values.to_numpy() if hasattr(values, "to_numpy") else np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"The given recording must hold numbers: {error}") from error


def checked_rate(sampling_rate: float | None, name: str) -> float:
    if sampling_rate is None:
        raise ValueError(f"`sampling_rate` is required for {name}: its rate in Hz.")
    if (
        isinstance(sampling_rate, numbers.Real)
        and not isinstance(sampling_rate, bool)
        and 0 < sampling_rate < float("inf")
    ):
        return float(sampling_rate)
    raise ValueError(f"`sampling_rate` of {name} must be a positive, finite number of Hz, but is {sampling_rate!r}.")


__all__ = ["Recording", "as_array", "as_signal", "checked_rate", "from_columns", "timed"]
