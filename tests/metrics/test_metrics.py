"""Metric modules against brute force and scikit-learn, and where a metric does not exist."""

from pathlib import Path

import evaluate
import numpy as np
import pytest
from sklearn import metrics as sk

import cmssl_hf.metrics
from cmssl_hf.metrics import load_metric


def auroc_by_counting_pairs(positive, scores):
    """Share of (positive, negative) pairs in the right order; ties count half."""
    above, below = scores[positive], scores[~positive]
    difference = above[:, None] - below[None]
    return ((difference > 0) + 0.5 * (difference == 0)).mean()


def average_precision_by_steps(positive, scores):
    """Sum of precision at each positive, from the highest score down, over the number of positives (no ties)."""
    order = np.argsort(-scores)
    hits = positive[order]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return precision[hits].mean()


def rng():
    return np.random.default_rng(5)


def test_regression_of_one_output():
    # Errors -1, 0, 2, 3; labels 10, 20, 30, 40 with a variance sum of 500.
    result = load_metric("regression").compute(predictions=[9, 20, 32, 43], references=[10, 20, 30, 40])
    assert result == pytest.approx({"mae": 6 / 4, "rmse": np.sqrt(14 / 4), "r2": 1 - 14 / 500})


def test_regression_of_several_outputs():
    predictions, references = rng().normal(100, 10, (2, 50, 2))
    result = load_metric("regression").compute(
        predictions=predictions, references=references, output_names=("systolic", "diastolic")
    )
    for index, name in enumerate(("systolic", "diastolic")):
        error = predictions[:, index] - references[:, index]
        assert result[f"mae_{name}"] == pytest.approx(np.abs(error).mean())
        assert result[f"rmse_{name}"] == pytest.approx(np.sqrt((error**2).mean()))
        residual, total = (error**2).sum(), ((references[:, index] - references[:, index].mean()) ** 2).sum()
        assert result[f"r2_{name}"] == pytest.approx(1 - residual / total)
    for metric in ("mae", "rmse", "r2"):
        assert result[metric] == pytest.approx((result[f"{metric}_systolic"] + result[f"{metric}_diastolic"]) / 2)


@pytest.mark.parametrize("references", [[60.0], [60.0, 60.0, 60.0]])
def test_r2_of_constant_labels_does_not_exist(references):
    result = load_metric("regression").compute(predictions=[61.0] * len(references), references=references)
    assert np.isnan(result["r2"])
    assert result["mae"] == pytest.approx(1.0)


def test_single_label_classification():
    scores, references = rng().normal(size=(200, 4)), rng().integers(0, 4, 200)
    scores[np.arange(200), references] += 0.8
    result = load_metric("single_label_classification").compute(predictions=scores, references=references)
    predicted = scores.argmax(1)
    assert result["auroc"] == pytest.approx(
        np.mean([auroc_by_counting_pairs(references == c, scores[:, c]) for c in range(4)])
    )
    assert result["auc_pr"] == pytest.approx(
        np.mean([average_precision_by_steps(references == c, scores[:, c]) for c in range(4)])
    )
    recalls = [(predicted[references == c] == c).mean() for c in range(4)]
    observed = (predicted == references).mean()
    expected = sum((predicted == c).mean() * (references == c).mean() for c in range(4))
    assert result["accuracy"] == pytest.approx(observed)
    assert result["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert result["kappa"] == pytest.approx((observed - expected) / (1 - expected))
    assert result["f1_macro"] == pytest.approx(sk.f1_score(references, predicted, average="macro"))
    assert result["f1_weighted"] == pytest.approx(sk.f1_score(references, predicted, average="weighted"))
    assert result["num_classes_scored"] == 4


def test_auroc_is_that_of_any_monotonous_scale():
    scores, references = rng().normal(size=(100, 3)), rng().integers(0, 3, 100)
    metric = load_metric("single_label_classification")
    logits = metric.compute(predictions=scores, references=references)
    cubed = metric.compute(predictions=scores**3 + 7, references=references)
    assert cubed["auroc"] == pytest.approx(logits["auroc"])
    assert cubed["auc_pr"] == pytest.approx(logits["auc_pr"])


def test_multi_label_classification():
    scores, references = rng().normal(size=(200, 5)), rng().random((200, 5)) < 0.3
    scores += 0.7 * references
    result = load_metric("multi_label_classification").compute(predictions=scores, references=references.astype(float))
    assert result["auroc"] == pytest.approx(
        np.mean([auroc_by_counting_pairs(references[:, c], scores[:, c]) for c in range(5)])
    )
    assert result["auc_pr"] == pytest.approx(
        np.mean([average_precision_by_steps(references[:, c], scores[:, c]) for c in range(5)])
    )
    assert result["accuracy"] == pytest.approx(
        np.mean([(references[:, c] == (scores[:, c] > 0)).mean() for c in range(5)])
    )
    f1, support = [], references.sum(0)
    for c in range(5):
        true_positives = (references[:, c] & (scores[:, c] > 0)).sum()
        f1.append(2 * true_positives / (references[:, c].sum() + (scores[:, c] > 0).sum()))
    assert result["f1_macro"] == pytest.approx(np.mean(f1))
    assert result["f1_weighted"] == pytest.approx(np.average(f1, weights=support))
    assert result["num_classes_scored"] == 5


@pytest.mark.parametrize("always", [0.0, 1.0])
def test_label_without_positives_or_negatives_is_left_out(always):
    scores, references = rng().normal(size=(100, 3)), (rng().random((100, 3)) < 0.4).astype(float)
    references[:, 1] = always
    result = load_metric("multi_label_classification").compute(predictions=scores, references=references)
    expected = np.mean([auroc_by_counting_pairs(references[:, c] > 0, scores[:, c]) for c in (0, 2)])
    assert result["auroc"] == pytest.approx(expected)
    assert result["num_classes_scored"] == 2


def test_class_that_is_absent_is_left_out():
    scores, references = rng().normal(size=(100, 3)), rng().integers(0, 2, 100)
    result = load_metric("single_label_classification").compute(predictions=scores, references=references)
    expected = np.mean([auroc_by_counting_pairs(references == c, scores[:, c]) for c in (0, 1)])
    assert result["auroc"] == pytest.approx(expected)
    assert result["num_classes_scored"] == 2


def test_nothing_to_score():
    result = load_metric("multi_label_classification").compute(predictions=[[0.1], [0.2]], references=[[0.0], [0.0]])
    assert np.isnan(result["auroc"])
    assert result["num_classes_scored"] == 0


def test_unknown_problem_type():
    with pytest.raises(ValueError, match="no metric module for the problem type 'ranking'"):
        load_metric("ranking")


@pytest.mark.parametrize("name", ["regression", "single_label_classification", "multi_label_classification"])
def test_modules_can_be_loaded_by_path(name, tmp_path):
    metric = evaluate.load(
        str(Path(cmssl_hf.metrics.__file__).parent / name), cache_dir=str(tmp_path), keep_in_memory=True
    )
    assert type(metric).__name__ == type(load_metric(name)).__name__
