"""Shares of the labelled subjects and folds: nobody is divided, classes keep their shares, shares are nested."""

from collections import Counter

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Sequence, Value

from cmssl_hf.data.subjects import cross_validation_fold, fold_subjects, labelled_share, nested_order


def rows(number=40, per_subject=3, kind="number"):
    subjects = [f"s{index:03d}" for index in range(number) for _ in range(per_subject)]
    features = {"subject_id": Value("string"), "label": Value("float32")}
    labels = [float(index) for index in range(len(subjects))]
    if kind == "class":
        features["label"] = ClassLabel(names=["N", "A", "O"])
        # 24 / 12 / 4 of 40
        labels = [[0, 0, 0, 1, 0, 1, 0, 2, 1, 0][int(subject[1:]) % 10] for subject in subjects]
    if kind == "multi":
        features["label"] = Sequence(Value("float32"))
        labels = [[1.0, float(int(subject[1:]) % 5 == 0)] for subject in subjects]
    return Dataset.from_dict({"subject_id": subjects, "label": labels}, features=Features(features))


def people(dataset):
    return set(dataset["subject_id"])


@pytest.mark.parametrize("kind", ["number", "class", "multi"])
@pytest.mark.parametrize("seed", range(3))
def test_shares_are_nested_whole_and_of_the_size_asked_for(kind, seed):
    data = rows(kind=kind)
    before = set()
    for fraction, expected in ((0.01, 2), (0.1, 4), (0.3, 12), (0.5, 20), (1.0, 40)):
        share = labelled_share(data, fraction, seed)
        assert len(people(share)) == expected and len(share) == 3 * expected
        assert before <= people(share)
        before = people(share)


def test_shares_depend_on_the_seed_only():
    data = rows()
    assert people(labelled_share(data, 0.2, 1)) == people(labelled_share(data, 0.2, 1))
    assert people(labelled_share(data, 0.2, 1)) != people(labelled_share(data, 0.2, 2))


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75])
def test_shares_are_stratified(fraction):
    share = labelled_share(rows(kind="class"), fraction, seed=3)
    for its_class, total in Counter(rows(kind="class")["label"]).items():
        assert abs(Counter(share["label"])[its_class] - fraction * total) <= 3  # one subject of three rows


def test_the_rarest_of_several_labels_is_spread():
    data = rows(kind="multi")
    share = labelled_share(data, 0.25, seed=0)
    assert sum(label[1] for label in share["label"]) == 3 * 2  # 2 of the 8 subjects


@pytest.mark.parametrize("kind", ["number", "class", "multi"])
def test_every_subject_is_tested_once_and_splits_share_none(kind):
    data = rows(kind=kind)
    dataset = DatasetDict(train=data.select(range(90)), test=data.select(range(90, 120)))
    tested = Counter()
    for fold in range(5):
        splits = cross_validation_fold(dataset, fold)
        members = {split: people(part) for split, part in splits.items()}
        assert not members["train"] & members["validation"]
        assert not (members["train"] | members["validation"]) & members["test"]
        assert set.union(*members.values()) == people(data)
        assert (len(members["train"]), len(members["validation"]), len(members["test"])) == (28, 4, 8)
        tested.update(members["test"])
        if kind == "class":
            shares = np.bincount(splits["test"]["label"], minlength=3) / 3
            assert np.abs(shares - [4.8, 2.4, 0.8]).max() < 1
    assert tested == Counter(people(data))


def test_order_of_subjects_does_not_matter():
    subjects, classes = [f"s{index}" for index in range(20)], [0, 1] * 10
    swapped = list(reversed(subjects)), list(reversed(classes))
    assert nested_order(subjects, classes, 0) == nested_order(*swapped, 0)
    assert fold_subjects(subjects, classes, 1, 5) == fold_subjects(*swapped, 1, 5)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ValueError, match=r"`label_fraction` must lie above 0 and be at most 1"):
        labelled_share(rows(), fraction, 0)


def test_too_few_subjects_are_refused():
    with pytest.raises(ValueError, match="needs at least two, but there is 1"):
        labelled_share(rows(number=1), 0.5, 0)
    with pytest.raises(ValueError, match=r"4 subject\(s\) are too few for 5 folds"):
        cross_validation_fold(DatasetDict(train=rows(number=4)), 0)
    with pytest.raises(ValueError, match=r"`fold` must lie in 0\.\.4, but is 5"):
        cross_validation_fold(DatasetDict(train=rows()), 5)


def test_a_fold_that_would_train_on_nobody_is_refused():
    with pytest.raises(ValueError, match=r"3 subject\(s\) are too few for 2 folds: none would be trained on"):
        cross_validation_fold(DatasetDict(train=rows(number=3)), 0, num_folds=2)


def test_rows_without_labels_are_divided_as_those_with_numbers():
    data = rows()
    for fold in range(5):
        with_labels, without = (
            cross_validation_fold(DatasetDict(train=part), fold) for part in (data, data.remove_columns("label"))
        )
        assert {split: people(part) for split, part in with_labels.items()} == {
            split: people(part) for split, part in without.items()
        }
