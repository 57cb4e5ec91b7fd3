"""Faster routes through what decides the speed of these models on a CPU: linear layers, dropout and attention.

The models themselves are plain torch; [`use_cpu_kernels`] replaces the forward pass of some of their modules. Each replacement
computes the same up to rounding; dropout draws other random numbers of the same distribution. `docs/performance.md` has the
measurements.
"""

from types import MethodType

import numpy as np
import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.activations import GELUActivation
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .cmssl.modeling_cmssl_codebook import CMSSLCodebook
from .cmssl.modeling_cmssl_layers import CMSSLLayer


_ATTENTION = "cmssl_cpu"

#: Longer sequences are left to torch's own attention, which never holds the whole matrix of weights.
_LONGEST_SEQUENCE = 64

_LEVELS = 65536

#: Codes among which the largest cosine is sought at a time.
_CODES_PER_BLOCK = 128


def use_cpu_kernels(model: PreTrainedModel) -> None:
    """Lets a model on a CPU take the faster routes, in training as in inference; a model elsewhere is left as it is.

    Weights, their names and what the model computes stay the same. An attention other than the default is kept.
    """
    if model.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.forward = MethodType(_linear_forward, module)
        elif type(module) is nn.Dropout:
            module.forward = MethodType(_dropout_forward, module)
        elif isinstance(module, CMSSLCodebook):
            module.most_similar = MethodType(_most_similar, module)
        elif isinstance(module, CMSSLLayer):
            module.feed_forward = MethodType(_feed_forward, module)
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(_ATTENTION)


def _linear_forward(module: nn.Module, input: torch.Tensor) -> torch.Tensor:
    """fp32 products by oneDNN: MKL, which torch calls by itself, leaves AVX-512 of AMD processors unused."""
    if not _takes_products_by_onednn(module.weight, input):
        return nn.functional.linear(input, module.weight, module.bias)
    return _Linear.apply(input, module.weight, module.bias)


def _takes_products_by_onednn(weight: torch.Tensor, input: torch.Tensor) -> bool:
    on_cpu_in_float32 = input.device.type == "cpu" and input.dtype == weight.dtype == torch.float32
    return on_cpu_in_float32 and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, weight, bias):
        ctx.save_for_backward(input, weight)
        ctx.has_bias = bias is not None
        return _product(input, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        input, weight = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])
        gradient_input = _product(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        gradient_weight = gradient_bias = None
        if ctx.needs_input_grad[1]:
            columns = input.reshape(-1, input.shape[-1])
            # oneDNN copies the transposed first factor, so that is the narrower one.
            if rows.shape[1] <= columns.shape[1]:
                gradient_weight = _product(rows.t(), columns.t())
            else:
                gradient_weight = _product(columns.t(), rows.t()).t()
        if ctx.has_bias and ctx.needs_input_grad[2]:
            gradient_bias = rows.sum(0)
        return gradient_input, gradient_weight, gradient_bias


def _product(input, weight, bias=None, activation="none"):
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, activation, [], "none")


def _feed_forward(layer: CMSSLLayer, hidden_states: torch.Tensor) -> torch.Tensor:
    """Without gradients the activation is computed where the product is, before it leaves the processor's cache."""
    fuses = not torch.is_grad_enabled() and not layer.training and type(layer.activation) is GELUActivation
    if not fuses or not _takes_products_by_onednn(layer.fc1.weight, hidden_states):
        return CMSSLLayer.feed_forward(layer, hidden_states)
    return layer.fc2(_product(hidden_states, layer.fc1.weight, layer.fc1.bias, "gelu"))


def _most_similar(codebook: CMSSLCodebook, latents: torch.Tensor) -> torch.Tensor:
    """The largest of each block of codes first: torch finds a maximum ten times faster than its index."""
    num_codes = len(codebook.weight)
    if num_codes % _CODES_PER_BLOCK or not _takes_products_by_onednn(codebook.weight, latents):
        return CMSSLCodebook.most_similar(codebook, latents)
    blocks = _product(latents, codebook.weight).view(len(latents), -1, _CODES_PER_BLOCK)
    block = blocks.amax(-1).argmax(-1)
    return block * _CODES_PER_BLOCK + blocks[torch.arange(len(latents)), block].argmax(-1)


def _dropout_forward(module: nn.Dropout, input: torch.Tensor) -> torch.Tensor:
    """Four 16-bit random numbers from each draw of 64 bits, and masks of one byte instead of four."""
    if input.device.type != "cpu" or not module.training or not 0 < module.p < 1 or torch.compiler.is_compiling():
        return nn.functional.dropout(input, module.p, module.training)
    keep, scale = _keep(input.shape, module.p)
    return _Dropout.apply(input, keep, scale)


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


class _Dropout(torch.autograd.Function):
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
    output = _Attention.apply(query, key, value, attention_mask, scale, keep, keep_scale)
    return output.transpose(1, 2).contiguous(), None


class _Attention(torch.autograd.Function):
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


AttentionInterface.register(_ATTENTION, _attention_forward)
AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
