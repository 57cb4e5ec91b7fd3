"""Heads that project an encoder's output to where views are compared, and that are thrown away after pre-training."""

from itertools import pairwise

from torch import nn


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
            layers += [nn.BatchNorm1d(outputs), nn.ReLU()]
        elif normalizes_output:
            layers.append(nn.BatchNorm1d(outputs, affine=False))
    return nn.Sequential(*layers)
