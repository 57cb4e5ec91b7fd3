"""Subject-disjoint splits. numpy only."""

from collections.abc import Sequence
from typing import Any

import numpy as np


SPLITS = ("train", "validation", "test")


def split_subjects(subjects: Sequence[Any], *, seed: int = 42) -> dict[str, list]:
    """Divides subjects into train, validation and test.

    The published protocol: the sorted list is shuffled by `np.random.seed(seed); np.random.shuffle(...)`, then 80 % / 10 % / the
    rest, sizes rounded down.

    Args:
        subjects: identifiers that can be sorted; repeated ones count once.
        seed: of the shuffle.

    Returns:
        `{"train": [...], "validation": [...], "test": [...]}`.

    Raises:
        ValueError: if there are too few subjects to give each split one, or numpy takes no such seed.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"`split_seed` must lie in 0..{2**32 - 1}, but is {seed}.")
    shuffled = sorted(set(subjects))
    # The legacy generator is the published one; a local instance leaves numpy's global state alone.
    np.random.RandomState(seed).shuffle(shuffled)
    num_train, num_validation = int(0.8 * len(shuffled)), int(0.1 * len(shuffled))
    # With fewer than ten subjects the published sizes would leave no validation subject.
    if num_validation == 0 and len(shuffled) >= 3:
        num_train, num_validation = len(shuffled) - 2, 1
    bounds = (0, num_train, num_train + num_validation, len(shuffled))
    split = {name: shuffled[first:end] for name, first, end in zip(SPLITS, bounds, bounds[1:])}
    empty = [name for name, members in split.items() if not members]
    if empty:
        raise ValueError(
            f"{len(shuffled)} subject(s) are too few: the {' and '.join(empty)} split would be empty. At least 3 subjects are"
            " needed."
        )
    return split
