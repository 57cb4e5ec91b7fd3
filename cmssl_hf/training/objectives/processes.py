"""Rows of all processes, with their gradients."""

from typing import Any

import torch
from torch import distributed


def are_several() -> bool:
    """Whether several processes train one model."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """The rows `(batch, ...)` of each process, in the order of the processes: `(processes * batch, ...)`.

    Gradients flow back to the process that the rows come from, summed over what all processes did with them. Means over the
    processes, which is what DDP makes of gradients, are then those of a single process that has all rows, both where each
    process takes the loss of all rows and where it takes that of its own.
    """
    return _Gather.apply(rows) if are_several() else rows


class _Gather(torch.autograd.Function):
    # `torch.distributed.nn.functional.all_gather` does the same and is deprecated.
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        ctx.num_rows = len(rows)
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous()
        distributed.all_reduce(gradient)
        return gradient[distributed.get_rank() * ctx.num_rows :][: ctx.num_rows]
