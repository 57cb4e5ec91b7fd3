"""Attention of many short sequences on an accelerator: batched products with a softmax between them.

The fused kernels behind `"sdpa"` compute blocks of 64 or more positions, of which ten patches fill a small part.
"""

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


#: Name of this attention; `attn_implementation` takes it on any device.
PRODUCTS = "cmssl_products"

#: Longer sequences are left to the fused kernels, which never hold the whole matrix of weights.
LONGEST_SEQUENCE = 64


def fitting_attention(name: str, num_patches: int, device: torch.device) -> str:
    """The attention that is taken where `name` is asked for: on an accelerator, batched products for few patches in place of
    transformers' default."""
    takes_products = name == "sdpa" and device.type != "cpu" and num_patches <= LONGEST_SEQUENCE
    return PRODUCTS if takes_products else name


def products_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Attention by `baddbmm` and `bmm`; query, key and value have shape `(batch, heads, num_patches, head_dim)`, the mask is
    boolean and can be broadcast to `(batch, heads, num_patches, num_patches)`. A window of padding alone attends to all of it, as in
    transformers' own eager attention."""
    if query.shape[-2] > LONGEST_SEQUENCE:
        return ALL_ATTENTION_FUNCTIONS["sdpa"](
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    batch_size, num_heads, num_patches, head_dim = query.shape
    scale = head_dim**-0.5 if scaling is None else scaling
    query, key, value = query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)
    if attention_mask is None:
        scores = torch.baddbmm(query.new_zeros(()), query, key.transpose(1, 2), beta=0, alpha=scale)
    else:
        # Half of the smallest number: with a score added it must not become infinite, which a window of padding could not bear.
        hidden = query.new_zeros(()).masked_fill(~attention_mask, torch.finfo(query.dtype).min / 2)
        hidden = hidden.expand(batch_size, num_heads, num_patches, num_patches).flatten(0, 1)
        scores = torch.baddbmm(hidden, query, key.transpose(1, 2), alpha=scale)
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    weights = nn.functional.dropout(weights, dropout, training=dropout > 0)
    output = torch.bmm(weights, value).view(batch_size, num_heads, num_patches, head_dim)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(PRODUCTS, products_attention_forward)
AttentionMaskInterface.register(PRODUCTS, sdpa_mask)
