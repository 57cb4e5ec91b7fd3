"""What stage 2 learns from: windows, also in changed copies, with the codes that the frozen tokenizer gives them, once."""

import hashlib
from dataclasses import asdict, fields

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, Features, List, Value, concatenate_datasets
from datasets.fingerprint import Hasher
from transformers import PreTrainedConfig, PreTrainedModel

from ..models.cmssl.configuration_cmssl_classification import SignalClassificationConfig
from ..models.cmssl.modeling_cmssl_tokenizer import CMSSLTokenizerModel
from ..models.cpu_kernels import cpu_kernels
from ..private_access import fingerprint_of
from .augmentation import Augmentation
from .batches import WindowBatch, WindowsCollator, input_values_to_numpy


#: int16 is enough for the published codebook of 8192 codes and for any up to 32767.
_LARGEST_INT16_CODEBOOK = 32767

#: Fields of a tokenizer's config that are read by [`CMSSLTokenizerForSequenceClassification`] alone.
_OF_HEADS = {field.name for field in fields(SignalClassificationConfig)} - {
    *(field.name for field in fields(PreTrainedConfig)),
    "window_seconds",
} | {"given_channels", "quantize_features", "pooling", "num_pooled_rhythms"}


def model_fingerprint(model: PreTrainedModel, left_out: tuple[str, ...] = ()) -> str:
    """Hash of a model's weights and architecture; any change in either gives another.

    Args:
        model: of which all weights count but those whose names begin with one of `left_out`.
        left_out: beginnings of names.
    """
    digest = hashlib.sha256()
    architecture = {
        name: value
        for name, value in sorted(model.config.to_dict().items())
        # Where and by which version it was stored does not change what it computes.
        if not name.startswith("_") and name not in ("transformers_version", "architectures", "auto_map", "dtype")
        # Nor do fields for a head that a tokenizer does not have.
        if not (isinstance(model, CMSSLTokenizerModel) and name in _OF_HEADS)
    }
    digest.update(repr(architecture).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(left_out):
            continue
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def with_augmented_copies(
    dataset: Dataset, augmentation: Augmentation, *, num_copies: int, seed: int, batch_size: int = 512
) -> Dataset:
    """Appends changed copies of all windows to a dataset, for models whose targets must be computed from the changed signals:
    what is changed in all signals of a window together, such as its playing speed, changes its tokens.

    The copies are cached beside the dataset, keyed by the augmentation and the seed.

    Args:
        dataset: dataset with `input_values (channels, samples)`; its other columns are repeated.
        augmentation: the changes; no labels are touched.
        num_copies: how often each window is repeated in a changed form.
        seed: of the changes; those of a window depend on its place in the dataset and on nothing else.
        batch_size: rows changed at a time.
    """
    copies = [
        dataset.with_format("arrow").map(
            _augment_batch,
            with_indices=True,
            batched=True,
            batch_size=batch_size,
            features=dataset.features,
            fn_kwargs={"augmentation": augmentation, "seed": (seed, copy)},
            new_fingerprint=Hasher.hash((fingerprint_of(dataset), "augmented copy", asdict(augmentation), seed, copy)),
            desc=f"Augmenting ({copy + 1} of {num_copies})",
        )
        for copy in range(num_copies)
    ]
    return concatenate_datasets([dataset, *(copy.with_format(None) for copy in copies)])


def _augment_batch(table: pa.Table, indices: list[int], augmentation: Augmentation, seed: tuple[int, int]) -> pa.Table:
    generators = [np.random.default_rng((*seed, index)) for index in indices]
    windows, _ = augmentation(input_values_to_numpy(table["input_values"]), None, generators)
    column = pa.array([list(window) for window in windows], type=table.schema.field("input_values").type)
    return table.set_column(table.column_names.index("input_values"), "input_values", column)


def add_codes(
    dataset: Dataset,
    tokenizer: CMSSLTokenizerModel,
    *,
    dataset_channels: tuple[str, ...],
    batch_size: int = 512,
) -> Dataset:
    """Adds a column `codes (num_patches,)` with the tokenizer's code of each patch.

    The cache is keyed by the dataset and the tokenizer's weights, so that a changed tokenizer never meets stale codes.

    Args:
        dataset: dataset with `input_values (channels, samples)`.
        tokenizer: the frozen tokenizer; it is put into evaluation mode.
        dataset_channels: channels of `input_values`, which must include those of the tokenizer.
        batch_size: windows per forward pass.

    Raises:
        ValueError: if the dataset lacks a channel of the tokenizer.
    """
    channels = tuple(tokenizer.config.channels)
    missing = [channel for channel in channels if channel not in dataset_channels]
    if missing:
        raise ValueError(
            f"The tokenizer reads {' and '.join(channels)}, but the data hold only {' and '.join(dataset_channels)}."
        )
    small = tokenizer.config.codebook_size <= _LARGEST_INT16_CODEBOOK
    code_type = Value("int16" if small else "int32")
    channel_indices = [dataset_channels.index(channel) for channel in channels]
    fingerprint = Hasher.hash((fingerprint_of(dataset), "add_codes", channel_indices, model_fingerprint(tokenizer)))
    tokenizer.eval()
    with cpu_kernels(tokenizer):
        tokenised = dataset.with_format("arrow").map(
            _encode_batch,
            batched=True,
            batch_size=batch_size,
            features=Features({"codes": List(code_type)}),
            fn_kwargs={"channel_indices": channel_indices, "tokenizer": tokenizer},
            new_fingerprint=fingerprint,
            desc="Tokenising",
        )
    # Codes are a column of their own: the windows are not stored a second time.
    return concatenate_datasets([dataset, tokenised.with_format(None)], axis=1)


def count_codes(dataset: Dataset, codebook_size: int, batch_size: int = 10_000) -> np.ndarray:
    """How often each code occurs in the column `codes` of a dataset, `(codebook_size,)`; read `batch_size` rows at a time."""
    counts = np.zeros(codebook_size, dtype=np.int64)
    for table in dataset.select_columns(["codes"]).with_format("arrow").iter(batch_size):
        for codes in table["codes"].chunks:
            counts += np.bincount(codes.flatten().to_numpy(), minlength=codebook_size)
    return counts


@torch.no_grad()
def _encode_batch(table: pa.Table, channel_indices: list[int], tokenizer: CMSSLTokenizerModel) -> pa.Table:
    inputs = WindowsCollator(tokenizer.config.patch_size)(WindowBatch(input_values_to_numpy(table["input_values"])))
    inputs = {name: tensor.to(tokenizer.device) for name, tensor in inputs.items()}
    codes = tokenizer.encode(inputs["input_values"][:, channel_indices], inputs.get("attention_mask")).cpu().numpy()
    return pa.table({"codes": [row[row >= 0] for row in codes]})
