"""Heartbeats beside an answer, and heart-rate variability against closed forms."""

import numpy as np
import pytest
import wfdb

from cmssl_hf.heartbeats import Heartbeats, find_heartbeats, heart_rate_variability
from cmssl_hf.models.cmssl.recordings_cmssl import Recording


pytest.importorskip("neurokit2", reason="needs the extra `beats`")


def beats_of(intervals, accepted=None) -> Heartbeats:
    intervals = np.asarray(intervals)
    accepted = np.ones(len(intervals), dtype=bool) if accepted is None else accepted
    return Heartbeats("ecg", np.concatenate(([0.0], np.cumsum(intervals))), accepted)


def answer_to(windows=(), sampling_rate=125.0, **signals) -> dict:
    rates = dict.fromkeys(signals, sampling_rate)
    return {"recording": Recording("r", signals, rates), "windows": list(windows)}


def bumps(times, seconds, sampling_rate, width):
    """A narrow wave at each of the times."""
    grid = np.arange(round(seconds * sampling_rate)) / sampling_rate
    return np.exp(-0.5 * ((grid[:, None] - times) / width) ** 2).sum(1)


def modulated(seconds, *waves):
    """Intervals of 0.8 s on average that follow sinusoids (amplitude in s, frequency in Hz)."""
    times = [0.0]
    while times[-1] < seconds:
        times.append(times[-1] + 0.8 + sum(a * np.sin(2 * np.pi * f * times[-1]) for a, f in waves))
    return np.diff(times)


def test_variability_of_alternating_intervals():
    # Differences of 100 ms, of which there is one fewer than intervals.
    found = heart_rate_variability(beats_of([0.8, 0.9] * 50))
    assert found["heart_rate"] == pytest.approx(60 / 0.85)
    assert found["sdnn"] == pytest.approx(50 * np.sqrt(100 / 99))
    assert found["rmssd"] == pytest.approx(100)
    assert found["pnn50"] == pytest.approx(99)
    assert found["accepted_share"] == 1
    # 85 s are too short for it.
    assert np.isnan(found["lf_hf"])


def test_what_is_not_accepted_does_not_count():
    intervals = np.array([0.8, 0.9] * 50)
    intervals[10], intervals[51] = 0.4, 1.9
    accepted = ~np.isin(np.arange(100), (10, 51))
    found = heart_rate_variability(beats_of(intervals, accepted))
    kept = 1000 * intervals[accepted]
    assert found["sdnn"] == pytest.approx(kept.std(ddof=1))
    # No difference is taken across what is left out.
    assert found["rmssd"] == pytest.approx(100)
    assert found["accepted_share"] == 0.98


@pytest.mark.parametrize(("low", "high"), [(0.03, 0.03), (0.04, 0.02)])
def test_powers_of_low_and_high_frequencies(low, high):
    found = heart_rate_variability(beats_of(modulated(600, (low, 0.1), (high, 0.25))))
    # The power of a sinusoid is half of its squared amplitude.
    assert found["lf_hf"] == pytest.approx((low / high) ** 2, rel=0.2)
    assert found["sdnn"] == pytest.approx(1000 * np.sqrt((low**2 + high**2) / 2), rel=0.05)


def test_no_ratio_of_powers_from_a_few_pieces():
    intervals = modulated(300, (0.03, 0.1), (0.03, 0.25))
    accepted = np.arange(len(intervals)) % 100 < 70
    assert np.isnan(heart_rate_variability(beats_of(intervals, accepted))["lf_hf"])


@pytest.mark.parametrize("number", range(5))
def test_few_beats_are_told_from_none(number):
    times = 0.5 + 0.8 * np.arange(number)
    beats = find_heartbeats(answer_to(ecg=bumps(times, 10, 125, 0.012) if number else np.zeros(1250)))
    np.testing.assert_allclose(beats.times, times, atol=0.02)
    found = heart_rate_variability(beats)
    assert np.isnan(found["rmssd"]) == (number < 4)
    assert found["accepted_share"] == 1 if number > 1 else np.isnan(found["accepted_share"])


@pytest.mark.parametrize(("channel", "width"), [("ecg", 0.012), ("ppg", 0.1)])
def test_intervals_around_an_early_beat_are_not_accepted(channel, width):
    intervals = 0.8 + 0.03 * np.sin(np.arange(100) / 4) + 0.01 * np.random.default_rng(0).standard_normal(100)
    intervals[40:42] = 0.5, 1.1  # a premature beat and the pause after it
    times = 0.7 + np.concatenate(([0.0], np.cumsum(intervals)))
    beats = find_heartbeats(answer_to(**{channel: bumps(times, 82, 125, width)}))
    found = np.diff(beats.times)
    assert found.min() < 0.6 and found.max() > 1.0
    assert ((found[beats.accepted] > 0.7) & (found[beats.accepted] < 0.9)).all()
    assert beats.accepted.mean() > 0.9


def test_no_interval_reaches_across_a_gap_or_a_window_without_a_pulse():
    times = np.arange(0.5, 60, 0.8)
    ecg = bumps(times, 60, 125, 0.012)
    ecg[20 * 125 : 21 * 125] = np.nan
    windows = [
        {"start": 0.0, "end": 30.0, "value": 1.0, "quality_issues": ["ecg_clipped"]},
        {"start": 30.0, "end": 40.0, "value": 1.0, "quality_issues": ["ecg_no_pulse"]},
        {"start": 40.0, "end": 50.0, "value": None, "reason": "flat"},
        {"start": 50.0, "end": 60.0, "value": 1.0, "quality_issues": []},
    ]
    beats = find_heartbeats(answer_to(windows, ecg=ecg))
    starts, ends = beats.times[:-1][beats.accepted], beats.times[1:][beats.accepted]
    assert ((ends < 20) | ((starts > 20.9) & (ends <= 30)) | (starts >= 50)).all()
    assert len(starts) > 40


def test_an_artefact_hides_no_beat_far_from_it():
    times = np.arange(0.5, 120, 0.8)
    ecg = bumps(times, 120, 125, 0.012)
    ecg[40 * 125 : 42 * 125] += 1000 * np.sin(np.arange(250))
    found = find_heartbeats(answer_to(ecg=ecg)).times
    far = times[(times < 25) | (times > 65)]
    assert np.abs(far[:, None] - found).min(1).max() < 0.02


def test_a_part_of_the_beats():
    beats = Heartbeats("ecg", np.arange(10.0), np.arange(9) % 2 == 0)
    part = beats.between(3, 7)
    np.testing.assert_array_equal(part.times, [3, 4, 5, 6])
    np.testing.assert_array_equal(part.accepted, [False, True, False])
    for start, end in ((20, 30), (2.5, 3.5), (2.2, 2.8)):
        assert len(beats.between(start, end).accepted) == 0


def test_an_answer_without_its_recording_is_refused():
    with pytest.raises(ValueError, match="`return_recording=True`"):
        find_heartbeats({"windows": []})


def test_the_beats_of_mit_bih_record_100(test_data):
    record = wfdb.rdrecord(str(test_data / "readers/wfdb_varieties/100"))
    beats = find_heartbeats(answer_to(sampling_rate=record.fs, ecg=record.p_signal[:, 0]))
    # Of its annotations: 2,239 normal and 33 premature atrial beats, and one of the ventricle; the first of these beats, in samples.
    assert len(beats.times) == 2239 + 33 + 1
    annotated = [77, 370, 662, 946, 1231, 1515, 1809, 2044, 2402, 2706]
    np.testing.assert_allclose(beats.times[:10] * record.fs, annotated, atol=2)
    # The eighth came early.
    assert not beats.accepted[6] and not beats.accepted[7] and beats.accepted[:5].all()


@pytest.mark.parametrize("subject", [1, 20])
def test_pulse_and_heart_agree_with_the_monitor(test_data, subject):
    path = test_data / f"bidmc-ppg-and-respiration-dataset-1.0.0/bidmc{subject:02d}"
    names = {"II": "ecg", "PLETH": "ppg"}
    record, monitor = wfdb.rdrecord(str(path)), wfdb.rdrecord(f"{path}n")
    signals = {name.strip(","): samples for name, samples in zip(record.sig_name, record.p_signal.T)}
    rate = np.nanmean(monitor.p_signal[:, [name.strip(",") for name in monitor.sig_name].index("HR")])
    for name, channel in names.items():
        beats = find_heartbeats(answer_to(sampling_rate=record.fs, **{channel: signals[name]}))
        assert heart_rate_variability(beats)["heart_rate"] == pytest.approx(rate, abs=1)
