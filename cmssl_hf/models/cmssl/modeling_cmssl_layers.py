"""Transformer layers shared by the CM-SSL tokenizer and encoder."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .modeling_cmssl_attention import PRODUCTS, fitting_attention


def patch_signals(input_values: torch.Tensor, patch_size: int, num_channels: int) -> torch.Tensor:
    """Cuts `(batch, channels, samples)` into patches flattened channel-major: `(batch, num_patches, channels * patch_size)`.

    Raises:
        ValueError: if the number of channels differs or `samples` is not a positive multiple of `patch_size`.
    """
    if input_values.ndim != 3 or input_values.shape[1] != num_channels:
        raise ValueError(
            f"`input_values` must have shape (batch, {num_channels}, samples), but has shape {tuple(input_values.shape)}."
        )
    batch_size, _, num_samples = input_values.shape
    if num_samples == 0 or num_samples % patch_size:
        raise ValueError(
            f"`input_values` must hold a whole number of patches of {patch_size} samples, but has {num_samples} samples."
            " `CMSSLFeatureExtractor` pads signals to whole patches and masks the padding."
        )
    patches = input_values.reshape(batch_size, num_channels, num_samples // patch_size, patch_size)
    return patches.transpose(1, 2).flatten(2)


def unpatch_signals(patches: torch.Tensor, num_channels: int) -> torch.Tensor:
    """Inverse of [`patch_signals`]: `(batch, num_patches, channels * patch_size)` to `(batch, channels, samples)`."""
    return patches.unflatten(-1, (num_channels, -1)).transpose(1, 2).flatten(2)


def patch_attention_mask(attention_mask: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Boolean `(batch, num_patches)`: whether any of a patch's samples in `(batch, samples)` is real."""
    return attention_mask.unflatten(-1, (-1, patch_size)).ne(0).any(-1)


def attention_mask_of_patches(config, hidden_states: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor | None:
    """The mask in the form that the model's attention takes.

    Args:
        config: of the model.
        hidden_states: `(batch, num_patches, hidden_size)`.
        real: boolean `(batch, num_patches)`, or `None` where all patches are real.
    """
    # Whether all of a mask is set an accelerator can only tell when it has computed everything before.
    skips = real is None or hidden_states.device.type == "cpu"
    mask: Any = create_bidirectional_mask(
        config=config, inputs_embeds=hidden_states, attention_mask=real, allow_is_bidirectional_skip=skips
    )
    return mask


def mask_signals(input_values: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Signals `(batch, channels, samples)` with zeros where `attention_mask (batch, samples)` is 0.

    Raises:
        ValueError: if the shapes do not fit each other.
    """
    if attention_mask is None:
        return input_values
    expected = (input_values.shape[0], input_values.shape[-1])
    if tuple(attention_mask.shape) != expected:
        raise ValueError(f"`attention_mask` must have shape {expected}, but has shape {tuple(attention_mask.shape)}.")
    return input_values.masked_fill(attention_mask[:, None] == 0, 0.0)


def sinusoidal_positions(num_positions: int, hidden_size: int, device: torch.device) -> torch.Tensor:
    """Fixed positions of Vaswani et al. (2017), sine on even and cosine on odd dimensions: `(num_positions, hidden_size)`.

    They are computed where they are used instead of being kept in a buffer: any length is served, and there is nothing
    that `from_pretrained` could leave uninitialised.
    """
    frequencies = torch.exp(
        torch.arange(0, hidden_size, 2, device=device, dtype=torch.float32) * (-math.log(10000.0) / hidden_size)
    )
    angles = torch.arange(num_positions, device=device, dtype=torch.float32)[:, None] * frequencies
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[:, :hidden_size]


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out; query, key and value have shape `(batch, heads, num_patches, head_dim)`."""
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class CMSSLAttention(nn.Module):
    """Multi-head self-attention over patches."""

    def __init__(self, config, num_attention_heads: int):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_probs_dropout_prob
        self.is_causal = False
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        batch_size, num_patches, _ = hidden_states.shape
        projected = self.qkv_proj(hidden_states).view(batch_size, num_patches, 3, -1, self.head_dim)
        projected = projected.permute(2, 0, 3, 1, 4)
        name = fitting_attention(self.config._attn_implementation, num_patches, hidden_states.device)
        if name == PRODUCTS:
            # Products copy what is not contiguous: here all three at once.
            projected = projected.contiguous()
        query, key, value = projected.unbind(0)
        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention_forward)
        attention_output, attention_weights = attention_interface(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        attention_output = self.o_proj(attention_output.reshape(batch_size, num_patches, -1))
        return attention_output, attention_weights


class CMSSLDropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): drops a residual branch for whole windows of the batch."""

    def __init__(self, drop_probability: float):
        super().__init__()
        self.drop_probability = drop_probability

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.drop_probability == 0.0 or not self.training:
            return hidden_states
        keep_probability = 1 - self.drop_probability
        keep = hidden_states.new_empty(hidden_states.shape[0], 1, 1).bernoulli_(keep_probability)
        return hidden_states * keep / keep_probability


class CMSSLLayer(GradientCheckpointingLayer):
    """Post-norm transformer layer with the dropouts of `torch.nn.TransformerEncoderLayer`."""

    def __init__(self, config, num_attention_heads: int, drop_path_probability: float = 0.0):
        super().__init__()
        self.attention = CMSSLAttention(config, num_attention_heads)
        self.attention_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.activation = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.drop_path = CMSSLDropPath(drop_path_probability)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        attention_output, _ = self.attention(hidden_states, attention_mask, **kwargs)
        hidden_states = self.attention_layer_norm(hidden_states + self.drop_path(self.dropout(attention_output)))
        output = self.feed_forward(hidden_states)
        return self.output_layer_norm(hidden_states + self.drop_path(self.dropout(output)))

    def feed_forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The position-wise network on `(batch, num_patches, hidden_size)`."""
        return self.fc2(self.dropout(self.activation(self.fc1(hidden_states))))
