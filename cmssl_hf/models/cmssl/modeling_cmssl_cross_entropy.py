"""Cross-entropy over a large codebook without the logits of a whole batch."""

import torch
from torch import nn


# Bytes of the logits that are held at a time. On a CPU they stay in its cache; on an accelerator each part costs launches, but
# all logits of a batch of 2048 windows with codes of 0.2 s would take gigabytes.
_BYTES_ON_CPU, _BYTES_ELSEWHERE = 2**23, 2**28


def code_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, soft_targets: torch.Tensor | None = None, reduction: str = "mean"
) -> torch.Tensor:
    """Cross-entropy of `logits (n, codebook_size)` against `labels (n,)`, of which -100 is ignored.

    Args:
        logits: scores of all codes.
        labels: the right codes.
        soft_targets: a distribution over codes for each code, `(codebook_size, codebook_size)`, in place of the code alone.
        reduction: `"mean"` over the labels that count, or `"sum"`.
    """
    if soft_targets is None:
        return nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction=reduction)
    counts = labels != -100
    # An ignored label has a target of zeros: choosing the others instead would make a device wait for their number.
    targets = soft_targets[labels.clamp(min=0)] * counts[:, None]
    total = nn.functional.cross_entropy(logits, targets, reduction="sum")
    return total if reduction == "sum" else total / counts.sum()


def chunked_cross_entropy(
    hidden_states: torch.Tensor, head: nn.Linear, labels: torch.Tensor, soft_targets: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean cross-entropy of `head(hidden_states)` against `labels`, part by part.

    The gradient of each part is computed together with its loss, so that no logits are kept for the backward pass, and none
    are computed twice.

    Args:
        hidden_states: `(batch, num_patches, hidden_size)`.
        head: from `hidden_size` to the number of codes, times the codes of each patch.
        labels: `(batch, num_patches * codes_per_patch)`; -100 is ignored.
        soft_targets: see [`code_cross_entropy`].
    """
    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    hidden_states = hidden_states.flatten(0, -2)
    labels = labels.reshape(len(hidden_states), -1)
    total = _SummedCrossEntropy.apply(hidden_states, labels, head, soft_targets, *trained)
    return total / (labels != -100).sum()


def _patches_per_part(head: nn.Linear, device: torch.device) -> int:
    budget = _BYTES_ON_CPU if device.type == "cpu" else _BYTES_ELSEWHERE
    return max(1, budget // (4 * head.out_features))


def _as_autocast(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Tensors in the type in which autocast multiplies them, cast once in place of once per part."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    return [tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors]


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_states, labels, head, soft_targets, *parameters):
        differentiate = any(ctx.needs_input_grad)
        names = [name for name, parameter in head.named_parameters() if parameter.requires_grad]
        states, *weights = (
            each.detach().requires_grad_(differentiate) for each in _as_autocast(hidden_states, *parameters)
        )
        total = hidden_states.new_zeros((), dtype=torch.float32)
        by_hidden_states, by_parameters = [], [torch.zeros_like(parameter) for parameter in parameters]
        size = _patches_per_part(head, hidden_states.device)
        for part, of_part in zip(states.detach().split(size), labels.split(size)):
            with torch.set_grad_enabled(differentiate):
                part.requires_grad_(differentiate)
                logits = torch.func.functional_call(head, dict(zip(names, weights)), (part,))
                loss = code_cross_entropy(
                    logits.float().view(of_part.numel(), -1), of_part.flatten(), soft_targets, "sum"
                )
            total += loss.detach()
            if differentiate:
                gradient, *rest = torch.autograd.grad(loss, (part, *weights))
                by_hidden_states.append(gradient)
                for sum_, each in zip(by_parameters, rest):
                    sum_ += each
        if differentiate:
            ctx.save_for_backward(torch.cat(by_hidden_states).to(hidden_states.dtype), *by_parameters)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        by_hidden_states, *by_parameters = ctx.saved_tensors
        return by_hidden_states * gradient, None, None, None, *(each * gradient for each in by_parameters)
