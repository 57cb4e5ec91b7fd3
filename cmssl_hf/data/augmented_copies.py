"""More windows than were recorded: changed copies of a dataset, made once."""

from dataclasses import asdict

import numpy as np
import pyarrow as pa
from datasets import Dataset, concatenate_datasets
from datasets.fingerprint import Hasher

from .augmentation import Augmentation
from .window_reader import input_values_to_numpy


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
            new_fingerprint=Hasher.hash((dataset._fingerprint, "augmented copy", asdict(augmentation), seed, copy)),
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
