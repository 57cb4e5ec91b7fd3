"""Soft targets against the formula, and their limits."""

import numpy as np
import pytest
import torch

from cmssl_hf.models.cmssl.modeling_cmssl_cross_entropy import chunked_cross_entropy, code_cross_entropy
from cmssl_hf.training.encoder import soft_targets


@pytest.fixture
def example():
    generator = torch.Generator().manual_seed(0)
    codebook = torch.nn.functional.normalize(torch.randn(12, 4, generator=generator), dim=-1)
    logits = torch.randn(2, 5, 12, generator=generator)
    labels = torch.randint(12, (2, 5), generator=generator)
    labels[1, 3:] = -100
    return logits, labels, codebook


def test_loss_is_that_of_the_formula(example):
    logits, labels, codebook = example
    losses = []
    for row, code in zip(logits.flatten(0, 1).double().numpy(), labels.flatten().tolist()):
        if code == -100:
            continue
        target = np.exp(codebook.double().numpy() @ codebook[code].double().numpy() / 0.2)
        log_probabilities = row - np.log(np.exp(row).sum())
        losses.append(-(target / target.sum() * log_probabilities).sum())
    targets = soft_targets(codebook, 0.2)
    loss = code_cross_entropy(logits.flatten(0, 1), labels.flatten(), targets)
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_cold_targets_are_hard(example):
    logits, labels, codebook = example
    logits, labels = logits.flatten(0, 1), labels.flatten()
    hard = torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(code_cross_entropy(logits, labels, soft_targets(codebook, 1e-3)), hard)


def test_loss_and_gradients_in_parts_are_those_of_the_whole(example):
    _, _, codebook = example
    generator = torch.Generator().manual_seed(1)
    head = torch.nn.Linear(6, 12)
    labels = torch.randint(12, (150, 5), generator=generator)
    labels[::7, 2] = -100
    targets = soft_targets(codebook, 0.2)
    hidden = torch.randn(150, 5, 6, generator=generator)
    states = [hidden.clone().requires_grad_() for _ in range(2)]
    losses = (
        code_cross_entropy(head(states[0]).flatten(0, 1), labels.flatten(), targets),
        chunked_cross_entropy(states[1], head, labels, targets),
    )
    torch.testing.assert_close(losses[1], losses[0])
    gradients = [torch.autograd.grad(loss, (state, *head.parameters())) for loss, state in zip(losses, states)]
    for expected, gradient in zip(*gradients):
        torch.testing.assert_close(gradient, expected)
