"""Models measured on people they have not seen: values against numpy, whole tables, and refusals."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from matplotlib.image import imread

from cmssl_hf import CMSSLEncoderForSequenceClassification, CMSSLFeatureExtractor
from cmssl_hf.baselines import heart_rate_from_pulse_peaks
from cmssl_hf.evaluation import figures
from cmssl_hf.evaluation.held_out import (
    compare,
    limits_held_out,
    mean_of_probabilities,
    predict_from_features,
    predict_held_out,
    read_predictions,
)
from cmssl_hf.evaluation.task_windows import TaskWindows
from cmssl_hf.models.cmssl.conformal_cmssl import Calibration
from cmssl_hf.tasks import get_task
from cmssl_hf.training.arguments import DataArguments
from helpers.tiny import encoder_config


TASK = get_task("simulated_hr")


@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    options = {"num_subjects": 10, "seconds_per_subject": 30.0}
    return TaskWindows(TASK, DataArguments(dataset_options=options, cache_dir=str(tmp_path_factory.mktemp("cache"))))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = encoder_config(num_labels=1, problem_type="regression", label_mean=75.0, label_std=10.0)
    CMSSLEncoderForSequenceClassification(config).save_pretrained(folder)
    CMSSLFeatureExtractor(patch_size=config.patch_size).save_pretrained(folder)
    return folder


def test_predictions_and_their_comparison(windows, model):
    with pytest.raises(ValueError, match="`--accept_unknown_provenance true`"):
        predict_held_out(model, windows)
    table = predict_held_out(model, windows, accept_unknown_provenance=True, batch_size=7)
    rows = [row for split in windows.raw.values() for row in split]
    assert len(table) == len(rows) and table["subject_id"].nunique() == 10
    network = CMSSLEncoderForSequenceClassification.from_pretrained(model).eval()
    extractor = CMSSLFeatureExtractor.from_pretrained(model)
    for row, predicted in zip(rows[::9], table["prediction"][::9]):
        inputs = extractor(ppg=row["signal"], sampling_rate=row["sampling_rate"], return_tensors="pt")
        assert predicted[0] == pytest.approx(network(**inputs).logits.item(), abs=1e-3)
    compared = compare(TASK, table, windows, num_resamples=50).set_index("row")
    labels = np.array([row["label"] for row in rows])
    peaks = np.array([heart_rate_from_pulse_peaks(np.array(row["signal"]), row["sampling_rate"]) for row in rows])
    own = np.abs(np.concatenate([*table["prediction"]]) - labels).mean()
    expected = {
        "model": own,
        "constant": np.abs(np.median(labels) - labels).mean(),
        "pulse_peaks": np.abs(peaks - labels).mean(),
    }
    for name, value in expected.items():
        assert compared.loc[name, "value"] == pytest.approx(value, rel=1e-4)
        assert compared.loc[name, "low"] <= value <= compared.loc[name, "high"]
        if name != "model":
            assert compared.loc[name, "difference"] == pytest.approx(own - value, rel=1e-3)


def test_limits_are_those_of_everybody(windows, model, tmp_path):
    assert limits_held_out(model, windows, accept_unknown_provenance=True) is None
    network = CMSSLEncoderForSequenceClassification.from_pretrained(model).eval()
    # Intervals of 40 bpm to either side, however sure: each person's share of windows within, each counting once.
    network.config.calibration = Calibration({"0.5": [40.0 / 1e9]}, [1e9], [10.0, 10.0], 3, 9).to_dict()
    network.save_pretrained(tmp_path)
    CMSSLFeatureExtractor.from_pretrained(model).save_pretrained(tmp_path)
    measured = limits_held_out(tmp_path, windows, accept_unknown_provenance=True)
    table = predict_held_out(tmp_path, windows, accept_unknown_provenance=True)
    error = table["prediction"].str[0].astype(float) - table["label"].str[0].astype(float)
    held = (error.abs() <= 40).groupby(table["subject_id"]).mean().mean()
    assert measured["coverage"][0]["covered"] == pytest.approx(held, abs=0.02)
    assert measured["risk"][0] == {"answered": 1.0, "error": pytest.approx(error.abs().mean(), rel=1e-3)}
    figures.limits(measured, "bpm", tmp_path / "limits.png")
    assert imread(tmp_path / "limits.png").shape[:2] == (396, 990)


def test_folds_are_one_table(tmp_path):
    files = []
    for fold in range(2):
        files.append(tmp_path / f"{fold}.csv")
        pd.DataFrame(
            {
                "subject_id": ["1", "2"],
                "record_id": [f"0{fold}", "7"],
                "start_time": [0.0, 10.0 * fold],
                "label": [60.0, 70.0],
                "prediction": [61.0, 70.0 + fold],
            }
        ).to_csv(files[-1], index=False)
    table = read_predictions(files)
    assert list(table["record_id"]) == ["00", "7", "01", "7"]
    assert compare(TASK, table, num_resamples=10)["value"][0] == pytest.approx(0.75)
    with pytest.raises(ValueError, match="2 windows are in several files, such as that of record 00 at 0 s"):
        read_predictions([files[0], files[0]])


def _ecg(intervals):
    """Narrow R-peaks at 125 Hz."""
    times = np.arange(2500) / 125
    return sum(np.exp(-0.5 * ((times - beat) / 0.012) ** 2) for beat in np.cumsum(intervals))


def test_classical_features_are_fitted_on_the_people_of_each_fold(tmp_path):
    """Regular beats are of the first class, irregular ones of the third; in one fold those who are trained on have it the other way."""
    generator = np.random.default_rng(0)
    labels = np.arange(40) % 2 * 2
    spread = np.where(labels == 2, 0.3, 0.01)
    signals = [_ecg(0.8 + scale * generator.uniform(-1, 1, 22)) for scale in spread]
    subjects = np.array([f"s{number:02d}" for number in range(40)])
    labels[20:30] = 2 - labels[20:30]
    files = []
    for number, (test, train, validation) in enumerate(
        [(range(5), range(5, 17), range(17, 20)), (range(30, 40), range(20, 26), range(26, 30))]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        files.append(folder / "predictions.csv")
        pd.DataFrame({"record_id": subjects[test], "start_time": 0.0}).to_csv(files[-1], index=False)
        splits = {"train": {"subjects": [*subjects[train]]}, "validation": {"subjects": [*subjects[validation]]}}
        (folder / "run.json").write_text(json.dumps({"identity": {"data": {"splits": splits}}}))
    windows = SimpleNamespace(
        task=get_task("physionet2017"),
        raw_windows=Dataset.from_dict({"signal": signals, "sampling_rate": [125.0] * 40}),
        subjects=subjects,
        labels=labels,
        keys={(subject, 0.0): row for row, subject in enumerate(subjects)},
    )
    logits = predict_from_features(files, windows)
    assert logits.shape == (15, 3)
    assert (logits[:5].argmax(1) == labels[:5]).all()
    assert (logits[5:].argmax(1) == 2 - labels[30:]).all()
    files[0].with_name("run.json").unlink()
    with pytest.raises(ValueError, match="must lie in the folder of its run"):
        predict_from_features(files, windows)


def test_mean_of_probabilities():
    first, second = np.log([[0.2, 0.8]]), np.log([[0.6, 0.4]]) + 3
    rhythm, diagnosis = get_task("physionet2017"), get_task("ptb_xl")
    np.testing.assert_allclose(np.exp(mean_of_probabilities(rhythm, first, second)), [[0.4, 0.6]])
    # Labels that do not exclude each other: odds of 3 and 1/3 are probabilities of 0.75 and 0.25.
    np.testing.assert_allclose(
        mean_of_probabilities(diagnosis, np.log([[3.0]]), np.log([[1 / 3]])), [[0.0]], atol=1e-12
    )
