"""Quality issues of windows: found in spoilt signals, absent from good ones, stored with the data and usable as a filter."""

import numpy as np
import pytest
import wfdb
from datasets import Dataset
from scipy import signal

from cmssl_hf import CMSSLFeatureExtractor
from cmssl_hf.building.simulation import draw_subject, simulate_recording
from cmssl_hf.data.features import extract_features, without_issues
from cmssl_hf.models.cmssl.quality_cmssl import find_quality_issues, judge_windows, measure_quality


RATE = 125


@pytest.fixture(scope="module")
def windows():
    """Good windows `(windows, samples)` of 10 s per channel."""
    ecg, ppg = [], []
    for number in range(5):
        rng = np.random.default_rng(number)
        recording = simulate_recording(draw_subject(rng, 0.0), 60, RATE, rng)
        ecg.append(recording.ecg.reshape(-1, 10 * RATE))
        ppg.append(recording.ppg.reshape(-1, 10 * RATE))
    return {"ecg": np.concatenate(ecg), "ppg": np.concatenate(ppg)}


def stopped(window):
    spoilt = window.copy()
    spoilt[300 : 300 + RATE] = spoilt[300]
    return spoilt


def saturated(window):
    return np.minimum(window, np.quantile(window, 0.9))


def hit_once(window):
    spoilt = window.copy()
    spoilt[500] += 20 * np.ptp(window)
    return spoilt


def noise(window):
    return np.random.default_rng(0).standard_normal(window.shape)


SPOILT = {"flat": stopped, "clipped": saturated, "out_of_range": hit_once, "no_pulse": noise}


@pytest.mark.parametrize("channel", ["ecg", "ppg"])
def test_good_windows_have_no_issues(windows, channel):
    assert find_quality_issues(windows[channel], RATE, channel) == [[]] * 30


@pytest.mark.parametrize("channel", ["ecg", "ppg"])
@pytest.mark.parametrize(("issue", "spoil"), SPOILT.items(), ids=SPOILT)
def test_spoilt_windows_have_the_issue(windows, channel, issue, spoil):
    spoilt = [spoil(window) for window in windows[channel]]
    found = find_quality_issues(spoilt, RATE, channel)
    assert np.mean([issue in issues for issues in found]) > 0.9


@pytest.mark.parametrize("factor", [1e-3, 1e6, -1.0])
def test_unit_offset_and_polarity_make_no_difference(windows, factor):
    for channel, signals in windows.items():
        spoilt = np.stack([saturated(signals[0]), hit_once(signals[1]), stopped(signals[2]), signals[3]])
        found = find_quality_issues(factor * spoilt, RATE, channel)
        others = [[issue for issue in issues if issue != "inverted"] for issues in found]
        assert others == find_quality_issues(spoilt, RATE, channel)


def test_ppg_upside_down_is_inverted_and_ecg_never_is(windows):
    found = find_quality_issues(-windows["ppg"], RATE, "ppg")
    assert np.mean(["inverted" in issues for issues in found]) > 0.9
    assert find_quality_issues(-windows["ecg"], RATE, "ecg") == [[]] * 30
    # A wave that rises as fast as it falls has no side that is up.
    wave = np.sin(2 * np.pi * 1.2 * np.arange(10 * RATE) / RATE)
    assert find_quality_issues([wave, -wave], RATE, "ppg") == [[], []]


@pytest.mark.parametrize("seconds", [4, 10, 30])
def test_recorded_ppg_is_rarely_taken_for_inverted(test_data, seconds):
    upright, turned = [], []
    for header in sorted(test_data.glob("bidmc*/bidmc[0-9][0-9].hea"))[::3]:
        record = wfdb.rdrecord(str(header.with_suffix("")))
        names = [name.strip(" ,") for name in record.sig_name]
        length = seconds * record.fs
        pleth = record.p_signal[: len(record.p_signal) // length * length, names.index("PLETH")].reshape(-1, length)
        pleth = pleth[np.isfinite(pleth).all(axis=1)]
        upright += find_quality_issues(pleth, record.fs, "ppg")
        turned += find_quality_issues(-pleth, record.fs, "ppg")
    assert len(upright) > 200
    assert np.mean(["inverted" in issues for issues in upright]) < 0.005
    assert np.mean(["inverted" in issues for issues in turned]) > 0.9


def test_windows_of_several_lengths(windows):
    signals = [windows["ppg"][0], noise(windows["ppg"][1]), windows["ppg"][2][:700], noise(windows["ppg"][3][:700])]
    assert find_quality_issues(signals, RATE, "ppg") == [[], ["no_pulse"], [], ["no_pulse"]]


def rows(windows):
    spoilt = windows["ppg"][:6].astype(np.float32)
    spoilt[1] = saturated(spoilt[1])
    spoilt[4] = noise(spoilt[4])
    return Dataset.from_dict(
        {
            "ecg": windows["ecg"][:6].astype(np.float32),
            "ppg": spoilt,
            "sampling_rate": [float(RATE)] * 6,
            "subject_id": ["s"] * 6,
            "record_id": [f"r{row}" for row in range(6)],
            "start_time": [0.0] * 6,
        }
    )


def test_issues_are_stored_with_the_windows_and_filter_them(windows):
    data = extract_features(rows(windows), CMSSLFeatureExtractor(channels=("ecg", "ppg")))
    assert data["quality_issues"][:] == [[], ["ppg_clipped"], [], [], ["ppg_no_pulse"], []]
    kept = without_issues(data, ["ppg_no_pulse", "ecg_flat"])
    assert kept["record_id"][:] == ["r0", "r1", "r2", "r3", "r5"]


def test_unknown_issues_and_filters_that_leave_nothing_are_refused(windows):
    data = extract_features(rows(windows), CMSSLFeatureExtractor(channels=("ecg", "ppg")))
    with pytest.raises(ValueError, match="There are no quality issues ppg_ugly; there are ecg_flat, "):
        without_issues(data, ["ppg_ugly"])
    with pytest.raises(ValueError, match="All 1 windows have one of the quality issues ppg_clipped"):
        without_issues(data.select([1]), ["ppg_clipped"])


def autocorrelation_at_the_best_beat(beats: np.ndarray) -> float:
    """Straight from its definition: the largest local maximum at lags of 0.27 to 2 s."""
    beats = (beats - beats.mean()) / beats.std()
    lags = range(round(0.27 * RATE) - 1, 2 * RATE + 2)
    returning = np.array([np.mean(beats[lag:] * beats[: len(beats) - lag]) for lag in lags])
    peaks = (returning[1:-1] > returning[:-2]) & (returning[1:-1] >= returning[2:])
    return returning[1:-1][peaks].max(initial=0.0)


def test_quality_is_the_autocorrelation_of_the_filtered_pulse(windows):
    rng = np.random.default_rng(1)
    noisy = windows["ppg"][:8] / windows["ppg"][:8].std() + np.linspace(0, 3, 8)[:, None] * rng.standard_normal(
        (8, 1250)
    )
    sections = signal.butter(3, (0.5, 8), "bandpass", fs=RATE, output="sos")
    expected = []
    for window in noisy:
        beats = signal.sosfiltfilt(sections, window, padlen=RATE)
        of_noise = 1 / np.sqrt(10)
        expected.append(max(0, (autocorrelation_at_the_best_beat(beats) - of_noise) / (1 - of_noise)))
    assert min(expected) < 0.3 and max(expected) > 0.8
    np.testing.assert_allclose(judge_windows(noisy, RATE, "ppg")[1], expected, atol=1e-6)


@pytest.mark.parametrize("channel", ["ecg", "ppg"])
def test_windows_are_judged_together_as_one_by_one(windows, channel):
    good = windows[channel]
    signals = [good[0], stopped(good[1]), saturated(good[2])[:700], hit_once(good[3]), noise(good[4]), -good[5][:701]]
    signals += [
        np.full(1250, 3.0),
        good[6][:2],
        good[7] * 1e200,
        good[8][:700],
        good[9][:60],
        stopped(good[10])[:1249],
    ]
    issues, qualities = judge_windows(signals, RATE, channel)
    for window, found, quality in zip(signals, issues, qualities):
        assert find_quality_issues([window], RATE, channel) == [found]
        assert measure_quality(window, RATE, channel) == pytest.approx(quality, abs=1e-9)
    # A second of ten stands still.
    whole, still = measure_quality(good[1], RATE, channel), qualities[1]
    assert 0.5 * whole < still < whole
