"""From the hidden states of patches to one vector per window, for the head of stage 3."""

import math
from typing import Any

import torch
from torch import nn

from .configuration_cmssl_classification import spectrum_frequencies


class CMSSLPooling(nn.Module):
    """Pools `(batch, num_patches, hidden_size)` over the real patches, as `config.pooling` says; the size is that of the config where
    none is given."""

    def __init__(self, config: Any, hidden_size: int | None = None):
        super().__init__()
        hidden_size = config.hidden_size if hidden_size is None else hidden_size
        self.kind = config.pooling
        self.patch_seconds = config.patch_size / config.sampling_rate
        hidden_size = self.output_size = config.hidden_size if hidden_size is None else hidden_size
        if self.kind in ("mean_std", "mean_std_max"):
            self.output_size = (2 if self.kind == "mean_std" else 3) * hidden_size
        elif self.kind == "attention":
            self.query = nn.Linear(hidden_size, 1)
        elif self.kind == "spectrum":
            self.rhythms = nn.Linear(hidden_size, config.num_pooled_rhythms)
            self.output_size = config.num_pooled_rhythms * len(spectrum_frequencies())

    def forward(self, hidden_states: torch.Tensor, real_patches: torch.Tensor | None) -> torch.Tensor:
        """
        Args:
            hidden_states: `(batch, num_patches, hidden_size)`.
            real_patches: boolean `(batch, num_patches)`, or `None` where all are real.

        Returns:
            `(batch, output_size)`.
        """
        if real_patches is None:
            real_patches = hidden_states.new_ones(hidden_states.shape[:2], dtype=torch.bool)
        real = real_patches[..., None]
        number = real.sum(1).clamp(min=1).to(hidden_states.dtype)
        if self.kind == "max":
            return _maximum(hidden_states, real)
        if self.kind == "attention":
            scores = self.query(hidden_states).masked_fill(~real, torch.finfo(hidden_states.dtype).min)
            return (scores.softmax(1) * hidden_states).sum(1)
        if self.kind == "spectrum":
            shares = power_shares(self.rhythms(hidden_states), real, self.patch_seconds)
            # About 0 where power is spread evenly.
            return (shares * shares.shape[-1] + 0.05).log().flatten(1).to(hidden_states.dtype)
        mean = (hidden_states * real).sum(1) / number
        if self.kind == "mean":
            return mean
        variance = ((hidden_states - mean[:, None]) ** 2 * real).sum(1) / number
        # The gradient of a root is infinite at zero.
        moments = torch.cat((mean, (variance + 1e-6).sqrt()), dim=-1)
        return moments if self.kind == "mean_std" else torch.cat((moments, _maximum(hidden_states, real)), dim=-1)


def _maximum(hidden_states: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    maximum = hidden_states.masked_fill(~real, torch.finfo(hidden_states.dtype).min).amax(1)
    # Of padding alone there is none.
    return maximum.masked_fill(~real.any(1), 0.0)


def power_shares(series: torch.Tensor, real: torch.Tensor, patch_seconds: float) -> torch.Tensor:
    """How the power of series of patches is shared among `spectrum_frequencies()`, under a Hann window over the real patches.

    Args:
        series: `(batch, num_patches, series)`.
        real: boolean `(batch, num_patches, 1)`; real patches come first.
        patch_seconds: duration of a patch, by which frequencies are in Hz whatever the length of the window.

    Returns:
        `(batch, series, frequencies)`, float32; the shares of a series sum to 1, or are 0 where it is constant.
    """
    # Half precision cannot hold squares and their shares.
    series = series.float()
    number = real.sum(1).clamp(min=1).float()
    series = (series - (series * real).sum(1, keepdim=True) / number[:, None]) * real
    index = torch.arange(series.shape[1], device=series.device, dtype=torch.float32)
    hann = (math.pi * (index + 0.5) / number).sin() ** 2
    series = series * hann[..., None]
    frequencies = series.new_tensor(spectrum_frequencies())
    phase = 2 * math.pi * patch_seconds * index[:, None] * frequencies
    cosines, sines = (torch.einsum("bnk,nf->bkf", series, wave) for wave in (phase.cos(), phase.sin()))
    power = cosines**2 + sines**2
    return power / (power.sum(-1, keepdim=True) + 1e-6)
