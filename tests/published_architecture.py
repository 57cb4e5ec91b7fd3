"""The published models in plain `torch.nn`, written from their description, with the published names of parameters.

They are the independent side of the parity tests, which so run without the published checkpoints too.
"""

import math

import torch
from torch import nn


def positional_table(length: int, width: int) -> torch.Tensor:
    table = torch.zeros(1, length, width)
    for position in range(length):
        for dimension in range(0, width, 2):
            angle = position / 10000 ** (dimension / width)
            table[0, position, dimension] = math.sin(angle)
            table[0, position, dimension + 1] = math.cos(angle)
    return table


class Positions(nn.Module):
    def __init__(self, width: int, length: int = 20):
        super().__init__()
        self.register_buffer("pe", positional_table(length, width))

    def forward(self, x):
        return x + self.pe[:, : x.shape[1]]


def transformer_layer(width: int, heads: int, dropout: float) -> nn.Module:
    return nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, activation="gelu", batch_first=True)


class JointEncoder(nn.Module):
    def __init__(self, width: int, heads: int, layers: int):
        super().__init__()
        self.encoder = nn.TransformerEncoder(transformer_layer(width, heads, 0.0), layers, enable_nested_tensor=False)


class Decoder(nn.Module):
    def __init__(self, width: int, heads: int, layers: int, outputs: int):
        super().__init__()
        self.decoder = nn.TransformerEncoder(transformer_layer(width, heads, 0.0), layers, enable_nested_tensor=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, outputs),
        )


class Quantizer(nn.Module):
    """Unit-norm codes that follow moving averages (decay 0.99) of the vectors that chose them."""

    def __init__(self, size: int, width: int):
        super().__init__()
        self.embedding = nn.Module()
        codes = nn.functional.normalize(torch.randn(size, width), dim=-1)
        self.embedding.register_buffer("weight", codes)
        self.embedding.register_buffer("cluster_size", torch.rand(size))
        self.embedding.register_buffer("embed_avg", codes * (0.5 + torch.rand(size, 1)))
        self.embedding.register_buffer("initted", torch.tensor([True]))

    def indices(self, z):
        return torch.cdist(z, self.embedding.weight.expand(z.shape[0], -1, -1)).argmin(-1)

    def follow(self, z, indices):
        state = self.embedding
        one_hot = nn.functional.one_hot(indices.flatten(), len(state.weight)).to(z.dtype)
        state.cluster_size.mul_(0.99).add_(one_hot.sum(0), alpha=0.01)
        state.embed_avg.mul_(0.99).add_(one_hot.T @ z.flatten(0, 1), alpha=0.01)
        total = state.cluster_size.sum()
        smoothed = (state.cluster_size + 1e-5) / (total + len(state.weight) * 1e-5) * total
        state.weight.copy_(nn.functional.normalize(state.embed_avg / smoothed[:, None], dim=-1))


class PublishedTokenizer(nn.Module):
    """`x (batch, patches, channels, samples)` of the used channels to reconstruction, losses and codes."""

    def __init__(
        self, channels=2, patch=25, width=16, heads=4, decoder_heads=2, layers=3, codes=32, weights=(1.0, 3.0)
    ):
        super().__init__()
        self.te = nn.Module()
        self.te.linear = nn.Linear(channels * patch, width)
        self.pe = Positions(width)
        self.je = JointEncoder(width, heads, layers)
        self.quantizer = Quantizer(codes, width)
        self.de = Decoder(width, decoder_heads, 1, channels * patch)
        self.proj = nn.Linear(width, width)
        self.weights = weights
        self.hyper_parameters = {
            "D_embed": width,
            "patch_size": patch,
            "num_encoder_transformer_heads": heads,
            "num_decoder_transformer_heads": decoder_heads,
            "num_transformer_encoder_layers": layers,
            "num_transformer_decoder_layers": 1,
            "quantizer_num_embeddings": codes,
            "quantizer_embedding_dim": width,
            "quantizer_commitment_beta": 0.25,
            "used_channel": [0, 1] if channels == 2 else [1],
            "ecg_weight": weights[0],
            "ppg_weight": weights[1],
        }

    def hidden_states(self, x):
        return self.je.encoder(self.pe(nn.functional.gelu(self.te.linear(x.flatten(2)))))

    def forward(self, x):
        z = nn.functional.normalize(self.proj(self.hidden_states(x)), dim=-1)
        indices = self.quantizer.indices(z.detach())
        code = self.quantizer.embedding.weight[indices]
        quantizer_loss = 0.25 * nn.functional.mse_loss(code, z)
        if self.training:
            self.quantizer.follow(z.detach(), indices)
        reconstruction = self.de.mlp(self.de.decoder(z + (code - z).detach())).view_as(x)
        errors = (reconstruction - x).abs().mean(dim=(0, 1, 3))
        weights = self.weights if x.shape[2] == 2 else self.weights[1:]
        loss = quantizer_loss + sum(weight * error for weight, error in zip(weights, errors))
        return {"reconstruction": reconstruction, "indices": indices, "quantizer_loss": quantizer_loss, "loss": loss}


class PublishedEncoder(nn.Module):
    """`x (batch, patches, samples)` of one signal to features."""

    def __init__(self, patch=25, width=24, heads=3, layers=2):
        super().__init__()
        self.linear_projection = nn.Linear(patch, width)
        self.pe = Positions(width)
        self.layers = nn.ModuleList(transformer_layer(width, heads, 0.3) for _ in range(layers))

    def forward(self, x):
        x = self.pe(self.linear_projection(x))
        for layer in self.layers:
            x = layer(x)
        return x


class PublishedStage2(nn.Module):
    """PPG encoder with prediction head, and the frozen tokenizer that stage 2 used: without projection and decoder."""

    def __init__(self, tokenizer: PublishedTokenizer, width=24, heads=3, layers=2):
        super().__init__()
        settings = tokenizer.hyper_parameters
        self.tokenizer = tokenizer
        self.encoder = PublishedEncoder(settings["patch_size"], width, heads, layers)
        self.prediction_head = nn.Linear(width, settings["quantizer_num_embeddings"])
        self.hyper_parameters = {
            "E_in_dim": settings["patch_size"],
            "E_embed": width,
            "E_nhead": heads,
            "E_drop_rate": 0.3,
            "E_num_layers": layers,
            "stochastic_depth_prob": 0.2,
            "D_embed": settings["D_embed"],
            "patch_size": settings["patch_size"],
            "num_transformer_heads": settings["num_encoder_transformer_heads"],
            "num_transformer_encoder_layers": settings["num_transformer_encoder_layers"],
            "quantizer_num_embeddings": settings["quantizer_num_embeddings"],
            "quantizer_embedding_dim": settings["quantizer_embedding_dim"],
            "quantizer_commitment_beta": 0.25,
            "tokenizer_used_channel": settings["used_channel"],
            "encoder_input_channel": 1,
        }

    def state_dict(self, *args, **kwargs):
        state = super().state_dict(*args, **kwargs)
        return {
            name: value for name, value in state.items() if not name.startswith(("tokenizer.de.", "tokenizer.proj."))
        }

    def targets(self, x):
        hidden_states = nn.functional.normalize(self.tokenizer.hidden_states(x), dim=-1)
        return self.tokenizer.quantizer.indices(hidden_states)


class PublishedFinetuned(nn.Module):
    """`x (batch, patches, samples)` to `(batch, outputs)`."""

    def __init__(self, patch=25, width=24, heads=3, layers=2, outputs=3):
        super().__init__()
        self.backbone = PublishedEncoder(patch, width, heads, layers)
        self.head = nn.Sequential(nn.Linear(width, width // 2), nn.GELU(), nn.Linear(width // 2, outputs))

    def forward(self, x):
        return self.head(self.backbone(x).mean(1))
