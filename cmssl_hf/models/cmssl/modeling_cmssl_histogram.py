"""Distributions over the values that a label can have: the loss, the answer, and a head that finds a rate among frequencies."""

from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN

from .configuration_cmssl_classification import spectrum_frequencies


class CMSSLFrequencyHead(nn.Module):
    """Log power of a few rhythms over frequencies to one logit for each frequency.

    Convolutions over frequencies: a breathing rate is recognised in the way in which all others are.
    """

    #: Frequencies that each convolution sees, and its channels: 0.09 Hz, about the width of a line in 30 s and what is beside it.
    KERNEL_SIZE, CHANNELS = 9, 32

    def __init__(self, config: Any):
        super().__init__()
        self.num_rhythms = config.num_pooled_rhythms
        padding = self.KERNEL_SIZE // 2
        self.dense = nn.Conv1d(self.num_rhythms, self.CHANNELS, self.KERNEL_SIZE, padding=padding)
        self.activation = ACT2FN["gelu"]
        self.out_proj = nn.Conv1d(self.CHANNELS, 1, self.KERNEL_SIZE, padding=padding)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(batch, rhythms * frequencies)`, as [`CMSSLPooling`] gives them, to `(batch, frequencies)`."""
        power = features.unflatten(1, (self.num_rhythms, len(spectrum_frequencies())))
        return self.out_proj(self.activation(self.dense(power)))[:, 0]


def label_values(config: Any, like: torch.Tensor) -> torch.Tensor:
    """The values `(num_label_bins,)` that a label can have in a distribution, in its unit; float32 on the device of `like`."""
    low, high = config.label_range
    return torch.linspace(low, high, config.num_label_bins, device=like.device)


def histogram_loss(logits: torch.Tensor, labels: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of distributions and normal distributions around the labels whose deviation is the step between values;
    labels beyond the ends count as the ends.

    Args:
        logits: `(batch, num_labels, values)`.
        labels: `(batch, num_labels)`, in the unit of `values`.
        values: `(values,)`, evenly spaced.
    """
    step = values[1] - values[0]
    labels = labels.float().clamp(min=values[0], max=values[-1])
    right = torch.softmax(-0.5 * ((values - labels[..., None]) / step) ** 2, dim=-1)
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), right.flatten(0, 1))


def histogram_median(logits: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Medians of distributions `(..., values)`, each value standing for the interval that is nearer to it than to another."""
    share = logits.float().softmax(-1)
    step = values[1] - values[0]
    # Where the sum of shares passes one half; before it lies `below`.
    below = share.cumsum(-1) - share
    place = (below <= 0.5).sum(-1, keepdim=True) - 1
    rest = (0.5 - below.gather(-1, place)) / share.gather(-1, place).clamp(min=torch.finfo(share.dtype).tiny)
    return values[place[..., 0]] + step * (rest[..., 0] - 0.5)


__all__ = ["CMSSLFrequencyHead", "histogram_loss", "histogram_median", "label_values"]
