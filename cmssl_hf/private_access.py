"""What is taken from other libraries though they do not document it: each access in one place, with its reason.

`tests/test_private_access.py` fails when a library changes one of them. Subclasses of `Trainer` reach its private methods through
`training/engine/trainer_hooks.py`, which the same test watches.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import PreTrainedModel


if TYPE_CHECKING:
    # Models answer where it is not installed.
    from datasets import Dataset


def fingerprint_of(dataset: "Dataset") -> str:
    """Hash of how a dataset came about, by which `datasets` caches what is derived from it. Our own derivations must be cached by
    it too, and there is no public name for it."""
    return dataset._fingerprint


def selected_rows(dataset: "Dataset") -> np.ndarray | None:
    """Which row of its table each row of a shuffled, filtered or sorted dataset is; `None` where all are in place. The public way
    to rows copies the table."""
    return None if dataset._indices is None else dataset._indices.column(0).to_numpy()


def attention_of(model: PreTrainedModel) -> str:
    """Name of the attention that a model uses. It can be set by `set_attn_implementation`, but not asked for."""
    return model.config._attn_implementation


def has_linear_pointwise() -> bool:
    """Whether torch has the operator of [`linear_pointwise`], which serves its compiler and is documented nowhere."""
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear_pointwise(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, activation: str = "none"
) -> torch.Tensor:
    """`activation(input @ weight.T + bias)` by oneDNN; the public way calls MKL, which leaves AVX-512 of AMD processors unused."""
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, activation, [], "none")
