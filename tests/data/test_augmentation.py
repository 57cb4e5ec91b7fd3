"""Augmentations: what they change can be measured, and labels follow."""

import numpy as np
import pytest
from scipy import stats

from cmssl_hf.data.augmentation import Augmentation
from cmssl_hf.signals import standardize


RATE = 125


def sine(frequency, num_samples=2000, phase=0.0):
    return np.sin(2 * np.pi * frequency * np.arange(num_samples) / RATE + phase)


def frequency_of(signal):
    """From the first to the last upward zero crossing, interpolated."""
    up = np.flatnonzero((signal[:-1] < 0) & (signal[1:] >= 0))
    times = up + signal[up] / (signal[up] - signal[up + 1])
    return RATE * (len(times) - 1) / (times[-1] - times[0])


def generators(number, seed=0):
    return [np.random.default_rng((seed, index)) for index in range(number)]


def stretched(number=200, limit=1.33, scales_labels=True, label=120.0):
    windows = [sine(2.0, phase=index)[None] for index in range(number)]
    augmentation = Augmentation(RATE, time_stretch=limit, scales_labels=scales_labels)
    return augmentation(windows, np.full(number, label, dtype=np.float32), generators(number))


def test_stretched_rates_are_those_of_the_labels():
    windows, labels = stretched()
    measured = np.array([60 * frequency_of(window[0]) for window in windows])
    np.testing.assert_allclose(measured, labels, rtol=2e-3)


def test_speeds_are_log_uniform_between_the_limits():
    _, labels = stretched(1000)
    log_speed = np.log(labels / 120.0)
    assert stats.kstest(log_speed, stats.uniform(-np.log(1.33), 2 * np.log(1.33)).cdf).pvalue > 0.01


def test_faster_windows_get_shorter_and_slower_ones_keep_their_length():
    windows, labels = stretched()
    for window, speed in zip(windows, labels / 120.0):
        expected = 2000 if speed <= 1 else 2000 / speed
        assert abs(window.shape[-1] - expected) <= 1


def test_labels_that_are_no_rates_stay():
    windows, labels = stretched(scales_labels=False)
    assert (labels == 120.0).all()
    assert len({window.shape[-1] for window in windows}) > 50


def test_slower_windows_start_at_different_places():
    ramp = np.arange(2000.0)[None]
    first = []
    for generator in generators(100):
        window, speed = Augmentation(RATE, time_stretch=2.0)._stretch(ramp, generator)
        assert window[0, 0] + (window.shape[-1] - 1) * speed <= 1999 + 1e-6
        first.append(window[0, 0])
    assert np.ptp(first) > 500


def test_channels_stay_synchronous():
    windows = [np.stack([sine(2.0), -3 * sine(2.0)])]
    augmentation = Augmentation(RATE, time_stretch=1.5)
    (window,), _ = augmentation(windows, None, generators(1))
    np.testing.assert_allclose(window[0], -window[1], atol=1e-5)


@pytest.mark.parametrize("options", [{"time_stretch": 1.3}, {"amplitude_jitter": 0.5}, {"noise": 0.5}])
def test_windows_stay_standardised_float32(options):
    windows, labels = Augmentation(RATE, **options)([sine(1.3)[None], sine(2.1)[None]], None, generators(2))
    assert labels is None
    for window in windows:
        assert window.dtype == np.float32
        np.testing.assert_allclose([window.mean(), window.std()], [0, 1], atol=1e-5)


def test_noise_has_the_level_that_was_drawn():
    number, largest = 400, 0.5
    windows = [np.sqrt(2) * sine(2.0, 4000)[None]] * number
    noisy, _ = Augmentation(RATE, noise=largest)(windows, None, generators(number))
    levels = []
    for window in noisy:
        # Standardised, a unit sine plus noise of level s has a correlation of 1 / sqrt(1 + s^2) with the sine.
        correlation = np.corrcoef(window[0], windows[0][0])[0, 1]
        levels.append(np.sqrt(max(correlation**-2 - 1, 0)))
    assert stats.kstest(levels, stats.uniform(0, largest).cdf).pvalue > 0.01


def test_gain_varies_slowly_and_by_its_standard_deviation():
    gains = np.array([Augmentation(RATE)._gain(1000, g, 0.3) for g in generators(2000)])
    assert np.log(gains[:, 0]).std() == pytest.approx(0.3, rel=0.05)
    assert np.abs(np.diff(gains, axis=1)).max() < 0.05


def test_labels_of_the_caller_are_left_alone():
    labels = np.full(3, 60.0, dtype=np.float32)
    Augmentation(RATE, time_stretch=1.5, scales_labels=True)([sine(1.0)[None]] * 3, labels, generators(3))
    assert (labels == 60.0).all()


def test_several_rates_per_window_are_scaled_alike():
    labels = np.array([[60.0, 15.0], [80.0, 20.0]], dtype=np.float32)
    _, scaled = Augmentation(RATE, time_stretch=1.5, scales_labels=True)([sine(1.0)[None]] * 2, labels, generators(2))
    np.testing.assert_allclose(scaled[:, 0] / scaled[:, 1], 4.0, rtol=1e-6)
    assert (scaled != labels).all()


def test_the_same_generators_give_the_same_windows():
    augmentation = Augmentation(RATE, time_stretch=1.5, amplitude_jitter=0.2, noise=0.1)
    first, second = (augmentation([sine(1.0)[None]] * 2, None, generators(2))[0] for _ in range(2))
    for a, b in zip(first, second):
        np.testing.assert_array_equal(a, b)


def test_time_stretch_below_one_is_refused():
    with pytest.raises(ValueError, match=r"`time_stretch` must be at least 1, but is 0\.5"):
        Augmentation(RATE, time_stretch=0.5)


def test_polarity_is_flipped_as_often_as_asked():
    windows = [sine(2.0)[None]] * 400
    flipped, labels = Augmentation(RATE, polarity_flip=0.25)(windows, np.ones(400), generators(400))
    signs = np.array([np.sign(np.dot(window[0], windows[0][0])) for window in flipped])
    assert stats.binomtest(int((signs < 0).sum()), 400, 0.25).pvalue > 0.01
    assert (labels == 1).all()


def test_drift_is_slow_and_of_unit_deviation():
    drifts = np.array([Augmentation(RATE, baseline_wander=1.0)._drift(20000, g) for g in generators(20)])
    power = np.abs(np.fft.rfft(drifts * np.hanning(20000))) ** 2
    fast = np.fft.rfftfreq(20000, 1 / RATE) > 0.55
    assert power[:, fast].sum() < 1e-4 * power.sum()
    np.testing.assert_allclose(drifts.std(1), 1.0, rtol=0.15)


def test_movement_is_of_a_few_hertz_and_comes_and_goes():
    movements = np.array([Augmentation(RATE, motion=1.0)._movement(20000, g) for g in generators(40)])
    power = np.abs(np.fft.rfft(movements * np.hanning(20000))) ** 2
    frequencies = np.fft.rfftfreq(20000, 1 / RATE)
    assert power[:, (frequencies < 0.45) | (frequencies > 4.05)].sum() < 1e-4 * power.sum()
    # The logarithm of the gain is standard normal at five knots, whose range has a median of 2.3.
    levels = movements.reshape(40, 20, 1000).std(-1)
    ratios = levels.max(1) / levels.min(1)
    assert np.median(ratios) > 4


def test_drift_goes_with_the_sampling_rate():
    slow, fast = (
        Augmentation(baseline_wander=1.0, sampling_rate=rate)._drift(1000, generators(1)[0]) for rate in (50, 100)
    )
    np.testing.assert_allclose(slow[:500], fast[:1000:2], atol=1e-12)


@pytest.mark.parametrize("probability", [-0.1, 1.1])
def test_a_polarity_flip_that_is_no_probability_is_refused(probability):
    with pytest.raises(ValueError, match=f"`polarity_flip` is a probability, but is {probability}"):
        Augmentation(RATE, polarity_flip=probability)


def test_masked_spans_cover_their_share():
    window = np.random.default_rng(0).standard_normal((2, 1250)).astype(np.float32)
    augmentation = Augmentation(masked_share=0.3, sampling_rate=125)
    (masked,), _ = augmentation([window], None, [np.random.default_rng(1)])
    hidden = (masked == 0).all(0)
    # 6 spans of 62 samples that may overlap.
    assert 62 <= hidden.sum() <= 6 * 62
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], hidden.astype(int), [0]]))))[::2]
    assert runs.min() >= 62
    np.testing.assert_array_equal(masked[:, ~hidden], standardize(window).astype(np.float32)[:, ~hidden])


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_impossible_masked_share_is_refused(share):
    with pytest.raises(ValueError, match="`masked_share` must be at least 0 and less than 1"):
        Augmentation(RATE, masked_share=share)


@pytest.mark.parametrize("rate", [64, 250])
def test_masked_spans_last_half_a_second_at_any_rate(rate):
    window = np.random.default_rng(0).standard_normal((1, 10 * rate))
    augmentation = Augmentation(masked_share=0.05, sampling_rate=rate)
    (masked,), _ = augmentation([window], None, [np.random.default_rng(1)])
    assert (masked == 0).sum() == rate / 2


def test_augmentation_without_a_rate_is_refused():
    with pytest.raises(ValueError, match="`sampling_rate` must be the rate of the windows in Hz, but is 0"):
        Augmentation(sampling_rate=0)
