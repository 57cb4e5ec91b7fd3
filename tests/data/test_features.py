"""Feature extraction over datasets: the same as window by window, cached, and errors that name the record."""

import numpy as np
import pytest
from datasets import Dataset, List, Value, load_from_disk

from cmssl_hf import CMSSLFeatureExtractor
from cmssl_hf.data import features
from cmssl_hf.data.features import columns_of_channels, extract_features


def signal(seconds, sampling_rate, seed=0):
    times = np.arange(round(seconds * sampling_rate)) / sampling_rate
    rng = np.random.default_rng(seed)
    return (np.sin(2 * np.pi * rng.uniform(1, 3) * times) + rng.uniform(-5, 5)).astype(np.float32)


def rows_of(seconds_and_rates, channels=("ecg", "ppg")):
    rows = {
        channel: [signal(*sizes, seed=10 * index + offset) for index, sizes in enumerate(seconds_and_rates)]
        for offset, channel in enumerate(channels)
    }
    number = len(seconds_and_rates)
    return Dataset.from_dict(
        rows
        | {
            "sampling_rate": [float(rate) for _, rate in seconds_and_rates],
            "subject_id": [f"s{index}" for index in range(number)],
            "record_id": [f"r{index:02d}" for index in range(number)],
            "start_time": [10.0 * index for index in range(number)],
        }
    )


MIXED = [(4, 125), (4, 64), (6, 125), (4, 250), (3, 64)]


@pytest.mark.parametrize("batch_size", [1, 2, 512])
@pytest.mark.parametrize("channels", [("ecg", "ppg"), ("ppg",)])
def test_windows_are_extracted_as_if_each_were_alone(channels, batch_size):
    raw = rows_of(MIXED)
    extractor = CMSSLFeatureExtractor(channels=channels)
    extracted = extract_features(raw, extractor, batch_size=batch_size)
    for row, (seconds, _) in zip(range(len(raw)), MIXED):
        alone = extractor(
            **{channel: np.array(raw[row][channel]) for channel in channels},
            sampling_rate=raw[row]["sampling_rate"],
            padding=False,
        )["input_values"][0]
        values = np.array(extracted[row]["input_values"])
        assert values.shape == (len(channels), seconds * 125)
        np.testing.assert_array_equal(values, alone)


def test_other_columns_stay_and_raw_signals_go():
    raw = rows_of(MIXED)
    extracted = extract_features(raw, CMSSLFeatureExtractor(channels=("ppg",)))
    provenance = {"sampling_rate", "subject_id", "record_id", "start_time"}
    assert set(extracted.column_names) == provenance | {"input_values", "quality_issues"}
    for name in ("sampling_rate", "subject_id", "record_id", "start_time"):
        assert extracted[name] == raw[name]


def test_signal_of_labelled_data_is_read_as_the_channel_of_the_extractor():
    raw = rows_of(MIXED).remove_columns("ecg")
    labelled = raw.rename_column("ppg", "signal")
    extractor = CMSSLFeatureExtractor(channels=("ppg",))
    assert extract_features(labelled, extractor)["input_values"] == extract_features(raw, extractor)["input_values"]


def test_selected_rows_are_the_selected_rows():
    raw, extractor = rows_of(MIXED), CMSSLFeatureExtractor(channels=("ppg",))
    everything = extract_features(raw, extractor)["input_values"]
    assert extract_features(raw.select([3, 0, 3]), extractor)["input_values"] == [everything[i] for i in (3, 0, 3)]


def test_processes_make_no_difference(tmp_path):
    rows_of(MIXED).save_to_disk(tmp_path)
    raw, extractor = load_from_disk(tmp_path), CMSSLFeatureExtractor(channels=("ppg",))
    parallel = extract_features(raw, extractor, num_proc=2)
    assert parallel["input_values"] == extract_features(rows_of(MIXED), extractor)["input_values"]


def test_cache_is_used_again_and_only_for_the_same_extractor(tmp_path, monkeypatch):
    rows_of(MIXED).save_to_disk(tmp_path)
    first = extract_features(load_from_disk(tmp_path), CMSSLFeatureExtractor(channels=("ppg",)))
    calls = []
    original = features.extract_table
    monkeypatch.setattr(features, "extract_table", lambda *a, **k: calls.append(1) or original(*a, **k))
    again = extract_features(load_from_disk(tmp_path), CMSSLFeatureExtractor(channels=("ppg",)))
    assert not calls
    assert again["input_values"] == first["input_values"]
    unfiltered = extract_features(
        load_from_disk(tmp_path), CMSSLFeatureExtractor(channels=("ppg",), do_band_pass=False)
    )
    assert calls
    assert unfiltered["input_values"] != first["input_values"]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda window: np.where(np.arange(len(window)) == 7, np.nan, window), "NaN or infinite samples"),
        (lambda window: np.where(np.arange(len(window)) == 7, np.inf, window), "NaN or infinite samples"),
        (lambda window: np.full_like(window, 2.5), "constant"),
        (lambda window: window[:60], "one patch"),
    ],
)
def test_window_that_cannot_be_used_names_its_record_and_no_other(spoil, reason):
    raw = rows_of([(4, 125)] * 12).to_dict()
    raw["ppg"][10] = spoil(np.array(raw["ppg"][10]))
    raw["ecg"][10] = raw["ecg"][10][: len(raw["ppg"][10])]
    with pytest.raises(ValueError, match=reason) as error:
        extract_features(Dataset.from_dict(raw), CMSSLFeatureExtractor(channels=("ppg",)))
    assert "r10" in str(error.value)
    assert not any(f"r{other:02d}" in str(error.value) for other in range(12) if other != 10)


@pytest.mark.parametrize(
    ("columns", "channels", "message"),
    [
        (("ecg", "sampling_rate"), ("ppg",), "reads ppg, but the dataset has no column ppg; its columns are ecg"),
        (("ppg", "sampling_rate"), ("ecg", "ppg"), "reads ecg and ppg, but the dataset has no column ecg"),
        (("signal", "label"), ("ecg", "ppg"), "one signal per row, but the model reads ecg and ppg"),
    ],
)
def test_channels_that_the_data_lack(columns, channels, message):
    dataset = Dataset.from_dict({name: [0.0] for name in columns})
    with pytest.raises(ValueError, match=message):
        columns_of_channels(dataset, CMSSLFeatureExtractor(channels=channels))


OWN = {
    "signal": [signal(4, 125, seed).tolist() for seed in range(3)],
    "sampling_rate": [125.0] * 3,
    "label": [60.0, 70.0, 80.0],
    "subject_id": ["a", "b", "c"],
    "record_id": ["r0", "r1", "r2"],
}


def own(**columns):
    """Somebody's own windows, some columns of which are other ones, or missing."""
    return Dataset.from_dict({name: values for name, values in {**OWN, **columns}.items() if values is not None})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"signal": [OWN["signal"][0], [np.nan, *OWN["signal"][1][1:]], OWN["signal"][2]]},
            "record r1: .*`ppg` holds NaN",
        ),
        (
            {"signal": [OWN["signal"][0], [None, *OWN["signal"][1][1:]], OWN["signal"][2]]},
            "record r1: .*`ppg` holds NaN",
        ),
        ({"signal": [OWN["signal"][0], None, OWN["signal"][2]]}, "record r1: `ppg` is missing"),
        ({"signal": [OWN["signal"][0], [], OWN["signal"][2]]}, "record r1: `ppg` is missing"),
        ({"sampling_rate": [125.0, None, 125.0]}, "record r1: the sampling rate is nan"),
        ({"sampling_rate": [125, 0, 125]}, r"record r1: the sampling rate is 0"),
        (
            {"sampling_rate": None},
            "no column 'sampling_rate', the rate of each row's signals in Hz; its columns are signal",
        ),
        (
            {"sampling_rate": ["125 Hz"] * 3},
            "'sampling_rate' must hold a number in Hz in each row, but holds .*string",
        ),
        ({"signal": [[window] for window in OWN["signal"]]}, "'signal' holds several leads, .* give one lead"),
        ({"signal": ["a", "b", "c"]}, "'signal' must be a list of samples, but is .*string"),
        ({"signal": [["a"], ["b"], ["c"]]}, "'signal' must be a list of samples, but is .*string"),
        ({"signal": [None, None, None]}, "'signal' must be a list of samples, but is .*null"),
        ({"signal": None}, "model reads ppg, but the dataset has no column ppg; its columns are sampling_rate, label"),
        (
            {"record_id": None, "signal": [*OWN["signal"][:2], None]},
            "1 of 3 windows cannot be used. In row 2: `ppg` is missing",
        ),
    ],
)
def test_own_data_that_cannot_be_used_say_which_record_or_column(columns, message):
    with pytest.raises(ValueError, match=message):
        extract_features(own(**columns), CMSSLFeatureExtractor())


@pytest.mark.parametrize("batch_size", [1, 2, 512])
def test_unusable_windows_are_left_out_and_named(batch_size, caplog):
    raw = rows_of([(4, 125)] * 6).to_dict()
    raw["ppg"][1] = [1.0] * 500
    raw["ppg"][4] = [float("nan")] * 500
    raw["record_id"][4] = raw["record_id"][5]
    dataset, extractor = Dataset.from_dict(raw), CMSSLFeatureExtractor(channels=("ppg",))
    extracted = extract_features(dataset, extractor, drop_unusable=True, batch_size=batch_size)
    assert extracted["start_time"][:] == [0.0, 20.0, 30.0, 50.0]
    expected = extract_features(dataset.select([0, 2, 3, 5]), extractor)
    assert extracted.to_dict() == expected.to_dict()
    assert "2 of 6 windows cannot be used, of r01, r05. In record r01: `ppg` is constant" in caplog.text
    with pytest.raises(ValueError, match="2 of 6 windows cannot be used, of r01, r05"):
        extract_features(dataset, extractor, batch_size=batch_size)


def test_data_of_which_no_window_can_be_used_are_refused():
    with pytest.raises(
        ValueError, match=r"3 of 3 windows cannot be used, of r0, r1, r2\. In record r0: .* lasts 0\.4 s"
    ):
        extract_features(own(signal=[[0.0, 1.0] * 25] * 3), CMSSLFeatureExtractor(), drop_unusable=True)


def test_many_records_are_not_all_named():
    named = features.name_records(["r0", "r0", *(f"r{number}" for number in range(1, 30))])
    assert named == "r0 (2), r1, r2, r3, r4, r5, r6, r7, r8, r9 and 20 more"


@pytest.mark.parametrize("dtype", ["float64", "float32", "int16", "int64"])
@pytest.mark.parametrize("length", [-1, 500])
def test_samples_of_any_number_type_are_read_alike(dtype, length):
    whole = np.round(1000 * np.array(OWN["signal"]))
    samples = List(Value(dtype), length=length)
    cast = Dataset.from_dict({**OWN, "signal": whole.astype(dtype)}).cast_column("signal", samples)
    expected = extract_features(own(signal=whole.tolist()), CMSSLFeatureExtractor())
    assert extract_features(cast, CMSSLFeatureExtractor())["input_values"] == expected["input_values"]
