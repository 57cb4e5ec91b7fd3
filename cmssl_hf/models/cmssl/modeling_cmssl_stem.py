"""Convolutional front end and convolutional positions of the encoder, as in wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477)
and, for ECGs, HuBERT-ECG (Coppola et al. 2024, doi:10.1101/2024.11.14.24317328).

A linear patch has to learn each shift of a beat within it anew; a convolution knows the beat wherever it lies.
"""

import math

import torch
from torch import nn
from transformers.activations import ACT2FN

from .configuration_cmssl import CMSSLEncoderConfig
from .modeling_cmssl_layers import patch_attention_mask


def stem_strides(patch_size: int) -> list[int]:
    """Strides of the convolutions, whose product is `patch_size`: its prime factors, the largest first."""
    strides, divisor = [], 2
    while patch_size > 1:
        while patch_size % divisor == 0:
            strides.append(divisor)
            patch_size //= divisor
        divisor += 1
    return strides[::-1] or [1]


class CMSSLNormOverTime(nn.GroupNorm):
    """Group norm with one channel per group, over the real samples of each window, so that padding does not change it."""

    def __init__(self, num_channels: int, eps: float):
        super().__init__(num_channels, num_channels, eps=eps)

    def forward(self, hidden_states: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            hidden_states: `(batch, num_channels, length)`.
            real: boolean `(batch, length)`, or `None` where all samples are real.
        """
        if real is None:
            return super().forward(hidden_states)
        real = real[:, None]
        number = real.sum(-1, keepdim=True).clamp(min=1)
        # Half precision cannot hold sums over thousands of samples.
        centred = hidden_states.float()
        centred = centred - (centred * real).sum(-1, keepdim=True) / number
        variance = (centred**2 * real).sum(-1, keepdim=True) / number
        normed = centred * (variance + self.eps).rsqrt()
        return (normed * self.weight[:, None] + self.bias[:, None]).to(hidden_states.dtype)


class CMSSLStemLayer(nn.Module):
    """Convolution, norm and activation; each output sees `stride` inputs and as many on both sides of them."""

    def __init__(self, config: CMSSLEncoderConfig, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.stride = stride
        # A bias would be taken out again by the norm.
        self.conv = nn.Conv1d(in_channels, out_channels, 3 * stride, stride, padding=stride, bias=False)
        self.norm = CMSSLNormOverTime(out_channels, eps=config.layer_norm_eps)
        self.activation = ACT2FN[config.hidden_act]

    def forward(
        self, hidden_states: torch.Tensor, real: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            hidden_states: `(batch, in_channels, length)`, 0 where it is not real.
            real: boolean `(batch, length)`, or `None` where all is real.

        Returns:
            The same two at a length divided by `stride`.
        """
        if real is None:
            return self.activation(self.norm(self.conv(hidden_states), None)), None
        real = patch_attention_mask(real, self.stride)
        hidden_states = self.activation(self.norm(self.conv(hidden_states), real))
        # Zeros, as there are beyond the ends of a window that is not padded.
        return hidden_states.masked_fill(~real[:, None], 0.0), real


class CMSSLStem(nn.Module):
    """Signals to one vector per patch, which takes the place of the patch's samples.

    Each convolution has a norm over time; in the base model of wav2vec 2.0 only the first one has. Of a window that is a
    single patch it leaves nothing.
    """

    def __init__(self, config: CMSSLEncoderConfig):
        super().__init__()
        self.output_size = config.hidden_size // 2
        strides = stem_strides(config.patch_size)
        sizes = [len(config.channels), *[self.output_size] * len(strides)]
        self.layers = nn.ModuleList(
            CMSSLStemLayer(config, in_channels, out_channels, stride)
            for in_channels, out_channels, stride in zip(sizes, sizes[1:], strides)
        )
        self.layer_norm = nn.LayerNorm(self.output_size, eps=config.layer_norm_eps)

    def forward(self, signals: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """
        Args:
            signals: `(batch, channels, samples)`, whole patches, 0 where `attention_mask` is.
            attention_mask: `(batch, samples)`, 0 for padding, or `None`.

        Returns:
            `(batch, num_patches, output_size)`.
        """
        real = attention_mask
        for layer in self.layers:
            signals, real = layer(signals, real)
        return self.layer_norm(signals.transpose(1, 2))


class CMSSLPositionalConvolution(nn.Module):
    """Positions relative to neighbours: a grouped convolution over patches, which is added to them."""

    #: Patches that it sees, and groups of channels.
    KERNEL_SIZE, GROUPS = 31, 16

    def __init__(self, config: CMSSLEncoderConfig):
        super().__init__()
        size = config.hidden_size
        self.conv = nn.Conv1d(
            size, size, self.KERNEL_SIZE, padding=self.KERNEL_SIZE // 2, groups=math.gcd(size, self.GROUPS)
        )
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
        """
        Args:
            hidden_states: `(batch, num_patches, hidden_size)`.
            real: boolean `(batch, num_patches)`, or `None` where all patches are real.
        """
        if real is not None:
            hidden_states = hidden_states.masked_fill(~real[..., None], 0.0)
        return self.activation(self.conv(hidden_states.transpose(1, 2))).transpose(1, 2)
