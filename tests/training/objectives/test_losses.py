"""Losses and measures of collapse against values computed by other means."""

import math

import numpy as np
import pytest
import torch

from cmssl_hf.training.objectives.byol import byol_loss
from cmssl_hf.training.objectives.losses import info_nce, mean_cosine, nt_xent
from cmssl_hf.training.objectives.models import projection_head
from cmssl_hf.training.objectives.teacher import momentum_at
from cmssl_hf.training.objectives.trainer import effective_rank, projection_std


def rows(number=5, size=3, seed=0):
    return np.random.default_rng(seed).standard_normal((number, size))


def unit(values):
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_nt_xent_of_orthogonal_windows():
    """Two windows on two axes: each view has cosine 1 to its partner and 0 to the two views of the other window."""
    views = torch.eye(2)
    for temperature in (0.3, 0.5, 1.0):
        partner = math.exp(1 / temperature)
        expected = -math.log(partner / (partner + 2))
        assert nt_xent(views, 3 * views, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_nt_xent_of_views_that_are_all_the_same():
    # Each row has 2 * 4 - 1 others, which are equally near.
    assert nt_xent(torch.ones(4, 3), torch.ones(4, 3), 0.1).item() == pytest.approx(math.log(7), rel=1e-6)


def test_nt_xent_is_the_sum_written_out():
    first, second, temperature = rows(seed=1), rows(seed=2), 0.2
    views = unit(np.concatenate([first, second]))
    losses = []
    for i in range(10):
        partner = (i + 5) % 10
        others = [math.exp(views[i] @ views[j] / temperature) for j in range(10) if j != i]
        losses.append(-math.log(math.exp(views[i] @ views[partner] / temperature) / sum(others)))
    assert nt_xent(torch.tensor(first), torch.tensor(second), temperature).item() == pytest.approx(
        np.mean(losses), rel=1e-5
    )


def test_info_nce_is_the_sum_written_out():
    queries, keys, temperature = rows(seed=1), rows(seed=2), 0.2
    cosines = unit(queries) @ unit(keys).T / temperature
    expected = np.mean([-cosines[i, i] + math.log(np.exp(cosines[i]).sum()) for i in range(5)])
    assert info_nce(torch.tensor(queries), torch.tensor(keys), temperature).item() == pytest.approx(expected, rel=1e-5)


def test_cosines_and_byol_distances():
    predictions, targets = rows(seed=1), rows(seed=2)
    cosines = (unit(predictions) * unit(targets)).sum(1)
    distances = ((unit(predictions) - unit(targets)) ** 2).sum(1)
    tensors = torch.tensor(predictions), torch.tensor(targets)
    assert mean_cosine(*tensors).item() == pytest.approx(cosines.mean(), rel=1e-5)
    assert byol_loss(*tensors).item() == pytest.approx(distances.mean(), rel=1e-5)


def test_no_gradient_flows_to_targets():
    predictions, targets = (torch.tensor(rows(seed=seed), requires_grad=True) for seed in (1, 2))
    mean_cosine(predictions, targets).backward()
    assert targets.grad is None and predictions.grad.abs().sum() > 0


def test_projections_that_are_the_same_have_no_deviation_and_rank_1():
    same = torch.tensor([[3.0, 4.0]]) * torch.arange(1, 6)[:, None]
    assert projection_std(same).item() == pytest.approx(0, abs=1e-6)
    assert effective_rank(same).item() == pytest.approx(1, abs=1e-5)


def test_projections_that_are_spread_evenly_have_deviation_1_and_full_rank():
    spread = torch.randn(20_000, 16, generator=torch.Generator().manual_seed(0))
    assert projection_std(spread).item() == pytest.approx(1, abs=0.01)
    assert effective_rank(torch.eye(6).repeat(3, 1)).item() == pytest.approx(6, rel=1e-5)
    # Singular values 2 and 1, since four rows lie on the first axis and one on the second.
    shares = np.array([2, 1]) / 3
    expected = math.exp(-(shares * np.log(shares)).sum())
    axes = torch.tensor([[1.0, 0], [1, 0], [1, 0], [1, 0], [0, 1]])
    assert effective_rank(axes).item() == pytest.approx(expected, rel=1e-5)


def test_momentum_rises_from_its_start_to_1_along_a_cosine():
    assert momentum_at(0, 100, 0.9) == pytest.approx(0.9)
    assert momentum_at(50, 100, 0.9) == pytest.approx(0.95)
    assert momentum_at(25, 100, 0.9) == pytest.approx(1 - 0.1 * (math.cos(math.pi / 4) + 1) / 2)
    assert momentum_at(100, 100, 0.9) == 1


def test_heads_have_the_published_layers():
    """BYOL: linear, normalisation, ReLU, linear. SimSiam and MoCo v3: a last normalisation without scale and shift."""
    plain, normalized = projection_head(4, 6, 2), projection_head(4, 6, 6, 2, normalizes_output=True)
    names = [type(layer).__name__ for layer in plain]
    assert names == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert (plain[0].bias is None, plain[3].bias is None) == (True, False)
    assert [layer.affine for layer in normalized if isinstance(layer, torch.nn.BatchNorm1d)] == [True, True, False]
    assert [layer.out_features for layer in normalized if hasattr(layer, "out_features")] == [6, 6, 2]
    assert all(layer.bias is None for layer in normalized if hasattr(layer, "out_features"))
    outputs = normalized(torch.randn(50, 4))
    torch.testing.assert_close(outputs.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
