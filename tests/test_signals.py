"""Signal processing against closed forms, and beat detection against known beats."""

import numpy as np
import pytest
import scipy.signal
import wfdb

from cmssl_hf.building.simulation import draw_subject, simulate_recording
from cmssl_hf.signals import (
    PASS_BANDS,
    band_pass,
    bridge_gaps,
    detect_pulse_onsets,
    detect_pulse_peaks,
    detect_r_peaks,
    heart_rate_from_beats,
    long_gaps,
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


@pytest.mark.parametrize("shape", [(1250,), (3, 1250), (2, 3, 40), (5, 2)])
@pytest.mark.parametrize("rate", [125.0, 12.0])
def test_band_pass_is_that_of_scipy(shape, rate):
    windows = np.random.default_rng(0).standard_normal(shape)
    edges, kind = ((0.5, 8.0), "bandpass") if rate > 16 else (0.5, "highpass")
    sections = scipy.signal.butter(3, edges, kind, fs=rate, output="sos")
    expected = scipy.signal.sosfiltfilt(sections, windows, padlen=min(shape[-1] - 1, int(rate)))
    np.testing.assert_array_equal(band_pass(windows, rate, (0.5, 8.0)), expected)


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


def dicrotic_pulses(heart_rate, seconds, sampling_rate, height):
    """Gaussian pulses, each with a dicrotic wave of a share of its height 0.35 s later, and the times of the pulses."""
    times = np.arange(round(seconds * sampling_rate)) / sampling_rate
    beats = np.arange(0.5 - 60 / heart_rate, seconds + 1, 60 / heart_rate)
    since = times[:, None] - beats
    return (np.exp(-0.5 * (since / 0.08) ** 2) + height * np.exp(-0.5 * ((since - 0.35) / 0.08) ** 2)).sum(1), beats


def heart_beats(heart_rate, seconds, sampling_rate):
    """Narrow R-peaks with a broad T-wave 0.25 s later, and the times of the R-peaks."""
    times = np.arange(round(seconds * sampling_rate)) / sampling_rate
    beats = np.arange(0.5 - 60 / heart_rate, seconds + 1, 60 / heart_rate)
    since = times[:, None] - beats
    return (np.exp(-0.5 * (since / 0.012) ** 2) + 0.3 * np.exp(-0.5 * ((since - 0.25) / 0.05) ** 2)).sum(1), beats


def inside(times, seconds):
    """Without what the ends of a window cut."""
    return times[(times > 0.7) & (times < seconds - 0.7)]


SIGNALS = [(detect_pulse_peaks, lambda *args: dicrotic_pulses(*args, height=0.2)), (detect_r_peaks, heart_beats)]
both_detectors = pytest.mark.parametrize(("detect", "simulate"), SIGNALS, ids=["ppg", "ecg"])


@pytest.mark.parametrize("sampling_rate", [64.0, 125.0])
@pytest.mark.parametrize("height", [0.2, 0.4])
@pytest.mark.parametrize("heart_rate", [50, 65, 80])
@pytest.mark.parametrize("seconds", [5, 8, 20])
def test_dicrotic_waves_are_not_pulses(seconds, heart_rate, height, sampling_rate):
    ppg, beats = dicrotic_pulses(heart_rate, seconds, sampling_rate, height)
    peaks = detect_pulse_peaks(ppg, sampling_rate) / sampling_rate
    np.testing.assert_allclose(inside(peaks, seconds), inside(beats, seconds), atol=0.04)
    assert 60 / np.median(np.diff(peaks)) == pytest.approx(heart_rate, rel=0.02)


@both_detectors
@pytest.mark.parametrize("sampling_rate", [64.0, 125.0])
def test_a_missing_sample_costs_no_beat(detect, simulate, sampling_rate):
    signal, beats = simulate(70, 8, sampling_rate)
    peaks = detect(signal, sampling_rate)
    np.testing.assert_allclose(inside(peaks / sampling_rate, 8), inside(beats, 8), atol=0.04)
    for position in range(0, len(signal), 3):
        for missing in (np.nan, np.inf):
            damaged = signal.copy()
            damaged[position] = missing
            found = detect(damaged, sampling_rate)
            assert len(found) == len(peaks)
            np.testing.assert_allclose(found, peaks, atol=2)


@both_detectors
def test_no_beat_is_found_in_a_long_gap_and_the_others_are(detect, simulate):
    signal, beats = simulate(75, 20, 125.0)
    signal[1000:1500] = np.nan
    found = detect(signal, 125.0) / 125
    present = inside(beats[(beats < 7.8) | (beats > 12.2)], 20)
    assert np.abs(np.subtract.outer(found, present)).min(0).max() < 0.04
    assert not ((found >= 8) & (found < 12)).any()
    assert len(inside(found, 20)) == len(present)


def test_onsets_are_found_beside_a_gap():
    ppg, _ = dicrotic_pulses(75, 20, 125.0, 0.2)
    whole = detect_pulse_onsets(ppg, 125.0)
    ppg[1000:1500] = np.nan
    onsets = detect_pulse_onsets(ppg, 125.0)
    assert not ((onsets >= 1000) & (onsets < 1500)).any()
    expected = whole[(whole < 900) | (whole > 1600)]
    assert np.abs(np.subtract.outer(onsets, expected)).min(0).max() <= 2


@pytest.mark.parametrize("detect", [detect_pulse_peaks, detect_pulse_onsets, detect_r_peaks])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -1e6, np.nan])
@pytest.mark.parametrize("samples", [0, 1, 2, 625])
def test_a_constant_or_missing_signal_has_no_beats(samples, value, detect):
    assert len(detect(np.full(samples, value), 125.0)) == 0


@pytest.mark.parametrize("detect", [detect_pulse_peaks, detect_pulse_onsets, detect_r_peaks])
def test_beats_of_two_channels_at_once_are_refused(detect):
    with pytest.raises(ValueError, match=r"`\(samples,\)` is needed, but its shape is \(2, 1250\)"):
        detect(np.zeros((2, 1250)), 125.0)


def test_gaps_are_bridged_by_straight_lines():
    bridged = bridge_gaps(np.array([np.nan, 1.0, np.nan, np.inf, 4.0, np.nan]))
    np.testing.assert_allclose(bridged, [1, 1, 2, 3, 4, 4])


def test_gaps_are_long_from_the_shortest_interval_between_beats():
    signal = np.zeros(100)
    signal[[5, *range(20, 22), *range(50, 53), *range(97, 100)]] = np.nan
    np.testing.assert_array_equal(np.flatnonzero(long_gaps(signal, 10.0)), [50, 51, 52, 97, 98, 99])


def test_the_sign_of_an_ecg_does_not_matter():
    ecg, _ = heart_beats(70, 20, 125.0)
    np.testing.assert_array_equal(detect_r_peaks(-ecg, 125.0), detect_r_peaks(ecg, 125.0))


def test_pulses_of_a_recording_with_large_dicrotic_waves_are_as_many_as_its_r_peaks(test_data):
    record = wfdb.rdrecord(str(test_data / "bidmc-ppg-and-respiration-dataset-1.0.0" / "bidmc47"))
    names = [name.strip(", ") for name in record.sig_name]
    ppg, ecg = (record.p_signal[:, names.index(name)] for name in ("PLETH", "II"))
    assert len(detect_pulse_peaks(ppg, 125)) == pytest.approx(len(detect_r_peaks(ecg, 125)), rel=0.01)


def test_r_peaks_of_record_100_are_as_many_as_its_annotated_beats(test_data):
    record = wfdb.rdrecord(str(test_data / "readers" / "wfdb_varieties" / "100"), channels=[0])
    # 2,239 normal, 33 atrial and 1 ventricular beat: the table of beats of the MIT-BIH Arrhythmia Database.
    assert len(detect_r_peaks(record.p_signal[:, 0], 360)) == pytest.approx(2273, abs=2)
