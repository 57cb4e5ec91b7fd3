"""Which subjects are trained on, validated on and tested on, beyond the split of a release: shares of the labelled people and
folds of a cross-validation. Subjects are never divided."""

import math
import numbers
from collections.abc import Sequence

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, concatenate_datasets


def labelled_share(rows: Dataset, fraction: float, seed: int) -> Dataset:
    """The rows of a share of the subjects, as if only they had labels.

    The share is drawn by `seed`, holds about the same share of each class, and a smaller one is part of a larger one. It has
    at least two subjects.

    Args:
        rows: dataset with `subject_id` and `label`.
        fraction: share of the subjects, above 0 and up to 1.
        seed: of the draw.

    Raises:
        ValueError: if `fraction` is out of range or there are fewer than two subjects to draw from.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"`label_fraction` must lie above 0 and be at most 1, but is {fraction}.")
    if fraction == 1:
        return rows
    subjects, classes = _subjects_and_classes(rows)
    if len(subjects) < 2:
        raise ValueError(f"A share of the training subjects needs at least two, but there is {len(subjects)}.")
    # 0.1 * 30 is a little more than 3.
    number = max(2, math.ceil(fraction * len(subjects) - 1e-9))
    return _of_subjects(rows, nested_order(subjects, classes, seed)[:number])


def cross_validation_fold(dataset: DatasetDict, fold: int, num_folds: int = 5, seed: int = 42) -> DatasetDict:
    """All rows of `dataset`, divided anew: fold `fold` of `num_folds` is tested on, an eighth of the other subjects validates.
    Folds hold about the same share of each class, of a subject's first row; rows without classes are all of one.

    Raises:
        ValueError: if `fold` or `num_folds` is out of range or there are fewer subjects than folds, or too few for three splits.
    """
    for name, value in (("num_folds", num_folds), ("fold", fold)):
        if not isinstance(value, numbers.Integral) or isinstance(value, bool):
            raise ValueError(f"`{name}` must be a whole number, but is {value!r}.")
    if num_folds < 2:
        raise ValueError(f"`num_folds` must be at least 2, but is {num_folds}.")
    if not 0 <= fold < num_folds:
        raise ValueError(f"`fold` must lie in 0..{num_folds - 1}, but is {fold}.")
    rows = concatenate_datasets(list(dataset.values()))
    parts = fold_subjects(*_subjects_and_classes(rows), fold, num_folds, seed)
    return DatasetDict({split: _of_subjects(rows, members) for split, members in parts.items()})


def fold_subjects(
    subjects: Sequence[str], classes: Sequence[int], fold: int, num_folds: int, seed: int = 42
) -> dict[str, list[str]]:
    """Subjects of each split of one fold; see [`cross_validation_fold`].

    Args:
        subjects: all subjects, each once.
        classes: the class of each; all the same where there are none.
    """
    if len(subjects) < max(num_folds, 3):
        raise ValueError(
            f"{len(subjects)} subject(s) are too few for {num_folds} folds: each needs one, and a split needs three."
        )
    # Class by class, so that every fifth is a fifth of each class too.
    order = [subject for members in _by_class(subjects, classes, seed) for subject in members]
    test = set(order[fold::num_folds])
    rest = [subject for subject in order if subject not in test]
    validation = set(rest[::8])
    if len(rest) == len(validation):
        raise ValueError(f"{len(subjects)} subject(s) are too few for {num_folds} folds: none would be trained on.")
    return {
        "train": [subject for subject in rest if subject not in validation],
        "validation": sorted(validation),
        "test": sorted(test),
    }


def nested_order(subjects: Sequence[str], classes: Sequence[int], seed: int) -> list[str]:
    """Subjects in random order such that each beginning of the list holds about the same share of each class."""
    ranked = []
    for members in _by_class(subjects, classes, seed):
        ranked += [((rank + 0.5) / len(members), subject) for rank, subject in enumerate(members)]
    return [subject for _, subject in sorted(ranked)]


def _by_class(subjects: Sequence[str], classes: Sequence[int], seed: int) -> list[list[str]]:
    generator = np.random.default_rng(seed)
    members: dict[int, list[str]] = {}
    for subject, its_class in sorted(zip(subjects, classes)):
        members.setdefault(its_class, []).append(subject)
    return [list(generator.permutation(members[its_class])) for its_class in sorted(members)]


def _subjects_and_classes(rows: Dataset) -> tuple[list[str], list[int]]:
    """Each subject with the class of its first row: of several labels the rarest (-1 if it has none), 0 where there are only
    numbers or no labels."""
    subjects, first = np.unique(_subject_ids(rows), return_index=True)
    subjects, first = subjects[np.argsort(first)].tolist(), np.sort(first)
    if "label" not in rows.features:
        return subjects, [0] * len(subjects)
    labels = rows.select_columns(["label"]).with_format(None)[first]["label"]
    if isinstance(rows.features["label"], ClassLabel):
        return subjects, labels
    if np.ndim(labels[0]) == 0:
        return subjects, [0] * len(subjects)
    hot = np.asarray(labels) > 0.5
    if not np.isin(np.asarray(labels), (0, 1)).all():
        return subjects, [0] * len(subjects)
    frequency = np.where(hot, hot.sum(0), len(hot) + 1)
    return subjects, np.where(hot.any(1), frequency.argmin(1), -1).tolist()


def _of_subjects(rows: Dataset, subjects: Sequence[str]) -> Dataset:
    return rows.select(np.flatnonzero(np.isin(_subject_ids(rows), list(subjects))).tolist())


def _subject_ids(rows: Dataset) -> np.ndarray:
    return np.asarray(rows.select_columns(["subject_id"]).with_format(None)["subject_id"][:], dtype=str)
