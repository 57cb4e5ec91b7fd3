"""Pipelines: recordings of every form to answers per window and for the whole recording, with and without this package."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import wfdb
from transformers import pipeline

from cmssl_hf import (
    CMSSLEncoderConfig,
    CMSSLEncoderForPreTraining,
    CMSSLEncoderForSequenceClassification,
    CMSSLEncoderModel,
    CMSSLFeatureExtractor,
)
from cmssl_hf.models.cmssl import window_inputs_cmssl
from cmssl_hf.models.cmssl.pipeline_cmssl import weighted_median
from cmssl_hf.models.cmssl.recording_windows_cmssl import window_times
from cmssl_hf.models.cmssl.recordings_cmssl import Recording
from helpers.pipelines import CLASSIFICATION, FEATURES, PATCH, REGRESSION, noisy_recording, save_model, times_of


@pytest.fixture(scope="module")
def heart_rate(tmp_path_factory) -> str:
    return save_model(
        tmp_path_factory.mktemp("heart_rate"),
        problem_type="regression",
        num_labels=1,
        id2label={0: "heart_rate"},
        label2id={"heart_rate": 0},
        label_mean=(70.0,),
        label_std=(10.0,),
        label_unit="bpm",
    )


def by_hand(folder: str, signal: np.ndarray, sampling_rate: float, times, model_class, output) -> np.ndarray:
    """The model's outputs for the windows between `times`, one at a time and without padding beyond whole patches."""
    model = model_class.from_pretrained(folder).eval()
    extractor = CMSSLFeatureExtractor.from_pretrained(folder)
    outputs = []
    for start, end in times:
        window = signal[round(start * sampling_rate) : round(end * sampling_rate)]
        inputs = extractor(ppg=window, sampling_rate=sampling_rate, return_tensors="pt")
        with torch.no_grad():
            outputs.append(model(**inputs)[output][0].numpy())
    return np.array(outputs)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_regression(heart_rate, batch_size):
    predict = pipeline(REGRESSION, model=heart_rate, batch_size=batch_size)
    signal = noisy_recording(47.5)
    answer = predict(signal, sampling_rate=64)
    times = [(0.0, 10.0), (10.0, 20.0), (20.0, 30.0), (30.0, 40.0), (40.0, 47.5)]
    expected = by_hand(heart_rate, signal, 64, times, CMSSLEncoderForSequenceClassification, "logits")[:, 0]
    assert times_of(answer) == times
    values = [window["value"]["heart_rate"] for window in answer["windows"]]
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    assert np.ptp(expected) > 0.01
    # Four windows of 10 s and one of 7.5 s: the third of five sorted values always holds the middle of the weight.
    assert answer["value"]["heart_rate"] == pytest.approx(np.sort(expected)[2], rel=1e-5)
    assert (answer["start"], answer["end"], answer["unit"], answer["usable_share"]) == (0.0, 47.5, "bpm", 1.0)


@pytest.mark.parametrize("at_a_time", [1, 2000])
def test_how_many_windows_are_prepared_at_a_time_makes_no_difference(heart_rate, monkeypatch, at_a_time):
    predict = pipeline(REGRESSION, model=heart_rate)
    signal = noisy_recording(97)
    signal[700:900] = np.nan
    expected = predict(signal, sampling_rate=64)
    monkeypatch.setattr(window_inputs_cmssl, "_SAMPLES_AT_A_TIME", at_a_time)
    answer = predict(signal, sampling_rate=64, batch_size=4)
    assert times_of(answer) == times_of(expected)
    for window, other in zip(answer["windows"], expected["windows"]):
        assert window.get("reason") == other.get("reason")
        assert window["value"] == (None if other["value"] is None else pytest.approx(other["value"], rel=1e-6))
        assert window.get("quality_issues") == other.get("quality_issues")
        assert window.get("quality") == pytest.approx(other.get("quality"), abs=1e-9)


def test_the_window_with_a_sample_that_is_too_large_is_named(heart_rate):
    signal = noisy_recording(50)
    signal[20 * 64 : 30 * 64] *= 1e300
    with pytest.raises(ValueError, match=r"20-30 s: `ppg` .* too large to be processed"):
        pipeline(REGRESSION, model=heart_rate)(signal, sampling_rate=64)


def test_windows_of_the_training(tmp_path):
    """A model says on which windows it was trained; a call may ask for others."""
    predict = pipeline(REGRESSION, model=save_model(tmp_path, num_labels=1, window_seconds=8))
    signal = noisy_recording(20)
    assert times_of(predict(signal, sampling_rate=64)) == [(0.0, 8.0), (8.0, 16.0), (16.0, 20.0)]
    assert times_of(predict(signal, sampling_rate=64, window_seconds=12, stride_seconds=4)) == [
        (0.0, 12.0),
        (4.0, 16.0),
        (8.0, 20.0),
    ]


def test_padding_is_masked_whatever_the_feature_extractor_returns_by_default(tmp_path):
    predict = pipeline(REGRESSION, model=save_model(tmp_path, num_labels=1))
    expected = predict(noisy_recording(15), sampling_rate=64)
    CMSSLFeatureExtractor(patch_size=PATCH, return_attention_mask=False).save_pretrained(tmp_path)
    assert pipeline(REGRESSION, model=str(tmp_path))(noisy_recording(15), sampling_rate=64) == expected


@pytest.mark.parametrize(
    ("seconds", "window", "stride", "expected"),
    [
        (30.0, 10.0, 10.0, [(0, 10), (10, 20), (20, 30)]),
        (10.0, 10.0, 5.0, [(0, 10)]),
        (3.0, 10.0, 10.0, [(0, 3)]),
        (11.0, 4.0, 3.0, [(0, 4), (3, 7), (6, 10), (9, 11)]),
        (21.0, 5.0, 10.0, [(0, 5), (10, 15), (20, 21)]),
        (0.9, 0.3, 0.3, [(0, 0.3), (0.3, 0.6), (0.6, 0.9)]),
    ],
)
def test_window_times(seconds, window, stride, expected):
    whole = Recording("a", {"ppg": np.zeros(round(100 * seconds))}, {"ppg": 100.0})
    np.testing.assert_allclose(list(window_times(whole, window, stride)), expected)


def test_unusable_windows_are_not_answered(heart_rate):
    predict = pipeline(REGRESSION, model=heart_rate)
    signal = noisy_recording(40.1)
    signal[12 * 64 : 13 * 64] = np.nan
    signal[20 * 64 : 26 * 64] = 3.0
    answer = predict(signal, sampling_rate=64)
    assert [window.get("reason") for window in answer["windows"]] == [None, "missing", "flat", None, "short"]
    assert [window["value"] is None for window in answer["windows"]] == [False, True, True, False, True]
    assert answer["usable_share"] == pytest.approx(20 / 40.1, rel=1e-3)
    values = [window["value"]["heart_rate"] for window in answer["windows"] if window["value"]]
    assert answer["value"]["heart_rate"] == pytest.approx(np.mean(values))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"ppg": np.full(640, np.nan), "sampling_rate": 64, "record_id": "p7"}, "recording 'p7' can be used: missing"),
        (np.ones(640), "recording of 640 samples can be used: flat"),
        (np.zeros(0), "recording of 0 samples can be used: empty"),
        ({"ecg": np.ones(640), "sampling_rate": 64}, "reads ppg, but the given recording holds no ppg; it has ecg"),
        (np.ones((2, 640)), r"must be a 1-d array of samples, but has shape \(2, 640\)"),
        ("there_is_no_such_record", "no WFDB header there_is_no_such_record.hea"),
        ("there_is_no_such_file.csv", "There is no file there_is_no_such_file.csv"),
        ({"signal": ["a", "b"], "sampling_rate": 64}, "must be a 1-d array of numbers"),
        (noisy_recording(20) + 1j, "must be a 1-d array of numbers: they are complex"),
        (noisy_recording(20) * 1e300, "recording of 1,280 samples, 0-10 s: .* too large to be processed"),
        ({"signal": noisy_recording(2000, 1.0), "sampling_rate": 1}, "at 1 Hz, holds nothing of the 0.5-8 Hz of ppg"),
    ],
)
def test_refused_inputs(heart_rate, source, message):
    predict = pipeline(REGRESSION, model=heart_rate, sampling_rate=64)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        predict(source)


@pytest.mark.parametrize("rate", [None, 0, -5, float("nan"), float("inf"), "64", [64]])
def test_sampling_rate_is_required(heart_rate, rate):
    with pytest.raises(ValueError, match=r"`sampling_rate` .* recording of 1,280 samples"):
        pipeline(REGRESSION, model=heart_rate)(noisy_recording(20), sampling_rate=rate)


@pytest.mark.parametrize("option", [{"window_seconds": 0}, {"stride_seconds": -1}, {"window_seconds": 0.1},
                                    {"window_seconds": 1e12}, {"stride_seconds": 1e-12}])  # fmt: skip
def test_refused_windows(heart_rate, option):
    with pytest.raises(ValueError, match=next(iter(option))):
        pipeline(REGRESSION, model=heart_rate)(noisy_recording(20), sampling_rate=64, **option)


def test_unknown_parameter(heart_rate):
    with pytest.raises(TypeError, match="no parameter window"):
        pipeline(REGRESSION, model=heart_rate)(noisy_recording(20), sampling_rate=64, window=10)


def test_answers_that_are_no_numbers(heart_rate):
    predict = pipeline(REGRESSION, model=heart_rate)
    torch.nn.init.constant_(predict.model.classifier.out_proj.bias, float("nan"))
    with pytest.raises(ValueError, match="not a number for any window"):
        predict(noisy_recording(20), sampling_rate=64)


def test_lists_and_generators(heart_rate):
    """Batches hold windows of several recordings at several rates; each is answered as if it were alone."""
    predict = pipeline(REGRESSION, model=heart_rate)
    sources = [
        {"signal": noisy_recording(25, 64.0), "sampling_rate": 64.0},
        {"ppg": noisy_recording(4, 62.4725), "ecg": noisy_recording(4), "sampling_rate": 62.4725, "subject_id": "s1"},
        {"ppg": torch.from_numpy(noisy_recording(31, 300.0)), "sampling_rate": 300},
    ]
    alone = [predict(source)["value"]["heart_rate"] for source in sources]
    for together in (predict(sources, batch_size=3), list(predict((source for source in sources), batch_size=2))):
        np.testing.assert_allclose([answer["value"]["heart_rate"] for answer in together], alone, rtol=1e-5)
        assert [len(answer["windows"]) for answer in together] == [3, 1, 4]


def write_wfdb(folder, name: str, signals: dict[str, np.ndarray], sampling_rate: float) -> str:
    wfdb.wrsamp(
        name,
        fs=sampling_rate,
        units=["mV"] * len(signals),
        sig_name=list(signals),
        p_signal=np.stack(list(signals.values()), axis=1),
        fmt=["32"] * len(signals),
        write_dir=str(folder),
    )
    return str(folder / name)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_answers_hold_their_recording_when_asked(heart_rate, batch_size):
    predict = pipeline(REGRESSION, model=heart_rate, batch_size=batch_size)
    signals = [noisy_recording(seconds, seed=seed) for seed, seconds in enumerate((25, 12, 31))]
    signals[1][100:103] = np.nan
    sources = [*signals[:2], np.full(1000, 3.0), signals[2]]
    answers = predict(sources, sampling_rate=64, return_recording=True, on_error="skip")
    assert "recording" not in answers.pop(2)
    for answer, signal, plain in zip(answers, signals, predict(signals, sampling_rate=64)):
        recording = answer.pop("recording")
        np.testing.assert_array_equal(recording.signals["ppg"], signal)
        assert recording.sampling_rates == {"ppg": 64.0}
        assert answer == plain


def test_wfdb(heart_rate, tmp_path):
    pleth, other = noisy_recording(25, 125.0, seed=1), noisy_recording(25, 125.0, seed=2)
    path = write_wfdb(tmp_path, "r1", {"II": other, "PLETH": pleth, "RESP": other}, 125)
    predict = pipeline(REGRESSION, model=heart_rate)
    expected = predict(pleth, sampling_rate=125)["value"]["heart_rate"]
    for source in (path, f"{path}.hea", {"path": path}):
        assert predict(source)["value"]["heart_rate"] == pytest.approx(expected, rel=1e-4)
    expected = predict(other, sampling_rate=125)["value"]["heart_rate"]
    assert predict(path, column="RESP")["value"]["heart_rate"] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match=r"r1\.hea has no signal called 'BVP'; it has II, PLETH, RESP"):
        predict(path, column="BVP")
    with pytest.raises(ValueError, match=r"states .*125.0.* Hz, but `sampling_rate` is 64"):
        predict(path, sampling_rate=64)
    (tmp_path / "r2.hea").write_text("not a header")
    with pytest.raises(ValueError, match=r"r2\.hea cannot be read"):
        predict(str(tmp_path / "r2"))


def test_csv(heart_rate, tmp_path):
    signal = noisy_recording(25)
    file = tmp_path / "watch.csv"
    cells = [f"{index / 64:.4f}, {value:.17g}" for index, value in enumerate(signal)]
    cells[70:80] = [f"{index / 64:.4f}, off" for index in range(70, 80)]
    file.write_text("\n".join(["Time [s], PLETH", *cells]))
    predict = pipeline(REGRESSION, model=heart_rate)
    with_gap = signal.copy()
    with_gap[70:80] = np.nan
    expected = predict(with_gap, sampling_rate=64)
    answer = predict({"path": file, "sampling_rate": 64})
    assert answer == expected
    assert answer["windows"][0]["reason"] == "missing"
    assert predict(str(file), sampling_rate=64, column="PLETH") == expected
    # The times state the rate, to four digits.
    assert predict(str(file))["value"]["heart_rate"] == pytest.approx(expected["value"]["heart_rate"], rel=1e-3)
    with pytest.raises(ValueError, match=r"watch\.csv has no signal called 'ppg'"):
        predict(str(file), sampling_rate=64, column="ppg")
    file.write_text("")
    with pytest.raises(ValueError, match=r"watch\.csv cannot be read as a table: it is empty"):
        predict(str(file), sampling_rate=64)


def test_blood_pressure(tmp_path):
    names = {0: "systolic_pressure", 1: "diastolic_pressure"}
    folder = save_model(
        tmp_path, problem_type="regression", id2label=names, label_mean=(120.0, 80.0), label_std=5.0, label_unit="mmHg"
    )
    signal = noisy_recording(30)
    answer = pipeline(REGRESSION, model=folder)(signal, sampling_rate=64)
    expected = by_hand(folder, signal, 64, times_of(answer), CMSSLEncoderForSequenceClassification, "logits")
    assert answer["unit"] == "mmHg"
    assert answer["value"] == pytest.approx(dict(zip(names.values(), np.median(expected, axis=0))), rel=1e-5)


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
def test_classification(tmp_path, problem_type):
    names = ["N", "A", "O"]
    folder = save_model(tmp_path, problem_type=problem_type, id2label=dict(enumerate(names)))
    signal = noisy_recording(25)
    answer = pipeline(CLASSIFICATION, model=folder)(signal, sampling_rate=64)
    logits = by_hand(folder, signal, 64, times_of(answer), CMSSLEncoderForSequenceClassification, "logits")
    if problem_type == "multi_label_classification":
        expected = 1 / (1 + np.exp(-logits))
    else:
        expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for window, scores in zip(answer["windows"], expected):
        assert window["scores"] == pytest.approx(dict(zip(names, scores)), rel=1e-4)
    mean = (10 * expected[0] + 10 * expected[1] + 5 * expected[2]) / 25
    assert answer["scores"] == pytest.approx(dict(zip(names, mean)), rel=1e-4)
    if problem_type == "multi_label_classification":
        assert answer["value"] == [name for name, score in zip(names, mean) if score >= 0.5]
        strict = pipeline(CLASSIFICATION, model=folder, threshold=1.0)
        assert strict(signal, sampling_rate=64)["value"] == []
        assert strict(signal, sampling_rate=64, threshold=0.0)["value"] == names
    else:
        assert answer["value"] == names[int(mean.argmax())]


def test_features(heart_rate):
    signal = noisy_recording(25)
    answer = pipeline(FEATURES, model=heart_rate)(signal, sampling_rate=64)
    expected = by_hand(heart_rate, signal, 64, times_of(answer), CMSSLEncoderModel, "pooler_output")
    np.testing.assert_allclose([window["value"] for window in answer["windows"]], expected, atol=1e-5)
    np.testing.assert_allclose(answer["value"], np.average(expected, axis=0, weights=[10, 10, 5]), atol=1e-5)


def test_two_channels(tmp_path):
    folder = save_model(tmp_path, CMSSLEncoderModel, channels=("ecg", "ppg"))
    # A sine is no ECG with a pulse.
    extract = pipeline(FEATURES, model=folder, excluded_issues=())
    ecg, ppg = noisy_recording(25, 125.0, seed=1), noisy_recording(25, 125.0, seed=2)
    expected = extract({"ecg": ecg, "ppg": ppg, "sampling_rate": 125})["value"]
    path = write_wfdb(tmp_path, "r1", {"PLETH": ppg, "V": ecg}, 125)
    np.testing.assert_allclose(extract(path)["value"], expected, atol=1e-3)
    np.testing.assert_allclose(extract(path, column={"ecg": "PLETH"})["value"].shape, expected.shape)
    with pytest.raises(ValueError, match="must give a name for each"):
        extract(path, column="V")
    with pytest.raises(ValueError, match="holds no ecg"):
        extract({"ppg": ppg, "sampling_rate": 125})


def test_models_of_another_kind(heart_rate, tmp_path):
    with pytest.raises(
        ValueError, match="`problem_type` is 'regression', but physiological-signal-classification needs"
    ):
        pipeline(CLASSIFICATION, model=heart_rate)
    pretrained = save_model(tmp_path, CMSSLEncoderForPreTraining, num_labels=1)
    with pytest.raises(ValueError, match="is a CMSSLEncoderForPreTraining: it was not fine-tuned"):
        pipeline(REGRESSION, model=pretrained)


@pytest.mark.parametrize(
    ("values", "weights", "expected"),
    [
        ([3, 1, 2], [1, 1, 1], 2),
        ([1, 2], [1, 1], 1.5),
        ([1, 2, 3], [1, 1, 10], 3),
        ([5], [0.1], 5),
        ([1, 2], [3, 1], 1),
    ],
)
def test_weighted_median(values, weights, expected):
    assert weighted_median(np.array(values, float), np.array(weights, float)) == expected


WITHOUT_THIS_PACKAGE = """
import json
import sys

class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "cmssl_hf":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Nowhere())

import numpy as np
from transformers import pipeline

folder, signal = sys.argv[1], np.load(sys.argv[2])
predict = pipeline("physiological-signal-regression", model=folder, trust_remote_code=True)
extract = pipeline("physiological-signal-feature-extraction", model=folder, trust_remote_code=True)
value = predict(signal, sampling_rate=64, batch_size=2)["value"]
features = extract(signal, sampling_rate=64)["value"].tolist()
assert not any(name.startswith("cmssl_hf") for name in sys.modules)
print(json.dumps([value, features]))
"""


def test_remote_code(heart_rate, tmp_path, monkeypatch):
    for loaded, auto_class in (
        (CMSSLEncoderConfig, "AutoConfig"),
        (CMSSLEncoderForSequenceClassification, "AutoModelForSequenceClassification"),
        (CMSSLFeatureExtractor, "AutoFeatureExtractor"),
    ):
        monkeypatch.setattr(loaded, "_auto_class", auto_class)
    folder = tmp_path / "with_code"
    CMSSLEncoderForSequenceClassification.from_pretrained(heart_rate).save_pretrained(folder)
    CMSSLFeatureExtractor.from_pretrained(heart_rate).save_pretrained(folder)
    signal = noisy_recording(25)
    np.save(tmp_path / "signal.npy", signal)
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_THIS_PACKAGE, str(folder), str(tmp_path / "signal.npy")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")},
    )
    assert result.returncode == 0, result.stderr
    value, features = json.loads(result.stdout)
    # The same folder needs no trust where this package is installed.
    assert value == pytest.approx(pipeline(REGRESSION, model=str(folder))(signal, sampling_rate=64)["value"], rel=1e-5)
    expected = pipeline(FEATURES, model=str(folder))(signal, sampling_rate=64)["value"]
    np.testing.assert_allclose(features, expected, atol=1e-5)
