"""The codebook of stage 1 during its training: set by k-means, kept alive, watched for collapse."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from torch import nn
from transformers import TrainerCallback

from ..data.batches import WindowsCollator, WindowsDataset
from ..models.cmssl.modeling_cmssl_codebook import CMSSLCodebook
from ..models.cmssl.modeling_cmssl_tokenizer import CMSSLTokenizerModel


logger = logging.getLogger(__name__)

_LATENTS_PER_PRODUCT = 8192


def spherical_kmeans(
    latents: torch.Tensor, num_clusters: int, num_iterations: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """k-means of unit vectors by cosine (Dhillon and Modha 2001), started from different latents drawn at random.

    A cluster that loses all its members takes over one of the latents that fit their cluster worst.

    Args:
        latents: unit vectors `(n, dim)`.
        num_clusters: number of clusters, at most `n`.
        num_iterations: number of iterations.
        generator: decides the start.

    Returns:
        Unit centroids `(num_clusters, dim)` and the number of members of each `(num_clusters,)`.

    Raises:
        ValueError: if there are fewer latents than clusters, or some are not finite.
    """
    if not torch.isfinite(latents).all():
        raise ValueError("k-means cannot work on latents that are not finite: the warm start has diverged.")
    if len(latents) < num_clusters:
        raise ValueError(
            f"k-means needs at least one latent per code, but {len(latents)} are too few for {num_clusters} codes: use more"
            " windows (`kmeans_windows`, more data) or a smaller `codebook_size`."
        )
    start = torch.randperm(len(latents), generator=generator)[:num_clusters]
    centroids = latents[start.to(latents.device)]
    counts = torch.zeros(num_clusters, device=latents.device)
    for _ in range(num_iterations):
        nearest = [(part @ centroids.t()).max(-1) for part in latents.split(_LATENTS_PER_PRODUCT)]
        similarity, members = (torch.cat(parts) for parts in zip(*nearest))
        counts = torch.bincount(members, minlength=num_clusters).to(latents.dtype)
        sums = torch.zeros_like(centroids).index_add_(0, members, latents)
        empty = (counts == 0).nonzero().flatten()
        sums[empty] = latents[similarity.argsort()[: len(empty)]]
        centroids = nn.functional.normalize(sums, dim=-1)
    return centroids, counts


@torch.no_grad()
def initialize_codebook(
    model: CMSSLTokenizerModel,
    dataset: WindowsDataset,
    accelerator: Accelerator,
    *,
    num_windows: int,
    num_iterations: int,
    seed: int,
    windows_per_step: int,
    batch_size: int = 256,
) -> None:
    """Sets the codebook to the k-means centroids of the latents of training windows.

    The windows are encoded by all processes together and clustered on the main one, so that every process ends with the same
    codebook and their number makes no difference.

    Args:
        model: the warm-started tokenizer, unwrapped.
        dataset: training windows.
        accelerator: of the run.
        num_windows: how many windows are encoded, drawn at random; all if there are fewer.
        num_iterations: iterations of k-means.
        seed: of the draw.
        windows_per_step: windows in one training step of all processes, to scale the moving averages.
    """
    chosen = np.random.default_rng(seed).permutation(len(dataset))[:num_windows]
    mine = chosen[accelerator.process_index :: accelerator.num_processes]
    collate = WindowsCollator(model.config.patch_size)
    was_training = model.training
    model.eval()
    encoded: list[torch.Tensor] = []
    for start in range(0, len(mine), batch_size):
        inputs = collate(dataset.__getitems__(mine[start : start + batch_size]))
        inputs = {name: tensor.to(accelerator.device) for name, tensor in inputs.items()}
        output = model(**dataset.augmented(inputs), quantize=False)
        encoded.extend(latents[codes >= 0].cpu() for latents, codes in zip(output.latents, output.codes))
    model.train(was_training)
    # Interleaved again, so that the order is that of the draw for any number of processes.
    shares = gather_object([encoded])
    latents = torch.cat([shares[i % len(shares)][i // len(shares)] for i in range(len(chosen))])
    codebook = model.codebook
    if accelerator.is_main_process:
        centroids, counts = spherical_kmeans(
            latents.to(accelerator.device),
            len(codebook.weight),
            num_iterations,
            torch.Generator().manual_seed(seed),
        )
        latents_per_step = windows_per_step * len(latents) / len(chosen)
        codebook.set_codes(centroids, counts * latents_per_step / len(latents))
        logger.info("Codebook set by k-means over %d latents of %d windows.", len(latents), len(chosen))
    for buffer in codebook.buffers():
        buffer.copy_(broadcast(buffer))


@torch.no_grad()
def revive_codes(
    codebook: CMSSLCodebook, latents: Sequence[torch.Tensor], accelerator: Accelerator, *, usage: float, seed: int
) -> int:
    """Moves the codes that are used less than `usage` times as often as the average code onto latents drawn at random
    (Dhariwal et al. 2020, Jukebox), so that they take over a share of what their neighbours stood for.

    The moving averages of a revived code are set to those of an average code at its new place; otherwise the next update
    would pull it straight back. All processes offer their latents and end with the same codebook.

    Args:
        codebook: of the unwrapped tokenizer.
        latents: unit vectors `(n, codebook_dim)` of each batch of this process's share of the step, padding left out.
        accelerator: of the run.
        usage: share of the mean usage below which a code counts as unused.
        seed: of the draw.

    Returns:
        How many codes were revived: at most as many as there are latents.
    """
    shares = gather_object([[part.cpu() for part in latents]])
    # In the order in which a single process would read them, so that the draw is the same.
    offered = torch.cat([part for batches in zip(*shares) for part in batches]).view(-1, codebook.weight.shape[1])
    mean_size = codebook.cluster_size.mean()
    unused = (codebook.cluster_size < usage * mean_size).nonzero().flatten()[: len(offered)]
    if len(unused) == 0:
        return 0
    if accelerator.is_main_process:
        drawn = torch.randperm(len(offered), generator=torch.Generator().manual_seed(seed))[: len(unused)]
        codebook.move_codes(unused, offered[drawn].to(codebook.weight.device), mean_size)
    for buffer in codebook.buffers():
        buffer.copy_(broadcast(buffer))
    logger.info("%d of %d codes revived.", len(unused), len(codebook.cluster_size))
    return len(unused)


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
