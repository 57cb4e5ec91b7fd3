"""The published computation, written from its description: the side that `benchmark.py` measures ours against.

Stacks of `torch.nn.TransformerEncoderLayer`, a quantiser with the full matrix of distances and a one-hot matrix for every
batch, the frozen tokenizer inside every step of stage 2, and windows as a Python list of tensors in memory. Parameters have
the published names, so that `cmssl_hf.models.cmssl.convert_original_checkpoint` reads what these classes save.
"""

import math

import torch
from torch import nn


PATCH_SIZE = 125
#: Length of the published table of positions.
_MAX_PATCHES = 1250


class PublishedPositions(nn.Module):
    """Adds the sinusoidal table of Vaswani et al. (2017) to `(batch, patches, width)`."""

    def __init__(self, width: int):
        super().__init__()
        angles = torch.arange(_MAX_PATCHES)[:, None] * torch.exp(
            torch.arange(0, width, 2) * (-math.log(10000.0) / width)
        )
        table = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)
        self.register_buffer("pe", table[None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.pe[:, : x.shape[1]]


def _layer(width: int, heads: int, dropout: float) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, activation="gelu", batch_first=True)


def _layers(width: int, heads: int, layers: int, dropout: float) -> nn.TransformerEncoder:
    return nn.TransformerEncoder(_layer(width, heads, dropout), layers, enable_nested_tensor=False)


class _JointEncoder(nn.Module):
    def __init__(self, width: int, heads: int, layers: int, dropout: float):
        super().__init__()
        self.encoder = _layers(width, heads, layers, dropout)


class _Decoder(nn.Module):
    def __init__(self, width: int, heads: int, layers: int, dropout: float, outputs: int):
        super().__init__()
        self.decoder = _layers(width, heads, layers, dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, outputs),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mlp(self.decoder(x))


class PublishedQuantizer(nn.Module):
    """Unit-norm codes that follow moving averages (decay 0.99) of the unit vectors that chose them."""

    def __init__(self, codes: int, width: int):
        super().__init__()
        self.embedding = nn.Module()
        weight = nn.functional.normalize(torch.randn(codes, width), dim=-1)
        self.embedding.register_buffer("weight", weight)
        self.embedding.register_buffer("cluster_size", torch.zeros(codes))
        self.embedding.register_buffer("embed_avg", weight.clone())
        self.embedding.register_buffer("initted", torch.tensor([True]))

    def forward(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Unit vectors `(batch, patches, width)` to straight-through vectors, commitment loss and codes."""
        codebook = self.embedding
        flat = latents.flatten(0, 1)
        distances = (
            flat.pow(2).sum(1, keepdim=True)
            + codebook.weight.pow(2).sum(1)
            - 2 * torch.einsum("td,cd->tc", flat, codebook.weight)
        )
        indices = distances.argmin(1)
        one_hot = nn.functional.one_hot(indices, len(codebook.weight)).to(flat.dtype)
        vectors = nn.functional.embedding(indices, codebook.weight).view_as(latents)
        if self.training:
            with torch.no_grad():
                codebook.cluster_size.mul_(0.99).add_(one_hot.sum(0), alpha=0.01)
                codebook.embed_avg.mul_(0.99).add_(one_hot.t() @ flat.float(), alpha=0.01)
                total = codebook.cluster_size.sum()
                size = (codebook.cluster_size + 1e-5) / (total + len(codebook.weight) * 1e-5) * total
                codebook.weight.copy_(nn.functional.normalize(codebook.embed_avg / size[:, None], dim=-1))
        loss = 0.25 * nn.functional.mse_loss(vectors.detach(), latents)
        return latents + (vectors - latents).detach(), loss, indices.view(latents.shape[:-1])


class PublishedTokenizer(nn.Module):
    """Stage 1: `(batch, patches, channels, 125)` to the loss."""

    def __init__(self, channels: int = 2, width: int = 128, layers: int = 10, codes: int = 8192, dropout: float = 0.1):
        super().__init__()
        self.te = nn.Module()
        self.te.linear = nn.Linear(channels * PATCH_SIZE, width)
        self.pe = PublishedPositions(width)
        self.je = _JointEncoder(width, 8, layers, dropout)
        self.proj = nn.Linear(width, width)
        self.quantizer = PublishedQuantizer(codes, width)
        self.de = _Decoder(width, 4, 2, dropout, channels * PATCH_SIZE)
        self.hyper_parameters = {
            "D_embed": width,
            "patch_size": PATCH_SIZE,
            "num_encoder_transformer_heads": 8,
            "num_decoder_transformer_heads": 4,
            "num_transformer_encoder_layers": layers,
            "num_transformer_decoder_layers": 2,
            "quantizer_num_embeddings": codes,
            "quantizer_embedding_dim": width,
            "quantizer_commitment_beta": 0.25,
            "used_channel": list(range(channels)),
            "ecg_weight": 1.0,
            "ppg_weight": 1.0,
        }

    def quantized(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Vectors, commitment loss and codes of `(batch, patches, channels, 125)`."""
        hidden = self.je.encoder(self.pe(nn.functional.gelu(self.te.linear(x.flatten(2)))))
        return self.quantizer(nn.functional.normalize(self.proj(hidden), dim=-1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        vectors, commitment, _ = self.quantized(x)
        reconstruction = self.de(vectors).view_as(x)
        return (reconstruction - x).abs().mean(dim=(0, 1, 3)).sum() + commitment


class PublishedEncoder(nn.Module):
    """`(batch, patches, 125)` of one signal to features `(batch, patches, width)`."""

    def __init__(self, width: int, heads: int, layers: int, dropout: float = 0.3):
        super().__init__()
        self.linear_projection = nn.Linear(PATCH_SIZE, width)
        self.pe = PublishedPositions(width)
        self.layers = nn.ModuleList(_layer(width, heads, dropout) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pe(self.linear_projection(x))
        for layer in self.layers:
            x = layer(x)
        return x


class PublishedStage2(nn.Module):
    """Stage 2: `(batch, patches, 2, 125)` to the cross-entropy against the frozen tokenizer, which runs at every step."""

    def __init__(self, tokenizer: PublishedTokenizer, width: int, heads: int, layers: int, dropout: float = 0.3):
        super().__init__()
        self.tokenizer = tokenizer.requires_grad_(False)
        self.encoder = PublishedEncoder(width, heads, layers, dropout)
        self.prediction_head = nn.Linear(width, tokenizer.hyper_parameters["quantizer_num_embeddings"])

    def train(self, mode: bool = True) -> "PublishedStage2":
        super().train(mode)
        self.tokenizer.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            codes = self.tokenizer.quantized(x)[2]
        logits = self.prediction_head(self.encoder(x[:, :, 1]))
        return nn.functional.cross_entropy(logits.flatten(0, 1), codes.flatten())


class PublishedFinetuned(nn.Module):
    """Stage 3: `(batch, patches, 125)` to `(batch, outputs)`, by the mean over patches and a two-layer head."""

    def __init__(self, width: int, heads: int, layers: int, outputs: int = 1, dropout: float = 0.3):
        super().__init__()
        self.backbone = PublishedEncoder(width, heads, layers, dropout)
        self.head = nn.Sequential(nn.Linear(width, width // 2), nn.GELU(), nn.Linear(width // 2, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x).mean(1))
