"""Windows: where they begin, and why one is not used."""

import numpy as np
import pytest

from cmssl_hf.building.windows import (
    DropCounter,
    cut_windows,
    longest_constant_run,
    reason_to_drop,
    usable_windows,
    window_starts,
)


def test_window_starts_covers_whole_windows_only():
    assert list(window_starts(60001, 1250, 250)) == list(range(0, 58751, 250))
    assert list(window_starts(1250, 1250, 250)) == [0]
    assert list(window_starts(1249, 1250, 250)) == []


@pytest.mark.parametrize(("window", "stride"), [(0, 1), (1, 0), (-5, 5)])
def test_window_starts_rejects_sizes_that_are_not_positive(window, stride):
    with pytest.raises(ValueError, match="must be positive numbers of samples"):
        window_starts(100, window, stride)


def test_cut_windows_equals_slices():
    signal = np.random.default_rng(0).standard_normal(100).astype(np.float32)
    windows = cut_windows(signal, [0, 7, 90], 10)
    np.testing.assert_array_equal(windows, np.stack([signal[0:10], signal[7:17], signal[90:100]]))
    assert windows.dtype == np.float32
    assert cut_windows(signal, [], 10).shape == (0, 10)


@pytest.mark.parametrize(
    ("signal", "longest"),
    [([], 0), ([3.0], 1), ([1, 2, 3], 1), ([1, 1, 2, 2, 2, 3], 3), ([5, 5, 5, 5], 4), ([0, 1, 1, 1], 3)],
)
def test_longest_constant_run(signal, longest):
    assert longest_constant_run(np.array(signal)) == longest


def test_reason_to_drop():
    good = np.sin(np.arange(100.0))
    flat = np.concatenate([np.full(60, 2.0), good[:40]])
    half_flat = np.concatenate([np.full(50, 2.0), good[:50]])
    assert reason_to_drop(good) is None
    assert reason_to_drop(np.zeros(100)) == "flat"
    assert reason_to_drop(flat) == "flat"
    assert reason_to_drop(half_flat) is None
    for value in (np.nan, np.inf, -np.inf):
        assert reason_to_drop(np.where(np.arange(100) == 3, value, good)) == "missing"
    assert reason_to_drop(np.array([])) == "missing"


def test_counts_and_mask_agree():
    good = np.sin(np.arange(50.0))
    broken = np.where(np.arange(50) == 3, np.nan, good)
    first = np.stack([good, good, good, broken, np.ones(50)])
    second = np.stack([good, np.ones(50), good, good, good])
    counter = DropCounter()
    mask = usable_windows([first, second], counter, labels=np.array([1.0, 1.0, np.nan, 1.0, 1.0]))
    assert mask.tolist() == [True, False, False, False, False]
    assert counter == {"kept": 1, "flat": 2, "unlabelled": 1, "missing": 1}
    assert counter.summary() == "1 windows kept; dropped: 2 flat, 1 missing, 1 unlabelled"
    outputs = np.array([[120.0, 80.0], [np.nan, 80.0], [120.0, np.nan]])
    assert usable_windows([first[:3]], DropCounter(), outputs).tolist() == [True, False, False]
    assert usable_windows([np.empty((0, 50))], DropCounter()).shape == (0,)
