"""What a pipeline's answer rests on: windows that do not count, samples that were missing, recordings that cannot be read."""

import re

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import pipeline

from cmssl_hf import CMSSLFeatureExtractor, CMSSLTokenizerModel
from helpers.pipelines import CLASSIFICATION, FEATURES, REGRESSION, noisy_recording, save_model, times_of
from helpers.tiny import tokenizer_config


NOISE = np.random.default_rng(0).standard_normal(64 * 20)
FLAT = np.zeros(64 * 20)


def pulse(seconds: float, sampling_rate: float = 64.0) -> np.ndarray:
    """A PPG: it rises three times as fast as it falls."""
    phase = (1.2 * np.arange(round(seconds * sampling_rate)) / sampling_rate) % 1
    return np.where(phase < 0.25, phase / 0.25, (1 - phase) / 0.75)


@pytest.fixture(scope="module")
def predict(tmp_path_factory):
    folder = save_model(
        tmp_path_factory.mktemp("heart_rate"), problem_type="regression", num_labels=1, id2label={0: "heart_rate"},
        label_mean=(70.0,), label_std=(10.0,), label_unit="bpm",
    )  # fmt: skip
    return pipeline(REGRESSION, model=folder, sampling_rate=64)


def rate(part: dict) -> float:
    return part["value"]["heart_rate"]


def test_windows_without_a_pulse_do_not_count(predict):
    answer = predict(np.concatenate([pulse(10), NOISE]))
    assert [window["quality_issues"] for window in answer["windows"]] == [[], ["ppg_no_pulse"], ["ppg_no_pulse"]]
    assert rate(answer) == rate(answer["windows"][0]) == pytest.approx(rate(predict(pulse(10))), rel=1e-5)
    assert len({rate(window) for window in answer["windows"]}) == 3
    assert answer["usable_share"] == pytest.approx(1 / 3)
    assert answer["quality_issues"] == ["ppg_no_pulse"]
    all_count = predict(np.concatenate([pulse(10), NOISE]), excluded_issues=())
    assert all_count["usable_share"] == 1
    assert rate(all_count) == np.median([rate(window) for window in answer["windows"]])


@pytest.mark.parametrize("kind", ["noise", "mains"])
def test_noise_has_no_rate(predict, kind):
    signal = NOISE if kind == "noise" else np.sin(2 * np.pi * 50 * np.arange(1280) / 64) + 1e-3 * NOISE
    answer = predict(signal)
    assert answer["value"] is None
    assert answer["usable_share"] == 0
    assert answer["reason"] == "No window counts: all have ppg_no_pulse."
    assert all(np.isfinite(rate(window)) for window in answer["windows"])


def test_ppg_upside_down_is_said(predict):
    upright, turned = predict(pulse(25)), predict(-pulse(25))
    assert upright["quality_issues"] == []
    assert turned["quality_issues"] == ["ppg_inverted"]
    assert turned["value"] is None
    assert turned["reason"].endswith("Turn the PPG over: give it times -1.")
    assert rate(predict(-pulse(25), excluded_issues=["ppg_no_pulse"])) != rate(upright)


@pytest.mark.parametrize("issues", ["ppg_no_pulse", ["no_pulse"], ["ecg_no_pulse"]])
def test_unknown_issues_are_refused(predict, issues):
    with pytest.raises(ValueError, match=r"`excluded_issues` must be a list of .*ppg_no_pulse"):
        predict(pulse(10), excluded_issues=issues)


def test_rhythms_without_a_pulse_count(tmp_path):
    """Atrial fibrillation is no periodic rhythm, and noise may be a class."""
    classify = pipeline(
        CLASSIFICATION, model=save_model(tmp_path, id2label=dict(enumerate(["N", "A", "~"]))), sampling_rate=64
    )
    answer = classify(np.concatenate([pulse(10), NOISE]))
    assert answer["usable_share"] == 1
    assert answer["quality_issues"] == ["ppg_no_pulse"]
    for name in ("N", "A", "~"):
        mean = np.mean([window["scores"][name] for window in answer["windows"]])
        assert answer["scores"][name] == pytest.approx(mean, rel=1e-5)
    turned = classify(-pulse(20))
    assert turned["value"] is turned["scores"] is None
    assert classify(NOISE, excluded_issues=["ppg_no_pulse"])["value"] is None


def test_features_of_windows_without_a_pulse_do_not_count(tmp_path):
    extract = pipeline(FEATURES, model=save_model(tmp_path), sampling_rate=64)
    answer = extract(np.concatenate([pulse(10), NOISE]))
    np.testing.assert_allclose(answer["value"], answer["windows"][0]["value"], rtol=1e-6)
    assert extract(NOISE)["value"] is None


def test_single_missing_samples_cost_no_window(predict):
    whole = noisy_recording(30)
    signal = whole.copy()
    signal[[5, 700]] = np.nan
    answer = predict(signal)
    assert answer["usable_share"] == 1
    assert [window["quality_issues"] for window in answer["windows"]] == [["ppg_filled"], ["ppg_filled"], []]
    assert rate(answer) == pytest.approx(rate(predict(whole)), abs=0.5)
    assert rate(answer["windows"][2]) == rate(predict(whole)["windows"][2])


def test_gaps_that_are_not_filled_are_described(predict):
    signal = noisy_recording(20)
    signal[3], signal[128:192], signal[1000:1032] = np.nan, np.nan, np.inf
    with pytest.raises(
        ValueError,
        match=r"can be used: missing\. Of ppg, 97 of 1,280 samples are missing .* in 3 gaps, the longest at 2-3 s",
    ):
        predict(signal)
    # Each of a second of which a third is missing.
    sparse = noisy_recording(20)
    sparse[::3] = np.nan
    with pytest.raises(ValueError, match=r"427 of 1,280 samples .* no window with more than 25%"):
        predict(sparse)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_one_bad_recording_does_not_end_the_others(predict, tmp_path, batch_size):
    huge = noisy_recording(30)
    huge[1000:] *= 1e300
    sources = [
        noisy_recording(25),
        FLAT,
        noisy_recording(10),
        {"eda": FLAT},
        tmp_path / "nowhere.csv",
        huge,
        np.ones((2, 9)),
        noisy_recording(15),
    ]
    reasons = {
        1: "recording of 1,280 samples can be used: flat",
        3: "holds no ppg; it has eda",
        4: "There is no file .*nowhere.csv",
        5: "20-30 s: .* too large",
        6: "1-d array",
    }
    options = {"on_error": "skip", "batch_size": batch_size}
    for answers in (predict(sources, **options), list(predict(iter(sources), **options))):
        assert len(answers) == len(sources)
        for number, (source, answer) in enumerate(zip(sources, answers)):
            if number in reasons:
                assert answer["value"] is None
                assert (answer["usable_share"], answer["windows"]) == (0.0, [])
                assert re.search(reasons[number], answer["reason"])
            else:
                assert rate(answer) == pytest.approx(rate(predict(source)), rel=1e-5)
                assert times_of(answer) == times_of(predict(source))
    assert predict(FLAT, on_error="skip")["value"] is None


def test_error_says_which_recording(predict, tmp_path):
    for sources in ([noisy_recording(10), FLAT], (source for source in [noisy_recording(10), FLAT])):
        with pytest.raises(
            ValueError, match="Recording 1 of those given: No window of the given recording of 1,280 samples"
        ):
            list(predict(sources))
    with pytest.raises(FileNotFoundError, match="Recording 0 of those given: There is no file"):
        predict([tmp_path / "nowhere.csv"])
    with pytest.raises(ValueError, match="`on_error` must be 'raise' or 'skip'"):
        predict(FLAT, on_error="ignore")
    assert predict([]) == []


def test_answers_that_are_no_numbers_are_skipped(tmp_path):
    predict = pipeline(REGRESSION, model=save_model(tmp_path, num_labels=1), sampling_rate=64, on_error="skip")
    predict.model.classifier.out_proj.bias.data.fill_(np.nan)
    (answer,) = predict([noisy_recording(10)])
    assert answer["value"] is None
    assert "not a number for any window" in answer["reason"]


def test_rows_of_a_dataset(predict):
    rows = Dataset.from_dict(
        {"signal": [noisy_recording(10), noisy_recording(20)], "sampling_rate": [64.0, 32.0], "subject_id": ["a", "b"]}
    )
    answers = list(predict(rows, batch_size=2))
    assert [rate(answer) for answer in answers] == pytest.approx([rate(predict(row)) for row in rows], rel=1e-5)
    assert [answer["end"] for answer in answers] == [10, 40]


def test_tokenizers_are_refused(tmp_path):
    CMSSLTokenizerModel(tokenizer_config()).save_pretrained(tmp_path)
    CMSSLFeatureExtractor(channels=("ecg", "ppg"), patch_size=25).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a tokenizer: call `encode`"):
        pipeline(FEATURES, model=str(tmp_path))


class Windows(torch.utils.data.Dataset):
    """One whose rows do not end, but for its length."""

    def __len__(self):
        return 3

    def __getitem__(self, row):
        return {"signal": FLAT if row == 1 else pulse(10), "sampling_rate": 64}


def test_a_dataset_of_torch_ends_with_its_length(predict):
    assert [answer["value"] is None for answer in predict(Windows(), on_error="skip")] == [False, True, False]
    with pytest.raises(ValueError, match="Recording 1 of those given"):
        list(predict(Windows()))


def test_seconds_must_be_numbers(predict):
    with pytest.raises(ValueError, match="`window_seconds` must be a positive number of seconds, but is '10'"):
        predict(pulse(10), window_seconds="10")
