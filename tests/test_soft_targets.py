"""Soft targets against the formula, and their limits."""

import numpy as np
import pytest
import torch

from cmssl_hf.training.soft_targets import soft_code_cross_entropy


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
    assert soft_code_cross_entropy(logits, labels, codebook, 0.2).item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_cold_targets_are_hard(example):
    logits, labels, codebook = example
    hard = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(soft_code_cross_entropy(logits, labels, codebook, 1e-3), hard)
