"""Residual front end of the encoder (He et al. 2016, arXiv 1603.05027: norm and activation before each convolution), the network
that reads single-lead ECGs best where recordings are few (Hannun et al. 2019, doi:10.1038/s41591-018-0268-3)."""

import torch
from torch import nn

from .configuration_cmssl import CMSSLEncoderConfig
from .modeling_cmssl_layers import patch_attention_mask
from .modeling_cmssl_stem import stem_strides


class CMSSLResidualBlock(nn.Module):
    """Two convolutions beside a mean over `stride` samples; the first one divides the length by `stride`."""

    #: Samples that a convolution sees on both sides; as many more as half a stride where it makes one.
    REACH = 3

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float):
        super().__init__()
        self.stride = stride
        reach = self.REACH + stride // 2
        self.first_norm = nn.BatchNorm1d(in_channels)
        self.conv1 = nn.Conv1d(in_channels, out_channels, 2 * reach + 1, stride, padding=reach, bias=False)
        self.second_norm = nn.BatchNorm1d(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv1d(out_channels, out_channels, 2 * self.REACH + 1, padding=self.REACH, bias=False)
        self.identity = nn.Conv1d(in_channels, out_channels, 1, bias=False)

    def forward(
        self, hidden_states: torch.Tensor, real: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            hidden_states: `(batch, in_channels, length)`.
            real: boolean `(batch, length)`, or `None` where all is real.

        Returns:
            The same two at a length divided by `stride`.
        """
        hidden_states = _real_only(self.first_norm(hidden_states).relu(), real)
        if real is not None and self.stride > 1:
            real = patch_attention_mask(real, self.stride)
        identity = self.identity(nn.functional.avg_pool1d(hidden_states, self.stride))
        hidden_states = _real_only(self.second_norm(self.conv1(hidden_states)).relu(), real)
        return self.conv2(self.dropout(hidden_states)) + identity, real


class CMSSLResidualStem(nn.Module):
    """Signals to one vector of `hidden_size` per patch: a convolution, and residual blocks with the strides of the stem
    ([`stem_strides`]), the smallest first, each followed by a block without one. The width doubles to `hidden_size` on the way.

    Batch norms, unlike the norms of [`CMSSLStem`], keep how large a beat is beside the others of its window. In training their statistics are
    of padding, too: windows of one length, or `--crop_seconds`, keep that small.
    """

    #: Samples that the first convolution sees on both sides, at least.
    REACH = 7

    def __init__(self, config: CMSSLEncoderConfig):
        super().__init__()
        first, *strides = stem_strides(config.patch_size)[::-1]
        widths = [max(1, config.hidden_size >> places) for places in range(len(strides), -1, -1)]
        self.first_stride = first
        reach = max(self.REACH, first)
        self.conv = nn.Conv1d(len(config.channels), widths[0], 2 * reach + 1, first, padding=reach)
        dropout = config.hidden_dropout_prob
        self.blocks = nn.ModuleList([CMSSLResidualBlock(widths[0], widths[0], 1, dropout)])
        for in_channels, out_channels, stride in zip(widths, widths[1:], strides):
            self.blocks.append(CMSSLResidualBlock(in_channels, out_channels, stride, dropout))
            self.blocks.append(CMSSLResidualBlock(out_channels, out_channels, 1, dropout))
        self.norm = nn.BatchNorm1d(widths[-1])
        self.output_size = widths[-1]

    def forward(self, signals: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """
        Args:
            signals: `(batch, channels, samples)`, whole patches, 0 where `attention_mask` is.
            attention_mask: `(batch, samples)`, 0 for padding, or `None`.

        Returns:
            `(batch, num_patches, output_size)`.
        """
        real = None if attention_mask is None else patch_attention_mask(attention_mask, self.first_stride)
        hidden_states = self.conv(signals)
        for block in self.blocks:
            hidden_states, real = block(hidden_states, real)
        return self.norm(hidden_states).relu().transpose(1, 2)


def _real_only(hidden_states: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
    """Zeros where there is padding, as there are beyond the ends of a window that has none."""
    return hidden_states if real is None else hidden_states.masked_fill(~real[:, None], 0.0)
