"""Codes that nothing chooses any more get a new place among the latents of the current training step."""

import logging

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object

from ..models.cmssl.modeling_cmssl_codebook import CMSSLCodebook


logger = logging.getLogger(__name__)


@torch.no_grad()
def revive_codes(
    codebook: CMSSLCodebook, latents: torch.Tensor, accelerator: Accelerator, *, usage: float, seed: int
) -> int:
    """Moves the codes that are used less than `usage` times as often as the average code onto latents drawn at random
    (Dhariwal et al. 2020, Jukebox), so that they take over a share of what their neighbours stood for.

    The moving averages of a revived code are set to those of an average code at its new place; otherwise the next update
    would pull it straight back. All processes offer their latents and end with the same codebook.

    Args:
        codebook: of the unwrapped tokenizer.
        latents: unit vectors `(n, codebook_dim)` of this process's share of the batch, padding left out.
        accelerator: of the run.
        usage: share of the mean usage below which a code counts as unused.
        seed: of the draw.

    Returns:
        How many codes were revived: at most as many as there are latents.
    """
    offered = torch.cat([part.to(latents.device) for part in gather_object([latents.cpu()])])
    mean_size = codebook.cluster_size.mean()
    unused = (codebook.cluster_size < usage * mean_size).nonzero().flatten()[: len(offered)]
    if len(unused) == 0:
        return 0
    if accelerator.is_main_process:
        drawn = torch.randperm(len(offered), generator=torch.Generator().manual_seed(seed))[: len(unused)]
        codebook.move_codes(unused, offered[drawn.to(offered.device)], mean_size)
    for buffer in codebook.buffers():
        buffer.copy_(broadcast(buffer))
    logger.info("%d of %d codes revived.", len(unused), len(codebook.cluster_size))
    return len(unused)
