"""Signal processing against closed forms, and beat detection against known beats."""

import numpy as np
import pytest

from cmssl_hf.building.simulation import draw_subject, simulate_recording
from cmssl_hf.signals import (
    PASS_BANDS,
    band_pass,
    detect_pulse_peaks,
    detect_r_peaks,
    heart_rate_from_beats,
    resample,
    standardize,
)


@pytest.mark.parametrize(
    ("rate", "target"), [(64, 125), (500, 125), (250, 125), (300, 125), (62.4725, 125), (125, 64)]
)
def test_resampling_keeps_time(rate, target):
    seconds = 10
    times = np.arange(int(seconds * rate)) / rate
    resampled = resample(np.sin(2 * np.pi * 1.3 * times), rate, target)
    assert len(resampled) == pytest.approx(seconds * target, abs=2)
    expected = np.sin(2 * np.pi * 1.3 * np.arange(len(resampled)) / target)
    inside = slice(target // 2, -target // 2)
    np.testing.assert_allclose(resampled[inside], expected[inside], atol=0.01)


def test_resampling_removes_what_would_alias():
    times = np.arange(5000) / 500
    assert np.abs(resample(np.sin(2 * np.pi * 100 * times), 500, 125)[125:-125]).max() < 0.01


def test_resampling_keeps_an_offset_and_the_shape():
    assert resample(np.full((3, 2, 640), 1000.0), 64, 125).shape == (3, 2, 1250)
    np.testing.assert_allclose(resample(np.full(640, 1000.0), 64, 125), 1000.0, rtol=1e-3)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_resampling_rejects_impossible_rates(rate):
    with pytest.raises(ValueError, match="`sampling_rate` must be a positive number of Hz"):
        resample(np.zeros(100), rate, 125)
    with pytest.raises(ValueError, match="`target_sampling_rate` must be a positive number of Hz"):
        resample(np.zeros(100), 125, rate)


@pytest.mark.parametrize(
    ("band", "frequency", "gain"),
    [("ecg", 10, 1), ("ppg", 2, 1), ("ppg", 25, 0), ("ecg", 0.05, 0), ("ppg", 0.05, 0)],
)
def test_band_pass_passes_and_stops(band, frequency, gain):
    times = np.arange(60 * 125) / 125
    filtered = band_pass(5 + np.sin(2 * np.pi * frequency * times), 125, PASS_BANDS[band])
    inside = slice(10 * 125, -10 * 125)
    expected = gain * np.sin(2 * np.pi * frequency * times)
    np.testing.assert_allclose(filtered[inside], expected[inside], atol=0.02)


def test_band_pass_above_half_the_rate_is_a_high_pass():
    times = np.arange(64 * 20) / 64
    filtered = band_pass(3 + np.sin(2 * np.pi * 5 * times), 64, (0.5, 40.0))
    np.testing.assert_allclose(filtered[128:-128], np.sin(2 * np.pi * 5 * times)[128:-128], atol=0.02)


def test_standardize():
    signal = np.random.default_rng(0).normal(5, 3, (4, 1000))
    scaled = standardize(signal)
    np.testing.assert_allclose(scaled.mean(-1), 0, atol=1e-12)
    np.testing.assert_allclose(scaled.std(-1), 1)
    np.testing.assert_array_equal(standardize(np.full(10, 7.0)), 0)


def test_beats_are_found_where_they_are():
    rng = np.random.default_rng(3)
    subject = draw_subject(rng, arrhythmia_share=0.0)
    recording = simulate_recording(subject, 120, 125, rng)
    r_peaks = detect_r_peaks(recording.ecg, 125) / 125
    distance = np.abs(r_peaks[:, None] - recording.beat_times).min(axis=1)
    assert np.median(distance) < 0.01
    assert len(r_peaks) == pytest.approx(len(recording.beat_times), abs=2)
    pulses = detect_pulse_peaks(recording.ppg, 125)
    assert len(pulses) == pytest.approx(len(recording.beat_times), rel=0.05)


def test_heart_rate_from_beats():
    assert heart_rate_from_beats(np.array([0, 100, 200, 300]), 125) == 75
    assert np.isnan(heart_rate_from_beats(np.array([10]), 125))


@pytest.mark.parametrize("rates", [(2e-309, 125.0), (1e-3, 125.0), (1e9, 125.0), (125.0, 1e300)])
def test_rates_thousands_of_times_apart_are_refused(rates):
    with pytest.raises(ValueError, match="is out of range"):
        resample(np.zeros(10), *rates)
