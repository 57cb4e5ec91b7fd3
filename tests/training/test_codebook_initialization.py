"""k-means on the sphere, and the first codebook of a tokenizer."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from cmssl_hf import CMSSLTokenizerModel
from cmssl_hf.data.batches import WindowsDataset
from cmssl_hf.training.codebook import initialize_codebook, spherical_kmeans
from helpers.tiny import tokenizer_config, waves, windows_dataset


def unit(vectors):
    return torch.nn.functional.normalize(torch.as_tensor(vectors, dtype=torch.float32), dim=-1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("num_iterations", [1, 5])
def test_iterations_are_those_of_lloyd(num_iterations):
    latents = unit(np.random.default_rng(0).normal(size=(300, 4)))
    start = torch.randperm(300, generator=generator(7))[:8]
    expected = latents[start].double()
    for _ in range(num_iterations):
        distances = torch.cdist(latents.double(), expected)
        members = distances.argmin(-1)
        expected = torch.stack([latents[members == cluster].double().sum(0) for cluster in range(8)])
        expected = expected / expected.norm(dim=-1, keepdim=True)
    centroids, counts = spherical_kmeans(latents, 8, num_iterations, generator(7))
    torch.testing.assert_close(centroids.double(), expected, atol=1e-5, rtol=0)
    assert counts.tolist() == torch.bincount(members, minlength=8).tolist()


def test_no_two_clusters_are_the_same_when_most_latents_are():
    distinct = unit(np.random.default_rng(0).normal(size=(10, 5)))
    latents = torch.cat([distinct[:1].expand(500, -1), distinct])
    centroids, counts = spherical_kmeans(latents, 8, 10, generator())
    similarity = centroids @ centroids.t() - 2 * torch.eye(8)
    assert similarity.max() < 0.999
    assert counts.sum() == len(latents)


def test_as_many_clusters_as_latents():
    latents = unit(np.random.default_rng(0).normal(size=(12, 5)))
    centroids, _ = spherical_kmeans(latents, 12, 3, generator())
    assert sorted((centroids @ latents.t()).argmax(-1).tolist()) == list(range(12))


def test_too_few_latents():
    with pytest.raises(ValueError, match=r"3 are too few for 4 codes: use more windows \(`kmeans_windows`"):
        spherical_kmeans(unit(np.eye(3)), 4, 1, generator())


@pytest.fixture
def model():
    torch.manual_seed(0)
    return CMSSLTokenizerModel(tokenizer_config(hidden_dropout_prob=0.5)).train()


def initialize(model, windows, batch_size=256, num_windows=1000, seed=0):
    dataset = WindowsDataset(windows_dataset(windows), ["input_values"])
    initialize_codebook(
        model,
        dataset,
        Accelerator(cpu=True),
        num_windows=num_windows,
        num_iterations=5,
        seed=seed,
        windows_per_step=32,
        batch_size=batch_size,
    )


def latents_of(model, windows):
    """Latents of all real patches, window by window, without dropout."""
    training = model.training
    model.eval()
    latents = []
    with torch.no_grad():
        for window in windows:
            padded = np.pad(window, ((0, 0), (0, -window.shape[1] % 25)))
            mask = (torch.arange(padded.shape[1]) < window.shape[1])[None].long()
            output = model(torch.from_numpy(padded)[None], mask, quantize=False)
            latents.append(output.latents[0])
    model.train(training)
    return torch.cat(latents)


LENGTHS = [100, 75, 130, 100, 50, 25] * 10


def test_codes_are_directions_of_latents_and_moving_averages_are_a_step_s(model):
    windows = waves(60, 2, LENGTHS)
    latents = latents_of(model, windows)
    initialize(model, windows)
    codebook = model.codebook
    torch.testing.assert_close(codebook.weight.norm(dim=-1), torch.ones(16))
    # 60 windows have 200 patches (20 per 6 windows), so 32 windows of a step have 106.7 on average.
    assert len(latents) == 200
    assert codebook.cluster_size.sum().item() == pytest.approx(32 * 200 / 60, rel=1e-5)
    torch.testing.assert_close(codebook.vector_sum, codebook.weight * codebook.cluster_size.clamp(min=1e-6)[:, None])
    inertia = 1 - (latents @ codebook.weight.t()).max(-1).values.mean()
    torch.manual_seed(1)
    random = unit(torch.randn(16, 8))
    assert inertia < 0.5 * (1 - (latents @ random.t()).max(-1).values.mean())


def test_batch_size_makes_no_difference(model):
    windows = waves(60, 2, LENGTHS)
    initialize(model, windows)
    whole = model.codebook.weight.clone()
    initialize(model, windows, batch_size=7)
    torch.testing.assert_close(model.codebook.weight, whole, atol=1e-5, rtol=0)


def test_only_so_many_windows_are_used_and_they_are_drawn(model):
    windows = waves(60, 2)
    initialize(model, windows, num_windows=10)
    some = model.codebook.weight.clone()
    assert model.codebook.cluster_size.sum().item() == pytest.approx(32 * 4, rel=1e-5)
    initialize(model, windows, num_windows=10, seed=1)
    assert not torch.equal(model.codebook.weight, some)


def test_model_stays_in_training_mode_and_nothing_else_changes(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if "codebook" not in name}
    state = torch.get_rng_state()
    initialize(model, waves(60, 2))
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in before.items():
        assert torch.equal(model.state_dict()[name], tensor)
