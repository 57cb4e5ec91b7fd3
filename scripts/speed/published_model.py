"""The published models in plain torch, written from their description: the other side of `benchmark.py` and of the parity tests.

Stacks of `torch.nn.TransformerEncoderLayer`, a quantiser with the full matrix of distances and a one-hot matrix for every
batch, and the frozen tokenizer inside every step of stage 2. Sizes are the published ones by default. Parameters and
`hyper_parameters` have the published names, so that `cmssl_hf.models.cmssl.convert_original_checkpoint` reads what these
classes save; nothing here comes from `cmssl_hf`.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn


PATCH_SIZE = 125
#: Length of the published table of positions.
_MAX_PATCHES = 1250
_COMMITMENT_BETA = 0.25


class _Positions(nn.Module):
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


class _Quantizer(nn.Module):
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
        """Unit vectors `(batch, patches, width)` to straight-through vectors, commitment loss and codes `(batch, patches)`."""
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
        loss = _COMMITMENT_BETA * nn.functional.mse_loss(vectors.detach(), latents)
        return latents + (vectors - latents).detach(), loss, indices.view(latents.shape[:-1])


class PublishedTokenizer(nn.Module):
    """Stage 1, on patches `(batch, patches, used channels, patch_size)`.

    Args:
        used_channels: 0 is ECG, 1 is PPG.
        channel_weights: of the reconstruction errors of ECG and PPG.
    """

    def __init__(
        self,
        *,
        used_channels: Sequence[int] = (0, 1),
        patch_size: int = PATCH_SIZE,
        width: int = 128,
        heads: int = 8,
        layers: int = 10,
        decoder_heads: int = 4,
        decoder_layers: int = 2,
        codes: int = 8192,
        dropout: float = 0.1,
        channel_weights: tuple[float, float] = (1.0, 1.0),
    ):
        super().__init__()
        self.te = nn.Module()
        self.te.linear = nn.Linear(len(used_channels) * patch_size, width)
        self.pe = _Positions(width)
        self.je = _JointEncoder(width, heads, layers, dropout)
        self.proj = nn.Linear(width, width)
        self.quantizer = _Quantizer(codes, width)
        self.de = _Decoder(width, decoder_heads, decoder_layers, dropout, len(used_channels) * patch_size)
        self.weights = [channel_weights[channel] for channel in used_channels]
        self.hyper_parameters = {
            "D_embed": width,
            "patch_size": patch_size,
            "num_encoder_transformer_heads": heads,
            "num_decoder_transformer_heads": decoder_heads,
            "num_transformer_encoder_layers": layers,
            "num_transformer_decoder_layers": decoder_layers,
            "quantizer_num_embeddings": codes,
            "quantizer_embedding_dim": width,
            "quantizer_commitment_beta": _COMMITMENT_BETA,
            "used_channel": list(used_channels),
            "ecg_weight": channel_weights[0],
            "ppg_weight": channel_weights[1],
        }

    def hidden_states(self, x: torch.Tensor) -> torch.Tensor:
        """What is projected onto the sphere of the codes: `(batch, patches, width)`."""
        return self.je.encoder(self.pe(nn.functional.gelu(self.te.linear(x.flatten(2)))))

    def quantized(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Straight-through vectors, commitment loss and codes."""
        return self.quantizer(nn.functional.normalize(self.proj(self.hidden_states(x)), dim=-1))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        vectors, commitment, indices = self.quantized(x)
        reconstruction = self.de(vectors).view_as(x)
        errors = (reconstruction - x).abs().mean(dim=(0, 1, 3))
        loss = sum(weight * error for weight, error in zip(self.weights, errors)) + commitment
        return {"loss": loss, "quantizer_loss": commitment, "reconstruction": reconstruction, "indices": indices}


class PublishedEncoder(nn.Module):
    """Patches of one signal `(batch, patches, patch_size)` to features `(batch, patches, width)`."""

    def __init__(self, width: int, heads: int, layers: int, *, patch_size: int = PATCH_SIZE, dropout: float = 0.3):
        super().__init__()
        self.linear_projection = nn.Linear(patch_size, width)
        self.pe = _Positions(width)
        self.layers = nn.ModuleList(_layer(width, heads, dropout) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pe(self.linear_projection(x))
        for layer in self.layers:
            x = layer(x)
        return x


class PublishedStage2(nn.Module):
    """Stage 2 of a PPG encoder: `(batch, patches, 2, patch_size)` to the cross-entropy against the frozen tokenizer, which
    runs at every step.

    The targets are the codes of stage 1. (The published code left out the projection before the codebook.)
    """

    def __init__(self, tokenizer: PublishedTokenizer, width: int, heads: int, layers: int, *, dropout: float = 0.3):
        super().__init__()
        settings = tokenizer.hyper_parameters
        self.tokenizer = tokenizer.requires_grad_(False)
        self.encoder = PublishedEncoder(width, heads, layers, patch_size=settings["patch_size"], dropout=dropout)
        self.prediction_head = nn.Linear(width, settings["quantizer_num_embeddings"])
        self.hyper_parameters = {
            "E_in_dim": settings["patch_size"],
            "E_embed": width,
            "E_nhead": heads,
            "E_drop_rate": dropout,
            "E_num_layers": layers,
            "stochastic_depth_prob": 0.0,
            "D_embed": settings["D_embed"],
            "patch_size": settings["patch_size"],
            "num_transformer_heads": settings["num_encoder_transformer_heads"],
            "num_transformer_encoder_layers": settings["num_transformer_encoder_layers"],
            "quantizer_num_embeddings": settings["quantizer_num_embeddings"],
            "quantizer_embedding_dim": settings["quantizer_embedding_dim"],
            "quantizer_commitment_beta": settings["quantizer_commitment_beta"],
            "tokenizer_used_channel": settings["used_channel"],
            "encoder_input_channel": 1,
        }

    def train(self, mode: bool = True) -> "PublishedStage2":
        super().train(mode)
        self.tokenizer.eval()
        return self

    def state_dict(self, *args, **kwargs) -> dict[str, torch.Tensor]:
        """Without projection and decoder of the tokenizer, which published checkpoints of stage 2 lack."""
        lacking = ("tokenizer.proj.", "tokenizer.de.")
        state = super().state_dict(*args, **kwargs)
        return {name: value for name, value in state.items() if not name.startswith(lacking)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            codes = self.tokenizer.quantized(x)[2]
        logits = self.prediction_head(self.encoder(x[:, :, 1]))
        return nn.functional.cross_entropy(logits.flatten(0, 1), codes.flatten())


class PublishedFinetuned(nn.Module):
    """Stage 3: `(batch, patches, patch_size)` to `(batch, outputs)`, by the mean over patches and a two-layer head."""

    def __init__(
        self,
        width: int,
        heads: int,
        layers: int,
        *,
        patch_size: int = PATCH_SIZE,
        outputs: int = 1,
        dropout: float = 0.3,
    ):
        super().__init__()
        self.backbone = PublishedEncoder(width, heads, layers, patch_size=patch_size, dropout=dropout)
        self.head = nn.Sequential(nn.Linear(width, width // 2), nn.GELU(), nn.Linear(width // 2, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x).mean(1))
