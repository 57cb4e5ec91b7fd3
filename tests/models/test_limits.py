"""Answers that know their limits: intervals, sets, the quality of the signal, and answers that are withheld."""

import numpy as np
import pytest
import torch
from transformers import pipeline

from cmssl_hf import CMSSLEncoderForSequenceClassification, CMSSLFeatureExtractor
from cmssl_hf.models.cmssl.quality_cmssl import measure_quality
from helpers.pipelines import CLASSIFICATION, FEATURES, PATCH, REGRESSION, noisy_recording, save_model


RATE = 64
CALIBRATION = {
    "quantiles": {"0.5": [1.0, 2.0], "0.9": [3.0, 5.0]},
    "floors": [0.5, 0.25],
    "window_seconds": [10.0, 10.0],
    "num_subjects": 12,
    "num_windows": 360,
}
PRESSURES = ["systolic_pressure", "diastolic_pressure"]


def pulse(seconds: float, sampling_rate: float = RATE, bpm: float = 72.0) -> np.ndarray:
    """A PPG: it rises three times as fast as it falls."""
    phase = (bpm / 60 * np.arange(round(seconds * sampling_rate)) / sampling_rate) % 1
    return np.where(phase < 0.25, phase / 0.25, (1 - phase) / 0.75)


def noise(seconds: float, sampling_rate: float = RATE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(round(seconds * sampling_rate))


def save_regression(folder, calibration) -> str:
    names = dict(enumerate(PRESSURES))
    return save_model(
        folder, problem_type="regression", id2label=names, label_mean=(120.0, 80.0), label_std=5.0, label_unit="mmHg",
        calibration=calibration,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_regression(tmp_path_factory.mktemp("pressure"), CALIBRATION)


@pytest.fixture(scope="module")
def predict(folder):
    return pipeline(REGRESSION, model=folder, sampling_rate=RATE)


@pytest.mark.parametrize("channel", ["ecg", "ppg"])
@pytest.mark.parametrize("sampling_rate", [64, 125, 300])
def test_quality_of_noise_and_constants_is_none(channel, sampling_rate):
    qualities = [measure_quality(noise(10, sampling_rate, seed), sampling_rate, channel) for seed in range(40)]
    assert np.mean(qualities) < 0.02
    assert np.mean(np.array(qualities) == 0) > 0.85
    assert measure_quality(np.full(10 * sampling_rate, 3.0), sampling_rate, channel) == 0


def test_quality_of_a_clean_pulse_is_near_one():
    clean = pulse(10)
    assert measure_quality(clean, RATE, "ppg") > 0.85
    assert measure_quality(1e3 + 1e-3 * clean, RATE, "ppg") == pytest.approx(
        measure_quality(clean, RATE, "ppg"), abs=0.01
    )
    # The more noise, the less.
    falling = [measure_quality(clean + level * noise(10), RATE, "ppg") for level in (0, 0.2, 0.5, 1, 4)]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] < 0.3
    spikes = np.zeros(10 * 250)
    spikes[100::200] = 1
    assert measure_quality(spikes + 0.01 * noise(10, 250), 250, "ecg") > 0.9
    # Nothing came for four of ten seconds.
    lost = clean.copy()
    lost[: 4 * RATE] = lost[4 * RATE]
    assert measure_quality(lost, RATE, "ppg") < 0.62


def test_quality_of_a_recording_is_that_of_all_its_time(tmp_path):
    extract = pipeline(FEATURES, model=save_model(tmp_path), sampling_rate=RATE)
    answer = extract(np.concatenate([pulse(10), np.zeros(10 * RATE), pulse(10), noise(10)]))
    qualities = [window.get("quality", 0) for window in answer["windows"]]
    assert answer["quality"] == pytest.approx(np.mean(qualities))
    assert 0.4 < answer["quality"] < 0.5
    assert extract(noise(60), on_error="skip")["quality"] < 0.05
    assert extract(np.zeros(640), on_error="skip")["quality"] == 0


def spread_by_hand(folder: str, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The answer to a window of 10 s, and the root mean square difference of those to its first, middle and last 9 s from it."""
    model = CMSSLEncoderForSequenceClassification.from_pretrained(folder).eval()
    values = CMSSLFeatureExtractor(channels=("ppg",), patch_size=PATCH)(
        ppg=window, sampling_rate=RATE, return_tensors="pt"
    )["input_values"]
    with torch.no_grad():
        whole = model(values).logits[0].numpy()
        crops = [model(values[..., start : start + 1125]).logits[0].numpy() for start in (0, 62, 125)]
    return whole, np.sqrt(np.mean([(crop - whole) ** 2 for crop in crops], axis=0))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_intervals_are_as_wide_as_answers_vary(predict, folder, batch_size):
    signal = noisy_recording(35)
    answer = predict(signal, batch_size=batch_size)
    assert answer["coverage"] == 0.9
    bounds = []
    for number, window in enumerate(answer["windows"][:3]):
        whole, spread = spread_by_hand(folder, signal[640 * number : 640 * (number + 1)])
        assert (spread > 1e-3).all()
        half = np.array([3.0, 5.0]) * (spread + np.array([0.5, 0.25]))
        bounds.append(np.stack([whole - half, whole + half], axis=-1))
        np.testing.assert_allclose([window["interval"][name] for name in PRESSURES], bounds[-1], rtol=1e-5)
        assert list(window["value"].values()) == pytest.approx(whole, rel=1e-5)
    # Nobody was asked about windows of 5 s.
    assert answer["windows"][3]["interval"] is None
    np.testing.assert_allclose([answer["interval"][name] for name in PRESSURES], np.median(bounds, axis=0), rtol=1e-5)


def test_a_coverage_is_one_of_those_that_were_calibrated(predict):
    signal = noisy_recording(10)
    wide, narrow = predict(signal)["interval"], predict(signal, coverage=0.5)["interval"]
    for label, ratio in zip(PRESSURES, (3.0, 2.5)):
        assert np.ptp(wide[label]) == pytest.approx(ratio * np.ptp(narrow[label]))
    chosen = pipeline(REGRESSION, model=predict.model, feature_extractor=predict.feature_extractor, coverage=0.5)
    assert chosen(signal, sampling_rate=RATE)["interval"] == narrow
    for coverage in (0.99, "0.9", True):
        with pytest.raises(ValueError, match="`coverage` must be"):
            predict(signal, coverage=coverage)


def test_fewer_people_promise_less(tmp_path):
    few = {**CALIBRATION, "quantiles": {"0.5": [1.0, 2.0], "0.8": [2.0, 3.0]}, "num_subjects": 4}
    predict = pipeline(REGRESSION, model=save_regression(tmp_path, few), sampling_rate=RATE)
    assert predict(noisy_recording(10))["coverage"] == 0.8


def test_wide_answers_are_withheld_on_request(predict):
    signal = noisy_recording(45)
    freely = predict(signal)
    widths = [max(np.ptp(pair) for pair in window["interval"].values()) for window in freely["windows"][:4]]
    limit = float(np.median(widths))
    answer = predict(signal, max_width=limit)
    expected = [None if width <= limit else "too wide" for width in widths] + ["no interval"]
    assert [window.get("reason") for window in answer["windows"]] == expected
    assert [window["value"] is None for window in answer["windows"]] == [reason is not None for reason in expected]
    assert answer["usable_share"] == pytest.approx(20 / 45)
    kept = [window["value"]["systolic_pressure"] for window in answer["windows"] if window["value"]]
    assert answer["value"]["systolic_pressure"] == pytest.approx(np.mean(kept))
    # What was withheld can still be looked at.
    assert (
        answer["windows"][int(np.argmax(widths))]["interval"] == freely["windows"][int(np.argmax(widths))]["interval"]
    )
    none = predict(signal, max_width=1e-6)
    assert none["value"] is none["interval"] is None
    assert none["usable_share"] == 0
    assert none["reason"] == "No window counts: all are withheld (too wide, no interval)."


def test_answers_to_bad_signals_are_withheld_on_request(predict):
    signal = np.concatenate([pulse(10), noise(10), pulse(10)])
    answer = predict(signal, min_quality=0.5, excluded_issues=())
    assert [window.get("reason") for window in answer["windows"]] == [None, "low quality", None]
    assert answer["usable_share"] == pytest.approx(2 / 3)
    none = predict(noise(20), min_quality=0.5)
    assert none["value"] is None
    assert none["reason"] == "No window counts: all have ppg_no_pulse or are withheld (low quality)."
    with pytest.raises(ValueError, match="`min_quality` must lie between 0 and 1"):
        predict(signal, min_quality=50)


def test_models_that_were_not_calibrated_answer_as_before(tmp_path):
    predict = pipeline(REGRESSION, model=save_regression(tmp_path, None), sampling_rate=RATE)
    answer = predict(noisy_recording(20))
    assert "interval" not in answer
    assert "interval" not in answer["windows"][0]
    for option in ({"max_width": 10}, {"coverage": 0.9}):
        with pytest.raises(ValueError, match="needs a model that was calibrated"):
            predict(noisy_recording(20), **option)


@pytest.mark.parametrize(
    "damage",
    [
        {"quantiles": {"0.9": [3.0]}},
        {"quantiles": {}},
        {"quantiles": {"0.9": [3.0, float("nan")]}},
        {"quantiles": {"much": [3.0, 5.0]}},
        {"quantiles": None},
        {"floors": []},
        {"window_seconds": [10.0]},
        {"more": 1},
    ],
)
def test_damaged_calibrations_are_refused(tmp_path, damage):
    folder = save_regression(tmp_path, {**CALIBRATION, **damage})
    with pytest.raises(ValueError, match=r"`config.calibration` is damaged"):
        pipeline(REGRESSION, model=folder)


def test_sets_hold_the_classes_that_are_likely_enough(tmp_path):
    names = ["N", "A", "O"]
    calibration = {**CALIBRATION, "quantiles": {"0.9": [0.6]}, "floors": []}
    folder = save_model(tmp_path, id2label=dict(enumerate(names)), calibration=calibration)
    classify = pipeline(CLASSIFICATION, model=folder, sampling_rate=RATE)
    answer = classify(noisy_recording(40))
    for part in (answer, *answer["windows"]):
        likely = {name for name, score in part["scores"].items() if score >= 0.4}
        assert set(part["set"]) == likely | {part["value"]}
    assert answer["coverage"] == 0.9
    sure = classify(noisy_recording(40), max_width=1)
    assert [window["value"] is None for window in sure["windows"]] == [
        len(window["set"]) > 1 for window in answer["windows"]
    ]


def test_a_set_holds_a_class_at_least(tmp_path):
    calibration = {**CALIBRATION, "quantiles": {"0.5": [0.0]}, "floors": []}
    folder = save_model(tmp_path, id2label=dict(enumerate("NAO")), calibration=calibration)
    answer = pipeline(CLASSIFICATION, model=folder, sampling_rate=RATE)(noisy_recording(10))
    assert answer["set"] == [answer["value"]]
