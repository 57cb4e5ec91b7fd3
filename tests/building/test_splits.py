"""Subject-disjoint splits."""

from itertools import chain

import numpy as np
import pytest

from cmssl_hf.building.splits import split_subjects


def published_split(subjects):
    np.random.seed(42)
    subjects = sorted(subjects)
    np.random.shuffle(subjects)
    train, validation = int(0.8 * len(subjects)), int(0.1 * len(subjects))
    return subjects[:train], subjects[train : train + validation], subjects[train + validation :]


@pytest.mark.parametrize("number", [10, 15, 53, 100])
def test_default_is_the_published_split(number):
    split = split_subjects(range(1, number + 1))
    assert (split["train"], split["validation"], split["test"]) == published_split(range(1, number + 1))


def test_bidmc_test_subjects_of_the_paper():
    assert sorted(split_subjects(range(1, 54))["test"]) == [8, 15, 29, 39, 43, 52]


def test_order_and_repetition_do_not_matter():
    assert split_subjects(["c", "a", "b", "a"] * 3) == split_subjects(["a", "b", "c"])


@pytest.mark.parametrize("number", range(3, 30))
def test_every_subject_is_in_one_split(number):
    split = split_subjects(range(number))
    assert sorted(chain(*split.values())) == list(range(number))
    assert all(split.values())


def test_global_random_state_is_left_alone():
    np.random.seed(7)
    expected = np.random.random()
    np.random.seed(7)
    split_subjects(range(20))
    assert np.random.random() == expected


def test_errors():
    with pytest.raises(ValueError, match="too few"):
        split_subjects([1, 2])
    with pytest.raises(ValueError, match=r"`split_seed` must lie in 0\.\.4294967295, but is -1"):
        split_subjects(range(20), seed=-1)
