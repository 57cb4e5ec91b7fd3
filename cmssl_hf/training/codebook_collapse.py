"""A codebook that collapses to a few codes: a warning while there is still time."""

import logging

import torch
from transformers import TrainerCallback

from ..models.cmssl.modeling_cmssl_codebook import CMSSLCodebook


logger = logging.getLogger(__name__)


class CodebookCollapseCallback(TrainerCallback):
    """Warns at log steps when the codes of the last training steps are used as unevenly as if few of them existed.

    Args:
        codebook: of the tokenizer that is trained; its moving averages tell what was used.
        floor: share of the codebook below which its perplexity is too low.
        first_step: training step from which on the codebook is in use.
    """

    def __init__(self, codebook: CMSSLCodebook, floor: float, first_step: int):
        self._codebook, self._floor, self._first_step = codebook, floor, first_step
        self._warned = False

    def on_log(self, args, state, control, **kwargs):
        if state.global_step < max(self._first_step, 1):
            return
        perplexity, size = usage_perplexity(self._codebook), len(self._codebook.cluster_size)
        collapsed = perplexity < self._floor * size
        if collapsed and not self._warned and state.is_world_process_zero:
            logger.warning(
                "The codebook collapses: at step %d the tokens are spread over about %.1f of %d codes (perplexity), fewer than"
                " `perplexity_floor` (%g) of them, so that they say little. A warm start (`warm_start_steps`), k-means"
                " (`kmeans_windows`) or a smaller `codebook_size` helps.",
                state.global_step,
                perplexity,
                size,
                self._floor,
            )
        self._warned = collapsed


def usage_perplexity(codebook: CMSSLCodebook) -> float:
    """Exponential of the entropy of the codes' moving average usage: how many equally used codes would be as diverse."""
    share = codebook.cluster_size / codebook.cluster_size.sum()
    return float(torch.special.entr(share).sum().exp())
