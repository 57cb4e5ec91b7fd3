"""What is deleted where attributions are large changes an answer more than what is deleted elsewhere."""

import numpy as np
import pytest
import torch
from transformers import pipeline

import cmssl_hf
from cmssl_hf.building.simulation import draw_subject, simulate_recording
from cmssl_hf.evaluation.attributions import attribute
from helpers.pipelines import CLASSIFICATION, REGRESSION, noisy_recording, save_model


DELETED, NUM_RANDOM = 0.2, 20


@pytest.fixture(scope="module")
def person():
    rng = np.random.default_rng(7)
    return simulate_recording(draw_subject(rng, arrhythmia_share=0.0), 40.0, 125.0, rng)


def outputs_of(predict, signals, label):
    names = list(predict.model.config.id2label.values())
    values = torch.tensor(np.array(signals), dtype=torch.float32)[:, None]
    with torch.no_grad():
        return predict.model(input_values=values).logits[:, names.index(label)].numpy()


def with_deleted(signal, pieces):
    """A signal of which these pieces of 0.1 s are straight lines."""
    deleted = np.isin(np.arange(len(signal)) * 10 // 125, pieces)
    kept = np.flatnonzero(~deleted)
    return np.interp(np.arange(len(signal)), kept, signal[kept])


@pytest.mark.parametrize(
    ("task", "model", "channel"), [(REGRESSION, "heart-rate", "ppg"), (CLASSIFICATION, "rhythm", "ecg")]
)
def test_deletion_by_attributions_beats_random_deletion(task, model, channel, person):
    predict = pipeline(task, model=cmssl_hf.pretrained(model))
    rng = np.random.default_rng(0)
    by_attribution, at_random = [], []
    for window in attribute(predict, getattr(person, channel), sampling_rate=125, window_seconds=10, num_steps=16):
        signal, values = window.signals[channel], window.attributions[channel]
        pieces = np.arange(len(signal)) * 10 // 125
        strength = np.bincount(pieces, np.abs(values))
        number = round(DELETED * len(strength))
        largest = np.argsort(-strength)[:number]
        chosen = [largest, *(rng.permutation(len(strength))[:number] for _ in range(NUM_RANDOM))]
        changed = [with_deleted(signal, pieces) for pieces in chosen]
        before, *after = outputs_of(predict, [signal, *changed], window.label)
        assert before == pytest.approx(window.output, rel=1e-3)
        by_attribution.append(abs(after[0] - before))
        at_random += [abs(output - before) for output in after[1:]]
    assert len(by_attribution) == 4
    assert np.mean(by_attribution) > 1.5 * np.mean(at_random)


def test_attributions_add_up_to_the_difference_from_a_flat_signal(tmp_path):
    folder = save_model(tmp_path / "model", num_labels=3, problem_type="single_label_classification")
    predict = pipeline(CLASSIFICATION, model=folder)
    windows = attribute(predict, noisy_recording(25), sampling_rate=64, window_seconds=10, num_steps=200)
    assert [window.start for window in windows] == [0.0, 10.0, 20.0]
    for window in windows:
        # The last one is padded, and padding has no attribution.
        assert len(window.times()) == len(window.attributions["ppg"]) == len(window.signals["ppg"])
        (flat,) = outputs_of(predict, [np.zeros(len(window.times()))], window.label)
        assert window.attributions["ppg"].sum() == pytest.approx(window.output - flat, rel=0.02, abs=1e-3)
    assert windows[-1].times()[-1] == pytest.approx(25, abs=0.2)


def test_a_linear_model_has_its_weights_times_the_signal(tmp_path, monkeypatch):
    predict = pipeline(REGRESSION, model=save_model(tmp_path / "model", num_labels=1, problem_type="regression"))
    weights = torch.linspace(-1, 1, 1250)

    def forward(input_values, attention_mask=None, **_):
        return type("Output", (), {"logits": (input_values[:, 0] * weights).sum(-1, keepdim=True)})

    monkeypatch.setattr(predict.model, "forward", forward)
    (window,) = attribute(predict, noisy_recording(10), sampling_rate=64)
    np.testing.assert_allclose(
        window.attributions["ppg"], window.signals["ppg"] * weights.numpy(), rtol=1e-4, atol=1e-6
    )


def test_labels_are_named(tmp_path):
    folder = save_model(tmp_path / "model", num_labels=2, problem_type="single_label_classification")
    predict = pipeline(CLASSIFICATION, model=folder)
    recording = noisy_recording(10)
    answer = predict(recording, sampling_rate=64)
    (likeliest,) = attribute(predict, recording, sampling_rate=64, num_steps=2)
    assert likeliest.label == answer["value"]
    other = "LABEL_0" if answer["value"] == "LABEL_1" else "LABEL_1"
    assert attribute(predict, recording, label=other, sampling_rate=64, num_steps=2)[0].label == other
    with pytest.raises(ValueError, match="no label 'afib'; it has LABEL_0, LABEL_1"):
        attribute(predict, recording, label="afib", sampling_rate=64)
