"""The atlas of a tokenizer against a signal of which every patch, and its place in the beat, is known."""

import numpy as np
import pytest
import torch

from cmssl_hf import CMSSLTokenizerModel
from cmssl_hf.evaluation.atlas import NUM_PARTS, token_atlas
from helpers.tiny import PATCH, tokenizer_config


BEAT, R_PEAK = 4 * PATCH, 5


def beats(num_samples):
    """An ECG of narrow waves, one in each four patches, over a slow PPG."""
    times = np.arange(num_samples)
    distance = (times - R_PEAK + BEAT // 2) % BEAT - BEAT // 2
    return np.stack([np.exp(-0.5 * (distance / 2) ** 2), np.sin(2 * np.pi * times / BEAT)])


@pytest.fixture(scope="module")
def atlas():
    torch.manual_seed(0)
    model = CMSSLTokenizerModel(tokenizer_config(channels=("ecg", "ppg"), sampling_rate=125))
    # The code of a patch is its number within the beat.
    model.encode = lambda batch: torch.arange(batch.shape[-1] // PATCH).repeat(len(batch), 1) % 4
    # The last window ends in the middle of a patch, of which one is left.
    windows = [beats(1000), beats(1000), beats(500), beats(45)]
    return token_atlas(model, iter(windows), num_codes=3)


def test_counts(atlas):
    # Patches: 40, 40, 20 and 1.
    assert atlas.table["code"].tolist() == [0, 1, 2]
    assert atlas.table["count"].tolist() == [26, 25, 25]
    np.testing.assert_allclose(atlas.table["share"], np.array([26, 25, 25]) / 101)


def test_places_in_the_beat(atlas):
    # Of the middle of the first patch, 7.5 samples after the R-peak, and so on.
    expected = ((np.arange(3) + 0.5) * PATCH - R_PEAK) / BEAT
    np.testing.assert_allclose(atlas.table["position"], expected, atol=0.015)
    assert (atlas.table["concentration"] > 0.99).all()
    np.testing.assert_array_equal(atlas.positions, np.eye(NUM_PARTS)[(expected * NUM_PARTS).astype(int)])
    assert atlas.beat == "R-peak"


def test_waveforms(atlas):
    period = beats(5 * BEAT)
    for code, waveform in enumerate(atlas.waveforms):
        first = BEAT + (code - 1) * PATCH
        np.testing.assert_allclose(waveform, period[:, first : first + 3 * PATCH], atol=1e-9)
    np.testing.assert_allclose(atlas.spreads, 0, atol=1e-6)


def test_the_table_has_the_mean_patches(atlas):
    frame = atlas.to_frame()
    assert len(frame.columns) == 5 + NUM_PARTS + 2 * PATCH
    np.testing.assert_allclose(frame["ppg_8ms"], beats(BEAT)[1, 1::PATCH][:3], atol=1e-9)
    assert frame["beat_0.05"].tolist() == [1, 0, 0]


def test_the_figure_has_the_codes_in_the_order_of_the_beat(atlas):
    titles = [axes.get_title() for axes in atlas.draw().axes if axes.get_title()]
    assert titles == ["code 0: 25.74%", "code 1: 24.75%", "code 2: 24.75%"]


def test_a_tokenizer_of_ppg_counts_from_pulse_onsets():
    model = CMSSLTokenizerModel(tokenizer_config(channels=("ppg",), sampling_rate=125))
    atlas = token_atlas(model, [beats(1000)[1:]])
    # Codes at the ends of windows only have no place.
    assert atlas.beat == "pulse onset" and np.isfinite(atlas.table["position"][0])
    assert atlas.table["count"].sum() == 40


def test_nothing_to_encode_is_refused():
    model = CMSSLTokenizerModel(tokenizer_config())
    with pytest.raises(ValueError, match=r"no window of at least one patch \(25 samples\)"):
        token_atlas(model, [np.zeros((2, 24))])
