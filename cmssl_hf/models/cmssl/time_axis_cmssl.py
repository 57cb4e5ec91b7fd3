"""Times beside samples: the rate that they state, samples on a regular grid, and gaps."""

from typing import Any

import numpy as np

from .channels_cmssl import words
from .tables_cmssl import import_pandas


#: Longest gap in seconds that is filled. A pulse wave rises for longer than a tenth of a second, a QRS complex lasts twice as
#: long as 0.04 s: no beat hides in what is filled.
LONGEST_FILLED_GAP = {"ecg": 0.04, "ppg": 0.1}
#: Rates that differ by less are the same: clocks of devices do not agree better.
RATE_TOLERANCE = 0.01

_TIME_WORDS = {"time", "times", "timestamp", "timestamps", "datetime", "date", "t", "seconds", "second", "sec", "secs", "s",
               "millis", "milliseconds", "ms", "microseconds", "us", "elapsed", "epoch", "unix", "utc", "clock", "zeit",
               "zeitstempel", "uhrzeit", "temps", "tiempo"}  # fmt: skip
_UNITS = {
    1.0: {"s", "sec", "secs", "second", "seconds", "sek", "sekunden"},
    1e-3: {"ms", "msec", "millis", "millisecond", "milliseconds"},
    1e-6: {"us", "µs", "μs", "usec", "micros", "microsecond", "microseconds"},
    1e-9: {"ns", "nanos", "nanosecond", "nanoseconds"},
    60.0: {"min", "minute", "minutes"},
    3600.0: {"h", "hour", "hours"},
}
_CLOCKS = ("%H:%M:%S.%f", "%H:%M:%S", "%I:%M:%S.%f %p", "%I:%M:%S %p")
_INFERRED_UNITS = (1.0, 1e-3, 1e-6, 1e-9)
#: Rates in Hz between which ECG and PPG are recorded. Steps of seconds, ms, µs and ns that lead to them do not overlap.
_PLAUSIBLE_RATES = (10.0, 2000.0)
#: The grid may be this many times as long as the samples, or have this many.
_LARGEST_GRID = (20, 2**24)
#: Mean distance of the steps from whole ones beyond which times say nothing about a rate.
_LARGEST_JITTER = 0.25


def is_time(name: str) -> bool:
    """Whether a column is one of times by its name, such as `time`, `t`, `Time [s]`, `unix_timestamp_us` or `datetime`."""
    found = words(name)
    return bool(found) and (found[0] in _TIME_WORDS or any(word.endswith(("time", "timestamp")) for word in found))


def seconds_from(values: Any, name: str) -> np.ndarray | None:
    """Seconds since the first of the times in a column; `None` if it is not known how they count.

    Args:
        values: numbers, datetimes, durations or texts: ISO 8601, `31.12.2024 23:59:59.5`, `12/31/2024 11:59:59.5 PM` or
            `23:59:59.5`.
        name: of the column; it may say the unit.
    """
    values = np.asarray(values)
    if values.dtype.kind in "mM":
        return _since_first(values.astype(f"{values.dtype.kind}8[ns]"), 1e-9)
    if values.dtype.kind not in "iuf":
        return _seconds_from_texts(values)
    stated = [unit for unit, names in _UNITS.items() if names.intersection(words(name))]
    if len(stated) == 1:
        return _since_first(values, stated[0])
    finite = values[np.isfinite(values)]
    if len(finite) < 2:
        return None
    for unit in _INFERRED_UNITS:
        # Since 1970, in the years 2001 to 2096.
        if 1e9 <= abs(float(finite[0])) * unit < 4e9:
            return _since_first(values, unit)
    # A difference of unsigned numbers that fall would be huge. Where all fall, `on_regular_grid` says so.
    steps = np.abs(np.diff(finite.astype(np.float64)))
    steps = steps[steps > 0]
    # Steps of one count samples, or seconds, or ms.
    if not len(steps) or np.median(steps) == 1:
        return None
    for unit in _INFERRED_UNITS:
        if _PLAUSIBLE_RATES[0] <= 1 / (np.median(steps) * unit) <= _PLAUSIBLE_RATES[1]:
            return _since_first(values, unit)
    return None


def _since_first(values: np.ndarray, unit: float) -> np.ndarray:
    missing = np.isnat(values) if values.dtype.kind in "mM" else ~np.isfinite(values)
    seconds = np.full(len(values), np.nan)
    if not missing.all():
        # The difference comes first: a float has no room for ns since 1970.
        first = values[~missing][0]
        whole = values.dtype.kind in "mM" or (values.dtype.kind == "i" and abs(int(first)) < 2**62)
        differences = values[~missing] - first if whole else values[~missing].astype(np.float64) - float(first)
        seconds[~missing] = differences.astype(np.float64) * unit
    return seconds


def _seconds_from_texts(values: np.ndarray) -> np.ndarray | None:
    pd = import_pandas()
    texts = pd.Series(values).astype(str).str.strip().str.replace(",", ".", regex=False)
    enough = 0.9 * len(texts)
    if texts.str.fullmatch(r"\d+:\d\d:\d\d(\.\d*)?").sum() >= enough:
        seconds = _since_first(pd.to_timedelta(texts, errors="coerce").to_numpy().astype("m8[ns]"), 1e-9)
        # Midnight: the clock begins again.
        return seconds + 86400 * np.cumsum(np.diff(seconds, prepend=seconds[:1]) < -43200)
    # Where it is not known which is the month, it makes no difference but at midnight, where times would jump.
    styles = [f"{date} {time}" for date in ("%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y") for time in _CLOCKS]
    for style in ("ISO8601", *styles):
        times = pd.to_datetime(texts, format=style, errors="coerce", utc=True)
        if times.notna().sum() >= enough:
            return _since_first(times.dt.tz_localize(None).to_numpy().astype("M8[ns]"), 1e-9)
    return None


def on_regular_grid(signals: np.ndarray, times: np.ndarray, where: str) -> tuple[np.ndarray, float]:
    """Samples at regular times, and their rate in Hz.

    Regular samples are kept as they are, also where times are rounded, even to whole seconds; rows that are there twice count
    once. Others are interpolated linearly to a grid of their usual step, with NaN in gaps.

    Args:
        signals: array `(channels, samples)`.
        times: of the samples in seconds, `(samples,)`; samples without one are left out.
        where: what messages call the source.

    Raises:
        ValueError: if times go back, repeat with different samples, or are too irregular to tell a rate.
    """
    known = np.isfinite(times)
    if known.sum() < max(2, 0.9 * len(times)):
        raise ValueError(f"{where}: {len(times) - known.sum():,} of {len(times):,} times hold no time.")
    signals, times = signals[:, known], times[known]
    steps = np.diff(times)
    if (steps < 0).any():
        row = int(np.argmax(steps < 0))
        raise ValueError(
            f"{where}: the times go back by {-steps[row]:.6g} s after row {row + 1:,}; sort or cut the rows."
        )
    repeated = steps == 0
    if repeated.any():
        before, after = signals[:, :-1][:, repeated], signals[:, 1:][:, repeated]
        if ((before == after) | (np.isnan(before) & np.isnan(after))).all():
            kept = np.concatenate(([True], ~repeated))
            signals, times = signals[:, kept], times[kept]
            steps, repeated = np.diff(times), np.zeros(0, dtype=bool)
    if not (steps > 0).any():
        raise ValueError(f"{where}: all times are the same.")
    step = float(times[-1] - times[0]) / (len(times) - 1)
    deviations = np.abs(times - times[0] - step * np.arange(len(times)))
    resolution = float(steps[steps > 0].min())
    if repeated.any():
        if deviations.max() > 1.01 * resolution:
            raise ValueError(
                f"{where}: {repeated.sum():,} times repeat the one before with other samples, and the rows between are not as"
                " many everywhere; remove the doubled or add the lost rows."
            )
        # The last of the coarse times may be cut short.
        first, last = times > times[0], times == times[-1]
        if first.sum() > last.sum():
            step = float(times[-1] - times[first][0]) / (first.sum() - last.sum())
        return signals, _rate(step, where)
    median = float(np.quantile(steps, 0.5, method="lower"))
    if steps.max() < 1.5 * median and deviations.max() <= 0.5 * step:
        return signals, _rate(step, where)
    rate = _rate(float(np.mean(steps[(steps > 0.5 * median) & (steps < 1.5 * median)])), where)
    step = 1 / rate
    if np.mean(np.abs(steps / step - np.maximum(1, np.round(steps / step)))) > _LARGEST_JITTER:
        raise ValueError(
            f"{where}: the times are too irregular to tell a rate (steps of {steps.min():.3g} to {steps.max():.3g} s)."
        )
    duration = float(times[-1] - times[0])
    num_samples = duration / step + 1
    if num_samples > max(_LARGEST_GRID[0] * len(times), _LARGEST_GRID[1]):
        raise ValueError(f"{where}: the times leave {steps.max():.6g} s out; cut the rows before or after it.")
    grid = times[0] + step * np.arange(int(num_samples + 0.5))
    after = np.clip(np.searchsorted(times, grid), 1, len(times) - 1)
    nearest = np.minimum(np.abs(grid - times[after - 1]), np.abs(times[after] - grid))
    in_gap = (times[after] - times[after - 1] > 1.75 * step) & (nearest > 0.5 * step)
    return np.stack([np.where(in_gap, np.nan, np.interp(grid, times, signal)) for signal in signals]), rate


def _rate(step: float, where: str) -> float:
    rate = 1 / max(step, np.finfo(np.float64).tiny)
    if not 0 < rate < 1e12:
        raise ValueError(f"{where}: the times state no rate; they have steps of {step:.3g} s.")
    # Times are rounded: they state a whole number of Hz where they lead to nearly one.
    return float(round(rate)) if abs(rate - round(rate)) < 1e-4 * rate else rate


def fill_short_gaps(signal: np.ndarray, sampling_rate: float, longest: float) -> tuple[np.ndarray, np.ndarray]:
    """Interpolates NaN and infinite samples linearly where they last for at most `longest` seconds.

    Returns:
        The signal `(samples,)` and whether each sample was filled.
    """
    missing = ~np.isfinite(signal)
    if not missing.any() or missing.all():
        return signal, np.zeros(len(signal), dtype=bool)
    found = gaps(missing)
    is_short = np.ptp(found, axis=1) / sampling_rate <= longest + 1e-9
    filled = missing.copy()
    filled[missing] = np.repeat(is_short, np.ptp(found, axis=1))
    whole = np.flatnonzero(~missing)
    signal = signal.copy()
    signal[filled] = np.interp(np.flatnonzero(filled), whole, signal[whole])
    return signal, filled


def gaps(missing: np.ndarray) -> np.ndarray:
    """First sample and the one after the last of each run of `True`: array `(gaps, 2)`."""
    edges = np.diff(np.concatenate(([False], missing, [False])).astype(np.int8))
    return np.stack([np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)], axis=1)


__all__ = [
    "LONGEST_FILLED_GAP",
    "RATE_TOLERANCE",
    "fill_short_gaps",
    "gaps",
    "is_time",
    "on_regular_grid",
    "seconds_from",
]
