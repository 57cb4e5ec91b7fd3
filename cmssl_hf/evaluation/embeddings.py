"""What a frozen encoder makes of windows, computed once and kept on disk."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from transformers import PreTrainedModel

from ..data.batches import WindowsCollator, WindowsDataset
from ..data.codes import model_fingerprint
from ..models.cmssl.modeling_cmssl_encoder import CMSSLEncoderModel
from ..models.cmssl.modeling_cmssl_layers import patch_attention_mask
from ..models.cmssl.modeling_cmssl_pieces import cut_into_pieces, join_pieces
from ..models.cmssl.modeling_cmssl_pooling import power_shares
from ..models.cpu_kernels import cpu_kernels
from ..private_access import fingerprint_of


#: Version of what is computed here; part of the key of what is kept on disk.
_VERSION = 1


def embed_windows(
    encoder: PreTrainedModel,
    windows: Dataset,
    *,
    id_columns: Sequence[str] = (),
    spectrum: bool,
    piece_seconds: float | None = None,
    cache_dir: str | Path,
    batch_size: int = 64,
) -> dict[str, np.ndarray]:
    """Features of windows from a frozen encoder: of ours from the middle and the last layer; of models of other work their one
    feature of a window (`pooler_output`), to which `spectrum` and `piece_seconds` do not apply.

    Args:
        encoder: the encoder.
        windows: dataset with `input_values`.
        id_columns: further columns that the encoder reads.
        spectrum: whether to describe how the hidden states vary at respiratory frequencies (mean over units of the shares of
            power, and of their logarithms), beside their mean and standard deviation over patches.
        piece_seconds: longer windows are encoded in pieces of this duration; `None` encodes them as a whole.
        cache_dir: where the features are kept, by fingerprint of model and windows.
        batch_size: windows of about one length that are embedded together.

    Returns:
        `(windows, features)` by the name of the layer, `"middle"` and `"last"`, or `"pooled"`.
    """
    key = Hasher.hash((model_fingerprint(encoder), fingerprint_of(windows), spectrum, piece_seconds, _VERSION))
    path = Path(cache_dir) / f"embeddings-{key}.npz"
    if path.exists():
        with np.load(path) as file:
            return dict(file)
    encoder.eval()
    config = encoder.config
    rows = WindowsDataset(windows, ["input_values", *id_columns])
    collate = WindowsCollator(config.patch_size, id_columns=id_columns)
    piece_samples = None
    if piece_seconds is not None:
        piece_samples = max(1, round(piece_seconds * config.sampling_rate / config.patch_size)) * config.patch_size
    order = np.argsort(_lengths(windows), kind="stable")
    chunks: dict[str, list[np.ndarray]] = defaultdict(list)
    with cpu_kernels(encoder):
        for start in range(0, len(order), batch_size):
            batch = collate(rows.__getitems__(order[start : start + batch_size]))
            for layer, embedded in _embed(encoder, batch, spectrum, piece_samples).items():
                chunks[layer].append(embedded)
    back = np.argsort(order)
    features: dict[str, Any] = {layer: np.concatenate(parts)[back] for layer, parts in chunks.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes may embed the same windows; each writes a file of its own and moves it over.
    temporary = path.with_name(f".{path.stem}-{np.random.default_rng().integers(2**62)}.npz")
    np.savez(temporary, **features)
    temporary.replace(path)
    return features


@torch.no_grad()
def _embed(
    encoder: PreTrainedModel, batch: dict[str, torch.Tensor], spectrum: bool, piece_samples: int | None
) -> dict[str, np.ndarray]:
    if not isinstance(encoder, CMSSLEncoderModel):
        return {"pooled": encoder(**batch).pooler_output.numpy()}
    values, mask, used = batch["input_values"], batch.get("attention_mask"), None
    if mask is None:
        mask = torch.ones(values.shape[0], values.shape[-1], dtype=torch.long)
    if piece_samples is not None and values.shape[-1] > piece_samples:
        values, mask, used = cut_into_pieces(values, mask, piece_samples)
    outputs = encoder(values, mask, output_hidden_states=True)
    states = outputs.hidden_states
    layers = {"middle": states[len(states) // 2], "last": outputs.last_hidden_state}
    real = patch_attention_mask(mask, encoder.config.patch_size)
    if used is not None:
        layers = {layer: join_pieces(hidden, used) for layer, hidden in layers.items()}
        real = join_pieces(real, used)
    real = real[..., None]
    number = real.sum(1)
    features = {}
    for layer, hidden in layers.items():
        mean = (hidden * real).sum(1) / number
        deviation = (((hidden - mean[:, None]) ** 2 * real).sum(1) / number).sqrt()
        parts = [mean, deviation]
        if spectrum:
            shares = power_shares(hidden, real, encoder.config.patch_size / encoder.config.sampling_rate)
            parts += [shares.mean(1), (shares + 1e-3).log().mean(1)]
        features[layer] = torch.cat(parts, dim=-1).numpy()
    return features


def _lengths(windows: Dataset) -> np.ndarray:
    column = windows.select_columns(["input_values"]).with_format("arrow")
    lengths = []
    for start in range(0, len(column), 1000):
        rows = column[start : start + 1000]["input_values"].combine_chunks()
        lengths += rows.flatten().value_lengths().to_numpy().reshape(len(rows), -1)[:, 0].tolist()
    return np.array(lengths)
