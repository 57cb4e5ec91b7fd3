"""Windows that are answered while they are recorded, as they are in the whole recording."""

import numpy as np
import pytest
from transformers import pipeline

from helpers.pipelines import FEATURES, REGRESSION, noisy_recording, save_model


CALIBRATION = {
    "quantiles": {"0.9": [3.0]},
    "floors": [0.5],
    "window_seconds": [10.0, 10.0],
    "num_subjects": 12,
    "num_windows": 360,
}


@pytest.fixture(scope="module")
def predict(tmp_path_factory):
    folder = save_model(
        tmp_path_factory.mktemp("rate"), problem_type="regression", id2label={0: "heart_rate"}, label_mean=70.0,
        label_std=10.0, label_unit="bpm", calibration=CALIBRATION,
    )  # fmt: skip
    return pipeline(REGRESSION, model=folder)


def with_gaps(seconds: float, sampling_rate: float) -> np.ndarray:
    """Single samples are missing, also across the borders of windows, and longer pieces."""
    signal = noisy_recording(seconds, sampling_rate)
    for start, length in ((0, 2), (3.0, 1), (9.98, 3), (20.0, 3), (29.9, 60), (41.0, 200), (49.95, 4), (59.99, 1)):
        first = round(start * sampling_rate)
        signal[first : first + length] = np.nan
    signal[-3:] = np.nan
    return signal


def chunks_of(signal: np.ndarray, sizes) -> list[np.ndarray]:
    ends = np.cumsum(sizes)
    return np.split(signal, ends[ends < len(signal)])


def assert_same(streamed: list[dict], offline: list[dict]) -> None:
    assert len(streamed) == len(offline)
    for one, other in zip(streamed, offline):
        assert one.keys() == other.keys()
        assert (one["start"], one["end"]) == pytest.approx((other["start"], other["end"]), abs=1e-6)
        assert (one.get("reason"), one.get("quality_issues")) == (other.get("reason"), other.get("quality_issues"))
        if one["value"] is not None:
            assert one["value"] == pytest.approx(other["value"], abs=1e-6)
            assert one["quality"] == pytest.approx(other["quality"], abs=1e-6)
            if other["interval"] is not None:
                assert one["interval"]["heart_rate"] == pytest.approx(other["interval"]["heart_rate"], abs=1e-6)


@pytest.mark.parametrize(
    ("sampling_rate", "windows"),
    [
        (64, {}),
        (62.4725, {"window_seconds": 10, "stride_seconds": 6}),
        (62.4725, {"window_seconds": 5, "stride_seconds": 8}),
    ],
)
def test_windows_are_answered_as_in_the_whole_recording(predict, sampling_rate, windows):
    signal = with_gaps(67.3, sampling_rate)
    offline = predict(signal, sampling_rate=sampling_rate, **windows)["windows"]
    assert {"missing", None} <= {window.get("reason") for window in offline}
    assert any("ppg_filled" in window.get("quality_issues", []) for window in offline)
    stream = predict.stream(sampling_rate=sampling_rate, **windows)
    sizes = np.random.default_rng(0).integers(0, 150, 200)
    streamed = [window for chunk in chunks_of(signal, sizes) for window in stream.push(chunk)]
    assert len(streamed) >= len(offline) - 2
    assert_same(streamed + stream.finish(), offline)


def test_chunks_make_no_difference(predict):
    signal = with_gaps(31, 64)
    offline = predict(signal, sampling_rate=64)["windows"]
    for size in (1, 640, len(signal)):
        stream = predict.stream(sampling_rate=64)
        streamed = [
            window for start in range(0, len(signal), size) for window in stream.push(signal[start : start + size])
        ]
        assert_same(streamed + stream.finish(), offline)


def test_a_window_is_answered_with_its_last_sample(predict):
    stream = predict.stream(sampling_rate=64)
    signal = noisy_recording(20)
    assert stream.push(signal[:639]) == []
    (window,) = stream.push(signal[639:640])
    assert (window["start"], window["end"]) == (0, 10)
    # It ends in a gap: what comes next decides.
    signal[1278:] = np.nan
    assert stream.push(signal[640:]) == []
    (window,) = stream.push(noisy_recording(1)[:1])
    assert window["quality_issues"] == ["ppg_filled"]


def test_memory_is_constant(predict):
    stream = predict.stream(sampling_rate=64)
    sizes = []
    for second in range(60):
        stream.push(np.full(64, np.nan) if 20 <= second < 40 else noisy_recording(1, seed=second))
        sizes.append(sum(samples.size for samples in stream._kept.values()))
    assert max(sizes) <= 10 * 64 + 64 + 16


def test_answers_are_withheld_on_request(predict):
    stream = predict.stream(sampling_rate=64, max_width=1e-6, min_quality=0.5)
    noise = np.random.default_rng(0).standard_normal(640)
    windows = stream.push(np.concatenate([noisy_recording(10), noise]))
    assert [window["reason"] for window in windows] == ["too wide", "low quality"]
    assert all(window["value"] is None for window in windows)


def test_samples_that_are_too_large_do_not_end_a_stream(predict):
    stream = predict.stream(sampling_rate=64)
    windows = stream.push(np.concatenate([noisy_recording(10) * 1e300, noisy_recording(10)]))
    assert [window["value"] is None for window in windows] == [True, False]
    assert "too large to be processed" in windows[0]["reason"]


def test_two_signals_need_not_be_equally_far(tmp_path):
    extract = pipeline(FEATURES, model=save_model(tmp_path, channels=("ecg", "ppg")), excluded_issues=())
    ecg, ppg = noisy_recording(20, 250.0, seed=1), noisy_recording(20, 64.0, seed=2)
    stream = extract.stream(sampling_rate={"ecg": 250, "ppg": 64})
    assert stream.push({"ecg": ecg}) == []
    windows = stream.push({"ppg": ppg[:700], "ecg": []}) + stream.push({"ppg": ppg[700:]})
    assert [window["end"] for window in windows] == [10, 20]
    single = features_of(extract, ecg[:2500], ppg[:640])
    np.testing.assert_allclose(windows[0]["value"], single, atol=1e-6)
    with pytest.raises(ValueError, match="give a dictionary"):
        stream.push(ppg)
    with pytest.raises(ValueError, match="not of eda"):
        stream.push({"eda": ppg})


def features_of(extract, ecg: np.ndarray, ppg: np.ndarray) -> np.ndarray:
    """The features of one window by the model itself."""
    inputs = extract.feature_extractor(ecg=ecg, ppg=ppg, sampling_rate={"ecg": 250, "ppg": 64}, return_tensors="pt")
    return extract.model(**inputs).pooler_output[0].detach().numpy()


def test_the_end_of_a_stream(predict):
    stream = predict.stream(sampling_rate=64)
    assert stream.finish() == []
    with pytest.raises(ValueError, match="has ended"):
        stream.push(noisy_recording(1))


@pytest.mark.parametrize("samples", [np.ones((2, 5)), 3.0, ["a"], [1j]])
def test_refused_samples(predict, samples):
    with pytest.raises(ValueError, match="Samples of ppg must be a 1-d array of numbers"):
        predict.stream(sampling_rate=64).push(samples)


@pytest.mark.parametrize("rate", [None, 0, "64", float("nan"), {"ecg": 64}])
def test_a_stream_needs_a_rate(predict, rate):
    with pytest.raises(ValueError, match="A stream needs `sampling_rate`"):
        predict.stream(sampling_rate=rate)
