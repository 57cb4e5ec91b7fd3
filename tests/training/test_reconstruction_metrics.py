"""Validation of stage 1 from sums, against the formulas on whole signals."""

import itertools

import numpy as np
import pytest
import torch

from cmssl_hf.training.reconstruction import codebook_metrics, reconstruction_metrics, reconstruction_statistics


CHANNELS = ("ecg", "ppg")


def signals(seed=0, number=12, samples=80):
    rng = np.random.default_rng(seed)
    signal = rng.normal(2, 3, (number, 2, samples)).astype(np.float32)
    return signal, signal + rng.normal(0, [[1], [2]], signal.shape).astype(np.float32)


def statistics_of(signal, reconstruction, lengths=None):
    mask = None if lengths is None else (torch.arange(signal.shape[-1]) < torch.as_tensor(lengths)[:, None]).long()
    return reconstruction_statistics(torch.from_numpy(reconstruction), torch.from_numpy(signal), mask)


@pytest.mark.parametrize("lengths", [None, [80, 10, 33] * 4])
@pytest.mark.parametrize("batches", [[12], [5, 5, 2]])
def test_metrics_are_those_of_all_real_samples(lengths, batches):
    signal, reconstruction = signals()
    starts = np.cumsum([0, *batches])
    parts = [
        statistics_of(signal[a:b], reconstruction[a:b], None if lengths is None else lengths[a:b])
        for a, b in itertools.pairwise(starts)
    ]
    metrics = reconstruction_metrics(torch.cat(parts).numpy(), CHANNELS)
    for index, channel in enumerate(CHANNELS):
        kept = lengths or [80] * 12
        real = np.concatenate([row[index, :n] for row, n in zip(signal, kept)]).astype(np.float64)
        made = np.concatenate([row[index, :n] for row, n in zip(reconstruction, kept)]).astype(np.float64)
        assert metrics[f"{channel}_l1"] == pytest.approx(np.abs(made - real).mean())
        explained = 1 - ((made - real) ** 2).mean() / real.var()
        assert metrics[f"{channel}_explained_variance"] == pytest.approx(explained)


@pytest.mark.parametrize(
    ("reconstruct", "explained"), [(lambda x: x, 1.0), (lambda x: np.full_like(x, x.mean()), 0.0)]
)
def test_limits_of_explained_variance(reconstruct, explained):
    signal, _ = signals()
    signal = signal[:, :1]
    statistics = statistics_of(signal, reconstruct(signal)).numpy()
    assert reconstruction_metrics(statistics, ("ppg",))["ppg_explained_variance"] == pytest.approx(explained, abs=1e-6)


def test_codebook_metrics_of_a_hand_worked_example():
    codes = np.array([[0, 0, 3, -100], [0, 3, 5, -100]])
    metrics = codebook_metrics(codes, 8)
    entropy = -(3 / 6 * np.log(3 / 6) + 2 / 6 * np.log(2 / 6) + 1 / 6 * np.log(1 / 6))
    assert metrics == pytest.approx(
        {
            "codes_in_use": 3,
            "perplexity": np.exp(entropy),
            "unused_code_ratio": 5 / 8,
            "code_usage_min": 0,
            "code_usage_max": 3,
            "code_usage_mean": 6 / 8,
        }
    )


@pytest.mark.parametrize("in_use", [1, 4, 16])
def test_perplexity_of_even_use_is_the_number_of_codes(in_use):
    assert codebook_metrics(np.arange(16 * 5) % in_use, 16)["perplexity"] == pytest.approx(in_use)
