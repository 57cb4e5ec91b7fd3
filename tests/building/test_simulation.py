"""The simulator: what it says is true of a recording can be found in its signals."""

import dataclasses

import numpy as np
import pytest
from scipy.signal import find_peaks, welch

from cmssl_hf.building.simulation import RHYTHMS, draw_subject, simulate_recording


QUIET = {
    "motion_per_minute": 0.0,
    "ecg_noise": 0.0,
    "ppg_noise": 0.0,
    "ecg_wander": 0.0,
    "ppg_wander": 0.0,
    "ectopic_share": 0.0,
    "fibrillation_share": 0.0,
}


def simulate(seed=0, seconds=120, sampling_rate=125, **traits):
    rng = np.random.default_rng(seed)
    subject = dataclasses.replace(draw_subject(rng), **QUIET | traits)
    return simulate_recording(subject, seconds, sampling_rate, rng)


def test_same_chance_gives_the_same_recording():
    first, second = simulate(), simulate()
    np.testing.assert_array_equal(first.ecg, second.ecg)
    np.testing.assert_array_equal(first.ppg, second.ppg)
    assert not np.array_equal(simulate(seed=1).ppg, first.ppg)


def test_beats_do_not_depend_on_the_sampling_rate():
    slow, fast = simulate(sampling_rate=64), simulate(sampling_rate=500)
    np.testing.assert_array_equal(slow.beat_times, fast.beat_times)
    assert len(slow.ppg) == 120 * 64 and len(fast.ppg) == 120 * 500
    np.testing.assert_allclose(
        np.interp(np.arange(50, 100), np.arange(60000) / 500, fast.ppg), slow.ppg[3200:6400:64], atol=0.02
    )


def test_r_peaks_are_at_the_beat_times():
    recording = simulate(sampling_rate=500)
    peaks = find_peaks(recording.ecg, height=0.6 * recording.ecg.max(), distance=100)[0] / 500
    np.testing.assert_allclose(peaks, recording.beat_times, atol=0.006)
    expected = 60 / np.mean(np.diff(recording.beat_times))
    assert recording.heart_rate(0, 120) == pytest.approx(expected)


def test_pulse_arrives_earlier_under_higher_pressure():
    delays = [
        np.mean(recording.pulse_times - recording.beat_times)
        for recording in (
            simulate(systolic_pressure=systolic, diastolic_pressure=systolic - 40, pressure_drift=0.0)
            for systolic in (100, 120, 140)
        )
    ]
    assert 0.1 < delays[2] < delays[1] < delays[0] < 0.4
    # About one millisecond per mmHg.
    assert (delays[0] - delays[2]) / 40 == pytest.approx(0.001, rel=0.4)


def test_breathing_is_in_the_ppg():
    recording = simulate(seconds=300, respiratory_rate=15.0, baseline=0.25, heart_rate=90.0)
    assert recording.respiratory_rate(0, 300) == pytest.approx(15, rel=0.15)
    frequencies, power = welch(recording.ppg, 125, nperseg=64 * 125)
    low = (frequencies > 0.1) & (frequencies < 0.6)
    assert 60 * frequencies[low][np.argmax(power[low])] == pytest.approx(recording.respiratory_rate(0, 300), abs=2)


def test_blood_pressure_is_that_of_the_beats():
    recording = simulate(systolic_pressure=150.0, diastolic_pressure=90.0, pressure_drift=0.0)
    systolic, diastolic = recording.blood_pressure(10, 20)
    # Breathing moves the pressure by a few mmHg.
    assert systolic == pytest.approx(150, abs=3)
    assert diastolic == pytest.approx(90, abs=3)
    assert np.isnan(recording.blood_pressure(500, 510)).all()


def test_premature_beats_are_early_and_their_pulse_is_weak():
    recording = simulate(seconds=300, ectopic_share=0.05, baseline=0.0, amplitude_modulation=0.0)
    ectopic = np.flatnonzero(recording.ectopic)
    assert len(ectopic) > 3
    before, after = np.diff(recording.beat_times)[ectopic - 1], np.diff(recording.beat_times)[ectopic]
    assert np.all(before < 0.8 * after)
    # A compensatory pause: together the two intervals last as long as two normal ones.
    np.testing.assert_allclose(before + after, 2 * np.median(np.diff(recording.beat_times)), rtol=0.35)
    start = recording.beat_times[ectopic[0]] - 5
    assert RHYTHMS[recording.rhythm(start, start + 10)] == "ectopic_beats"


def test_atrial_fibrillation_is_irregular():
    sinus, fibrillation = simulate(seconds=300), simulate(seconds=300, fibrillation_share=1.0)

    def spread(recording):
        return np.std(np.diff(recording.beat_times)) / np.mean(np.diff(recording.beat_times))

    assert spread(fibrillation) > 0.15 > 0.1 > spread(sinus)
    assert RHYTHMS[fibrillation.rhythm(100, 110)] == "atrial_fibrillation"
    assert RHYTHMS[sinus.rhythm(100, 110)] == "sinus_rhythm"


@pytest.mark.parametrize(("seconds", "sampling_rate"), [(0, 125), (10, 0), (-1, 125)])
def test_impossible_lengths_and_rates(seconds, sampling_rate):
    with pytest.raises(ValueError, match="`seconds` and `sampling_rate` must be positive"):
        simulate(seconds=seconds, sampling_rate=sampling_rate)
