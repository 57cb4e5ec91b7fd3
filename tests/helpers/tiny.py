"""Models of a few thousand weights and datasets of a few windows, for tests of training."""

from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Value

from cmssl_hf import CMSSLEncoderConfig, CMSSLTokenizerConfig
from cmssl_hf.data.features import INPUT_VALUES
from cmssl_hf.models.resnet1d.configuration_resnet1d import ResNet1DConfig
from cmssl_hf.signals import standardize


PATCH = 25


#: Sizes of a tokenizer.
TINY_TOKENIZER = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_decoder_layers": 1,
    "num_decoder_attention_heads": 2,
    "decoder_mlp_size": 32,
    "codebook_size": 16,
    "codebook_dim": 8,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def tokenizer_config(**overrides) -> CMSSLTokenizerConfig:
    return CMSSLTokenizerConfig(**{"patch_size": PATCH} | TINY_TOKENIZER | NO_DROPOUT | overrides)


def encoder_config(**overrides) -> CMSSLEncoderConfig:
    fields = {
        "patch_size": PATCH,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "codebook_size": 16,
    }
    return CMSSLEncoderConfig(**fields | NO_DROPOUT | overrides)


def resnet_config(**overrides) -> ResNet1DConfig:
    fields = {"patch_size": PATCH, "base_filters": 4, "num_blocks": 5, "hidden_dropout_prob": 0.0}
    return ResNet1DConfig(**fields | overrides)


def waves(number: int, num_channels: int = 1, num_samples: int | list[int] = 100, seed: int = 0) -> list[np.ndarray]:
    """Standardised noisy sinusoids `(num_channels, num_samples)`, each of its own frequency."""
    rng = np.random.default_rng(seed)
    lengths = [num_samples] * number if isinstance(num_samples, int) else num_samples
    windows = []
    for length in lengths:
        phase = rng.uniform(3, 12) * np.arange(length) / PATCH + rng.uniform(0, 6, (num_channels, 1))
        windows.append(standardize(np.sin(phase) + 0.1 * rng.standard_normal(phase.shape)).astype(np.float32))
    return windows


def windows_dataset(windows: list[np.ndarray], label_feature=None, **columns) -> Dataset:
    """An in-memory dataset of `input_values` and further columns, with the provenance that all datasets have."""
    number = len(windows)
    rows = {
        "input_values": [window.tolist() for window in windows],
        "subject_id": [f"s{index % 4}" for index in range(number)],
        "record_id": [f"r{index}" for index in range(number)],
        "start_time": [float(index) for index in range(number)],
    } | columns
    features = Features(
        input_values=INPUT_VALUES, subject_id=Value("string"), record_id=Value("string"), start_time=Value("float64")
    )
    if label_feature is not None:
        features["label"] = label_feature
    return Dataset.from_dict(rows, features=features)


def write_checkpoint_files(folder: Path, num_processes: int = 1) -> None:
    """The files of a checkpoint, of a few bytes each, without its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    states = ["rng_state.pth"] if num_processes == 1 else [f"rng_state_{rank}.pth" for rank in range(num_processes)]
    for name in ("config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", *states):
        (folder / name).write_bytes(f"{name} of this run".encode())
