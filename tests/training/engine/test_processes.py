"""Batch normalisation over all processes; what two of them make of it, `test_distributed.py` compares with one."""

import copy

import pytest
import torch
from torch import nn

from cmssl_hf.training.engine.processes import SharedBatchNorm, share_batch_norms


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 7)])
@pytest.mark.parametrize("affine", [True, False])
def test_one_process_normalises_as_torch_does(shape, affine):
    torch.manual_seed(0)
    expected = nn.Sequential(nn.BatchNorm1d(5, affine=affine))
    shared = copy.deepcopy(expected)
    share_batch_norms(shared)
    assert isinstance(shared[0], SharedBatchNorm)
    for _ in range(3):
        values = 3 + 2 * torch.randn(shape, dtype=torch.float64).float()
        ours, theirs = (values.clone().requires_grad_() for _ in range(2))
        weights = torch.randn(shape)
        for module, inputs in ((shared, ours), (expected, theirs)):
            (module(inputs) * weights).sum().backward()
        torch.testing.assert_close(shared(values), expected(values), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
        for name, tensor in expected.state_dict().items():
            torch.testing.assert_close(shared.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)
    assert torch.equal(shared.eval()(values), shared(values))
    torch.testing.assert_close(shared(values), expected.eval()(values), rtol=1e-5, atol=1e-5)


def test_weights_modes_and_names_stay():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Sequential(nn.BatchNorm1d(4)).eval())
    parameters, names = list(model.parameters()), list(model.state_dict())
    share_batch_norms(model)
    assert all(first is second for first, second in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == names
    assert [module.training for module in model.modules() if isinstance(module, SharedBatchNorm)] == [True, False]
