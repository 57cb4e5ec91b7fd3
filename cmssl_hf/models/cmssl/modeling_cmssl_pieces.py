"""Long windows in pieces of the length that an encoder was pre-trained on."""

import torch
from torch import nn


def cut_into_pieces(
    input_values: torch.Tensor, attention_mask: torch.Tensor | None, piece_samples: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cuts windows into pieces and leaves out those that hold padding only.

    Args:
        input_values: `(batch, channels, samples)`.
        attention_mask: `(batch, samples)`, 1 for real samples, or `None` where all are.
        piece_samples: length of a piece.

    Returns:
        Pieces `(pieces, channels, piece_samples)`, the last of a window padded with zeros; their mask `(pieces, piece_samples)`;
        and which of the `(batch, pieces per window)` they are, boolean.
    """
    batch_size, _, num_samples = input_values.shape
    if attention_mask is None:
        attention_mask = input_values.new_ones(batch_size, num_samples, dtype=torch.long)
    padding = -num_samples % piece_samples
    pieces = nn.functional.pad(input_values, (0, padding)).unflatten(-1, (-1, piece_samples)).transpose(1, 2)
    masks = nn.functional.pad(attention_mask, (0, padding)).unflatten(-1, (-1, piece_samples))
    used = masks.ne(0).any(-1)
    # A window without any real sample keeps its first piece, so that there is something to encode.
    used[:, 0] = True
    return pieces[used], masks[used], used


def join_pieces(encoded: torch.Tensor, used: torch.Tensor) -> torch.Tensor:
    """The inverse of [`cut_into_pieces`] for what was made of pieces, `(pieces, length, ...)`: `(batch, pieces per window *
    length, ...)` with zeros (`False`) where there was nothing but padding."""
    joined = encoded.new_zeros(*used.shape, *encoded.shape[1:])
    joined[used] = encoded
    return joined.flatten(1, 2)
