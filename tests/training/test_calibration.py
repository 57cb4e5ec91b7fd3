"""Calibration: quantiles of the errors on people, and what intervals and sets are worth for others."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Value

from cmssl_hf import CMSSLEncoderForSequenceClassification
from cmssl_hf.models.cmssl.conformal_cmssl import Calibration
from cmssl_hf.training.calibration import calibrate, measure_limits, quantile_over_subjects
from helpers.tiny import PATCH, encoder_config, waves, windows_dataset


def test_quantile_of_people_with_one_window_each():
    """The largest of nine leaves a tenth for the new one above it; of eight none does."""
    scores = np.arange(9, 0, -1.0)
    assert quantile_over_subjects(scores, list("abcdefghi"), 0.9) == 9
    assert quantile_over_subjects(scores, list("abcdefghi"), 0.5) == 5
    assert quantile_over_subjects(scores[1:], list("abcdefgh"), 0.9) == float("inf")


def test_many_windows_of_one_person_count_once():
    scores = np.concatenate([np.full(1000, 100.0), [1.0, 2.0, 3.0]])
    subjects = ["a"] * 1000 + ["b", "c", "d"]
    # Four people and the new one have a fifth each.
    assert quantile_over_subjects(scores, subjects, 0.6) == 3
    assert quantile_over_subjects(scores, subjects, 0.8) == 100


def test_as_many_new_people_are_covered_as_was_asked():
    """People differ in how large their errors are, and in how many windows there are of them."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        sizes = rng.integers(1, 30, 31)
        people = [rng.gamma(2.0) * np.abs(rng.standard_normal(size)) for size in sizes]
        quantile = quantile_over_subjects(np.concatenate(people[1:]), np.repeat(np.arange(30), sizes[1:]), 0.8)
        covered.append(np.mean(people[0] <= quantile))
    # Between the coverage and two parts of 31 more.
    assert 0.77 < np.mean(covered) < 0.8 + 2 / 31 + 0.03


@pytest.fixture(scope="module")
def regression():
    """A model and labelled windows of 40 people, one of whom has far more than the others."""
    torch.manual_seed(0)
    model = CMSSLEncoderForSequenceClassification(
        encoder_config(problem_type="regression", num_labels=1, label_mean=70.0, label_std=10.0, initializer_range=0.3)
    ).eval()
    windows = waves(120, num_samples=10 * PATCH)
    subjects = [str(number % 40) if number < 80 else "0" for number in range(120)]
    with torch.no_grad():
        predictions = model(torch.tensor(np.stack(windows))).logits[:, 0].numpy()
    labels = predictions + np.random.default_rng(1).normal(0, 3, 120)
    return model, windows_dataset(windows, Value("float32"), label=labels.tolist(), subject_id=subjects), predictions


def spreads_by_hand(model, windows) -> np.ndarray:
    values = torch.tensor(np.array(windows))
    with torch.no_grad():
        whole = model(values).logits[:, 0]
        # Nine of ten patches: the first, in the middle between two patches, and the last.
        crops = [model(values[..., start : start + 9 * PATCH]).logits[:, 0] for start in (0, PATCH // 2, PATCH)]
    return torch.stack([crop - whole for crop in crops]).square().mean(0).sqrt().numpy()


def test_intervals_of_a_calibrated_model(regression):
    model, rows, predictions = regression
    stored = calibrate(model, rows, batch_size=50)
    spreads = spreads_by_hand(model, rows["input_values"])
    assert stored["floors"] == pytest.approx([np.median(spreads)], rel=1e-4)
    assert stored["window_seconds"] == [2.0, 2.0]
    assert (stored["num_subjects"], stored["num_windows"]) == (40, 120)
    errors = np.abs(predictions - np.array(rows["label"]))
    scores = errors / (spreads + np.median(spreads))
    for coverage in (0.5, 0.8, 0.9, 0.95):
        expected = quantile_over_subjects(scores, rows["subject_id"][:], coverage)
        assert stored["quantiles"][str(coverage)] == pytest.approx([expected], rel=1e-4)
    model.config.calibration = stored
    limits = measure_limits(model, rows, batch_size=7)
    assert limits["num_subjects"] == 40
    halves = stored["quantiles"]["0.8"][0] * (spreads + np.median(spreads))
    per_person = [np.mean((errors <= halves)[np.array(rows["subject_id"]) == str(person)]) for person in range(40)]
    row = next(row for row in limits["coverage"] if row["asked"] == 0.8)
    assert row["covered"] == pytest.approx(np.mean(per_person), abs=0.02)
    assert [row["answered"] for row in limits["risk"]] == [1, 0.75, 0.5, 0.25]
    assert limits["risk"][0]["error"] == pytest.approx(errors.mean(), rel=1e-4)
    surest = np.argsort(spreads)[:30]
    assert limits["risk"][3]["error"] == pytest.approx(errors[surest].mean(), rel=1e-4)


def test_few_people_give_few_coverages(regression):
    model, rows, _ = regression
    stored = calibrate(model, rows.select(range(5)))
    assert list(stored["quantiles"]) == ["0.5", "0.8"]
    one = calibrate(model, rows.select(range(80, 90)))
    assert list(one["quantiles"]) == ["0.5"]


def test_sets_of_a_calibrated_model():
    torch.manual_seed(0)
    model = CMSSLEncoderForSequenceClassification(
        encoder_config(problem_type="single_label_classification", num_labels=3, initializer_range=0.3)
    ).train()
    windows = waves(40, num_samples=[PATCH * (4 + number % 2) for number in range(40)])
    labels = np.random.default_rng(0).integers(0, 3, 40)
    rows = windows_dataset(
        windows, ClassLabel(names=["N", "A", "O"]), label=labels.tolist(), subject_id=[str(n) for n in range(40)]
    )
    stored = calibrate(model, rows)
    assert model.training
    model.eval()
    with torch.no_grad():
        probabilities = np.stack([model(torch.tensor(window[None])).logits[0].softmax(-1) for window in windows])
    scores = np.sort(1 - probabilities[np.arange(40), labels])
    # 40 people and the new one: at 0.9 the 37th.
    assert stored["quantiles"]["0.9"] == pytest.approx([scores[36]], rel=1e-4)
    assert (stored["floors"], stored["window_seconds"]) == ([], [0.8, 1.0])
    model.config.calibration = stored
    limits = measure_limits(model, rows)
    members = (1 - probabilities <= scores[36] + 1e-5) | (probabilities == probabilities.max(1, keepdims=True))
    row = next(row for row in limits["coverage"] if row["asked"] == 0.9)
    assert row["covered"] == pytest.approx(members[np.arange(40), labels].mean())
    assert row["width"] == pytest.approx(members.sum(1).mean())
    assert limits["risk"][0]["error"] == pytest.approx(np.mean(probabilities.argmax(1) != labels))


def test_several_labels_at_once_are_not_calibrated():
    model = CMSSLEncoderForSequenceClassification(
        encoder_config(problem_type="multi_label_classification", num_labels=2)
    )
    assert calibrate(model, windows_dataset(waves(4))) is None
    assert measure_limits(model, windows_dataset(waves(4))) is None


def test_a_calibration_travels_with_the_model(regression, tmp_path):
    model, rows, _ = regression
    model.config.calibration = calibrate(model, rows)
    model.save_pretrained(tmp_path)
    loaded = CMSSLEncoderForSequenceClassification.from_pretrained(tmp_path)
    assert Calibration.from_config(loaded.config) == Calibration.from_config(model.config)
