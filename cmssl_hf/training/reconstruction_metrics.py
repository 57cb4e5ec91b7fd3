"""Validation of stage 1: how well each channel is reconstructed and how much of the codebook is used."""

import numpy as np
import torch


def reconstruction_statistics(
    reconstruction: torch.Tensor, signals: torch.Tensor, attention_mask: torch.Tensor | None
) -> torch.Tensor:
    """Sums over real samples from which the metrics of any set of windows follow: `(batch, channels, 5)` with the number of
    samples, absolute error, squared error, signal and squared signal.

    They are gathered in place of whole reconstructions, and add up exactly over batches and processes.
    """
    mask = torch.ones_like(signals[:, :1]) if attention_mask is None else attention_mask[:, None].to(signals.dtype)
    error = (reconstruction - signals) * mask
    signals = signals * mask
    sums = (mask.expand_as(signals), error.abs(), error**2, signals, signals**2)
    return torch.stack([values.double().sum(-1) for values in sums], dim=-1)


def reconstruction_metrics(statistics: np.ndarray, channels: tuple[str, ...]) -> dict[str, float]:
    """Per channel the mean absolute error `<channel>_l1` and the share of variance explained
    `<channel>_explained_variance` (1 - squared error / variance), from statistics `(windows, channels, 5)`."""
    totals = np.asarray(statistics, dtype=np.float64).sum(0)
    metrics = {}
    for channel, (count, absolute, squared, signal, squared_signal) in zip(channels, totals):
        metrics[f"{channel}_l1"] = absolute / count
        metrics[f"{channel}_explained_variance"] = 1 - squared / (squared_signal - signal**2 / count)
    return metrics


def codebook_metrics(codes: np.ndarray, codebook_size: int) -> dict[str, float]:
    """Use of the codebook from codes of any shape, negative ones left out: `codes_in_use`, `perplexity` (exponential of the
    entropy of their frequencies) and, as the published code logs them, `unused_code_ratio` and the smallest, largest and
    mean usage."""
    counts = np.bincount(codes[codes >= 0].astype(np.int64), minlength=codebook_size)
    frequencies = counts[counts > 0] / counts.sum()
    return {
        "codes_in_use": int((counts > 0).sum()),
        "perplexity": float(np.exp(-(frequencies * np.log(frequencies)).sum())),
        "unused_code_ratio": float((counts == 0).mean()),
        "code_usage_min": int(counts.min()),
        "code_usage_max": int(counts.max()),
        "code_usage_mean": float(counts.mean()),
    }
