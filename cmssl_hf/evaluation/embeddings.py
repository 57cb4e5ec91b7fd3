"""What a frozen encoder makes of windows, computed once and kept on disk."""

from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from datasets.fingerprint import Hasher

from ..data.codes import model_fingerprint
from ..data.windows_dataset import WindowsCollator, WindowsDataset
from ..models.cmssl.modeling_cmssl_encoder import CMSSLEncoderModel
from ..models.cmssl.modeling_cmssl_layers import patch_attention_mask
from ..models.cmssl.modeling_cmssl_pooling import power_shares
from ..models.cpu_kernels import use_cpu_kernels


#: Version of what is computed here; part of the key of what is kept on disk.
_VERSION = 1


def embed_windows(
    encoder: CMSSLEncoderModel,
    windows: Dataset,
    *,
    spectrum: bool,
    cache_dir: str | Path,
    batch_size: int = 64,
) -> dict[str, np.ndarray]:
    """Features of windows from the middle and the last layer of a frozen encoder.

    Args:
        encoder: the encoder.
        windows: dataset with `input_values`.
        spectrum: whether to describe how the hidden states vary at respiratory frequencies (mean over units of the shares of
            power, and of their logarithms), beside their mean and standard deviation over patches.
        cache_dir: where the features are kept, by fingerprint of model and windows.
        batch_size: windows of about one length that are embedded together.

    Returns:
        `(windows, features)` by the name of the layer, `"middle"` and `"last"`.
    """
    key = Hasher.hash((model_fingerprint(encoder), windows._fingerprint, spectrum, _VERSION))
    path = Path(cache_dir) / f"embeddings-{key}.npz"
    if path.exists():
        with np.load(path) as file:
            return dict(file)
    encoder.eval()
    use_cpu_kernels(encoder)
    rows = WindowsDataset(windows, ["input_values"])
    collate = WindowsCollator(encoder.config.patch_size)
    order = np.argsort(_lengths(windows), kind="stable")
    chunks: dict[str, list[np.ndarray]] = {"middle": [], "last": []}
    for start in range(0, len(order), batch_size):
        batch = collate(rows.__getitems__(order[start : start + batch_size]))
        for layer, features in _embed(encoder, batch, spectrum).items():
            chunks[layer].append(features)
    back = np.argsort(order)
    features = {layer: np.concatenate(parts)[back] for layer, parts in chunks.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes may embed the same windows; each writes a file of its own and moves it over.
    temporary = path.with_name(f".{path.stem}-{np.random.default_rng().integers(2**62)}.npz")
    np.savez(temporary, **features)
    temporary.replace(path)
    return features


@torch.no_grad()
def _embed(encoder: CMSSLEncoderModel, batch: dict[str, torch.Tensor], spectrum: bool) -> dict[str, np.ndarray]:
    outputs = encoder(**batch, output_hidden_states=True)
    mask = batch.get("attention_mask")
    if mask is None:
        mask = torch.ones(batch["input_values"].shape[0], batch["input_values"].shape[-1])
    real = patch_attention_mask(mask, encoder.config.patch_size)[..., None]
    number = real.sum(1)
    features = {}
    states = outputs.hidden_states
    for layer, hidden in (("middle", states[len(states) // 2]), ("last", outputs.last_hidden_state)):
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
