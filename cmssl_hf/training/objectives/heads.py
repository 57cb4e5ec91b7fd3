"""Heads that project an encoder's output to where views are compared, and that are thrown away after pre-training."""

from itertools import pairwise

import torch
from torch import nn

from .processes import are_several, gather_rows


class SharedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation by the statistics of all processes; `nn.SyncBatchNorm` does the same on GPUs and refuses CPUs.

    All processes must have equally many rows.
    """

    momentum: float
    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not (self.training and are_several()):
            return super().forward(input)
        rows = input.float()
        num_rows = len(rows) * torch.distributed.get_world_size()
        mean = gather_rows(rows.sum(0, keepdim=True)).sum(0) / num_rows
        centred = rows - mean
        variance = gather_rows(centred.square().sum(0, keepdim=True)).sum(0) / num_rows
        self.num_batches_tracked += 1
        for running, value in ((self.running_mean, mean), (self.running_var, variance * num_rows / (num_rows - 1))):
            running.lerp_(value.detach(), self.momentum)
        normalized = centred * (variance + self.eps).rsqrt()
        if self.affine:
            normalized = normalized * self.weight + self.bias
        return normalized.to(input.dtype)


def projection_head(*sizes: int, normalizes_output: bool = False) -> nn.Sequential:
    """Linear layers of these sizes, the first being that of the input, with batch normalisation and ReLU between them.

    Args:
        sizes: at least two.
        normalizes_output: whether the output is normalised over the batch too, without learnt scale and shift.
    """
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(pairwise(sizes), start=2):
        is_last = number == len(sizes)
        # A bias would be taken off again by the normalisation.
        layers.append(nn.Linear(inputs, outputs, bias=is_last and not normalizes_output))
        if not is_last:
            layers += [SharedBatchNorm(outputs), nn.ReLU()]
        elif normalizes_output:
            layers.append(SharedBatchNorm(outputs, affine=False))
    return nn.Sequential(*layers)
