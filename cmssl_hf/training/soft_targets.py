"""Targets of stage 2 that say how alike codes are."""

import torch


def soft_targets(codebook: torch.Tensor, temperature: float) -> torch.Tensor:
    """For each code a distribution over the codes near it, `softmax(cosine / temperature)`: `(codebook_size, codebook_size)`.

    With thousands of codes many stand for almost the same signal, and which of them the tokenizer chose cannot be told from the
    other signal. Hard targets teach the encoder to remember it.

    Args:
        codebook: unit vectors `(codebook_size, codebook_dim)`.
        temperature: of the distributions; near 0 each becomes its code alone.
    """
    return (codebook @ codebook.t() / temperature).softmax(-1)
