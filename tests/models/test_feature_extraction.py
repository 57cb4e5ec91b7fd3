"""The feature extractor against scipy, and what it refuses."""

from collections import deque
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from scipy import signal as scipy_signal
from transformers import DataCollatorWithPadding

from cmssl_hf import CMSSLEncoderConfig, CMSSLEncoderModel, CMSSLFeatureExtractor
from cmssl_hf.models.heartlang.feature_extraction_heartlang import HeartLangFeatureExtractor
from cmssl_hf.models.papagei.feature_extraction_papagei import PaPaGeiFeatureExtractor


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


# --- what people have their signals in


@pytest.mark.parametrize(
    "contain",
    [
        lambda x: pd.DataFrame({"ppg": np.concatenate([x, x])})["ppg"][len(x) :],
        lambda x: pd.Series(x, index=pd.date_range("2024", periods=len(x), freq="8ms")),
        lambda x: pd.Series(x, index=[f"row {i}" for i in range(len(x))]),
        lambda x: pd.Series(x)[::-1].iloc[::-1],
        lambda x: pd.Series(x, dtype="Float64"),
        lambda x: pd.DataFrame({"ppg": x}, index=range(7, 7 + len(x))),
        lambda x: pa.array(x),
        lambda x: pa.chunked_array([x[:100], x[100:]]),
        lambda x: torch.tensor(x, requires_grad=True),
        lambda x: np.ma.masked_array(x, mask=np.zeros(len(x), bool)),
        lambda x: x.astype(object),
        lambda x: [Decimal(value) for value in x.tolist()],
        tuple,
        deque,
        iter,
        lambda x: (value for value in x),
    ],
)
def test_one_window_comes_in_many_forms(contain):
    ppg = noisy_wave(125, 4)
    expected = CMSSLFeatureExtractor()(ppg=ppg, sampling_rate=125, return_tensors="np")["input_values"]
    features = CMSSLFeatureExtractor()(ppg=contain(ppg), sampling_rate=125, return_tensors="np")
    np.testing.assert_array_equal(features["input_values"], expected)


@pytest.mark.parametrize(
    "contain",
    [
        lambda windows: pd.Series(windows, index=[5, 3]),
        lambda windows: [pd.Series(window, index=range(9, 9 + len(window))) for window in windows],
        lambda windows: np.array([*windows, None], dtype=object)[:2],
        lambda windows: pa.array([window.tolist() for window in windows]),
        tuple,
        iter,
    ],
)
def test_windows_of_different_lengths_come_in_many_forms(contain):
    windows = [noisy_wave(125, 4), noisy_wave(125, 2.4, seed=1)]
    expected = CMSSLFeatureExtractor()(ppg=windows, sampling_rate=125, return_tensors="np")
    features = CMSSLFeatureExtractor()(ppg=contain(windows), sampling_rate=125, return_tensors="np")
    for name in ("input_values", "attention_mask"):
        np.testing.assert_array_equal(features[name], expected[name])


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.uint8, np.float16, np.longdouble])
def test_types_of_samples(dtype):
    counts = np.round(noisy_wave(125, 4) / 4).astype(dtype)
    expected = scipy_features(counts.astype(np.float64), 1, 1, (0.5, 8.0))
    features = CMSSLFeatureExtractor()(ppg=counts, sampling_rate=125)
    np.testing.assert_allclose(features["input_values"][0][0], expected, atol=1e-5)


def test_bfloat16():
    ppg = torch.tensor(noisy_wave(125, 4)).bfloat16()
    features = CMSSLFeatureExtractor()(ppg=ppg, sampling_rate=125)
    expected = scipy_features(ppg.double().numpy(), 1, 1, (0.5, 8.0))
    np.testing.assert_allclose(features["input_values"][0][0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("contain", "message"),
    [
        (lambda x: x + 1j * x, "it holds values of type complex128"),
        (lambda x: torch.tensor(x + 1j * x), "it holds values of type complex128"),
        (lambda x: x > 500, "it holds values of type bool"),
        (lambda x: x.astype(str), "it holds values of type <U"),
        (lambda x: x.astype(str).tolist(), "it holds values of type <U"),
        (lambda x: x.astype(str).astype(object), "it holds text or truth values"),
        (lambda x: x.astype("M8[ms]"), r"it holds values of type datetime64"),
        (lambda x: {"ppg": x}, "it is a dict"),
        (lambda x: set(x), "it is a set"),
        (lambda x: x.tobytes(), "it is a bytes"),
        (lambda x: "ppg.csv", "it is a str"),
        (lambda x: pd.DataFrame({"time": x, "ppg": x}), "it is a table with the columns time, ppg; give one of them"),
        (lambda x: pd.Series(x > 500), "it holds values of type bool"),
    ],
)
def test_what_holds_no_samples(contain, message):
    with pytest.raises(ValueError, match=f"`ppg` must hold numbers: {message}"):
        CMSSLFeatureExtractor()(ppg=contain(noisy_wave(125, 2)), sampling_rate=125)


def test_missing_samples_are_named():
    ppg = noisy_wave(125, 2)
    masked = np.ma.masked_array(ppg, mask=np.arange(len(ppg)) == 37)
    nullable = pd.Series(ppg, dtype="Float64")
    nullable[37] = None
    for signal in (masked, nullable, [*ppg[:37], None, *ppg[38:]]):
        with pytest.raises(ValueError, match=r"`ppg` holds NaN or infinite samples \(the first at position 37\)"):
            CMSSLFeatureExtractor()(ppg=signal, sampling_rate=125)


def test_a_column_is_no_batch():
    with pytest.raises(ValueError, match=r"`ppg` has shape \(250, 1\), but time is the last axis"):
        CMSSLFeatureExtractor()(ppg=noisy_wave(125, 2)[:, None], sampling_rate=125)


def test_the_one_signal_needs_no_name():
    for channel in ("ecg", "ppg"):
        extractor, wave = CMSSLFeatureExtractor(channels=(channel,)), noisy_wave(125, 2)
        expected = extractor(**{channel: wave}, sampling_rate=125)["input_values"]
        np.testing.assert_array_equal(extractor(wave, sampling_rate=125)["input_values"], expected)
        with pytest.raises(ValueError, match=rf"by name: `extractor\({channel}=...\)`"):
            extractor(wave, wave, sampling_rate=125)
        with pytest.raises(ValueError, match=f"`{channel}` is given twice"):
            extractor(wave, **{channel: wave}, sampling_rate=125)
    both = CMSSLFeatureExtractor(channels=("ppg", "ecg"))
    for signals in ((wave,), (wave, wave)):
        with pytest.raises(ValueError, match=r"takes its signals by name: `extractor\(ppg=..., ecg=...\)`"):
            both(*signals, sampling_rate=125)


# --- padding rows again


def rows_of(extractor: CMSSLFeatureExtractor, seconds: list[float], form: str) -> list[dict]:
    """Rows as a dataset holds them: windows padded to whole patches, each by itself."""
    rows = []
    for index, duration in enumerate(seconds):
        signals = {name: noisy_wave(125, duration, seed=index) for name in extractor.channels}
        features = extractor(**signals, sampling_rate=125, return_tensors="pt" if form == "torch" else "np")
        row = {name: value[0] for name, value in features.items()}
        rows.append({name: value.tolist() for name, value in row.items()} if form == "lists" else row)
    return rows


@pytest.mark.parametrize("channels", [("ppg",), ("ecg", "ppg")])
@pytest.mark.parametrize("form", ["lists", "numpy", "torch"])
@pytest.mark.parametrize(
    ("options", "samples"),
    [
        ({}, 1250),
        ({"padding": "max_length", "max_length": 1300}, 1375),
        ({"padding": "max_length", "max_length": 700, "truncation": True}, 750),
        ({"pad_to_multiple_of": 250}, 1250),
        ({"pad_to_multiple_of": 500}, 1500),
        ({"pad_to_multiple_of": 64}, 8000),
    ],
)
def test_rows_are_padded_in_time(channels, form, options, samples):
    extractor = CMSSLFeatureExtractor(channels=channels, padding_value=-3.0)
    rows = rows_of(extractor, [10, 5.6], form)
    padded = extractor.pad(rows, return_tensors="pt", **options)
    assert padded["input_values"].shape == (2, len(channels), samples)
    assert padded["attention_mask"].shape == (2, samples)
    assert (padded["input_values"].dtype, padded["attention_mask"].dtype) == (torch.float32, torch.int32)
    for index, length in enumerate((1250, 700)):
        kept = min(length, samples)
        values = np.asarray(rows[index]["input_values"])[:, :kept]
        np.testing.assert_array_equal(padded["input_values"][index, :, :kept], values)
        assert (padded["input_values"][index, :, kept:] == -3.0).all()
        assert padded["attention_mask"][index].tolist() == [1] * kept + [0] * (samples - kept)


def test_rows_are_padded_at_the_start_where_that_is_set():
    extractor = CMSSLFeatureExtractor(padding_side="left")
    rows = rows_of(extractor, [3, 2], "numpy")
    padded = extractor.pad(rows)
    assert type(padded["input_values"]) is np.ndarray
    assert padded["attention_mask"].sum(-1).tolist() == [375, 250]
    np.testing.assert_array_equal(padded["input_values"][1, 0, 125:], rows[1]["input_values"][0])
    assert not padded["input_values"][1, 0, :125].any()


def test_rows_without_a_mask_and_with_ragged_lengths():
    """What `extract_features` leaves: neither padded nor masked."""
    extractor = CMSSLFeatureExtractor()
    windows = [np.random.default_rng(0).normal(size=(1, length)).astype(np.float32) for length in (300, 260)]
    padded = extractor.pad([{"input_values": window.tolist()} for window in windows], return_tensors="np")
    assert padded["input_values"].shape == (2, 1, 375)
    assert padded["attention_mask"].sum(-1).tolist() == [300, 260]
    assert "attention_mask" not in extractor.pad({"input_values": windows}, return_attention_mask=False)
    whole = extractor.pad({"input_values": windows}, padding=False)
    assert [row.shape for row in whole["input_values"]] == [(1, 300), (1, 260)]


@pytest.mark.parametrize(("labels", "dtype"), [((71.5, 60.25), torch.float32), ((1, 0), torch.int64)])
def test_the_collator_of_transformers(labels, dtype):
    extractor = CMSSLFeatureExtractor()
    rows = [{**row, "label": label} for row, label in zip(rows_of(extractor, [10, 6], "lists"), labels)]
    batch = DataCollatorWithPadding(extractor)(rows)
    assert batch["input_values"].shape == (2, 1, 1250)
    assert batch["attention_mask"].sum(-1).tolist() == [1250, 750]
    assert (batch["labels"].dtype, batch["labels"].tolist()) == (dtype, list(labels))


def test_padded_rows_are_those_of_the_extractor():
    extractor = CMSSLFeatureExtractor(channels=("ecg", "ppg"))
    windows = {name: [noisy_wave(125, seconds) for seconds in (4, 2.4)] for name in extractor.channels}
    together = extractor(**windows, sampling_rate=125, return_tensors="pt")
    again = extractor.pad(together, pad_to_multiple_of=1000)
    assert again["input_values"].shape == (2, 2, 1000)
    torch.testing.assert_close(again["input_values"][..., :500], together["input_values"])
    assert again["attention_mask"].sum(-1).tolist() == [500, 300]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "There are no rows to pad"),
        ([{"input_values": np.ones((1, 250))}, {"input_values": np.ones((2, 250))}], r"\(1, samples\), but row 1 has"),
        ([{"input_values": np.ones((250, 1))}], r"must have shape \(1, samples\), but row 0 has shape \(250, 1\)"),
        ([{"input_values": np.ones((1, 250))}, {"input_values": np.ones(250)}], "but row 1 has"),
        (
            [{"input_values": np.ones((1, 250)), "attention_mask": np.ones(125)}],
            "`attention_mask` of row 0 must have shape",
        ),
        (
            [{"input_values": np.ones((1, 250)), "record_id": "r0"}],
            "`record_id` cannot be padded, since it holds no num",
        ),
        ([{"input_values": np.ones((1, 250)), "x": None}], "`x` cannot be padded, since it holds no numbers"),
        (
            [
                {"input_values": np.ones((1, 250)), "labels": [1, 2]},
                {"input_values": np.ones((1, 125)), "labels": [1]},
            ],
            "`labels` cannot be padded: it has not the same shape in all rows",
        ),
        (
            [{"input_values": np.ones((1, 250)), "label": 1}, {"input_values": np.ones((1, 250))}],
            r"All rows must have the same entries, but have",
        ),
    ],
)
def test_rows_that_cannot_be_padded(rows, message):
    with pytest.raises(ValueError, match=message):
        CMSSLFeatureExtractor().pad(rows, return_tensors="pt")


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
    for rate in ([125, 125], "fast", True, float("nan"), {"ppg": None}):
        with pytest.raises(
            ValueError, match="`sampling_rate` must be a number of Hz, or a dictionary of one by channel"
        ):
            CMSSLFeatureExtractor()(ppg=ppg, sampling_rate=rate)


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


def test_settings_that_do_nothing():
    with pytest.raises(
        ValueError, match=r"`pass_bands` must name channels among \['ecg', 'ppg'\], but names \['PPG'\]"
    ):
        CMSSLFeatureExtractor(pass_bands={"PPG": (0.1, 5.0)})
    with pytest.raises(ValueError, match=r"`patch_size` \(0\) must be positive"):
        CMSSLFeatureExtractor(patch_size=0)


def test_a_column_without_its_channel_must_not_be_called_after_another():
    extract = CMSSLFeatureExtractor(channels=("ppg",))
    column = pd.DataFrame({"ecg": np.sin(np.arange(1250) / 10)})
    for given in (column, column["ecg"]):
        with pytest.raises(ValueError, match="reads ppg, but the given column is called 'ecg'"):
            extract(given, sampling_rate=125)
    assert extract(column["ecg"].rename("pleth"), sampling_rate=125)["input_values"].shape == (1, 1, 1250)
    assert extract(ppg=column["ecg"], sampling_rate=125)["input_values"].shape == (1, 1, 1250)


@pytest.mark.parametrize("extractor_class", [HeartLangFeatureExtractor, PaPaGeiFeatureExtractor])
@pytest.mark.parametrize(
    ("rate", "message"),
    [(0, "must be a positive number of Hz"), (-125, "must be a positive number"), (np.inf, "must be a positive"),
     (1e-5, "out of range"), (1e9, "out of range")],
)  # fmt: skip
def test_rates_that_no_signal_has_are_refused_by_extractors_of_other_work(extractor_class, rate, message):
    with pytest.raises(ValueError, match=message):
        extractor_class()(np.random.default_rng(0).standard_normal(1250), sampling_rate=rate)


def test_an_empty_window_is_too_short_whatever_its_rate():
    with pytest.raises(ValueError, match=r"`ppg` \(window 0 of the batch\) lasts 0 s"):
        CMSSLFeatureExtractor(channels=("ppg",))(ppg=[[]], sampling_rate=0.0)
