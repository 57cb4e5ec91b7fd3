"""Targets of stage 2 that say how alike codes are."""

import torch
from torch import nn


def soft_code_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, codebook: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Cross-entropy against a distribution over codes that are near the right one: `softmax(cosine / temperature)`.

    With thousands of codes many stand for almost the same signal, and which of them the tokenizer chose cannot be told from the
    other signal. Hard targets teach the encoder to remember it.

    Args:
        logits: `(batch, num_codes, codebook_size)`.
        labels: right codes `(batch, num_codes)`; -100 is ignored.
        codebook: unit vectors `(codebook_size, codebook_dim)`.
        temperature: of the distribution; near 0 it becomes the right code alone.
    """
    real = labels != -100
    similarities = nn.functional.linear(codebook[labels[real]], codebook)
    targets = (similarities / temperature).softmax(-1)
    return nn.functional.cross_entropy(logits[real].float(), targets)
