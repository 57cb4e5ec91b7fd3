"""Unused codes move onto latents and stay there."""

import pytest
import torch
from accelerate import Accelerator

from cmssl_hf import CMSSLTokenizerModel
from cmssl_hf.training.codebook import revive_codes
from helpers.tiny import tokenizer_config


def unit(*shape, seed=0):
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.fixture
def codebook():
    torch.manual_seed(0)
    codebook = CMSSLTokenizerModel(tokenizer_config()).codebook
    codebook.set_codes(unit(*codebook.weight.shape, seed=1), torch.full((len(codebook.weight),), 10.0))
    codebook.cluster_size[[2, 5]] = 0.01
    return codebook


def test_unused_codes_move_onto_latents_and_the_others_stay(codebook):
    latents = unit(20, codebook.weight.shape[1])
    before = codebook.weight.clone()
    mean_size = codebook.cluster_size.mean().item()
    assert revive_codes(codebook, latents, Accelerator(cpu=True), usage=0.1, seed=0) == 2
    assert (codebook.weight[[2, 5]] @ latents.t()).max(-1).values.tolist() == pytest.approx([1, 1])
    kept = [index for index in range(len(before)) if index not in (2, 5)]
    assert torch.equal(codebook.weight[kept], before[kept])
    assert codebook.cluster_size[[2, 5]].tolist() == pytest.approx([mean_size] * 2)
    torch.testing.assert_close(codebook.vector_sum[2], codebook.weight[2] * mean_size)


def test_next_update_does_not_pull_a_revived_code_away(codebook):
    latents = unit(20, codebook.weight.shape[1])
    revive_codes(codebook, latents, Accelerator(cpu=True), usage=0.1, seed=0)
    revived = codebook.weight[[2, 5]].clone()
    codebook.update(latents, codebook.nearest(latents))
    assert (codebook.weight[[2, 5]] * revived).sum(-1).min() > 0.99


def test_no_more_codes_are_revived_than_there_are_latents(codebook):
    codebook.cluster_size[:] = 0.0
    codebook.cluster_size[0] = 100.0
    latents = unit(3, codebook.weight.shape[1])
    before = codebook.weight.clone()
    assert revive_codes(codebook, latents, Accelerator(cpu=True), usage=0.1, seed=0) == 3
    assert (codebook.weight != before).any(-1).sum() == 3


def test_nothing_happens_while_all_codes_are_used(codebook):
    codebook.cluster_size[:] = 1.0
    before = {name: value.clone() for name, value in codebook.named_buffers()}
    assert revive_codes(codebook, unit(20, codebook.weight.shape[1]), Accelerator(cpu=True), usage=0.1, seed=0) == 0
    for name, value in codebook.named_buffers():
        assert torch.equal(value, before[name])
