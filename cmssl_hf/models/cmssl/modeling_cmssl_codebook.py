"""Vector quantiser of the CM-SSL tokenizer: unit vectors that follow moving averages of what they stand for."""

import torch
from torch import nn


# A code whose summed vectors have all but decayed has no direction left to follow, so it keeps its row.
_SMALLEST_SUM = 1e-6

# Bytes of the similarities that are held at a time: all of them would take gigabytes at large batches, and few latents leave an
# accelerator idle. 16 MB are those of 512 latents and 8192 codes.
_BYTES_ON_CPU, _BYTES_ELSEWHERE = 2**24, 2**28


class CMSSLCodebook(nn.Module):
    """Nearest-neighbour quantiser on the unit sphere.

    `weight` (codebook_size, codebook_dim) holds the codes, `cluster_size` (codebook_size) and `vector_sum`
    (codebook_size, codebook_dim) the moving averages, per training step, of how many latents chose a code and of their
    sum. All three are buffers: no optimizer sees them. The published code divides the sums by Laplace-smoothed sizes before
    it normalises them; a positive factor does not change a normalised row, so that division is left out.
    """

    weight: torch.Tensor
    cluster_size: torch.Tensor
    vector_sum: torch.Tensor

    def __init__(self, config):
        super().__init__()
        self.ema_decay = config.ema_decay
        self.register_buffer("weight", torch.zeros(config.codebook_size, config.codebook_dim))
        self.register_buffer("cluster_size", torch.zeros(config.codebook_size))
        self.register_buffer("vector_sum", torch.zeros(config.codebook_size, config.codebook_dim))

    def most_similar(self, latents: torch.Tensor) -> torch.Tensor:
        """Indices `(n,)` of the codes with the largest cosine to unit vectors `latents (n, codebook_dim)`."""
        return nn.functional.linear(latents, self.weight).argmax(-1)

    def nearest(self, latents: torch.Tensor) -> torch.Tensor:
        """Indices `(...)` of the codes nearest to unit vectors `latents (..., codebook_dim)`; on the unit sphere the
        smallest distance is the largest cosine."""
        budget = _BYTES_ON_CPU if latents.device.type == "cpu" else _BYTES_ELSEWHERE
        # Half precision cannot tell thousands of neighbours apart.
        with torch.autocast(latents.device.type, enabled=False):
            parts = latents.float().flatten(0, -2).split(max(1, budget // (4 * len(self.weight))))
            codes = [self.most_similar(part) for part in parts]
        return torch.cat(codes).view(latents.shape[:-1])

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """Vectors `(..., codebook_dim)` of `codes (...)`."""
        return nn.functional.embedding(codes, self.weight)

    def update(self, latents: torch.Tensor, codes: torch.Tensor, real: torch.Tensor | None = None) -> None:
        """Moves the codebook towards the latents of one training step: [`follow`] with the [`totals`] of a single batch."""
        self.follow(self.totals(latents, codes, real))

    @torch.no_grad()
    def totals(self, latents: torch.Tensor, codes: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
        """Sum and number of the latents that chose each code, `(codebook_size, codebook_dim + 1)`, the number last. Totals of
        several batches may be added up.

        Args:
            latents: unit vectors `(..., codebook_dim)`.
            codes: the codes they chose `(...)`.
            real: boolean `(...)`; latents of padding do not count.
        """
        latents = latents.reshape(-1, latents.shape[-1])
        codes = codes.reshape(-1)
        weights = torch.ones_like(codes, dtype=latents.dtype) if real is None else real.reshape(-1).to(latents.dtype)
        # One tensor [sums | counts], so that processes exchange a single message.
        totals = torch.zeros(self.weight.shape[0], self.weight.shape[1] + 1, device=latents.device)
        totals.index_add_(0, codes, torch.cat((latents * weights[:, None], weights[:, None]), dim=1))
        return totals

    @torch.no_grad()
    def follow(self, totals: torch.Tensor) -> None:
        """Moves the codebook by the [`totals`] of one training step, summed over all processes; `totals` is overwritten."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(totals)
        self.vector_sum.lerp_(totals[:, :-1], 1 - self.ema_decay)
        self.cluster_size.lerp_(totals[:, -1], 1 - self.ema_decay)
        norms = self.vector_sum.norm(dim=-1, keepdim=True)
        self.weight.copy_(torch.where(norms > _SMALLEST_SUM, self.vector_sum / norms, self.weight))

    @torch.no_grad()
    def move_codes(self, codes: torch.Tensor, vectors: torch.Tensor, cluster_size: float | torch.Tensor) -> None:
        """Puts `codes (n)` at unit `vectors (n, codebook_dim)`, as if each were chosen `cluster_size` times per step."""
        self.weight[codes] = vectors.to(self.weight.dtype)
        self.cluster_size[codes] = cluster_size
        self.vector_sum[codes] = self.weight[codes] * cluster_size

    @torch.no_grad()
    def set_codes(self, centroids: torch.Tensor, cluster_size: torch.Tensor) -> None:
        """Replaces the codebook by `centroids (codebook_size, codebook_dim)`, e.g. those of k-means.

        The sums are set to the centroids times `cluster_size (codebook_size,)`, the number of latents expected per training
        step, so that the next update moves every code by the same share.
        """
        self.weight.copy_(nn.functional.normalize(centroids, dim=-1))
        self.cluster_size.copy_(cluster_size)
        self.vector_sum.copy_(self.weight * cluster_size.clamp(min=_SMALLEST_SUM)[:, None])
