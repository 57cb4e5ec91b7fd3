"""Beats of reconstructions against signals whose beats are known."""

import numpy as np
import pytest
import torch

from cmssl_hf import CMSSLTokenizerModel
from cmssl_hf.building.simulation import draw_subject, simulate_recording
from cmssl_hf.data.batches import WindowsDataset
from cmssl_hf.signals import detect_pulse_onsets
from cmssl_hf.training.reconstruction import beat_metrics, match_beats, reconstruction_report
from helpers.tiny import tokenizer_config, waves, windows_dataset


@pytest.fixture(scope="module")
def recording():
    subject = draw_subject(np.random.default_rng(3), arrhythmia_share=0.0)
    return simulate_recording(subject, 60, 125, np.random.default_rng(4))


@pytest.mark.parametrize(
    ("reference", "found", "distances"),
    [
        ([10, 20, 30], [12, 19, 30], [2, -1, 0]),
        ([10, 20], [14], [4]),  # the nearer of two
        ([10, 20], [10, 11, 20], [0, 0]),  # an extra one matches nothing
        ([10], [16], []),  # too far
        ([], [1], []),
        ([1], [], []),
    ],
)
def test_beats_are_matched_one_to_one(reference, found, distances):
    assert match_beats(np.array(reference), np.array(found), 5).tolist() == distances


def test_shifted_signals_have_shifted_beats(recording):
    windows = [np.stack([recording.ecg, recording.ppg])[:, start : start + 1250] for start in (0, 2000, 4000)]
    shifted = [np.roll(window, 5, axis=-1) for window in windows]
    metrics = beat_metrics(windows, shifted, ("ecg", "ppg"), 125)
    # 5 samples of 8 ms; the ends of the windows are joined by the shift.
    assert metrics["ecg_r_peak_error_ms"] == pytest.approx(40, abs=2)
    assert metrics["ppg_pulse_onset_error_ms"] == pytest.approx(40, abs=2)
    assert metrics["ecg_r_peak_f1"] > 0.9
    assert metrics["ppg_pulse_onset_f1"] > 0.9
    same = beat_metrics(windows, windows, ("ecg", "ppg"), 125)
    assert same == {
        "ecg_r_peak_error_ms": 0,
        "ecg_r_peak_f1": 1,
        "ppg_pulse_onset_error_ms": 0,
        "ppg_pulse_onset_f1": 1,
    }


def test_reconstruction_without_beats_finds_none(recording):
    window = recording.ppg[None, :1250]
    metrics = beat_metrics([window], [np.zeros_like(window)], ("ppg",), 125)
    assert np.isnan(metrics["ppg_pulse_onset_error_ms"])
    assert metrics["ppg_pulse_onset_f1"] == 0


def test_pulse_onsets_follow_the_arrival_of_the_pulses(recording):
    onsets = detect_pulse_onsets(recording.ppg, 125) / 125
    nearest = recording.pulse_times[np.abs(np.subtract.outer(onsets, recording.pulse_times)).argmin(1)]
    delay = onsets - nearest
    assert abs(len(onsets) - len(recording.pulse_times)) <= 2
    # The foot lies a constant time from the simulated arrival.
    assert np.std(delay) < 0.03


def test_onset_of_a_straight_upstroke_is_where_it_begins():
    time = np.arange(0, 20, 1 / 125)
    phase = time % 1.0
    pulses = np.where(phase < 0.2, phase / 0.2, np.exp(-(phase - 0.2) / 0.15))
    onsets = detect_pulse_onsets(pulses, 125) / 125
    # The band-pass rounds the corner by some samples.
    assert len(onsets) in (18, 19, 20)
    assert np.abs((onsets + 0.5) % 1.0 - 0.5).max() < 0.05


def test_report_of_a_tokenizer(tmp_path):
    torch.manual_seed(0)
    model = CMSSLTokenizerModel(tokenizer_config())
    dataset = WindowsDataset(windows_dataset(waves(7, 2, [100, 90, 80, 100, 60, 100, 100])), ["input_values"])
    metrics = reconstruction_report(model, dataset, tmp_path / "figure.png", num_windows=5)
    assert set(metrics) == {
        "ecg_r_peak_error_ms",
        "ecg_r_peak_f1",
        "ppg_pulse_onset_error_ms",
        "ppg_pulse_onset_f1",
    }
    assert (tmp_path / "figure.png").stat().st_size > 10_000
