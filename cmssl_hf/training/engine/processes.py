"""What several processes compute as one: rows of all, with their gradients, and batch normalisation over all of them."""

from typing import Any

import torch
from torch import distributed, nn


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


class SharedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation by the statistics of all processes, each of which may have another number of values;
    `nn.SyncBatchNorm` does the same on GPUs and refuses CPUs."""

    momentum: float
    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(input)
        values = input.float()
        own_number = values.new_full((1,), values.numel() // self.num_features)
        totals = _sum_over_processes(torch.cat([self._sum(values), own_number]))
        number = totals[-1]
        mean = totals[:-1] / number
        centred = values - self._of_channels(mean, values)
        variance = _sum_over_processes(self._sum(centred.square())) / number
        self.num_batches_tracked += 1
        for running, value in ((self.running_mean, mean), (self.running_var, variance * number / (number - 1))):
            running.lerp_(value.detach(), self.momentum)
        normalized = centred * self._of_channels((variance + self.eps).rsqrt(), values)
        if self.affine:
            normalized = normalized * self._of_channels(self.weight, values) + self._of_channels(self.bias, values)
        return normalized.to(input.dtype)

    @staticmethod
    def _sum(values: torch.Tensor) -> torch.Tensor:
        return values.transpose(0, 1).flatten(1).sum(1)

    @staticmethod
    def _of_channels(numbers: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return numbers.view(-1, *(1,) * (values.ndim - 2))


def _sum_over_processes(values: torch.Tensor) -> torch.Tensor:
    return gather_rows(values[None]).sum(0)


def share_batch_norms(model: nn.Module) -> None:
    """Makes each `BatchNorm1d` in a model a [`SharedBatchNorm`] with the same weights, statistics and mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            # As `fully_shard` does: a new module would have to be put into its parents, and its hooks into it.
            module.__class__ = SharedBatchNorm
