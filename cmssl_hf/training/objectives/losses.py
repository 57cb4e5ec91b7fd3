"""Losses of pairs of projections: pure functions of rows that belong together."""

import torch
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from ..engine.processes import gather_rows


def rows_to_contrast(model: nn.Module, *projections: torch.Tensor) -> list[torch.Tensor]:
    """Projections `(batch, size)` of all processes while a model is trained; those of this process while it is validated,
    where each batch is that of a single process."""
    return [gather_rows(rows) if model.training else rows for rows in projections]


def nt_xent(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
    """Normalised temperature-scaled cross-entropy (Chen et al. 2020, SimCLR): each of the `2 * batch` rows has to find its
    other view among all rows but itself.

    Args:
        first: one view of each window, `(batch, size)`.
        second: the other one, in the same order.
        temperature: that cosines are divided by.
    """
    rows = normalize(torch.cat([first, second]).float(), dim=-1)
    similarities = rows @ rows.t() / temperature
    similarities = similarities.masked_fill(torch.eye(len(rows), dtype=torch.bool, device=rows.device), float("-inf"))
    return cross_entropy(similarities, torch.arange(len(rows), device=rows.device).roll(len(first)))


def info_nce(queries: torch.Tensor, keys: torch.Tensor, temperature: float) -> torch.Tensor:
    """Cross-entropy of finding each query's own key among all keys (van den Oord et al. 2018).

    Args:
        queries: `(batch, size)`.
        keys: in the same order.
        temperature: that cosines are divided by.
    """
    similarities = normalize(queries.float(), dim=-1) @ normalize(keys.float(), dim=-1).t() / temperature
    return cross_entropy(similarities, torch.arange(len(queries), device=queries.device))


def mean_cosine(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cosine of predictions `(batch, size)` and their targets, to which no gradient flows."""
    return cosine_similarity(predictions.float(), targets.detach().float(), dim=-1).mean()
