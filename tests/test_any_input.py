"""Whatever comes in - any length, rate, type, value or shape - what comes out is finite, or a `ValueError` that says what is wrong."""

import numpy as np
import pyarrow as pa
import pytest
import torch
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import pipeline

from cmssl_hf import (
    CMSSLEncoderForSequenceClassification,
    CMSSLEncoderModel,
    CMSSLFeatureExtractor,
    load_dataset,
)
from cmssl_hf.building.windows import reason_to_drop
from cmssl_hf.data.augmentation import Augmentation
from cmssl_hf.data.batches import WindowBatch, WindowsCollator, input_values_to_numpy
from cmssl_hf.data.features import extract_table, input_values_to_arrow
from cmssl_hf.models.cmssl.quality_cmssl import find_quality_issues
from helpers.inputs import HYPOTHESIS_SETTINGS, signals
from helpers.tiny import encoder_config


pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

RATES = st.one_of(
    st.sampled_from([125, 125.0, 64, 62.4725, 250, 300, 500, 1000, 2.0, 25]),
    st.floats(),
    st.floats(1, 2000),
    st.integers(-10, 10**6),
)


BATCHES = st.one_of(signals(), st.lists(signals(), max_size=3))


def assert_says_what(error: ValueError) -> None:
    assert len(str(error)) > 12


@settings(max_examples=400, **HYPOTHESIS_SETTINGS)
@given(
    channels=st.sampled_from([("ppg",), ("ecg",), ("ecg", "ppg")]),
    ecg=st.none() | BATCHES,
    ppg=st.none() | BATCHES,
    rate=RATES | st.dictionaries(st.sampled_from(["ecg", "ppg"]), RATES),
    do_band_pass=st.booleans(),
    do_standardize=st.booleans(),
)
def test_feature_extractor(channels, ecg, ppg, rate, do_band_pass, do_standardize):
    extractor = CMSSLFeatureExtractor(
        channels=channels, patch_size=25, do_band_pass=do_band_pass, do_standardize=do_standardize
    )
    given_signals = {
        name: signal
        for name, signal in (("ecg", ecg), ("ppg", ppg))
        # One in two windows has just the channels that the extractor reads.
        if name in channels or (signal is not None and len(np.shape(rate)) == 0 and do_band_pass)
    }
    try:
        features = extractor(**given_signals, sampling_rate=rate, return_tensors="pt")
    except ValueError as error:
        assert_says_what(error)
        return
    values, mask = features["input_values"], features["attention_mask"]
    assert values.dtype == torch.float32
    assert torch.isfinite(values).all()
    assert values.shape[1] == len(channels)
    assert values.shape[2] % 25 == 0
    assert mask.shape == (values.shape[0], values.shape[2])
    assert (mask.sum(-1) >= 25).all()


@settings(max_examples=200, **HYPOTHESIS_SETTINGS)
@given(signal=signals(), rate=st.floats(1, 2000), channel=st.sampled_from(["ecg", "ppg"]))
def test_quality(signal, rate, channel):
    try:
        signal = np.asarray(signal, dtype=np.float64)
    except (TypeError, ValueError):
        return
    if signal.ndim != 1 or reason_to_drop(signal) == "missing" or np.abs(signal).max() > 1e300:
        return
    (issues,) = find_quality_issues([signal], rate, channel)
    assert set(issues) <= {"flat", "clipped", "out_of_range", "no_pulse", "inverted"}
    if len(signal) and np.ptp(signal) == 0:
        assert "no_pulse" in issues


@settings(max_examples=150, **HYPOTHESIS_SETTINGS)
@given(
    lengths=st.lists(st.integers(1, 120), min_size=1, max_size=5),
    num_channels=st.integers(1, 2),
    patch_size=st.integers(1, 30),
    scale=st.sampled_from([0.0, 1e-38, 1.0, 1e18]),
    augmentation=st.builds(
        Augmentation,
        sampling_rate=st.floats(10, 1000),
        time_stretch=st.floats(1, 3),
        amplitude_jitter=st.floats(0, 1),
        noise=st.floats(0, 1),
    ),
)
def test_collator(lengths, num_channels, patch_size, scale, augmentation):
    rng = np.random.default_rng(0)
    windows = [(scale * rng.standard_normal((num_channels, length))).astype(np.float32) for length in lengths]
    read = input_values_to_numpy(pa.chunked_array([input_values_to_arrow(windows)]))
    table = pa.table({"label": np.arange(len(windows), dtype="f4")})
    generators = [np.random.default_rng(row) for row in range(len(windows))]
    batch = WindowBatch(read, table, augmentation if augmentation.active else None, generators)
    inputs = WindowsCollator(patch_size, label_column="label")(batch)
    values = inputs["input_values"]
    assert torch.isfinite(values).all()
    assert values.shape[:2] == (len(windows), num_channels)
    assert values.shape[2] % patch_size == 0
    if not augmentation.active:
        mask = inputs.get("attention_mask", torch.ones(len(windows), values.shape[2]))
        assert mask.sum(-1).tolist() == lengths
        for window, row in zip(windows, values.numpy()):
            np.testing.assert_array_equal(row[:, : window.shape[1]], window)
            assert not row[:, window.shape[1] :].any()


@settings(max_examples=100, **HYPOTHESIS_SETTINGS)
@given(windows=st.lists(signals(), min_size=1, max_size=3), rate=st.sampled_from([125.0, 64.0, 0.0, np.nan, 1e9]))
def test_extraction_from_tables(windows, rate):
    try:
        rows = [np.asarray(window, dtype=np.float32) for window in windows]
        column = pa.array(rows, pa.list_(pa.float32()))
    except (TypeError, ValueError, RuntimeWarning, pa.ArrowInvalid):
        return
    table = pa.table(
        {
            "ppg": pa.chunked_array([column]),
            "sampling_rate": [rate] * len(rows),
            "record_id": [f"r{row}" for row in range(len(rows))],
        }
    )
    try:
        extracted, unusable = extract_table(table, CMSSLFeatureExtractor(patch_size=25), {"ppg": "ppg"})
    except ValueError as error:
        assert "r0" in str(error) or "r1" in str(error) or "r2" in str(error)
        return
    assert len(extracted) + len(unusable) == len(rows)
    samples = extracted["input_values"].combine_chunks().flatten().flatten().to_numpy()
    assert np.isfinite(samples).all()


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    torch.manual_seed(0)
    tasks = {
        "physiological-signal-regression": (
            CMSSLEncoderForSequenceClassification,
            {"problem_type": "regression", "num_labels": 1, "label_mean": (70.0,), "label_std": (10.0,)},
        ),
        "physiological-signal-classification": (CMSSLEncoderForSequenceClassification, {"num_labels": 3}),
        "physiological-signal-feature-extraction": (CMSSLEncoderModel, {}),
    }
    made = []
    for task, (model_class, config) in tasks.items():
        folder = tmp_path_factory.mktemp("model")
        model_class(encoder_config(**config)).save_pretrained(folder)
        CMSSLFeatureExtractor(patch_size=25).save_pretrained(folder)
        made.append(pipeline(task, model=str(folder)))
    return made


@settings(max_examples=150, **HYPOTHESIS_SETTINGS)
@given(
    task=st.integers(0, 2),
    signal=signals(max_samples=900),
    rate=RATES,
    seconds=st.none() | st.floats(0.05, 5) | st.floats(),
    stride=st.none() | st.floats(0.2, 5) | st.sampled_from([0.0, -1.0, np.nan]),
)
def test_pipelines(pipelines, task, signal, rate, seconds, stride):
    options = {
        name: value for name, value in (("window_seconds", seconds), ("stride_seconds", stride)) if value is not None
    }
    try:
        # A list would be several recordings.
        answer = pipelines[task]({"signal": signal, "sampling_rate": rate}, **options)
    except ValueError as error:
        assert_says_what(error)
        return
    assert 0 <= answer["usable_share"] <= 1
    assert (answer["value"] is None) == (answer["usable_share"] == 0) == ("reason" in answer)
    for part in (answer, *answer["windows"]):
        if part["value"] is None:
            assert part is answer or part["reason"] in ("missing", "flat", "short", "not finite")
        elif task == 0:
            assert np.isfinite([*part["value"].values()]).all()
        elif task == 1:
            assert sum(part["scores"].values()) == pytest.approx(1, abs=1e-4)
            assert part["value"] in part["scores"]
        else:
            assert np.isfinite(part["value"]).all()
        if "start" in part and part is not answer and part["value"] is not None:
            assert isinstance(part["quality_issues"], list)


@settings(max_examples=25, **HYPOTHESIS_SETTINGS)
@given(
    records=st.lists(st.tuples(signals(2000), signals(2000)), min_size=3, max_size=4),
    rate=st.sampled_from([25, 62.4725, 125, 500]),
    window_seconds=st.sampled_from([0.5, 2.0, 10.0]),
)
def test_builder_of_written_files(records, rate, window_seconds, tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    for number, pair in enumerate(records):
        try:
            ecg, ppg = (np.asarray(signal, dtype=np.float64) for signal in pair)
            length = min(len(ecg), len(ppg))
            samples = np.stack([ecg[:length], ppg[:length]], axis=1)
            wfdb.wrsamp(
                f"r{number}",
                fs=rate,
                units=["mV", "NU"],
                sig_name=["II", "PLETH"],
                p_signal=samples,
                fmt=["16", "16"],
                write_dir=str(folder),
            )
        # What wfdb does not write cannot be read either.
        except Exception:
            continue
    try:
        rows = load_dataset(
            "wfdb_pairs", data_dir=folder, streaming=True, window_seconds=window_seconds, stride_seconds=window_seconds
        )
        read = [row for split in rows.values() for row in split]
    except ValueError as error:
        assert_says_what(error)
        return
    for row in read:
        assert np.isfinite(row["ecg"]).all()
        assert np.isfinite(row["ppg"]).all()
        assert len(row["ecg"]) == len(row["ppg"]) > 0
        assert row["sampling_rate"] == rate
