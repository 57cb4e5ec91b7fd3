"""Classical methods on signals whose rates are known by construction."""

import numpy as np
import pytest

from cmssl_hf.baselines import CLASSICAL_METHODS, heart_rate_from_pulse_peaks, respiratory_rate_from_spectrum
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


def test_every_method_of_a_task_exists():
    assert {task.classical_method for task in TASKS.values()} - {None} <= set(CLASSICAL_METHODS)
