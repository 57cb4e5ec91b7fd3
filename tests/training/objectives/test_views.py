"""Views of windows: what is changed, what is left, and what collators make of it."""

import dataclasses

import numpy as np
import pytest
import torch

from cmssl_hf.data.augmentation import Augmentation
from cmssl_hf.data.batches import WindowBatch, WindowReader, WindowsDataset
from cmssl_hf.data.published_augmentation import PUBLISHED_A, PUBLISHED_B
from cmssl_hf.signals import standardize
from cmssl_hf.training.objectives.masked import HiddenSamplesCollator
from cmssl_hf.training.objectives.tfc import TimeFrequencyCollator, change_bins, magnitudes
from cmssl_hf.training.objectives.views import TwoViewsCollator, heart_views
from cmssl_hf.training.pretraining import FixedWindows
from helpers.tiny import PATCH, waves, windows_dataset


NOTHING = dataclasses.replace(
    PUBLISHED_A,
    jitter_probability=0,
    scaling_probability=0,
    reversal_probability=0,
    shuffling_probability=0,
    cutout_probability=0,
    crop_probability=0,
)


def generators(number, seed=0):
    return [np.random.default_rng((seed, index)) for index in range(number)]


def changed_by(number=1, window=None, **only):
    window = waves(1, num_samples=400)[0] if window is None else window
    return dataclasses.replace(NOTHING, **only)([window] * number, None, generators(number))[0]


def test_published_sets_change_nothing_where_nothing_is_drawn():
    (window,) = changed_by()
    np.testing.assert_allclose(window, waves(1, num_samples=400)[0], atol=1e-5)


def test_reversal_turns_time_around():
    (window,) = changed_by(reversal_probability=1)
    np.testing.assert_allclose(window, waves(1, num_samples=400)[0][:, ::-1], atol=1e-5)


def test_shuffling_keeps_segments_whole():
    ramp = standardize(np.arange(400.0))[None].astype(np.float32)
    (window,) = changed_by(window=ramp, shuffling_probability=1)
    segments = window.reshape(8, 50)
    order = segments[:, 0].argsort()
    assert (np.diff(segments, axis=1) > 0).all() and (order != np.arange(8)).any()
    np.testing.assert_allclose(segments[order].ravel(), ramp[0], atol=1e-5)


def test_cutouts_have_at_most_their_share():
    positive = 5 + waves(1, num_samples=400)[0]
    for window in changed_by(50, positive, cutout_probability=1):
        # What was set to 0 is the minimum, once standardised.
        assert (window == window.min()).sum() <= 2 * 0.15 * 400
    assert max((window == window.min()).sum() for window in changed_by(50, positive, cutout_probability=1)) > 40


def test_cropping_with_resizing_slows_the_signal_by_what_is_cut():
    sine = np.sin(2 * np.pi * 20 * np.arange(1000) / 1000)[None]
    counts = [
        ((window[0, :-1] < 0) & (window[0, 1:] >= 0)).sum()
        for window in changed_by(100, sine.astype(np.float32), crop_probability=1)
    ]
    assert min(counts) in (15, 16, 17) and max(counts) in (19, 20)


@pytest.mark.parametrize(("preset", "values"), [(PUBLISHED_A, (0.05, 8, 2)), (PUBLISHED_B, (0.03, 4, 1))])
def test_presets_are_random_standardised_and_repeatable(preset, values):
    assert (preset.jitter, preset.num_segments, preset.num_cutouts) == values
    windows = waves(6, num_samples=400)
    first, second = (preset(windows, None, generators(6))[0] for _ in range(2))
    for a, b, window in zip(first, second, windows):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == np.float32 and a.shape == window.shape
        np.testing.assert_allclose([a.mean(), a.std()], [0, 1], atol=1e-4)


def test_heart_views_keep_the_rate():
    """The strongest frequency of a pulse stays, window by window."""
    windows = [np.sin(2 * np.pi * rate * np.arange(1250) / 125)[None] for rate in np.linspace(0.8, 3, 40)]
    views, _ = heart_views(125)(windows, None, generators(40))
    for window, view in zip(windows, views):
        before, after = (np.abs(np.fft.rfft(signal[0] * np.hanning(1250), 12500)) for signal in (window, view))
        after[:60] = 0  # drift below 0.6 Hz
        assert abs(before.argmax() - after.argmax()) <= 5  # of 0.01 Hz


def batch_of(augmentation, lengths=(100, 75, 130), **options):
    dataset = windows_dataset(waves(len(lengths), 1, list(lengths)))
    return WindowsDataset(dataset, ["input_values"], augmentation, seed=3, **options)


def test_two_views_of_a_window_differ_and_read_it_once(monkeypatch):
    reads = []
    read = WindowReader.read
    monkeypatch.setattr(WindowReader, "read", lambda self, rows: reads.append(list(rows)) or read(self, rows))
    features = TwoViewsCollator(PATCH)(batch_of(heart_views(125)).__getitems__([0, 1, 2]))
    assert reads == [[0, 1, 2]]
    assert features["input_values"].shape == (6, 1, 150)
    first, second = features["input_values"].chunk(2)
    assert (first != second).any(dim=(1, 2)).all()
    assert features["attention_mask"].sum(-1).tolist() == [100, 75, 130] * 2


def test_views_of_whole_patches_have_no_mask():
    features = TwoViewsCollator(PATCH)(batch_of(PUBLISHED_B, (100, 100)).__getitems__([0, 1]))
    assert set(features) == {"input_values"} and features["input_values"].shape == (4, 1, 100)


def test_validation_views_stay_the_same_while_training_views_change():
    for kind, same in ((FixedWindows, True), (WindowsDataset, False)):
        dataset = kind(windows_dataset(waves(2)), ["input_values"], heart_views(125), seed=3)
        views = []
        for epoch in (0, 5):
            dataset.set_epoch(epoch)
            views.append(TwoViewsCollator(PATCH)(dataset.__getitems__([0, 1]))["input_values"])
        assert torch.equal(*views) == same


def test_collators_need_an_augmentation():
    plain = batch_of(None).__getitems__([0])
    for collator, message in (
        (TwoViewsCollator, "Views are made by an augmentation"),
        (TimeFrequencyCollator, "Copies of windows are changed by an augmentation"),
        (HiddenSamplesCollator, "Samples are hidden by an `Augmentation`"),
    ):
        with pytest.raises(ValueError, match=message):
            collator(PATCH)(plain)


def test_spectra_are_those_of_the_windows():
    dataset = batch_of(heart_views(125), (100, 100))
    features = TimeFrequencyCollator(PATCH)(dataset.__getitems__([0, 1]))
    windows = np.stack(waves(2, 1, [100, 100]))
    assert features["input_values"].shape == (4, 1, 100)
    np.testing.assert_array_equal(features["input_values"][:2], windows)
    assert features["spectra"].shape == (4, 1, 75) and features["spectra_mask"].sum(-1).tolist() == [51] * 4
    # The discrete Fourier transform written out.
    transform = np.exp(-2j * np.pi * np.outer(np.arange(51), np.arange(100)) / 100)
    expected = np.log1p(np.abs(windows[:, 0] @ transform.T))
    expected = (expected - expected.mean(1, keepdims=True)) / expected.std(1, keepdims=True)
    np.testing.assert_allclose(features["spectra"][:2, 0, :51], expected, atol=1e-4)
    assert not torch.equal(features["spectra"][:2], features["spectra"][2:])


def test_a_tenth_of_the_bins_is_removed_or_raised():
    spectrum = magnitudes(waves(1, num_samples=1250)[0])
    removed = raised = 0
    for generator in generators(100):
        changed = change_bins(spectrum, generator)
        different = changed != spectrum
        assert 0.04 < different.mean() < 0.17
        if (changed[different] == 0).all():
            removed += 1
        else:
            raised += 1
            assert (changed >= spectrum).all() and (changed - spectrum).max() <= 0.1 * spectrum.max()
    assert removed > 30 and raised > 30


def test_hidden_samples_are_where_the_augmentation_would_have_hidden_them():
    augmentation = Augmentation(25, masked_share=0.5)  # spans of 12 samples
    dataset = batch_of(augmentation, (100, 75))
    batch = dataset.__getitems__([0, 1])
    features = HiddenSamplesCollator(PATCH)(batch)
    masked, _ = augmentation(batch.windows, None, [np.random.default_rng((3, 0, index)) for index in (0, 1)])
    for row, (window, length) in enumerate(zip(masked, (100, 75))):
        np.testing.assert_array_equal(features["hidden"][row, :length], window[0] == 0)
        assert not features["hidden"][row, length:].any()
    original = waves(2, 1, [100, 75])
    np.testing.assert_allclose(features["input_values"][0], original[0], atol=1e-6)


def test_share_that_hides_nothing_is_refused():
    batch = batch_of(Augmentation(125, masked_share=0.01), (100,)).__getitems__([0])
    with pytest.raises(ValueError, match="hides nothing in windows as short as these"):
        HiddenSamplesCollator(PATCH)(batch)


def test_batches_fetched_one_by_one_are_joined():
    dataset = batch_of(heart_views(125), (100, 100))
    together = TwoViewsCollator(PATCH)(dataset.__getitems__([0, 1]))
    singles = TwoViewsCollator(PATCH)([dataset[0], dataset[1]])
    assert isinstance(dataset[0], WindowBatch) and torch.equal(together["input_values"], singles["input_values"])
