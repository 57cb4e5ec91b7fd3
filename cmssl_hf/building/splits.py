"""Subject-disjoint splits. numpy only."""

from collections.abc import Hashable, Sequence

import numpy as np


SPLITS = ("train", "validation", "test")


def split_subjects(
    subjects: Sequence[Hashable], *, seed: int = 42, fold: int | None = None, num_folds: int = 5
) -> dict[str, list]:
    """Divides subjects into train, validation and test.

    By default the published protocol: the sorted list is shuffled by `np.random.seed(seed); np.random.shuffle(...)`, then
    80 % / 10 % / the rest, sizes rounded down. With `fold` the same shuffled list is cut into `num_folds` parts for
    cross-validation: part `fold` is the test set, an eighth of the other subjects (rounded up, the last ones) validates.

    Args:
        subjects: identifiers; repeated ones count once.
        seed: of the shuffle.
        fold: index of the test fold, or `None` for the published split.
        num_folds: number of folds.

    Returns:
        `{"train": [...], "validation": [...], "test": [...]}`.

    Raises:
        ValueError: if there are too few subjects to give each split one, or `fold` is out of range.
    """
    shuffled = sorted(set(subjects))
    # The legacy generator is the published one; a local instance leaves numpy's global state alone.
    np.random.RandomState(seed).shuffle(shuffled)
    if fold is None:
        num_train, num_validation = int(0.8 * len(shuffled)), int(0.1 * len(shuffled))
        # With fewer than ten subjects the published sizes would leave no validation subject.
        if num_validation == 0 and len(shuffled) >= 3:
            num_train, num_validation = len(shuffled) - 2, 1
        train, validation, test = np.split(np.arange(len(shuffled)), [num_train, num_train + num_validation])
    else:
        if not 0 <= fold < num_folds:
            raise ValueError(f"`fold` must lie in 0..{num_folds - 1}, but is {fold}.")
        test = np.array_split(np.arange(len(shuffled)), num_folds)[fold]
        rest = np.setdiff1d(np.arange(len(shuffled)), test)
        num_validation = -(-len(rest) // 8)
        train, validation = rest[: len(rest) - num_validation], rest[len(rest) - num_validation :]
    split = {name: [shuffled[i] for i in rows] for name, rows in zip(SPLITS, (train, validation, test))}
    empty = [name for name, members in split.items() if not members]
    if empty:
        raise ValueError(
            f"{len(shuffled)} subject(s) are too few: the {' and '.join(empty)} split would be empty. At least 3 subjects"
            f" {f'and as many as folds ({num_folds}) ' if fold is not None else ''}are needed."
        )
    return split
