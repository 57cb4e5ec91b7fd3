"""A head that reads the rhythm of an ECG: features of the intervals between its R-peaks, found in the model's own input.

Everything is tensor arithmetic of fixed shape, so that it follows augmentations, runs wherever the model does and can be exported.
"""

import math
from typing import Any

import torch
from torch import nn


# Elgendi 2013, doi:10.1371/journal.pone.0073557: band in Hz, durations in seconds of a QRS complex and of a beat, offset.
_QRS_BAND = (8.0, 20.0)
_QRS_SECONDS = (0.097, 0.611)
_QRS_OFFSET = 0.08
_SHORTEST_INTERVAL = 0.3
_BEAT_REACH = 0.2

#: What `interval_features` returns, in this order, as `cmssl_hf.baselines.rr_interval_features` defines them; times in seconds.
INTERVAL_FEATURES = (
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
    "interval_entropy",
    "turning_point_ratio",
    "lag1_correlation",
    "sd1_sd2",
    "regular_share",
    "beat_correlation",
    "slope",
    "kurtosis",
)
#: Those that range over orders of magnitude.
_SPREADS = ("std", "cv", "rmssd", "iqr", "range", "median_absolute_difference", "sd1_sd2", "slope", "kurtosis")


class CMSSLIntervalHead(nn.Module):
    """ECG `(batch, 1, samples)` to `(batch, output_size)` by its intervals alone."""

    HIDDEN_SIZE, DROPOUT = 64, 0.3

    def __init__(self, config: Any, output_size: int):
        super().__init__()
        self.sampling_rate = config.sampling_rate
        size = self.HIDDEN_SIZE
        self.norm = nn.BatchNorm1d(len(INTERVAL_FEATURES))
        self.layers = nn.Sequential(
            *(nn.Linear(len(INTERVAL_FEATURES), size), nn.GELU(), nn.Dropout(self.DROPOUT)),
            *(nn.Linear(size, size), nn.GELU(), nn.Dropout(self.DROPOUT)),
            nn.Linear(size, output_size),
        )

    def forward(self, signals: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """
        Args:
            signals: `(batch, 1, samples)`, as the encoder reads them.
            attention_mask: `(batch, samples)`, 0 for padding, or `None`.
        """
        # Half precision holds neither times nor sums over thousands of samples.
        with torch.no_grad(), torch.autocast(signals.device.type, enabled=False):
            features = interval_features(signals[:, 0].float(), attention_mask, self.sampling_rate)
            spread = [name in _SPREADS for name in INTERVAL_FEATURES]
            columns = [(column + 1e-3).log() if wide else column for column, wide in zip(features.unbind(-1), spread)]
            features = torch.stack(columns, dim=-1)
        features = features.to(self.norm.weight.dtype)
        # A single window has no statistics of its own.
        alone = self.training and len(features) == 1
        normed = self._normed_as_before(features) if alone else self.norm(features)
        # A recording unlike all others must not decide by one number.
        return self.layers(normed.clamp(-3, 3))

    def _normed_as_before(self, features: torch.Tensor) -> torch.Tensor:
        norm = self.norm
        return nn.functional.batch_norm(
            features, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
        )


def interval_features(ecg: torch.Tensor, attention_mask: torch.Tensor | None, sampling_rate: float) -> torch.Tensor:
    """Features of rhythm `(batch, len(INTERVAL_FEATURES))` of ECGs `(batch, samples)`, 0 where there are too few beats to tell.

    Args:
        ecg: in any unit, band-passed; standardised for `slope` and `kurtosis` to be those of the baseline.
        attention_mask: `(batch, samples)`, 0 for padding, or `None`.
        sampling_rate: in Hz.
    """
    real = torch.ones_like(ecg, dtype=torch.bool) if attention_mask is None else attention_mask.ne(0)
    ecg = ecg.masked_fill(~real, 0.0)
    peaks, found = detect_r_peaks(ecg, real, sampling_rate)
    intervals, known = peaks.diff(dim=-1) / sampling_rate, found[:, 1:]
    # What is not known counts nowhere; without this it would be infinite or not a number.
    intervals = torch.where(known, intervals, 1.0)
    steps, both = intervals.diff(dim=-1), known[:, 1:]
    number = known.sum(-1)
    mean, deviation = _mean(intervals, known), _deviation(intervals, known)
    median = _quantile(intervals, known, 0.5)
    rhythm = {
        "mean_rate": 60 / mean,
        "median_interval": median,
        "std": deviation,
        "cv": deviation / mean,
        "rmssd": _mean(steps**2, both).sqrt(),
        "pnn50": _mean((steps.abs() > 0.05).float(), both),
        "iqr": _quantile(intervals, known, 0.75) - _quantile(intervals, known, 0.25),
        "range": _quantile(intervals, known, 1.0) - _quantile(intervals, known, 0.0),
        "median_absolute_difference": _quantile(steps.abs(), both, 0.5),
        "interval_entropy": _entropy(intervals, known),
        "turning_point_ratio": _mean((steps[:, 1:] * steps[:, :-1] < 0).float(), both[:, 1:]),
        "lag1_correlation": _correlation(intervals[:, 1:], intervals[:, :-1], both),
        "sd1_sd2": _deviation(steps, both) / _deviation(intervals[:, 1:] + intervals[:, :-1], both).clamp(min=1e-6),
        "regular_share": _mean(((intervals / median[:, None] - 1).abs() < 0.1).float(), known),
    }
    values = {name: torch.where(number >= 3, value, 0.0) for name, value in rhythm.items()}
    values["num_intervals"] = number.float()
    values["beat_correlation"] = _beat_correlation(ecg, peaks, found, real.sum(-1), round(_BEAT_REACH * sampling_rate))
    values["slope"] = _deviation(ecg.diff(dim=-1), real[:, 1:]) * sampling_rate
    values["kurtosis"] = _mean(ecg**4, real)
    return torch.stack([values[name] for name in INTERVAL_FEATURES], dim=-1)


def detect_r_peaks(ecg: torch.Tensor, real: torch.Tensor, sampling_rate: float) -> tuple[torch.Tensor, torch.Tensor]:
    """R-peaks of a batch nearly as `cmssl_hf.signals.detect_r_peaks` finds them: a wave that has a larger one within the shortest
    interval is no beat, even where that one has a larger one, too; and beats at the very ends may be found by one and not by the other.

    Args:
        ecg: `(batch, samples)`, 0 where there is padding.
        real: boolean `(batch, samples)`.
        sampling_rate: in Hz.

    Returns:
        Positions in samples `(batch, beats)`, increasing, and which of them are peaks; the others come last.
    """
    deflection = _qrs_band(ecg, sampling_rate).abs().masked_fill(~real, 0.0)
    energy = deflection**2
    # Odd, to be centred.
    wave, beat = (2 * round(seconds * sampling_rate / 2) + 1 for seconds in _QRS_SECONDS)
    threshold = _moving_mean(energy, beat) + _QRS_OFFSET * _mean(energy, real)[:, None]
    above = (_moving_mean(energy, wave) > threshold).to(ecg.dtype)[:, None]
    # Runs that last as long as a wave: all of a wave's samples are above, and then all samples of such waves.
    lasting = 1 - nn.functional.max_pool1d(1 - nn.functional.pad(above, (wave - 1, wave - 1)), wave, 1)
    waves = nn.functional.max_pool1d(lasting, wave, 1)[:, 0] > 0
    # Of waves closer than the shortest interval the largest counts, and of equal ones the first.
    reach = int(_SHORTEST_INTERVAL * sampling_rate)
    falling = 1 - 1e-5 * torch.arange(ecg.shape[-1], device=ecg.device).remainder(2 * reach + 1) / (2 * reach + 1)
    candidates = (deflection * falling).masked_fill(~waves, 0.0)
    largest = nn.functional.max_pool1d(candidates[:, None], 2 * reach + 1, 1, padding=reach)[:, 0]
    num_samples = ecg.shape[-1]
    # At least four places, so that there are differences of differences.
    peak = nn.functional.pad((candidates == largest) & (candidates > 0), (0, 4))
    positions = torch.where(peak, torch.arange(num_samples + 4, device=ecg.device), num_samples)
    most = max(4, num_samples // (reach + 1) + 2)
    positions = positions.topk(most, dim=-1, largest=False, sorted=True).values
    return positions, positions < num_samples


def _qrs_band(ecg: torch.Tensor, sampling_rate: float) -> torch.Tensor:
    """`ecg (batch, samples)` through a Butterworth band-pass of third order forwards and backwards, by its impulse response."""
    reach = round(0.5 * sampling_rate)
    size = 8 * reach
    frequencies = torch.arange(1, size // 2, device=ecg.device, dtype=ecg.dtype) * (sampling_rate / size)
    # The bilinear transform, by which such a filter is digital.
    warped = (math.pi * frequencies / sampling_rate).tan()
    low, high = (math.tan(math.pi * frequency / sampling_rate) for frequency in _QRS_BAND)
    response = 1 / (1 + ((warped**2 - low * high) / (warped * (high - low))) ** 6)
    times = torch.arange(-reach, reach + 1, device=ecg.device, dtype=ecg.dtype) / sampling_rate
    # As a sum, since a matrix product would be rounded where models are stored in eight bits.
    kernel = (2 / size) * ((2 * math.pi * times[:, None] * frequencies).cos() * response).sum(-1)
    padded = nn.functional.pad(ecg[:, None], (reach, reach), mode="replicate")
    return nn.functional.conv1d(padded, kernel[None, None])[:, 0]


def _moving_mean(values: torch.Tensor, size: int) -> torch.Tensor:
    padded = nn.functional.pad(values[:, None], (size // 2, size // 2), mode="replicate")
    return nn.functional.avg_pool1d(padded, size, 1)[:, 0]


def _mean(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    return (values * known).sum(-1) / known.sum(-1).clamp(min=1)


def _deviation(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    return _mean((values - _mean(values, known)[..., None]) ** 2, known).sqrt()


def _correlation(first: torch.Tensor, second: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    first, second = ((values - _mean(values, known)[..., None]) * known for values in (first, second))
    return (first * second).sum(-1) / (first.norm(dim=-1) * second.norm(dim=-1)).clamp(min=1e-6)


def _quantile(values: torch.Tensor, known: torch.Tensor, share: float) -> torch.Tensor:
    """Of the known values along the last axis, interpolated as by `numpy.percentile`."""
    # Larger than any time or correlation, and finite.
    ordered = values.masked_fill(~known, 1e6).sort(dim=-1).values
    place = share * (known.sum(-1, keepdim=True) - 1).clamp(min=0)
    below, above = (ordered.gather(-1, end.long()) for end in (place.floor(), place.ceil()))
    return (below + (above - below) * (place - place.floor()))[..., 0]


def _entropy(intervals: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Of the histogram of intervals from 0.2 to 2.2 s in steps of 0.05 s."""
    bins = torch.arange(40, device=intervals.device)
    members = ((intervals - 0.2) / 0.05).floor()[..., None] == bins
    shares = (members & known[..., None]).sum(1) / known.sum(-1, keepdim=True).clamp(min=1)
    return -(shares * shares.clamp(min=1e-9).log()).sum(-1)


def _beat_correlation(
    ecg: torch.Tensor, peaks: torch.Tensor, found: torch.Tensor, lengths: torch.Tensor, reach: int
) -> torch.Tensor:
    """Median correlation between the beats and their median, 0 with fewer than three whole beats."""
    whole = found & (peaks >= reach) & (peaks < lengths[:, None] - reach)
    around = torch.arange(-reach, reach, device=ecg.device)
    places = (peaks[..., None] + around).clamp(0, ecg.shape[-1] - 1)
    beats = ecg.gather(1, places.flatten(1)).view_as(places)
    template = _quantile(beats.transpose(1, 2), whole[:, None].expand(-1, len(around), -1), 0.5)
    alike = _correlation(beats, template[:, None].expand_as(beats), whole[..., None].expand_as(beats))
    return torch.where(whole.sum(-1) >= 3, _quantile(alike, whole, 0.5), 0.0)


__all__ = ["INTERVAL_FEATURES", "CMSSLIntervalHead", "interval_features"]
