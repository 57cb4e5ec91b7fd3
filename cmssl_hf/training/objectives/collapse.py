"""Whether projections still tell windows apart."""

import torch
from torch.nn.functional import normalize


#: Deviations below which projections are called collapsed.
COLLAPSED = 0.02


def projection_std(projections: torch.Tensor) -> torch.Tensor:
    """Standard deviation over the rows `(batch, size)`, brought to length 1, of each dimension; their mean, times the square
    root of the size: 1 where directions are spread evenly, 0 where all are the same (Chen and He 2021, SimSiam)."""
    directions = normalize(projections.detach().float(), dim=-1)
    return directions.std(0, correction=0).mean() * directions.shape[1] ** 0.5


def effective_rank(projections: torch.Tensor) -> torch.Tensor:
    """Exponential of the entropy of the singular values, brought to a sum of 1, of the rows `(batch, size)` of length 1: how
    many dimensions they fill (Roy and Vetterli 2007; Garrido et al. 2023). At most the smaller of `batch` and `size`."""
    values = torch.linalg.svdvals(normalize(projections.detach().float(), dim=-1))
    shares = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    return torch.special.entr(shares).sum().exp()
