"""Scores, constant predictions, predictions.csv, the summary and the tables."""

import multiprocessing

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from scipy.special import softmax
from sklearn.metrics import average_precision_score, roc_auc_score

from cmssl_hf.tasks import get_task
from cmssl_hf.training.results import (
    append_summary,
    classical_predictions,
    constant_predictions,
    result_table,
    save_predictions,
    score,
)


HR, BP = get_task("simulated_hr"), get_task("simulated_bp")
RHYTHM, SUPERCLASS = get_task("physionet2017"), get_task("ptb_xl")


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_score_of_one_output(shape):
    predictions, labels = np.array([60.0, 70.0, 83.0]).reshape(shape), np.array([61.0, 70.0, 80.0])
    assert score(HR, predictions, labels)["mae"] == pytest.approx(4 / 3)


def test_score_of_several_outputs():
    labels = np.array([[120.0, 80.0], [110.0, 70.0]])
    result = score(BP, labels + np.array([[2, -4], [4, -6]]), labels)
    assert (result["mae_systolic_pressure"], result["mae_diastolic_pressure"], result["mae"]) == (3, 5, 4)


def test_classes_are_ranked_by_probability_not_by_logit():
    generator = np.random.default_rng(0)
    labels = generator.integers(4, size=80)
    probabilities = softmax(generator.standard_normal((80, 4)) + 1.5 * np.eye(4)[labels], axis=1)
    # The same answers, with logits that lie higher in some windows than in others.
    logits = np.log(probabilities) + 5 * generator.standard_normal((80, 1))
    result = score(RHYTHM, logits, labels)
    assert result["auroc"] == pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr"))
    assert result["auc_pr"] == pytest.approx(average_precision_score(np.eye(4)[labels], probabilities))
    assert result["accuracy"] == np.mean(probabilities.argmax(1) == labels)


def test_constant_regression_is_the_training_mean():
    predicted = constant_predictions(BP, np.array([[120.0, 80.0], [110.0, 70.0], [100.0, 60.0]]), 5)
    assert predicted.tolist() == [[110.0, 70.0]] * 5
    labels = np.array([105.0, 115.0])
    r2 = score(HR, constant_predictions(HR, labels, 2), labels)["r2"]
    assert r2 == pytest.approx(0.0)


def test_constant_classes_are_log_odds_of_their_frequency():
    predicted = constant_predictions(RHYTHM, np.array([0, 0, 0, 1, 2, 0, 0, 1]), 3)
    np.testing.assert_allclose(predicted, [np.log([5 / 3, 2 / 6, 1 / 7])] * 3)
    result = score(RHYTHM, predicted, np.array([0, 1, 2]))
    assert (result["auroc"], result["accuracy"], result["kappa"]) == (0.5, pytest.approx(1 / 3), 0)


def test_constant_prediction_knows_classes_that_the_training_labels_lack():
    predicted = constant_predictions(RHYTHM, np.array([0, 1, 1]), 2, num_classes=4)
    assert predicted.shape == (2, 4)
    assert predicted.argmax(1).tolist() == [1, 1]


def test_constant_multi_label_is_log_odds_and_rare_labels_stay_finite():
    predicted = constant_predictions(SUPERCLASS, np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]), 2)
    assert np.isfinite(predicted).all()
    assert predicted[0, 0] == pytest.approx(np.log(3))
    assert predicted[0, 1] < -10


def pulse_train(heart_rate, seconds, rate):
    times = np.arange(round(seconds * rate)) / rate
    beats = np.arange(0.3, seconds, 60 / heart_rate)
    return np.exp(-((times[:, None] - beats) ** 2) / (2 * 0.08**2)).sum(1)


def test_classical_predictions_from_signals_of_any_length_and_rate():
    rows = [(60, 10, 125.0), (90, 8, 64.0), (75, 20, 300.0)]
    signals = [pulse_train(*row) for row in rows] + [np.linspace(0, 1, 1250)]
    windows = Dataset.from_dict({"signal": signals, "sampling_rate": [row[2] for row in rows] + [125.0]})
    predicted, num_failed = classical_predictions(HR, windows, fallback=72.5)
    assert num_failed == 1
    np.testing.assert_allclose(predicted[:, 0], [60, 90, 75, 72.5], rtol=0.015)


WINDOWS = Dataset.from_dict(
    {
        "input_values": [[[0.0]]] * 3,
        "subject_id": ["08", "08", "15"],
        "record_id": ["r8", "r8", "r15"],
        "start_time": [0.0, 2.0, 0.0],
    }
)


@pytest.mark.parametrize(
    ("names", "predictions", "labels", "columns"),
    [
        (
            HR.label_names,
            [[60.0], [70.0], [80.0]],
            [61.0, 71.0, 81.0],
            {"label": [61, 71, 81], "prediction": [60, 70, 80]},
        ),
        (
            BP.label_names,
            [[120.0, 80.0]] * 3,
            [[121.0, 81.0]] * 3,
            {
                "label_systolic_pressure": [121] * 3,
                "label_diastolic_pressure": [81] * 3,
                "prediction_systolic_pressure": [120] * 3,
                "prediction_diastolic_pressure": [80] * 3,
            },
        ),
        (
            ["N", "A"],
            [[0.5, -1.0], [1.0, 2.0], [0.0, 3.0]],
            [0, 1, 1],
            {"label": [0, 1, 1], "prediction_N": [0.5, 1, 0], "prediction_A": [-1, 2, 3]},
        ),
        (
            ["NORM", "MI"],
            [[0.5, -1.0]] * 3,
            [[1.0, 0.0]] * 3,
            {"label_NORM": [1] * 3, "label_MI": [0] * 3, "prediction_NORM": [0.5] * 3, "prediction_MI": [-1] * 3},
        ),
    ],
)
def test_predictions_file(names, predictions, labels, columns, tmp_path):
    save_predictions(tmp_path / "predictions.csv", WINDOWS, np.array(predictions), np.array(labels), names)
    table = pd.read_csv(tmp_path / "predictions.csv", dtype={"subject_id": str})
    assert table["subject_id"].tolist() == ["08", "08", "15"]
    assert table["record_id"].tolist() == ["r8", "r8", "r15"]
    assert table["start_time"].tolist() == [0, 2, 0]
    assert {name: table[name].tolist() for name in columns} == columns
    assert set(table) == {"subject_id", "record_id", "start_time", *columns}


def test_summary_of_runs_with_different_metrics(tmp_path):
    path = tmp_path / "results" / "summary.csv"
    append_summary(path, {"task": "bidmc_hr", "model": "encoder", "seed": 1, "mae": 1.5})
    append_summary(path, {"task": "ptb_xl", "model": "encoder", "seed": 1, "auroc": 0.8})
    append_summary(path, {"task": "bidmc_hr", "model": "encoder", "seed": 2, "mae": 1.7})
    table = pd.read_csv(path)
    assert table["task"].tolist() == ["bidmc_hr", "ptb_xl", "bidmc_hr"]
    assert table["seed"].tolist() == [1, 1, 2]
    np.testing.assert_array_equal(table["mae"], [1.5, np.nan, 1.7])
    np.testing.assert_array_equal(table["auroc"], [np.nan, 0.8, np.nan])
    assert table["finished"].notna().all()
    assert {entry.name for entry in path.parent.iterdir()} == {"summary.csv", ".summary.csv.lock"}


def test_a_run_has_one_row_in_the_summary(tmp_path):
    path = tmp_path / "summary.csv"
    for folder, error in (("a", 1.5), ("b", 1.6), ("a", 1.7)):
        append_summary(path, {"task": "bidmc_hr", "mae": error, "output_dir": folder})
    table = pd.read_csv(path)
    assert dict(zip(table["output_dir"], table["mae"])) == {"a": 1.7, "b": 1.6}
    assert len(table) == 2


def _append_rows(path, process):
    for number in range(10):
        append_summary(path, {"task": "bidmc_hr", "output_dir": f"{process}-{number}"})


def test_summary_of_several_processes_has_the_rows_of_all(tmp_path):
    context = multiprocessing.get_context("spawn")
    path = tmp_path / "summary.csv"
    processes = [context.Process(target=_append_rows, args=(path, number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    table = pd.read_csv(path)
    assert set(table["output_dir"]) == {f"{process}-{number}" for process in range(3) for number in range(10)}
    assert len(table) == 30


def test_summary_keeps_what_is_text(tmp_path):
    path = tmp_path / "summary.csv"
    for name in ("007", "NA", "small, frozen"):
        append_summary(path, {"task": "bidmc_hr", "model": name, "mae": 0.1 + 0.2})
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert table["model"].tolist() == ["007", "NA", "small, frozen"]
    assert table["mae"].astype(float).tolist() == [0.1 + 0.2] * 3


def test_result_table_names_task_unit_methods_and_metrics():
    table = result_table(HR, {"encoder": {"mae": 1.2345, "rmse": 2.0}, "constant": {"mae": 10.0, "rmse": 12.0}})
    header, _, first, second = table.splitlines()
    assert "simulated_hr" in header
    assert "(bpm)" in header
    assert [cell.strip() for cell in header.split("|")[2:4]] == ["mae", "rmse"]
    assert [cell.strip() for cell in first.split("|")[1:4]] == ["encoder", "1.234", "2.000"]
    assert [cell.strip() for cell in second.split("|")[1:4]] == ["constant", "10.000", "12.000"]
