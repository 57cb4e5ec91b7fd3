"""k-means over the outputs of a warm-started tokenizer: the first codebook."""

import logging

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from torch import nn

from ..data.windows_dataset import WindowsCollator, WindowsDataset
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
    encoded = []
    for start in range(0, len(mine), batch_size):
        inputs = collate(dataset.__getitems__([int(index) for index in mine[start : start + batch_size]]))
        inputs = {name: tensor.to(accelerator.device) for name, tensor in inputs.items()}
        output = model(**inputs, quantize=False)
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
