"""Bootstrap over subjects against closed forms, metrics of draws against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from cmssl_hf.evaluation.intervals import (
    bootstrap,
    macro_auroc,
    macro_f1,
    mean_absolute_error,
    primary_metric,
    resample_subjects,
)
from cmssl_hf.tasks import get_task
from cmssl_hf.training.results import score


def test_subjects_come_with_all_their_rows():
    subjects = np.array(["b", "a", "b", "c", "a", "b"])
    for rows in resample_subjects(subjects, 50, seed=1):
        for subject in "abc":
            drawn = np.sum(subjects[rows] == subject)
            assert drawn % np.sum(subjects == subject) == 0
        times = [np.sum(subjects[rows] == subject) / np.sum(subjects == subject) for subject in "abc"]
        assert sum(times) == 3


def test_draws_depend_on_the_seed_only():
    first, second, other = (list(resample_subjects(list("aabbcc"), 5, seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other))


def test_interval_of_a_mean_is_that_of_the_normal_distribution():
    """Many subjects with one row each: mean +- 1.96 standard errors."""
    values = np.random.default_rng(0).normal(5, 2, 400)
    estimate = bootstrap(lambda rows: values[rows].mean(), np.arange(400), num_resamples=4000)
    error = values.std() / np.sqrt(400)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert estimate.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_windows_of_one_subject_do_not_narrow_the_interval():
    values = np.random.default_rng(0).normal(5, 2, 40)
    once = bootstrap(lambda rows: values[rows].mean(), np.arange(40))
    repeated = np.repeat(values, 50)
    often = bootstrap(lambda rows: repeated[rows].mean(), np.repeat(np.arange(40), 50))
    assert (often.low, often.high) == pytest.approx((once.low, once.high))


def test_paired_differences_see_what_is_common():
    """Errors differ widely between subjects, but one model is better by 0.1 for each of them."""
    rng = np.random.default_rng(0)
    errors = rng.gamma(1.0, 5.0, 30)
    better = errors - 0.1
    estimate = bootstrap(lambda rows: errors[rows].mean() - better[rows].mean(), np.arange(30))
    assert (estimate.low, estimate.value, estimate.high) == pytest.approx((0.1, 0.1, 0.1))
    assert estimate.excludes_zero
    assert not bootstrap(lambda rows: errors[rows].mean() - 5, np.arange(30)).excludes_zero


def test_draws_without_a_value_are_left_out_and_one_subject_has_no_interval():
    labels = np.array([1, 0, 0, 0])
    estimate = bootstrap(lambda rows: labels[rows].mean() if labels[rows].any() else np.nan, np.arange(4))
    assert estimate.low > 0
    lone = bootstrap(lambda rows: 1.0, ["a", "a"])
    assert lone.value == 1 and np.isnan(lone.low) and np.isnan(lone.high)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_of_draws_equal_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    scores, classes = rng.normal(size=(60, 4)).round(1), rng.integers(0, 3, 60)
    assert macro_f1(scores, classes) == pytest.approx(f1_score(classes, scores.argmax(1), average="macro"))
    hot = (rng.random((60, 4)) < [0.5, 0.2, 0.0, 1.0]).astype(np.float32)
    expected = np.mean([roc_auc_score(hot[:, label], scores[:, label]) for label in (0, 1)])
    assert macro_auroc(scores, hot) == pytest.approx(expected)
    expected = np.mean([roc_auc_score(classes == label, scores[:, label]) for label in range(3)])
    assert macro_auroc(scores, classes) == pytest.approx(expected)
    assert np.isnan(macro_auroc(scores, np.ones((60, 4))))


@pytest.mark.parametrize("name", ["bidmc_hr", "physionet2017", "ptb_xl", "uci_bp"])
def test_they_are_the_metrics_that_tasks_are_scored_by(name):
    task, rng = get_task(name), np.random.default_rng(0)
    if task.problem_type == "regression":
        shape = (30, len(task.label_names))
        predictions, labels = rng.normal(size=shape), rng.normal(size=shape)
    else:
        predictions, labels = rng.normal(size=(30, 4)), rng.integers(0, 4, 30)
        if task.problem_type == "multi_label_classification":
            labels = (rng.random((30, 4)) < 0.4).astype(float)
    found = primary_metric(task.problem_type)(predictions, labels)
    assert found == pytest.approx(score(task, predictions, labels)[task.selection_metric])


def test_mean_absolute_error_takes_either_shape():
    assert mean_absolute_error(np.array([[1.0], [2.0]]), np.array([0.0, 4.0])) == 1.5
