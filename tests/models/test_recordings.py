"""Files, tables and arrays as people have them are read as what they say they are, at the rate that they state, or refused."""

import gzip

import numpy as np
import pandas as pd
import pytest
import torch
import wfdb

from cmssl_hf.models.cmssl.recordings_cmssl import read_recording
from cmssl_hf.models.cmssl.time_axis_cmssl import fill_short_gaps


RATE = 125
TIMES = np.arange(2000) / RATE
SIGNAL = np.round(np.sin(2 * np.pi * 1.2 * TIMES) + 0.3 * np.sin(2 * np.pi * 2.4 * TIMES), 6)


def read(source, channel="ppg", **options):
    """The signal of the only channel, and its rate."""
    recording = read_recording(source, (channel,), **options)
    return recording.signals[channel], recording.sampling_rates[channel]


def assert_reads(source, signal=SIGNAL, rate=RATE, **options):
    found, found_rate = read(source, **options)
    np.testing.assert_allclose(found, signal, atol=1e-6)
    assert found_rate == pytest.approx(rate, rel=1e-4)


def table(separator=",", decimal=".", names=("time", "ppg"), times=TIMES, signal=SIGNAL, digits=3) -> str:
    lines = [f"{time:.{digits}f}{separator}{value:.6f}".replace(".", decimal) for time, value in zip(times, signal)]
    return "\n".join([separator.join(names), *lines]) + "\n"


@pytest.fixture
def write(tmp_path):
    def write(text, name="a.csv", encoding="utf-8"):
        (tmp_path / name).write_bytes(text.encode(encoding))
        return tmp_path / name

    return write


COLUMN = "\n".join(f"{value:.6f}" for value in SIGNAL)
DIALECTS = {
    "commas": table(),
    "semicolons": table(";"),
    "semicolons and decimal commas": table(";", ","),
    "tabs": table("\t"),
    "tabs and decimal commas": table("\t", ","),
    "bars": table("|"),
    "spaces": table(" "),
    "spaces after commas": table(", "),
    "lines end in carriage returns, too": table().replace("\n", "\r\n"),
    "trailing separators": table(";").replace("\n", ";\n"),
    "quoted decimal commas": "\n".join(
        ["time,ppg", *(f'"{time:.3f}","{value:.6f}"'.replace(".", ",").replace('","', '","') for time, value in zip(TIMES, SIGNAL))]
    ).replace('3","', '3","'),
    "quoted names": table().replace("time,ppg", '"time","ppg"'),
    "a line of units": table().replace("\n", "\ns,mV\n", 1),
    "units in brackets": table(";").replace("\n", "\n[s];[a.u.]\n", 1),
    "comments in front": "# Device X, firmware 2\n# Subject 3\n" + table(),
    "text in front": "Device;X\nSubject;3\n\n" + table(";"),
    "names in a comment, as numpy writes them": "# " + table(),
    "other columns": "\n".join(
        ["n,time,green_quality,ecg,ppg", *(f"{i},{t:.3f},1,{-x},{x:.6f}" for i, (t, x) in enumerate(zip(TIMES, SIGNAL)))]
    ),
    "times of the signal itself": table(names=("ppg_time", "ppg")),
    "a column without a meaning beside times": table(names=("t", "value")),
    "a series with its index, as pandas writes it": pd.DataFrame({0: SIGNAL}).to_csv(),
    "exponents": "\n".join(["time,ppg", *(f"{t:.6e},{x:.9e}" for t, x in zip(TIMES, SIGNAL))]),
}  # fmt: skip


@pytest.mark.parametrize("text", DIALECTS.values(), ids=DIALECTS)
def test_dialects_of_tables(write, text):
    if "time" in text or "t,value" in text:
        assert_reads(write(text))
    assert_reads(write(text), sampling_rate=RATE)
    if "ppg" in text:
        assert_reads(write(text), sampling_rate=RATE, column="ppg")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "A.CSV"])
def test_extensions_of_tables(write, name):
    assert_reads(write(table("\t"), name))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_encodings_of_tables(write, encoding):
    assert_reads(write(table(names=("Zeit [s]", "PPG [µV]")), encoding=encoding))


def test_compressed_table(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(table().encode()))
    assert_reads(tmp_path / "a.csv.gz")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(table().encode())[:500])
    with pytest.raises(ValueError, match=r"b\.csv\.gz cannot be read"):
        read(tmp_path / "b.csv.gz")


@pytest.mark.parametrize(
    "text", [f"ppg\n{COLUMN}", COLUMN, f"value\n{COLUMN}", "ppg\n" + COLUMN.replace(".", ","), f"# ppg\n{COLUMN}",
             f"# sampling rate: {RATE} Hz\n{COLUMN}"]
)  # fmt: skip
def test_single_column(write, text):
    assert_reads(write(text), sampling_rate=RATE)


def test_rate_in_a_comment(write):
    assert_reads(write(f"# Sampling Rate (Hz): {RATE}\nppg\n{COLUMN}"))
    with pytest.raises(ValueError, match="header 125 Hz, `sampling_rate` 64 Hz"):
        read(write(f"# fs = {RATE}\nppg\n{COLUMN}"), sampling_rate=64)


def test_rate_in_a_column():
    data = pd.DataFrame({"ppg": SIGNAL, "fs": RATE})
    assert_reads(data)
    with pytest.raises(ValueError, match="fs 125 Hz, `sampling_rate` 64 Hz"):
        read(data, sampling_rate=64)


def test_missing_cells_stay_in_place(write):
    """At the beginning, as an empty line of a single column, as words."""
    signal = SIGNAL.copy()
    cells = COLUMN.split("\n")
    for first, text in ((0, "NaN"), (1, "NaN"), (50, ""), (100, "off"), (1999, "n/a")):
        cells[first], signal[first] = text, np.nan
    assert_reads(write("ppg\n" + "\n".join(cells)), signal, sampling_rate=RATE)


REFUSED = {
    "commas as decimal marks and separators": ("time,ppg\n" + table(",", ",").split("\n", 1)[1], "header names 2 columns .* 4 cells"),
    "no header": (table().split("\n", 1)[1], "no header that names its 2 columns"),
    "words instead of samples": (table().replace(".1", ".x1"), r"column 'ppg': \d+ of 2,000 cells hold no number"),
    "a column that is mostly empty": ("time,ppg\n" + "".join(f"{t:.3f},{'' if i % 3 else 1}\n" for i, t in enumerate(TIMES)),
                                      r"column 'ppg': 1,333 of 2,000 cells hold no number"),
    "thousands or decimals": ('ppg,n\n' + '"1,234",1\n999,1\n' * 50, "can be a decimal mark or one of thousands"),
    "rows with more cells": (table() + "16.000,1,2\n", "more cells in row 2,001"),
    "nothing": ("", "is empty"),
    "prose": ("This is not a table.\nIt has no numbers.\n", "no rows of numbers"),
    "no text": ("ppg\n1\n\0\0\n", "no text"),
    "two rates": (f"# fs: 100\n# fs: 125\nppg\n{COLUMN}", "several rates: 100, 125 Hz"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_tables(write, text, message):
    with pytest.raises(ValueError, match=rf"a\.csv.*{message}"):
        read(write(text), sampling_rate=RATE)


@pytest.mark.parametrize(
    "name", ["ecg", "temperature", "EDA", "HR", "acc_x", "RESP", "ppg quality", "ppg_rate", "green"]
)
def test_another_signal_is_refused_unless_it_is_asked_for(write, tmp_path, name):
    text = f"{name}\n{COLUMN}"
    wfdb.wrsamp(
        "r", fs=RATE, units=["mV"], sig_name=[name], p_signal=SIGNAL[:, None], fmt=["32"], write_dir=str(tmp_path)
    )
    series = pd.Series(SIGNAL, name=name)
    for source in (write(text), series, series.to_frame(), {name: SIGNAL}):
        with pytest.raises(ValueError, match=name):
            read(source, sampling_rate=RATE)
        assert_reads(source, sampling_rate=RATE, column=name)
    with pytest.raises(ValueError, match=rf"r\.hea has no signal that looks like ppg by its name; it has {name}"):
        read(tmp_path / "r")
    assert_reads(tmp_path / "r", column=name)


def test_a_dictionary_that_says_what_its_signal_is():
    with pytest.raises(ValueError, match="holds no ppg"):
        read({"signal": SIGNAL, "sampling_rate": RATE, "modality": "ECG"})
    assert_reads({"signal": SIGNAL, "sampling_rate": RATE, "modality": "PPG"})
    assert_reads({"BVP": SIGNAL, "fs": RATE, "ecg": -SIGNAL})
    assert_reads({"ppg": SIGNAL, "time": TIMES})


@pytest.mark.parametrize(
    "name", ["PPG", "pleth", "BVP", "wrist_ppg", "Finger PPG [a.u.]", "ppg_filtered", "PhotoPleth"]
)
def test_names_of_ppg(name):
    assert_reads(pd.DataFrame({"time": TIMES, "ecg": -SIGNAL, f"{name} quality": 1.0, name: SIGNAL}))


@pytest.mark.parametrize("unit", ["mmHg", "degC", "°C", "bpm"])
def test_units_say_what_a_signal_without_a_name_is(write, tmp_path, unit):
    with pytest.raises(ValueError, match="no signal that looks like ppg"):
        read(write(f"value [{unit}]\n{COLUMN}"), sampling_rate=RATE)
    if unit.isascii():
        (tmp_path / "r.dat").write_bytes((1000 * SIGNAL).astype("<i2").tobytes())
        for found, read_it in ((unit, False), ("NU", True)):
            (tmp_path / "r.hea").write_text(f"r 1 {RATE} {len(SIGNAL)}\nr.dat 16 1000/{found} 16 0 0 0 0 signal\n")
            if read_it:
                assert len(read(tmp_path / "r")[0]) == len(SIGNAL)
            else:
                with pytest.raises(ValueError, match="no signal that looks like ppg"):
                    read(tmp_path / "r")


@pytest.mark.parametrize("name", ["EDA", "TEMP", "HR", "S05_TEMP", "ecg"])
def test_files_whose_name_says_another_signal_are_refused(write, name):
    for text in (f"1560279825.00\n4.000000\n{COLUMN}", COLUMN, f"value\n{COLUMN}"):
        with pytest.raises(ValueError, match=f"{name}.csv has no signal"):
            read(write(text, f"{name}.csv"), sampling_rate=RATE)


def test_empatica_e4(write):
    """Start, rate, samples: neither of the first two is a sample, and the file's rate holds."""
    text = f"1560279825.00\n64.000000\n{COLUMN}"
    for name in ("BVP.csv", "S05_BVP.csv"):
        assert_reads(write(text, name), rate=64)
    with pytest.raises(ValueError, match="header 64 Hz, `sampling_rate` 125 Hz"):
        read(write(text, "BVP.csv"), sampling_rate=125)
    assert_reads(write(text, "wrist_ppg.csv"), rate=64)
    with pytest.raises(ValueError, match="it has Empatica E4 wrist"):
        read(write(text, "wrist.csv"))
    assert_reads(write(text, "wrist.csv"), rate=64, column="Empatica E4 wrist")
    with pytest.raises(ValueError, match="no header that names its 3 columns"):
        read(write("1560279825.0, 1560279825.0, 1560279825.0\n32.0, 32.0, 32.0\n-61,25,6\n-62,24,11\n", "ACC.csv"))
    with pytest.raises(ValueError, match="no signal that looks like ppg"):
        read(write("1560279825.000000, IBI\n83.503822,0.609403\n99.973326,0.843789\n", "IBI.csv"))


START = 1_700_000_000
TIME_COLUMNS = {
    "time": TIMES,
    "Time [s]": TIMES + 17.5,
    "t": 1000 * TIMES,
    "time_ms": (1000 * TIMES).astype(int),
    "time_us": 1_000_000 * TIMES,
    "elapsed (min)": TIMES / 60,
    "timestamp": START + TIMES,
    "unix_timestamp": (1000 * (START + TIMES)).astype(np.int64),
    "unix time [ns]": (START * 10**9 + (TIMES * 1e9).round().astype(np.int64)),
    "datetime": pd.to_datetime(START + TIMES, unit="s").round("ms").astype(str),
    "DateTime": pd.to_datetime(START + TIMES, unit="s", utc=True).round("ms").strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    "Zeitstempel": pd.to_datetime(START + TIMES, unit="s").round("ms").strftime("%d.%m.%Y %H:%M:%S.%f"),
    "Date/Time": pd.to_datetime(START + TIMES, unit="s").round("ms").strftime("%m/%d/%Y %I:%M:%S.%f %p"),
    "local time": (pd.Timestamp("2024-01-01 23:59:55") + pd.to_timedelta(TIMES, unit="s")).round("ms").strftime("%H:%M:%S.%f"),
}  # fmt: skip


@pytest.mark.parametrize("name", TIME_COLUMNS)
def test_times_state_the_rate(tmp_path, name):
    data = pd.DataFrame({name: TIME_COLUMNS[name], "ppg": SIGNAL})
    data.to_csv(tmp_path / "a.csv", index=False)
    for source in (tmp_path / "a.csv", data, data.set_index(name)):
        assert_reads(source)
        assert_reads(source, sampling_rate=125.2)
        with pytest.raises(ValueError, match=r"125 Hz, `sampling_rate` 135 Hz"):
            read(source, sampling_rate=135)


@pytest.mark.parametrize("rate", [64, 62.4725, 100, 1000 / 3])
@pytest.mark.parametrize("digits", [3, 6])
def test_rounded_times_state_the_rate(write, rate, digits):
    times = np.arange(2000) / rate
    found, found_rate = read(write(table(times=times, digits=digits)))
    np.testing.assert_allclose(found, SIGNAL)
    assert found_rate == pytest.approx(rate, rel=2e-4)


@pytest.mark.parametrize("scale", [1, 0.02])
def test_times_that_are_coarser_than_the_samples(scale):
    """Whole seconds or fiftieths, at 125 Hz."""
    assert_reads(pd.DataFrame({"time": np.floor(TIMES / scale + 1e-9) * scale + START, "ppg": SIGNAL}), rate=RATE)


def test_doubled_rows_count_once(write):
    lines = table().splitlines()
    assert_reads(write("\n".join([lines[0], *(line for line in lines[1:] for _ in range(2))])))
    assert_reads(write("\n".join([*lines[:500], *lines[499:]])))


def test_lost_rows_are_gaps():
    kept = np.random.default_rng(0).random(len(TIMES)) > 0.2
    kept[[0, -1]] = True
    kept[500:700] = False
    assert_reads(pd.DataFrame({"time": TIMES[kept], "ppg": SIGNAL[kept]}), np.where(kept, SIGNAL, np.nan))


def test_irregular_times_are_interpolated():
    rng = np.random.default_rng(0)
    times = TIMES + rng.uniform(-0.3, 0.3, len(TIMES)) / RATE
    times[0] = 0
    found, rate = read(pd.DataFrame({"time": times, "ppg": np.sin(2 * np.pi * times)}))
    assert rate == pytest.approx(RATE, rel=0.01)
    np.testing.assert_allclose(found, np.sin(2 * np.pi * np.arange(len(found)) / rate), atol=0.01)


BAD_TIMES = {
    "back": (np.r_[TIMES[:1000], TIMES[:1000]], "go back by 7.992 s after row 1,000"),
    "repeated": (np.repeat(TIMES[::7], 7)[: len(TIMES)] + 0.001 * (np.arange(len(TIMES)) // 5), None),
    "random": (np.cumsum(np.random.default_rng(0).exponential(1 / RATE, len(TIMES))), "too irregular"),
    "years": (np.r_[TIMES[:1000], TIMES[1000:] + 1e9], "leave 1e.09 s out"),
    "bursts": (np.floor(TIMES) + 0.001 * np.round(RATE * (TIMES % 1)) * (np.floor(TIMES) % 2), "repeat|irregular"),
}


@pytest.mark.parametrize(("times", "message"), [case for case in BAD_TIMES.values() if case[1]])
def test_times_that_state_no_rate(times, message):
    with pytest.raises(ValueError, match=rf"table of 2,000 rows, time: .*({message})"):
        read(pd.DataFrame({"time": times, "ppg": SIGNAL}), sampling_rate=RATE)


def test_numbers_of_samples_are_no_times():
    for times in (np.arange(len(SIGNAL)), np.zeros(len(SIGNAL))):
        data = pd.DataFrame({"t": times, "ppg": SIGNAL})
        assert_reads(data, sampling_rate=RATE)
        with pytest.raises(ValueError, match="`sampling_rate` is required"):
            read(data)


ARRAYS = {
    "slice of a series": pd.Series(np.r_[0.0, SIGNAL], name="ppg")[1:],
    "series without a name": pd.Series(SIGNAL),
    "series of a time index": pd.Series(SIGNAL, index=pd.date_range("2024", periods=len(SIGNAL), freq="8ms")),
    "series of a time index with a zone": pd.Series(SIGNAL, index=pd.date_range("2024", periods=len(SIGNAL), freq="8ms", tz="UTC")),
    "series of durations": pd.Series(SIGNAL, index=pd.to_timedelta(TIMES, unit="s")),
    "nullable series": pd.Series(SIGNAL).astype("Float64"),
    "series of objects": pd.Series(SIGNAL).astype(object),
    "table of one column": pd.DataFrame({"ppg": SIGNAL})[0:],
    "filtered table": pd.DataFrame({"ppg": np.repeat(SIGNAL, 2), "ecg": 0.0})[::2],
    "dictionary of a list": {"signal": SIGNAL.tolist()},
    "dictionary of a slice": {"ppg": pd.Series(np.r_[0.0, SIGNAL])[1:]},
    "tensor with gradients": torch.tensor(SIGNAL, requires_grad=True),
    "tuple": tuple(SIGNAL),
    "array of objects": SIGNAL.astype(object),
    "masked array": np.ma.masked_array(SIGNAL, mask=False),
    "memory-mapped view": SIGNAL[::-1].copy()[::-1],
}  # fmt: skip


@pytest.mark.parametrize("source", ARRAYS.values(), ids=ARRAYS)
def test_arrays_of_other_libraries(source):
    assert_reads(source, sampling_rate=RATE)


def test_times_of_an_index_are_compared():
    series = ARRAYS["series of a time index"]
    assert_reads(series)
    with pytest.raises(ValueError, match=r"its times \(its index\) 125 Hz, `sampling_rate` 64 Hz"):
        read(series, sampling_rate=64)


def test_missing_samples_of_arrays_are_nan():
    signal = SIGNAL.copy()
    signal[5] = np.nan
    masked = np.ma.masked_array(SIGNAL, mask=np.isnan(signal))
    objects = SIGNAL.astype(object)
    objects[5] = None
    nullable = pd.Series(signal).astype("Float64")
    for source in (masked, objects, nullable, {"signal": nullable}, {"signal": objects.tolist()}):
        assert_reads(source, signal, sampling_rate=RATE)


def test_polars():
    polars = pytest.importorskip("polars")
    data = polars.DataFrame({"time": TIMES, "ecg": -SIGNAL, "ppg": SIGNAL})
    assert_reads(data)
    assert_reads(data["ppg"], sampling_rate=RATE)
    with pytest.raises(ValueError, match="it has ecg"):
        read(data["ecg"], sampling_rate=RATE)


@pytest.mark.parametrize(
    "source",
    [
        SIGNAL.astype("M8[s]"),
        SIGNAL + 1j,
        pd.Series(pd.date_range("2024", periods=50)),
        pd.Series(["a"] * 50),
        pd.DataFrame({"x": [1.0], "y": [2.0]}),
        pd.DataFrame(),
        torch.zeros(2, 50),
        b"bytes",
        object(),
        None,
        "~nobody_has_this_name/a",
        "a\0b",
        "a" * 5000,
        "",
        ".",
    ],
)
def test_what_is_no_recording_is_refused(source):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        read({"path": source} if isinstance(source, str) else source, sampling_rate=RATE)
    assert len(str(error.value)) > 12


def write_record(folder, name="r", **signals):
    wfdb.wrsamp(name, fs=RATE, units=["mV"] * len(signals), sig_name=[*signals], p_signal=np.stack([*signals.values()], 1),
                fmt=["32"] * len(signals), write_dir=str(folder))  # fmt: skip


def test_signal_file_of_a_wfdb_record(tmp_path):
    write_record(tmp_path, PLETH=SIGNAL, II=-SIGNAL)
    for name in ("r", "r.hea", "r.dat"):
        assert_reads(tmp_path / name)
    (tmp_path / "r.rec").write_bytes(b"0")
    with pytest.raises(ValueError, match=r"r\.rec cannot be read: WFDB records .* tables .*no header beside it"):
        read(tmp_path / "r.rec")
    (tmp_path / "x.mat").write_bytes(b"0")
    with pytest.raises(ValueError, match=r"x\.mat cannot be read: WFDB records"):
        read(tmp_path / "x.mat")
    with pytest.raises(FileNotFoundError, match=r"no file .*y\.mat and no WFDB header y\.mat\.hea"):
        read(tmp_path / "y.mat")


def test_wfdb_frames_of_thirty_seconds(tmp_path):
    """As records made from EDF have them: a frame of 30 s holds 3750 samples of PPG, two of them."""
    samples = np.tile(np.round(1000 * SIGNAL), 4)[:7500]
    samples.astype("<i2").tofile(tmp_path / "r.dat")
    (tmp_path / "r.hea").write_text("r 1 0.0333333333333 2\nr.dat 16x3750 1000/mV 16 0 0 0 0 PLETH\n")
    assert_reads(tmp_path / "r", samples / 1000)


def test_wfdb_header_without_a_length(tmp_path):
    write_record(tmp_path, PLETH=SIGNAL, II=-SIGNAL)
    first, *lines = (tmp_path / "r.hea").read_text().splitlines()
    (tmp_path / "r.hea").write_text("\n".join([" ".join(first.split()[:3]), *lines]) + "\n")
    assert_reads(tmp_path / "r")


def test_short_gaps_are_filled_and_longer_ones_kept():
    signal = SIGNAL.copy()
    signal[0] = signal[100:112] = signal[300] = np.nan
    signal[500:513] = np.inf
    found, filled = fill_short_gaps(signal, RATE, 0.1)
    expected = np.zeros(len(signal), dtype=bool)
    expected[[0, *range(100, 112), 300]] = True
    np.testing.assert_array_equal(filled, expected)
    assert np.isinf(found[500:513]).all()
    assert found[0] == SIGNAL[1]
    assert found[300] == pytest.approx((SIGNAL[299] + SIGNAL[301]) / 2)
    np.testing.assert_allclose(found[99:113], np.linspace(SIGNAL[99], SIGNAL[112], 14))
    whole = np.isfinite(signal)
    np.testing.assert_array_equal(found[whole], signal[whole])


TOLD_OTHERWISE = {
    "a line of units": f"signal\nmmHg\n{COLUMN}",
    "a line of units beside times": table(names=("time", "value")).replace("\n", "\ns,°C\n", 1),
    "a comment": f"# channel: ECG\nvalue\n{COLUMN}",
    "a comment without a header": f"# ECG recording\n{COLUMN}",
    "the unit in a comment": f"# unit: mmHg\nsignal\n{COLUMN}",
    "words behind the name": f"PPG_ACC\n{COLUMN}",
}


@pytest.mark.parametrize("text", TOLD_OTHERWISE.values(), ids=TOLD_OTHERWISE)
def test_a_file_that_tells_of_another_signal_is_refused(write, text):
    with pytest.raises(ValueError, match="no signal that looks like ppg"):
        read(write(text), sampling_rate=RATE)


@pytest.mark.parametrize("name", ["ecgdata.csv", "bloodpressure.csv", "arterial_pressure.csv"])
def test_words_that_are_written_together_tell_of_another_signal(write, name):
    with pytest.raises(ValueError, match="no signal that looks like ppg"):
        read(write(COLUMN, name), sampling_rate=RATE)


@pytest.mark.parametrize("name", ["SpO2 PLETH", "SNUADC/PLETH", "PPG Finger"])
def test_oximeters_name_their_ppg_after_the_saturation(name):
    assert_reads(pd.DataFrame({name: SIGNAL}), sampling_rate=RATE)


def test_a_derived_respiration_is_no_ecg():
    with pytest.raises(ValueError, match="no signal that looks like ecg"):
        read(pd.DataFrame({"RESP from ECG": SIGNAL}), "ecg", sampling_rate=RATE)


STATED_RATES = {
    "an interval in ms": f"# Sampling interval: 8 ms\nppg\n{COLUMN}",
    "a period in s": f"# Sample period = 0.008 s\nppg\n{COLUMN}",
    "in a sentence": f"# recorded at 125 Hz\nppg\n{COLUMN}",
    "a frequency": f"# Frequency (Hz): 125\nppg\n{COLUMN}",
    "in the name of the column": f"PPG (125 Hz)\n{COLUMN}",
    "in a column of another spelling": "ppg,Fs [Hz]\n" + "".join(f"{value:.6f},125\n" for value in SIGNAL),
}


@pytest.mark.parametrize("text", STATED_RATES.values(), ids=STATED_RATES)
def test_a_file_states_its_rate_in_many_ways(write, text):
    assert_reads(write(text))
    with pytest.raises(ValueError, match="125 Hz, `sampling_rate` 64 Hz"):
        read(write(text), sampling_rate=64)


def test_limits_of_filters_are_no_rates(write):
    assert_reads(write(f"# band-pass 0.5-8 Hz, heart rate: 72\nppg_lowpass_8Hz\n{COLUMN}"), sampling_rate=RATE)


@pytest.mark.parametrize("key", ["Fs", "samplingRate", "Sampling Rate", "sample_rate"])
def test_rates_of_dictionaries_in_any_spelling(key, write):
    assert_reads({"ppg": SIGNAL, key: RATE}, sampling_rate=64)
    assert_reads({"path": write(f"ppg\n{COLUMN}"), key: RATE}, sampling_rate=64)
    with pytest.raises(ValueError, match="contradicts itself"):
        read({"ppg": SIGNAL, key: RATE, "fs_hz": 64})


@pytest.mark.parametrize(
    "told", [{"unit": "mmHg"}, {"type": "ECG"}, {"name": "ECG"}, {"sig_name": ["ECG"]}, {"sensor": "EDA"}]
)
def test_dictionaries_tell_what_their_signal_is_in_many_ways(told, write):
    with pytest.raises(ValueError, match="reads ppg, but"):
        read({"signal": SIGNAL, "sampling_rate": RATE, **told})
    with pytest.raises(ValueError, match="reads ppg, but"):
        read({"path": write(COLUMN), "sampling_rate": RATE, **told})


def test_the_path_beside_samples_is_where_they_came_from():
    assert_reads({"path": "gone.wav", "signal": SIGNAL, "sampling_rate": RATE})
    assert_reads({"path": None, "ppg": SIGNAL, "sampling_rate": RATE})


def test_fields_of_arrays_have_names():
    with pytest.raises(ValueError, match="holds no ppg; it has ecg"):
        read(np.array([(value,) for value in SIGNAL], dtype=[("ecg", float)]), sampling_rate=RATE)
    assert_reads(np.rec.fromarrays([TIMES, SIGNAL], names="time,ppg"))


@pytest.mark.parametrize(
    "index",
    [
        TIMES,
        pd.period_range("2024", periods=len(SIGNAL), freq="8ms"),
        pd.MultiIndex.from_arrays([["a"] * len(SIGNAL), TIMES], names=["subject", "time"]),
    ],
    ids=["seconds", "periods", "several levels"],
)
def test_times_of_any_index_state_the_rate(index):
    assert_reads(pd.Series(SIGNAL, index=index))
    with pytest.raises(ValueError, match="125 Hz, `sampling_rate` 64 Hz"):
        read(pd.Series(SIGNAL, index=index), sampling_rate=64)


def test_times_that_fall_are_refused():
    with pytest.raises(ValueError, match="times go back"):
        read(pd.DataFrame({"time": TIMES[::-1], "ppg": SIGNAL}), sampling_rate=RATE)


def test_signals_of_one_rate_have_one_length():
    with pytest.raises(ValueError, match="ecg 4,000, ppg 2,000"):
        read_recording({"ecg": np.tile(SIGNAL, 2), "ppg": SIGNAL, "sampling_rate": RATE}, ("ecg", "ppg"))


def test_truth_values_are_no_samples():
    with pytest.raises(ValueError, match="they are truth values"):
        read(SIGNAL > 0, sampling_rate=RATE)
    with pytest.raises(ValueError, match="but is True"):
        read(SIGNAL, sampling_rate=True)
