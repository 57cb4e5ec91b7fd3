"""Probes: targets against a simulator that knows them, and an encoder that carries one of them."""

import numpy as np
import pytest
import torch

from cmssl_hf import CMSSLEncoderModel
from cmssl_hf.building.simulation import draw_subject, simulate_recording
from cmssl_hf.signals import standardize
from cmssl_hf.training.probes import probe_encoder, probe_targets
from helpers.tiny import encoder_config, windows_dataset


def recording(seed):
    rng = np.random.default_rng(seed)
    return simulate_recording(draw_subject(rng, arrhythmia_share=0.0), 30, 125, rng)


@pytest.mark.parametrize("seed", range(4))
def test_targets_are_those_of_the_simulator(seed):
    truth = recording(seed)
    targets = probe_targets(np.stack([truth.ecg, truth.ppg]), ("ecg", "ppg"), 125)
    intervals = np.diff(truth.beat_times)
    assert targets["heart_rate"] == pytest.approx(60 / np.median(intervals), rel=0.02)
    assert targets["interval_variation"] == pytest.approx(np.std(intervals) / np.mean(intervals), abs=0.02)
    alone = probe_targets(truth.ppg[None], ("ppg",), 125)
    assert alone["heart_rate"] == pytest.approx(targets["heart_rate"], rel=0.02)
    assert "pulse_transit_time" not in alone


def test_transit_time_follows_a_delay_of_the_pulses():
    truth = recording(0)
    window = np.stack([truth.ecg, truth.ppg])[:, 250:3500]
    later = window.copy()
    later[1] = truth.ppg[240:3490]  # 10 samples of 8 ms
    before, after = (probe_targets(w, ("ecg", "ppg"), 125)["pulse_transit_time"] for w in (window, later))
    assert after - before == pytest.approx(80, abs=10)


def test_flat_windows_have_no_targets():
    assert all(np.isnan(value) for value in probe_targets(np.zeros((2, 1250)), ("ecg", "ppg"), 125).values())


def test_probe_finds_what_the_encoder_carries(monkeypatch):
    """An encoder whose output is the target itself is read perfectly; one that knows nothing is not."""
    windows = [
        np.stack([standardize(r.ecg[:1250]), standardize(r.ppg[:1250])]).astype(np.float32)
        for r in map(recording, range(24))
    ]
    train, validation = windows_dataset(windows[:16]), windows_dataset(windows[16:])
    encoder = CMSSLEncoderModel(encoder_config())
    rates = torch.tensor([probe_targets(w, ("ecg", "ppg"), 125)["heart_rate"] for w in windows])
    known = {w[1].tobytes(): rate for w, rate in zip(windows, rates)}

    def forward(input_values, attention_mask=None):
        rate = torch.stack([known[row[0].numpy().tobytes()] for row in input_values])
        output = torch.nn.functional.one_hot(torch.zeros(len(rate), dtype=torch.long), 16) * rate[:, None]
        return type("Output", (), {"pooler_output": output.float()})

    monkeypatch.setattr(encoder, "forward", forward)
    metrics = probe_encoder(encoder, train, validation, channels=("ecg", "ppg"), channel="ppg")
    assert metrics["probe_heart_rate_r2"] > 0.99
    assert set(metrics) == {
        "probe_heart_rate_r2",
        "probe_interval_variation_r2",
        "probe_pulse_transit_time_r2",
    }
