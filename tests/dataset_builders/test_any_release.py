"""Releases with whatever in them - any length, rate, type, gaps, constants, huge values - give finite rows, or an error that names
the record."""

import pickle
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.io
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from cmssl_hf.building.dataset_builder import SplitCounts
from cmssl_hf.building.windows import DropCounter, usable_windows
from cmssl_hf.data.loading import load_dataset_builder
from helpers.inputs import HYPOTHESIS_SETTINGS, signals
from helpers.releases import (
    PTB_XL_LEADS,
    dalia_content,
    ptb_xl_signals,
    write_bidmc_recording,
    write_dalia_subject,
    write_uci_fold,
)


pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

# What a column of numbers may hold instead of plausible ones.
NUMBERS = st.one_of(
    st.floats(40, 200),
    st.floats(),
    st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -1.0, 1e30, 1e300, 3.5e38, 2.0**63]),
)


def module_of(builder):
    return sys.modules[type(builder).__module__]


def read(builder, record, name):
    """The rows of a record: all finite, as many as are counted; or none, and an error that names the record."""
    counts = SplitCounts()
    try:
        tables = list(builder.read_records([record], counts))
    except ValueError as error:
        assert name in str(error), error
        return []
    rows = [row for table in tables for row in table.to_pylist()]
    assert counts.windows["kept"] == len(rows)
    for row in rows:
        for column in {"signal", "ecg", "ppg", "label", "sampling_rate", "start_time"} & row.keys():
            values = np.asarray(row[column], dtype=np.float64)
            assert np.isfinite(values).all(), column
            assert values.size > 0
        for column in {"signal", "ecg", "ppg"} & row.keys():
            # Whether it is constant is asked before it is filtered or stretched.
            assert np.asarray(row[column]).shape[-1] > 0
    return rows


def as_samples(signal, length=None):
    """A generated signal as a column of float64, of one length if that is given; `None` if it is nothing of the kind."""
    try:
        samples = np.asarray(signal, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        return None
    if length is not None and len(samples):
        samples = np.resize(samples, length)
    return samples


@settings(max_examples=60, **HYPOTHESIS_SETTINGS)
@given(
    config=st.sampled_from(["pairs", "hr", "rr"]),
    ppg=signals(1500),
    ecg=signals(1500),
    heart_rate=st.lists(NUMBERS, max_size=15),
    breaths=st.lists(st.one_of(st.integers(-10, 2000), st.just(np.nan), st.integers(-(2**62), 2**62)), max_size=8),
    text=st.sampled_from(["Age: 64\nGender: F\n", "Age: NaN\n", "", "Age: 90+\nGender: \n", "Age: x\n"]),
    window_seconds=st.sampled_from([0.5, 2.0, 8.0]),
    rr_label=st.sampled_from(["count", "interval"]),
)
def test_bidmc_csv(config, ppg, ecg, heart_rate, breaths, text, window_seconds, rr_label, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bidmc")
    ppg, ecg = as_samples(ppg), as_samples(ecg)
    if ppg is None or ecg is None:
        return
    # A column that is shorter ends in empty cells.
    pd.DataFrame(
        {"Time [s]": pd.Series(np.arange(len(ppg)) / 125), " PLETH": pd.Series(ppg), " II": pd.Series(ecg)}
    ).to_csv(folder / "bidmc_08_Signals.csv", index=False)
    pd.DataFrame({" HR": heart_rate}, dtype=np.float64).to_csv(folder / "bidmc_08_Numerics.csv", index=False)
    marks = pd.Series(breaths, dtype=object)
    pd.DataFrame({"breaths ann1 [signal sample no]": marks, " breaths ann2 [signal sample no]": marks[:1]}).to_csv(
        folder / "bidmc_08_Breaths.csv", index=False
    )
    (folder / "bidmc_08_Fix.txt").write_text(text)
    builder = load_dataset_builder(
        "bidmc", config, data_dir=folder, cache_dir=folder, window_seconds=window_seconds, stride_seconds=window_seconds,
        rr_label=rr_label,
    )  # fmt: skip
    for row in read(builder, str(folder / "bidmc_08_Signals.csv"), "bidmc_08"):
        assert len(row["ppg" if config == "pairs" else "signal"]) == round(window_seconds * 125)
        assert row["subject_id"] == "8"


@settings(max_examples=25, **HYPOTHESIS_SETTINGS)
@given(
    ppg=signals(3000), heart_rate=st.lists(NUMBERS, min_size=31, max_size=31), config=st.sampled_from(["pairs", "hr"])
)
def test_bidmc_wfdb(ppg, heart_rate, config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bidmc")
    ppg = as_samples(ppg, 3751)
    try:
        write_bidmc_recording(folder, 8, ppg=ppg, heart_rate=np.array(heart_rate))
    # What wfdb does not write cannot be read either.
    except Exception:
        return
    builder = load_dataset_builder("bidmc", config, data_dir=folder, cache_dir=folder)
    read(builder, str(folder / "bidmc08.hea"), "bidmc08")


@settings(max_examples=40, **HYPOTHESIS_SETTINGS)
@given(
    signal=signals(2000),
    rate=st.one_of(st.sampled_from([300, 250, 62.4725]), st.floats(0.01, 1e5)),
    config=st.sampled_from(["rhythm", "paper"]),
)
def test_physionet2017(signal, rate, config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("challenge")
    samples = as_samples(signal)
    if samples is None:
        return
    try:
        wfdb.wrsamp(
            "A00001",
            fs=rate,
            units=["mV"],
            sig_name=["ECG"],
            p_signal=samples[:, None],
            fmt=["16"],
            write_dir=str(folder),
        )
    except Exception:
        return
    builder = load_dataset_builder("physionet2017", config, data_dir=folder, cache_dir=folder)
    for row in read(builder, module_of(builder).Physionet2017Record(str(folder / "A00001"), "O"), "A00001"):
        assert row["label"] == 2
        assert len(row["signal"]) == (1250 if config == "paper" else len(samples))


@settings(max_examples=30, **HYPOTHESIS_SETTINGS)
@given(
    signal=signals(1000),
    seconds=st.sampled_from([10, 10, 10, 9.99, 0.1]),
    lead=st.sampled_from(["II", "v6", "all"]),
    names=st.sampled_from([PTB_XL_LEADS, PTB_XL_LEADS, PTB_XL_LEADS[::-1], PTB_XL_LEADS[:-1], ["x"] * 12]),
    config=st.sampled_from(["superclass", "paper"]),
)
def test_ptb_xl(signal, seconds, lead, names, config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ptb-xl")
    samples = ptb_xl_signals(1, 100)[: round(100 * seconds), : len(names)].copy()
    strange = as_samples(signal, len(samples))
    if strange is None or not len(strange):
        return
    samples[:, 1] = strange
    try:
        wfdb.wrsamp(
            "r", fs=100, units=["mV"] * len(names), sig_name=names, p_signal=samples, fmt=["16"] * len(names),
            write_dir=str(folder),
        )  # fmt: skip
    except Exception:
        return
    builder = load_dataset_builder("ptb_xl", config, data_dir=folder, cache_dir=folder, lead=lead)
    recording = module_of(builder).PtbXlRecord(str(folder / "r"), "1", "10", None, None, frozenset({"NORM"}))
    for row in read(builder, recording, f"{folder}/r"):
        assert np.shape(row["signal"])[-1] == (1250 if config == "paper" else 1000)
        assert len(row["label"]) == 5


@st.composite
def variables(draw):
    """What a fold of the UCI data may hold."""
    rows = draw(st.integers(1, 4))
    signal = as_samples(draw(signals(800)))
    width = draw(st.sampled_from([625, 625, 625, 624, 1]))
    dtype = draw(st.sampled_from(["f8", "f4", "i2", "u1", "c16"]))
    signal = np.zeros((rows, width)) if signal is None or not len(signal) else np.resize(signal, (rows, width))
    pressures = [draw(st.lists(NUMBERS, min_size=rows, max_size=rows)) for _ in range(2)]
    texts = st.sampled_from(["Part_0_1", "Part_0_1   ", "x", "", "Part_0_999999999999999999999"])
    with np.errstate(all="ignore"):
        content = {
            "signal": np.nan_to_num(signal).astype(dtype) if dtype in ("i2", "u1") else signal.astype(dtype),
            "SP": np.array(pressures[0])[:, None],
            "DP": np.array(pressures[1])[:, None],
            "patient": np.array([draw(texts) for _ in range(rows)])[:, None],
            "trial": np.array([draw(texts) for _ in range(rows)])[:, None],
        }
    for name in draw(st.lists(st.sampled_from([*content]), max_size=1)):
        content[name] = draw(
            st.sampled_from([np.zeros((rows, 2)), np.array([["a"]]), np.zeros((0, 0)), np.ones((1, 1, 3))])
        )
    return content


@settings(max_examples=60, **HYPOTHESIS_SETTINGS)
@given(content=variables(), config=st.sampled_from(["bp", "sbp", "dbp", "paper"]))
def test_uci_bp(content, config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uci")
    path = folder / "signal_fold_2.mat"
    try:
        scipy.io.savemat(path, content)
    except Exception:
        return
    builder = load_dataset_builder("uci_bp", config, data_dir=folder, cache_dir=folder)
    with pytest.MonkeyPatch.context() as patch:
        # A process for each file would take all the time.
        patch.setattr(
            module_of(builder), "read_variables", lambda path, names: scipy.io.loadmat(path, variable_names=names)
        )
        rows = read(builder, str(path), "signal_fold_2.mat")
    for row in rows:
        assert len(row["signal"]) == (1250 if config == "paper" else 625)
        assert np.isfinite([row["sbp"], row["dbp"]]).all()


@settings(max_examples=50, **HYPOTHESIS_SETTINGS)
@given(
    place=st.sampled_from(
        [
            ("signal", "wrist", "BVP"),
            ("signal", "chest", "ECG"),
            ("signal", "chest", "Resp"),
            ("label",),
            ("activity",),
        ]
    ),
    value=signals(1500),
    column=st.booleans(),
    age=st.sampled_from([25, 25.0, np.nan, "25", None, "x", np.inf]),
    gender=st.sampled_from([" m", "f", "", None, 3]),
    config=st.sampled_from([("pairs", {}), ("hr", {}), ("rr", {}), ("paper", {}), ("paper", {"label": "hr"})]),
)
def test_ppg_dalia(place, value, column, age, gender, config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dalia")
    content = dalia_content(1, seconds=24)
    part = content
    for key in place[:-1]:
        part = part[key]
    if column and isinstance(value, np.ndarray):
        # At the rate of what it replaces, so that it lasts as long.
        value = np.resize(value.ravel(), np.shape(part[place[-1]])) if value.size else value
    part[place[-1]] = value
    content["questionnaire"] = {"AGE": age, "Gender": gender}
    path = folder / "S1.pkl"
    path.write_bytes(pickle.dumps(content, protocol=2))
    name, options = config
    builder = load_dataset_builder("ppg_dalia", name, data_dir=folder, cache_dir=folder, **options)
    window = {"pairs": 10.0, "hr": 8.0, "rr": 1250 / 64}.get(options.get("label", "rr" if name == "paper" else name))
    builder.config.window_seconds, builder.config.stride_seconds = window, 2.0
    for row in read(builder, str(path), "S1.pkl"):
        assert row["subject_id"] == "S1"


def test_marks_of_one_breath_have_no_rate(tmp_path):
    pd.DataFrame({" PLETH": np.sin(np.arange(500)), " II": np.cos(np.arange(500))}).to_csv(
        tmp_path / "bidmc_08_Signals.csv"
    )
    pd.DataFrame({" HR": np.full(4, 70.0)}).to_csv(tmp_path / "bidmc_08_Numerics.csv")
    # Two at the same sample in the first second, two that are 0.4 s apart in the third.
    marks = [10, 10, 260, 310]
    columns = {"breaths ann1 [signal sample no]": marks, "breaths ann2 [signal sample no]": marks}
    pd.DataFrame(columns).to_csv(tmp_path / "bidmc_08_Breaths.csv", index=False)
    builder = load_dataset_builder(
        "bidmc",
        "rr",
        data_dir=tmp_path,
        cache_dir=tmp_path,
        window_seconds=1.0,
        stride_seconds=1.0,
        rr_label="interval",
    )
    rows = read(builder, str(tmp_path / "bidmc_08_Signals.csv"), "bidmc_08")
    assert [(row["start_time"], row["label"]) for row in rows] == [(2.0, pytest.approx(60 / 0.4))]


@pytest.mark.parametrize(("name", "instead"), [("bidmc08.hea", "125"), ("bidmc08n.hea", "1")])
def test_bidmc_record_at_another_rate_is_refused(name, instead, tmp_path):
    write_bidmc_recording(tmp_path, 8)
    header = (tmp_path / name).read_text()
    (tmp_path / name).write_text(header.replace(f" {instead} ", " 250 ", 1))
    builder = load_dataset_builder("bidmc", data_dir=tmp_path, cache_dir=tmp_path)
    with pytest.raises(ValueError, match=rf"{name} states 250 Hz instead of {instead}\."):
        list(builder.read_records([str(tmp_path / "bidmc08.hea")], SplitCounts()))


@pytest.mark.parametrize("value", [1e300, -3.5e38, np.inf, np.nan])
def test_values_that_float32_does_not_hold_are_left_out(value):
    counter = DropCounter()
    waves = np.sin(np.arange(300.0)).reshape(3, 100)
    waves[1] *= value
    labels = np.array([value, 70.0, 71.0])
    assert usable_windows([waves], counter, labels).tolist() == [False, False, True]
    reason = "too_large" if np.isfinite(value) else "missing"
    assert dict(counter) == {"unlabelled": 1, reason: 1, "kept": 1}


def test_largest_values_are_kept():
    counter = DropCounter()
    waves = np.sin(np.arange(200.0)).reshape(2, 100)
    waves[1] *= 3.4e38
    assert usable_windows([waves], counter, np.array([-3.4e38, 70.0])).all()


@pytest.mark.parametrize("trial", ["Part_0", "x", ""])
def test_uci_trial_without_a_number_is_refused_by_name(trial, tmp_path):
    write_uci_fold(tmp_path, 2, trial=np.array([["Part_0_1"]] * 5 + [[trial]]))
    builder = load_dataset_builder("uci_bp", data_dir=tmp_path, cache_dir=tmp_path)
    if trial == "Part_0":
        (table,) = builder.read_records([str(tmp_path / "signal_fold_2.mat")], SplitCounts())
        assert table["start_time"].to_pylist() == [5.0] * 5 + [0.0]
    else:
        with pytest.raises(ValueError, match=r"signal_fold_2\.mat, row 6 of `trial`: .* does not end in a number"):
            list(builder.read_records([str(tmp_path / "signal_fold_2.mat")], SplitCounts()))


def test_respiration_of_texts_is_refused_by_name(tmp_path):
    content = dalia_content(1, seconds=24)
    values = np.empty((700 * 24, 1), dtype=object)
    values[:] = "x"
    content["signal"]["chest"]["Resp"] = values
    path = write_dalia_subject(tmp_path, 1, content)
    builder = load_dataset_builder("ppg_dalia", "rr", data_dir=tmp_path, cache_dir=tmp_path)
    builder.config.window_seconds, builder.config.stride_seconds = 1250 / 64, 1.0
    with pytest.raises(ValueError, match=r"S1\.pkl cannot be read"):
        list(builder.read_records([str(path)], SplitCounts()))
