"""Faster routes through what decides the speed of these models on a CPU: linear layers, dropout and attention.

The models themselves are plain torch. Inside [`cpu_kernels`] some of their modules belong to the classes below, which compute
the same up to rounding; dropout draws other random numbers of the same distribution. `docs/performance.md` has the measurements.
"""

import contextlib
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.activations import GELUActivation
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..private_access import attention_of, has_linear_pointwise, linear_pointwise
from .cmssl.modeling_cmssl_codebook import CMSSLCodebook
from .cmssl.modeling_cmssl_layers import CMSSLLayer


_ATTENTION = "cmssl_cpu"

#: Longer sequences are left to torch's own attention, which never holds the whole matrix of weights.
_LONGEST_SEQUENCE = 64

_LEVELS = 65536

#: Codes among which the largest cosine is sought at a time.
_CODES_PER_BLOCK = 128


@contextlib.contextmanager
def cpu_kernels(model: PreTrainedModel, mode: Literal["auto", "off"] = "auto") -> Iterator[None]:
    """Lets a model on a CPU take the faster routes inside the block, in training as in inference.

    Weights and their names stay the same, and after the block so do the modules. An attention other than the default is kept.
    A model that is copied or pickled inside the block keeps the routes; where torch lacks what one needs, it is not taken.

    Args:
        model: any model of this package; one that is not on a CPU is left as it is.
        mode: `"off"` changes nothing.
    """
    if mode == "off" or model.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        yield
        return
    dropout_only: dict[type[nn.Module], type[nn.Module]] = {nn.Dropout: _Dropout}
    kernels = _KERNELS if has_linear_pointwise() else dropout_only
    changed = [(module, type(module)) for module in model.modules() if type(module) in kernels]
    attention = attention_of(model)
    try:
        for module, kind in changed:
            module.__class__ = kernels[kind]
        if attention == "sdpa":
            model.set_attn_implementation(_ATTENTION)
        yield
    finally:
        for module, kind in changed:
            module.__class__ = kind
        if attention == "sdpa":
            model.set_attn_implementation(attention)


class _Linear(nn.Linear):
    """fp32 products by oneDNN."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not _takes_products_by_onednn(self.weight, input):
            return super().forward(input)
        return _LinearFunction.apply(input, self.weight, self.bias)


class _Layer(CMSSLLayer):
    """Without gradients the activation is computed where the product is, before it leaves the processor's cache."""

    def feed_forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # What peft puts in the place of a linear layer has its weight, too, and more.
        is_plain = isinstance(self.fc1, nn.Linear) and type(self.activation) is GELUActivation
        fuses = not torch.is_grad_enabled() and not self.training and is_plain
        if not fuses or not _takes_products_by_onednn(self.fc1.weight, hidden_states):
            return super().feed_forward(hidden_states)
        return self.fc2(linear_pointwise(hidden_states, self.fc1.weight, self.fc1.bias, "gelu"))


class _Codebook(CMSSLCodebook):
    """The largest of each block of codes first: torch finds a maximum ten times faster than its index."""

    def most_similar(self, latents: torch.Tensor) -> torch.Tensor:
        num_codes = len(self.weight)
        if num_codes % _CODES_PER_BLOCK or not _takes_products_by_onednn(self.weight, latents):
            return super().most_similar(latents)
        blocks = linear_pointwise(latents, self.weight).view(len(latents), -1, _CODES_PER_BLOCK)
        block = blocks.amax(-1).argmax(-1)
        return block * _CODES_PER_BLOCK + blocks[torch.arange(len(latents)), block].argmax(-1)


class _Dropout(nn.Dropout):
    """Four 16-bit random numbers from each draw of 64 bits, and masks of one byte instead of four."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        drops = input.device.type == "cpu" and self.training and 0 < self.p < 1
        if not drops or torch.compiler.is_compiling():
            return super().forward(input)
        keep, scale = _keep(input.shape, self.p)
        return _DropoutFunction.apply(input, keep, scale)


_KERNELS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: _Linear,
    nn.Dropout: _Dropout,
    CMSSLLayer: _Layer,
    CMSSLCodebook: _Codebook,
}


def _takes_products_by_onednn(weight: torch.Tensor, input: torch.Tensor) -> bool:
    on_cpu_in_float32 = input.device.type == "cpu" and input.dtype == weight.dtype == torch.float32
    return on_cpu_in_float32 and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()


class _LinearFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, weight, bias):
        ctx.save_for_backward(input, weight)
        ctx.has_bias = bias is not None
        return linear_pointwise(input, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        input, weight = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])
        gradient_input = linear_pointwise(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        gradient_weight = gradient_bias = None
        if ctx.needs_input_grad[1]:
            columns = input.reshape(-1, input.shape[-1])
            # oneDNN copies the transposed first factor, so that is the narrower one.
            if rows.shape[1] <= columns.shape[1]:
                gradient_weight = linear_pointwise(rows.t(), columns.t())
            else:
                gradient_weight = linear_pointwise(columns.t(), rows.t()).t()
        if ctx.has_bias and ctx.needs_input_grad[2]:
            gradient_bias = rows.sum(0)
        return gradient_input, gradient_weight, gradient_bias


def _keep(shape: torch.Size, p: float) -> tuple[torch.Tensor, float]:
    """A random mask, and the factor that keeps the mean: `p` is rounded to a multiple of 1 / 65536."""
    number = shape.numel()
    # Drawn twice as fast as by torch, whose generator decides what is drawn.
    draws = np.random.SFC64(int(torch.randint(2**63 - 1, ()))).random_raw(-(-number // 4))
    dropped = round(p * _LEVELS)
    keep = torch.from_numpy(draws.view(np.int16))[:number] >= dropped - _LEVELS // 2
    return keep.view(shape), _LEVELS / (_LEVELS - dropped)


def _masked(values: torch.Tensor, keep: torch.Tensor, scale: float) -> torch.Tensor:
    # torch converts int8 vectorised, but bool one by one.
    return keep.view(torch.int8).to(values.dtype).mul_(values).mul_(scale)


class _DropoutFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, keep, scale):
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return _masked(input, keep, scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (keep,) = ctx.saved_tensors
        return _masked(gradient, keep, ctx.scale), None, None


def _attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Attention of many short sequences; query, key and value have shape `(batch, heads, num_patches, head_dim)`."""
    if query.device.type != "cpu" or query.shape[-2] > _LONGEST_SEQUENCE or torch.compiler.is_compiling():
        return ALL_ATTENTION_FUNCTIONS["sdpa"](
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    keep, keep_scale = None, 1.0
    if dropout > 0:
        keep, keep_scale = _keep(query.shape[:-1] + key.shape[-2:-1], dropout)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    output = _AttentionFunction.apply(query, key, value, attention_mask, scale, keep, keep_scale)
    return output.transpose(1, 2).contiguous(), None


class _AttentionFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, mask, scale, keep, keep_scale):
        # Products of many small matrices copy what is not contiguous, again for each.
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        with torch.autocast("cpu", enabled=False):
            scores = torch.matmul(query, key.transpose(2, 3)).mul_(scale)
            if mask is not None:
                scores.masked_fill_(~mask, float("-inf"))
            weights = _softmax(scores)
            if mask is not None:
                # Sequences of padding alone have no weights, as in torch's own attention.
                weights.nan_to_num_(nan=0.0)
            ctx.save_for_backward(query, key, value, weights, keep)
            ctx.scale, ctx.keep_scale = scale, keep_scale
            if keep is not None:
                weights = _masked(weights, keep, keep_scale)
            return torch.matmul(weights, value)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        query, key, value, weights, keep = ctx.saved_tensors
        gradient, dropped = gradient.contiguous(), weights
        gradient_weights = torch.matmul(gradient, value.transpose(2, 3))
        if keep is not None:
            dropped = _masked(weights, keep, ctx.keep_scale)
            gradient_weights = _masked(gradient_weights, keep, ctx.keep_scale)
        gradient_value = torch.matmul(dropped.transpose(2, 3), gradient)
        weighted = gradient_weights * weights
        gradient_scores = weighted - weights * weighted.sum(-1, keepdim=True)
        gradient_scores *= ctx.scale
        gradient_query = torch.matmul(gradient_scores, key)
        gradient_key = torch.matmul(gradient_scores.transpose(2, 3), query)
        return gradient_query, gradient_key, gradient_value, None, None, None, None


def _softmax(scores):
    # Over a leading dimension torch vectorises across all that follow it.
    return scores.movedim(-1, 0).softmax(0).movedim(0, -1).contiguous()


# A model that was pickled inside the block asks for it by name when it is loaded, which imports this module.
AttentionInterface.register(_ATTENTION, _attention_forward)
AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
