"""Classical methods on signals whose rates are known by construction."""

import numpy as np
import pytest

from cmssl_hf.baselines import (
    CLASSICAL_FEATURES,
    CLASSICAL_METHODS,
    RR_INTERVAL_FEATURES,
    heart_rate_from_pulse_peaks,
    respiratory_rate_from_spectrum,
    rr_interval_features,
)
from cmssl_hf.tasks import TASKS


def pulses(heart_rate, respiratory_rate, seconds, sampling_rate, baseline=0.0, amplitude=0.0, frequency=0.0):
    """Gaussian pulses whose baseline, height or interval follows breathing."""
    times = np.arange(round(seconds * sampling_rate)) / sampling_rate
    breathing = 2 * np.pi * respiratory_rate / 60
    beats, time = [], 0.2
    while time < seconds:
        beats.append(time)
        time += 60 / heart_rate * (1 + frequency * np.sin(breathing * time))
    signal = baseline * np.sin(breathing * times)
    for beat in beats:
        height = 1 + amplitude * np.sin(breathing * beat)
        signal = signal + height * np.exp(-((times - beat) ** 2) / (2 * 0.08**2))
    return signal


@pytest.mark.parametrize("sampling_rate", [64.0, 125.0, 300.0])
@pytest.mark.parametrize("heart_rate", [45, 75, 120, 160])
def test_heart_rate_from_pulse_peaks(heart_rate, sampling_rate):
    ppg = pulses(heart_rate, 15, 10, sampling_rate)
    assert heart_rate_from_pulse_peaks(ppg, sampling_rate) == pytest.approx(heart_rate, rel=0.015)


@pytest.mark.parametrize("modulation", [{"baseline": 0.3}, {"amplitude": 0.2}, {"frequency": 0.06}])
@pytest.mark.parametrize("respiratory_rate", [9, 15, 24])
@pytest.mark.parametrize("sampling_rate", [64.0, 125.0])
def test_respiratory_rate_from_each_modulation(respiratory_rate, modulation, sampling_rate):
    ppg = pulses(80, respiratory_rate, 32, sampling_rate, **modulation)
    assert respiratory_rate_from_spectrum(ppg, sampling_rate) == pytest.approx(respiratory_rate, abs=1.0)


def test_rates_do_not_depend_on_scale_and_offset():
    ppg = pulses(80, 15, 32, 125, baseline=0.2)
    for method in CLASSICAL_METHODS.values():
        assert method(1000 * ppg + 5, 125) == pytest.approx(method(ppg, 125), rel=1e-6)


@pytest.mark.parametrize("method", CLASSICAL_METHODS.values())
def test_nan_where_there_are_no_pulses(method):
    ramp = np.linspace(0, 1, 1250)
    assert np.isnan(method(ramp, 125.0))


@pytest.mark.parametrize("missing", [[700], range(0, 4000, 97), range(1500, 2125)], ids=["sample", "scattered", "5 s"])
def test_missing_samples_do_not_change_a_rate(missing):
    ppg = pulses(80, 15, 32, 125, baseline=0.3, amplitude=0.1)
    ppg[list(missing)] = np.nan
    assert heart_rate_from_pulse_peaks(ppg, 125) == pytest.approx(80, rel=0.015)
    assert respiratory_rate_from_spectrum(ppg, 125) == pytest.approx(15, abs=1.0)


def test_an_interval_over_a_gap_is_no_interval():
    ppg = pulses(60, 15, 10, 125)
    ppg[100:950] = np.nan
    # One pulse before the gap and two after it.
    assert heart_rate_from_pulse_peaks(ppg, 125) == pytest.approx(60, rel=0.03)


@pytest.mark.parametrize("method", CLASSICAL_METHODS.values())
def test_nan_where_all_is_missing(method):
    assert np.isnan(method(np.full(1250, np.nan), 125.0))


def test_every_method_of_a_task_exists():
    assert {task.classical_method for task in TASKS.values()} - {None} <= set(CLASSICAL_METHODS)
    assert {task.classical_features for task in TASKS.values()} - {None} <= set(CLASSICAL_FEATURES)


def ecg(intervals, sampling_rate, noise=0.0):
    """Narrow R-peaks at the given distances (s), the first after 0.5 s."""
    beats = 0.5 + np.concatenate(([0.0], np.cumsum(intervals)))
    times = np.arange(round((beats[-1] + 0.5) * sampling_rate)) / sampling_rate
    peaks = np.exp(-((times[:, None] - beats) ** 2) / (2 * 0.012**2)).sum(1)
    return peaks + noise * np.random.default_rng(0).standard_normal(len(times))


def features(intervals, sampling_rate=300.0, noise=0.01):
    return dict(zip(RR_INTERVAL_FEATURES, rr_interval_features(ecg(intervals, sampling_rate, noise), sampling_rate)))


@pytest.mark.parametrize("sampling_rate", [125.0, 300.0])
def test_features_of_intervals_in_closed_form(sampling_rate):
    intervals = np.random.default_rng(1).uniform(0.6, 1.2, 40)
    found = features(intervals, sampling_rate)
    steps = np.diff(intervals)
    assert found["num_intervals"] == 40
    assert found["mean_rate"] == pytest.approx(60 / intervals.mean(), rel=0.005)
    assert found["median_interval"] == pytest.approx(np.median(intervals), abs=0.01)
    assert found["std"] == pytest.approx(intervals.std(), abs=0.005)
    assert found["rmssd"] == pytest.approx(np.sqrt(np.mean(steps**2)), abs=0.01)
    assert found["pnn50"] == pytest.approx(np.mean(np.abs(steps) > 0.05), abs=0.06)
    assert found["range"] == pytest.approx(np.ptp(intervals), abs=0.02)
    assert found["lag1_correlation"] == pytest.approx(np.corrcoef(intervals[1:], intervals[:-1])[0, 1], abs=0.05)
    # Random steps turn at two thirds of the points.
    assert 0.45 < found["turning_point_ratio"] < 0.9


def test_regular_and_irregular_rhythms_differ():
    regular = features(np.full(30, 0.8))
    irregular = features(np.random.default_rng(0).uniform(0.4, 1.3, 30))
    assert regular["rmssd"] < 0.01 and regular["regular_share"] == 1 and regular["pnn50"] == 0
    assert irregular["rmssd"] > 0.2 and irregular["regular_share"] < 0.5
    assert irregular["sample_entropy"] > regular["sample_entropy"] + 0.5
    assert regular["beat_correlation"] > 0.99


def test_alternating_intervals_turn_at_every_beat():
    found = features([0.7, 0.9] * 12)
    assert found["turning_point_ratio"] == 1
    assert found["lag1_correlation"] == pytest.approx(-1, abs=0.02)


def test_missing_samples_do_not_change_the_intervals():
    signal = ecg(np.full(30, 0.8), 300.0, noise=0.01)
    signal[::411] = np.nan
    signal[3000:3600] = np.nan
    found = dict(zip(RR_INTERVAL_FEATURES, rr_interval_features(signal, 300.0)))
    assert 26 <= found["num_intervals"] <= 28
    assert found["median_interval"] == pytest.approx(0.8, abs=0.005) and found["rmssd"] < 0.01
    assert found["beat_correlation"] > 0.98 and np.isfinite(found["slope"])


def test_features_of_a_recording_without_beats_are_missing_not_an_error():
    found = features([])
    assert np.isnan(found["rmssd"]) or found["num_intervals"] >= 3
    assert np.isfinite(found["num_intervals"]) and found["num_intervals"] >= 0
