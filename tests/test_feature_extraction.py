"""The feature extractor against scipy, and what it refuses."""

import numpy as np
import pytest
import torch
from scipy import signal as scipy_signal

from cmssl_hf import CMSSLEncoderConfig, CMSSLEncoderModel, CMSSLFeatureExtractor


def noisy_wave(rate: float, seconds: float, seed: int = 0) -> np.ndarray:
    """A 1.2 Hz wave with harmonics, baseline, offset and noise."""
    times = np.arange(round(rate * seconds)) / rate
    generator = np.random.default_rng(seed)
    wave = np.sin(2 * np.pi * 1.2 * times) + 0.4 * np.sin(2 * np.pi * 2.4 * times + 1)
    return 500 + 40 * wave + 30 * np.sin(2 * np.pi * 0.2 * times) + generator.normal(size=len(times))


def scipy_features(signal: np.ndarray, up: int, down: int, band: tuple[float, float]) -> np.ndarray:
    """What the published and PulseDB's preparation say, at 125 Hz: resample, third-order Butterworth, standardise."""
    resampled = scipy_signal.resample_poly(signal, up, down, padtype="line")
    sections = scipy_signal.butter(3, band, "bandpass", fs=125, output="sos")
    filtered = scipy_signal.sosfiltfilt(sections, resampled, padlen=125)
    return (filtered - filtered.mean()) / filtered.std()


# --- values


@pytest.mark.parametrize(("rate", "up", "down"), [(125, 1, 1), (64, 125, 64), (500, 1, 4), (300, 5, 12)])
def test_values_are_those_of_scipy(rate, up, down):
    ppg = noisy_wave(rate, 10)
    features = CMSSLFeatureExtractor()(ppg=ppg, sampling_rate=rate, return_tensors="np")
    expected = scipy_features(ppg, up, down, (0.5, 8.0))
    assert features["input_values"].dtype == np.float32
    assert features["input_values"].shape == (1, 1, 1250)
    np.testing.assert_allclose(features["input_values"][0, 0, : len(expected)], expected, atol=1e-5)
    assert features["attention_mask"].tolist() == [[1] * len(expected) + [0] * (1250 - len(expected))]


def test_each_channel_has_its_band_and_rate():
    ecg, ppg = noisy_wave(500, 10), noisy_wave(64, 10, seed=1)
    features = CMSSLFeatureExtractor(channels=("ppg", "ecg"))(
        ecg=ecg, ppg=ppg, sampling_rate={"ecg": 500, "ppg": 64}, return_tensors="pt"
    )
    assert features["input_values"].shape == (1, 2, 1250)
    np.testing.assert_allclose(features["input_values"][0, 0], scipy_features(ppg, 125, 64, (0.5, 8.0)), atol=1e-5)
    np.testing.assert_allclose(features["input_values"][0, 1], scipy_features(ecg, 1, 4, (0.5, 40.0)), atol=1e-5)


def test_steps_can_be_switched_off():
    ppg = noisy_wave(125, 4)
    raw = CMSSLFeatureExtractor(do_band_pass=False, do_standardize=False)
    np.testing.assert_allclose(raw(ppg=ppg, sampling_rate=125)["input_values"][0][0], ppg.astype(np.float32))
    standardised = CMSSLFeatureExtractor(do_band_pass=False)(ppg=ppg, sampling_rate=125)["input_values"][0][0]
    np.testing.assert_allclose(standardised, (ppg - ppg.mean()) / ppg.std(), atol=1e-5)


def test_pass_bands_can_be_changed():
    ppg = noisy_wave(125, 10)
    extractor = CMSSLFeatureExtractor(pass_bands={"ppg": (0.1, 20.0)})
    values = extractor(ppg=ppg, sampling_rate=125)["input_values"][0][0]
    np.testing.assert_allclose(values, scipy_features(ppg, 1, 1, (0.1, 20.0)), atol=1e-5)
    assert extractor.pass_bands["ecg"] == [0.5, 40.0]


def test_one_wave_at_two_rates_gives_one_answer():
    """Real time is kept: 8 s stay 8 s whatever the rate."""
    waves = [np.sin(2 * np.pi * 1.25 * np.arange(8 * rate) / rate) for rate in (64, 125)]
    extractor = CMSSLFeatureExtractor()
    slow, fast = (
        extractor(ppg=wave, sampling_rate=rate)["input_values"][0][0] for wave, rate in zip(waves, (64, 125))
    )
    assert slow.shape == fast.shape == (1000,)
    inside = slice(125, -125)
    np.testing.assert_allclose(slow[inside], fast[inside], atol=0.02)
    assert np.argmax(np.abs(np.fft.rfft(slow))) / 8 == 1.25


# --- batches and padding


def test_windows_of_different_lengths_are_padded_to_whole_patches():
    windows = [noisy_wave(125, seconds) for seconds in (2, 3.48, 1)]
    features = CMSSLFeatureExtractor(padding_value=-3.0)(ppg=windows, sampling_rate=125, return_tensors="pt")
    assert features["input_values"].shape == (3, 1, 500)
    assert features["attention_mask"].sum(-1).tolist() == [250, 435, 125]
    for index, length in enumerate((250, 435, 125)):
        assert (features["input_values"][index, 0, length:] == -3.0).all()
        alone = CMSSLFeatureExtractor()(ppg=windows[index], sampling_rate=125)["input_values"][0][0]
        np.testing.assert_allclose(features["input_values"][index, 0, :length], alone[:length], atol=1e-5)


def test_max_length_and_truncation():
    extractor, ppg = CMSSLFeatureExtractor(), noisy_wave(125, 10)
    longer = extractor(ppg=ppg, sampling_rate=125, padding="max_length", max_length=1400, return_tensors="np")
    assert longer["input_values"].shape == (1, 1, 1500)
    shorter = extractor(
        ppg=ppg, sampling_rate=125, padding="max_length", max_length=500, truncation=True, return_tensors="np"
    )
    assert shorter["input_values"].shape == (1, 1, 500)
    assert shorter["attention_mask"].shape == (1, 500)


@pytest.mark.parametrize("container", ["list of lists", "list of arrays", "array", "list of tensors"])
def test_batches_come_in_many_forms(container):
    array = np.stack([noisy_wave(125, 2), noisy_wave(125, 2, seed=1)])
    batch = {
        "list of lists": array.tolist(),
        "list of arrays": list(array),
        "array": array,
        "list of tensors": list(torch.tensor(array)),
    }[container]
    features = CMSSLFeatureExtractor()(ppg=batch, sampling_rate=125, return_tensors="np")
    expected = np.stack([scipy_features(window, 1, 1, (0.5, 8.0)) for window in array])
    np.testing.assert_allclose(features["input_values"][:, 0], expected, atol=1e-5)


def test_channels_whose_lengths_differ_by_a_sample_are_aligned():
    """62.4725 Hz, as in MIMIC, does not divide 125 Hz."""
    ecg, ppg = noisy_wave(125, 10), noisy_wave(62.4725, 10)
    features = CMSSLFeatureExtractor(channels=("ecg", "ppg"))(
        ecg=ecg, ppg=ppg, sampling_rate={"ecg": 125, "ppg": 62.4725}, return_tensors="np"
    )
    assert features["input_values"].shape == (1, 2, 1250)
    assert features["attention_mask"].sum() >= 1249


def test_the_model_reads_what_the_extractor_writes():
    config = CMSSLEncoderConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=16)
    model = CMSSLEncoderModel(config).eval()
    extractor = CMSSLFeatureExtractor(channels=config.channels, patch_size=config.patch_size)
    windows = [noisy_wave(64, 8), noisy_wave(64, 5)]
    together = model(**extractor(ppg=windows, sampling_rate=64, return_tensors="pt")).pooler_output
    alone = model(**extractor(ppg=windows[1], sampling_rate=64, return_tensors="pt")).pooler_output
    torch.testing.assert_close(together[1], alone[0])


def test_saving_keeps_every_setting(tmp_path):
    extractor = CMSSLFeatureExtractor(
        channels=("ecg", "ppg"), sampling_rate=100, patch_size=50, pass_bands={"ppg": (0.1, 5.0)}, do_standardize=False
    )
    extractor.save_pretrained(tmp_path)
    loaded = CMSSLFeatureExtractor.from_pretrained(tmp_path)
    assert loaded.to_dict() == extractor.to_dict()
    assert (loaded.channels, loaded.feature_size) == (("ecg", "ppg"), 2)
    changed = CMSSLFeatureExtractor.from_pretrained(tmp_path, channels=("ppg",))
    assert (changed.channels, changed.feature_size) == (("ppg",), 1)


# --- what is refused


def test_the_sampling_rate_is_required():
    ppg = noisy_wave(125, 2)
    with pytest.raises(TypeError, match="sampling_rate"):
        CMSSLFeatureExtractor()(ppg=ppg)
    with pytest.raises(ValueError, match="`sampling_rate` is required"):
        CMSSLFeatureExtractor()(ppg=ppg, sampling_rate=None)
    with pytest.raises(ValueError, match="gives no rate for ppg"):
        CMSSLFeatureExtractor()(ppg=ppg, sampling_rate={"ecg": 125})
    with pytest.raises(ValueError, match="must be a positive number of Hz, but is 0"):
        CMSSLFeatureExtractor()(ppg=ppg, sampling_rate=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_samples_that_are_no_numbers(bad):
    ppg = noisy_wave(125, 2)
    ppg[37] = bad
    with pytest.raises(ValueError, match=r"`ppg` holds NaN or infinite samples \(the first at position 37\)"):
        CMSSLFeatureExtractor()(ppg=ppg, sampling_rate=125)
    with pytest.raises(ValueError, match=r"`ppg` \(window 1 of the batch\) holds NaN"):
        CMSSLFeatureExtractor()(ppg=[noisy_wave(125, 2), ppg], sampling_rate=125)


def test_a_constant_signal():
    with pytest.raises(ValueError, match=r"`ppg` is constant \(7.0\): no signal was recorded"):
        CMSSLFeatureExtractor()(ppg=np.full(250, 7.0), sampling_rate=125)


def test_a_window_shorter_than_a_patch():
    with pytest.raises(ValueError, match=r"lasts 0.5 s, but at least one patch of 1 s is needed"):
        CMSSLFeatureExtractor()(ppg=noisy_wave(64, 0.5), sampling_rate=64)


@pytest.mark.parametrize("signal", [[], np.zeros((0,)), [[]]])
def test_nothing_at_all(signal):
    with pytest.raises(ValueError, match=r"is empty|lasts 0 s"):
        CMSSLFeatureExtractor()(ppg=signal, sampling_rate=125)


def test_ragged_and_misshapen_inputs():
    extractor = CMSSLFeatureExtractor()
    with pytest.raises(ValueError, match=r"must be a 1-d array of samples, but has shape \(2, 250\)"):
        extractor(ppg=np.random.default_rng(0).normal(size=(3, 2, 250)), sampling_rate=125)
    with pytest.raises(ValueError, match="`ppg` must hold numbers"):
        extractor(ppg=["a", "b"], sampling_rate=125)
    with pytest.raises(ValueError, match="`ppg` must hold numbers"):
        extractor(ppg=[[1.0, [2.0, 3.0]], [1.0, 2.0]], sampling_rate=125)
    with pytest.raises(ValueError, match="`ppg` must hold numbers"):
        extractor(ppg=3.0, sampling_rate=125)


def test_the_wrong_modality():
    wave = noisy_wave(125, 2)
    with pytest.raises(ValueError, match="reads ppg, but ppg is missing, but was given ecg"):
        CMSSLFeatureExtractor()(ecg=wave, sampling_rate=125)
    with pytest.raises(ValueError, match="reads ppg, but was given ecg"):
        CMSSLFeatureExtractor()(ecg=wave, ppg=wave, sampling_rate=125)
    with pytest.raises(ValueError, match="reads ecg and ppg, but ecg is missing"):
        CMSSLFeatureExtractor(channels=("ecg", "ppg"))(ppg=wave, sampling_rate=125)


def test_channels_that_do_not_belong_together():
    extractor = CMSSLFeatureExtractor(channels=("ecg", "ppg"))
    wave = noisy_wave(125, 4)
    with pytest.raises(ValueError, match=r"must have as many windows, but have {'ecg': 2, 'ppg': 1}"):
        extractor(ecg=[wave, wave], ppg=[wave], sampling_rate=125)
    with pytest.raises(ValueError, match=r"one duration, but last {'ecg': 4.0, 'ppg': 2.0} seconds"):
        extractor(ecg=wave, ppg=wave[:250], sampling_rate=125)


@pytest.mark.parametrize("channels", [(), ("eeg",), ("ppg", "ppg")])
def test_unknown_channels(channels):
    with pytest.raises(ValueError, match=r"must name one or more of \['ecg', 'ppg'\] once each"):
        CMSSLFeatureExtractor(channels=channels)
