"""HeartLang in plain torch with the names of its published files, written from its description and not from the package's code."""

import argparse

import torch
from torch import nn


class TokenEmbedding(nn.Module):
    def __init__(self, before, width):
        super().__init__()
        self.tokenConv = nn.Conv1d(before, width, 3, bias=False)

    def forward(self, x):
        # Across tokens, in a circle.
        return self.tokenConv(torch.cat((x[:, -1:], x, x[:, :1]), 1).transpose(1, 2)).transpose(1, 2)


class Table(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embed = nn.Embedding(16, width)

    def forward(self, ids):
        return self.embed(ids)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * 64 * heads, bias=False)
        self.to_out = nn.Sequential(nn.Linear(64 * heads, width), nn.Dropout(0.1))

    def forward(self, x):
        q, k, v = self.to_qkv(self.norm(x)).chunk(3, -1)
        outputs = []
        for head in range(self.heads):
            part = slice(64 * head, 64 * head + 64)
            scores = q[..., part] @ k[..., part].transpose(1, 2) / 8
            outputs.append(scores.softmax(-1) @ v[..., part])
        return self.to_out(torch.cat(outputs, -1))


class FeedForward(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.net = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, inner),
            nn.GELU(),
            nn.Dropout(0.1),
            nn.Linear(inner, width),
            nn.Dropout(0.1),
        )

    def forward(self, x):
        return self.net(x)


class Transformer(nn.Module):
    def __init__(self, width, layers, heads, inner):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList((Attention(width, heads), FeedForward(width, inner))) for _ in range(layers)
        )

    def forward(self, x):
        for attention, feed_forward in self.layers:
            x = attention(x) + x
            x = feed_forward(x) + x
        return x


class STECGFormer(nn.Module):
    """`forward` gives the class token and the tokens."""

    def __init__(self, before=96, width=768, layers=12, heads=8, inner=1024, tokens=256):
        super().__init__()
        self.token_embed = TokenEmbedding(before, width)
        self.mask_token = nn.Parameter(torch.randn(1, 1, width))
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, tokens + 1, width))
        self.spa_embed, self.tem_embed = Table(width), Table(width)
        self.transformer = Transformer(width, layers, heads, inner)
        self.norm_layer = nn.LayerNorm(width)

    def forward(self, x, in_chans, in_times):
        x = self.token_embed(x) + self.spa_embed(in_chans) + self.tem_embed(in_times)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1) + self.pos_embed
        x = self.norm_layer(self.transformer(x))
        return x[:, 0], x[:, 1:]


class VQHBR(nn.Module):
    def __init__(self, width=768, encoder_layers=4, decoder_layers=2, inner=2048, codes=8192, tokens=256):
        super().__init__()
        sizes = {"width": width, "heads": 2, "inner": inner, "tokens": tokens}
        self.encoder = STECGFormer(96, layers=encoder_layers, **sizes)
        self.decoder = STECGFormer(128, layers=decoder_layers, **sizes)
        self.encode_task_layer = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 128))
        self.decode_task_layer = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 96))
        self.quantize = nn.Module()
        self.quantize.register_buffer("cluster_size", torch.zeros(codes))
        self.quantize.embedding = nn.Module()
        self.quantize.embedding.weight = nn.Parameter(torch.randn(codes, 128))
        self.quantize.embedding.cluster_size = nn.Parameter(torch.zeros(codes))
        self.quantize.embedding.embed_avg = nn.Parameter(torch.randn(codes, 128))
        self.quantize.embedding.register_buffer("initted", torch.tensor([1.0]))


def published_file(model: nn.Module, **state) -> dict:
    """A checkpoint as the published training writes it."""
    return {
        "model": {**model.state_dict(), **state},
        "optimizer": {"state": {}, "param_groups": [{"lr": 5e-4, "params": [0]}]},
        "epoch": 199,
        "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(lr=5e-4, model="heartlang", betas=[0.9, 0.98], output_dir="checkpoints"),
    }
