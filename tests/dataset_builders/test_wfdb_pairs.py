"""The builder for any folder of WFDB records, on records written here and on those of the Challenge 2015."""

import numpy as np
import pytest
import wfdb

from cmssl_hf.building.simulation import draw_subject, simulate_recording
from cmssl_hf.data.loading import load_dataset, load_dataset_builder
from helpers.releases import write_wfdb_frames, write_wfdb_record


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "records"


def load(folder, **options):
    return load_dataset("wfdb_pairs", data_dir=folder, cache_dir=folder.parent / "cache", **options)


def report(folder, **options):
    cache_dir = folder.parent / "cache"
    return load_dataset_builder("wfdb_pairs", data_dir=folder, cache_dir=cache_dir, **options).preparation_report


def all_rows(data):
    return [row for rows in data.values() for row in rows]


def test_records_in_subfolders_keep_their_rate(folder):
    for index, fs in enumerate((125.0, 250.0, 62.4725)):
        write_wfdb_record(folder / f"group{index}", f"r{index}", {"II": None, "PLETH": None}, fs=fs)
    rows = {(row["record_id"], row["start_time"]): row for row in all_rows(load(folder))}
    assert {record for record, _ in rows} == {"group0/r0", "group1/r1", "group2/r2"}
    for index, fs in enumerate((125.0, 250.0, 62.4725)):
        row = rows[f"group{index}/r{index}", 0.0]
        assert row["sampling_rate"] == fs
        assert row["subject_id"] == f"group{index}"
        times = np.arange(round(10 * fs)) / fs
        np.testing.assert_allclose(row["ecg"], np.sin(2 * np.pi * times), atol=1e-3)
        np.testing.assert_allclose(row["ppg"], np.sin(4 * np.pi * times), atol=1e-3)
    assert len(rows) == 3 + 3 + 2


@pytest.mark.parametrize(
    ("names", "ecg", "ppg"),
    [
        (["PLETH,", "V,", "II,"], "II", "PLETH"),
        (["V", "Pleth", "ABP"], "V", "Pleth"),
        (["ppg_green", "ECG1"], "ECG1", "ppg_green"),
        (["aVR", "MLII", "PPG"], "MLII", "PPG"),
        (["RESP", "MCL1", "PLETH"], "MCL1", "PLETH"),
    ],
)
def test_channels_are_found_by_name(folder, names, ecg, ppg):
    for index in range(3):
        write_wfdb_record(folder, f"r{index}", dict.fromkeys(names))
    row = load(folder)["test"][0]
    assert (row["ecg_channel"], row["ppg_channel"]) == (ecg, ppg)
    stripped = [name.strip(",") for name in names]
    times = np.arange(1250) / 125
    np.testing.assert_allclose(row["ecg"], np.sin(2 * np.pi * (1 + stripped.index(ecg)) * times), atol=1e-3)
    np.testing.assert_allclose(row["ppg"], np.sin(2 * np.pi * (1 + stripped.index(ppg)) * times), atol=1e-3)


def test_own_patterns(folder):
    for index in range(3):
        write_wfdb_record(folder, f"r{index}", {"wrist_red": None, "wrist_green": None, "chest": None, "II": None})
    row = load(folder, ecg_patterns=["chest"], ppg_patterns=["wrist_green", "wrist.*"])["test"][0]
    assert (row["ecg_channel"], row["ppg_channel"]) == ("chest", "wrist_green")


def test_subjects_are_never_in_two_splits(folder):
    for person in range(4):
        for session in range(3):
            write_wfdb_record(folder / f"p{person}", f"s{session}", {"II": None, "PLETH": None})
    for option in ("folder", "p[0-9]", "(p[0-9])/s"):
        data = load(folder, subject=option)
        members = [set(rows["subject_id"]) for rows in data.values()]
        assert sorted(subject for split in members for subject in split) == ["p0", "p1", "p2", "p3"]
    with pytest.raises(ValueError, match=r"`subject='q\[0-9\]'` is not found in the path of record p0/s0"):
        load(folder, subject="q[0-9]")


def test_unusable_windows_and_records_are_counted(folder):
    times = np.arange(30 * 125) / 125
    missing, flat = np.sin(2 * np.pi * times), np.sin(2 * np.pi * times)
    missing[1300] = np.nan
    flat[2500:3500] = 0.25
    write_wfdb_record(folder, "a", {"II": None, "PLETH": missing})
    write_wfdb_record(folder, "b", {"II": flat, "PLETH": None})
    write_wfdb_record(folder, "c", {"II": None, "PLETH": None})
    write_wfdb_record(folder, "d", {"II": None, "ABP": None})
    write_wfdb_record(folder, "numerics", {"HR": None, "PULSE": None}, fs=1.0)
    rows = all_rows(load(folder))
    starts = {record: [row["start_time"] for row in rows if row["record_id"] == record] for record in "abc"}
    assert starts == {"a": [0, 20], "b": [0, 10], "c": [0, 10, 20]}
    counts = report(folder)
    assert set(counts["skipped_records"]) == {"d", "numerics"}
    total = {}
    for split in counts["splits"].values():
        for reason, number in split["windows"].items():
            total[reason] = total.get(reason, 0) + number
    assert total == {"kept": 7, "missing": 1, "flat": 1}


def test_no_usable_record(folder):
    write_wfdb_record(folder, "a", {"II": None, "ABP": None})
    with pytest.raises(
        ValueError,
        match=r"records is not a folder of WFDB .* none of its 1 records has both .*LEAD \)\?II .*\(ECG\) .*PLETH.* \(PPG\)",
    ):
        load(folder)
    folder = folder.parent / "texts"
    folder.mkdir()
    (folder / "notes.txt").write_text("nothing")
    with pytest.raises(ValueError, match=r"texts is not a folder of WFDB .* it holds no WFDB headers"):
        load(folder)


@pytest.mark.parametrize("num_proc", [None, 2])
def test_damaged_records(folder, num_proc):
    for index in range(10):
        write_wfdb_record(folder, f"r{index}", {"II": None, "PLETH": None})
    (folder / "r4.hea").write_text("r4 two 125 many\n")
    (folder / "r7.dat").write_bytes((folder / "r7.dat").read_bytes()[:100])
    with pytest.raises(
        ValueError, match=r"of 10 recordings .* are damaged, more than `max_damaged_share=0\.05` allows.*r[47]\.hea"
    ):
        load(folder, num_proc=num_proc)
    data = load(folder, max_damaged_share=0.2, num_proc=num_proc)
    assert {row["record_id"] for row in all_rows(data)} == {f"r{index}" for index in range(10)} - {"r4", "r7"}
    damaged = [
        name for split in report(folder, max_damaged_share=0.2)["splits"].values() for name in split["damaged_records"]
    ]
    assert sorted(name.rsplit("/", 1)[1] for name in damaged) == ["r4.hea", "r7.hea"]


def test_multi_segment_record(folder):
    """Segments of 20 s with PPG, 15 s gap, 20 s without PPG, 20 s with the channels the other way round."""
    write_wfdb_record(folder, "long_0001", {"II": None, "PLETH": None}, seconds=20)
    write_wfdb_record(folder, "long_0002", {"II": None, "ABP": None}, seconds=20)
    write_wfdb_record(folder, "long_0003", {"PLETH": None, "V": None}, seconds=20)
    header = ["long/5 2 125 9375", "long_layout 0", "long_0001 2500", "~ 1875", "long_0002 2500", "long_0003 2500"]
    (folder / "long.hea").write_text("\n".join(header) + "\n")
    (folder / "long_layout.hea").write_text(
        "long_layout 3 125 0\n~ 0 200 16 0 0 0 0 II\n~ 0 200 16 0 0 0 0 PLETH\n~ 0 200 16 0 0 0 0 V\n"
    )
    for index in range(2):
        write_wfdb_record(folder, f"r{index}", {"II": None, "PLETH": None})
    rows = [row for row in all_rows(load(folder)) if row["subject_id"] == "long"]
    assert [(row["record_id"], row["start_time"], row["ecg_channel"]) for row in rows] == [
        ("long", 0.0, "II"),
        ("long", 10.0, "II"),
        ("long", 55.0, "V"),
        ("long", 65.0, "V"),
    ]
    times = np.arange(1250) / 125
    np.testing.assert_allclose(rows[2]["ppg"], np.sin(2 * np.pi * times), atol=1e-3)
    np.testing.assert_allclose(rows[2]["ecg"], np.sin(4 * np.pi * times), atol=1e-3)


def test_channels_at_different_rates(folder):
    """Frames of one PPG and four ECG samples, as in MIMIC-IV: the PPG is brought to the rate of the ECG."""
    folder.mkdir()
    ecg, ppg = (np.sin(2 * np.pi * 1.5 * np.arange(int(30 * rate)) / rate) for rate in (250, 62.5))
    frames = np.concatenate([ecg.reshape(-1, 4), ppg[:, None]], axis=1)
    (np.round(frames * 10000).astype("<i2")).tofile(folder / "r.dat")
    text = "{0} 2 62.5 1875\nr.dat 16x4 10000/mV 16 0 0 0 0 II\nr.dat 16 10000/NU 16 0 0 0 0 PLETH\n"
    for index in range(3):
        (folder / f"r{index}.hea").write_text(text.format(f"r{index}"))
    row = load(folder)["test"][1]
    assert (row["sampling_rate"], row["start_time"]) == (250.0, 10.0)
    expected = np.sin(2 * np.pi * 1.5 * (10 + np.arange(2500) / 250))
    np.testing.assert_allclose(row["ecg"], expected, atol=1e-3)
    np.testing.assert_allclose(row["ppg"][250:-250], expected[250:-250], atol=0.01)


def test_long_records_are_read_in_slices(folder, monkeypatch):
    """The windows at the seams of the slices are the same as anywhere else."""
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((40 * 60 * 50, 2))
    for index in range(3):
        write_wfdb_record(folder, f"r{index}", {"II": signal[:, 0], "PLETH": signal[:, 1]}, fs=50.0)
    lengths = []
    read = wfdb.rdrecord
    monkeypatch.setattr(
        wfdb,
        "rdrecord",
        lambda *args, **kwargs: lengths.append(kwargs["sampto"] - kwargs["sampfrom"]) or read(*args, **kwargs),
    )
    rows = load(folder, stride_seconds=7, split="test")
    starts = np.arange(0, len(signal) - 500 + 1, 350)
    assert rows["start_time"] == (starts / 50).tolist()
    expected = np.stack([signal[start : start + 500, 0] for start in starts])
    np.testing.assert_allclose(np.array(rows["ecg"]), expected, atol=1e-3)
    assert max(lengths) <= 610 * 50


def test_streaming_and_processes_give_the_same_rows(folder):
    for index in range(6):
        write_wfdb_record(folder, f"r{index}", {"II": None, "PLETH": None})
    data, streamed = load(folder), load(folder, streaming=True)
    parallel = load_dataset("wfdb_pairs", data_dir=folder, cache_dir=folder.parent / "two", num_proc=2)
    for split, rows in data.items():
        assert list(streamed[split]) == rows.to_list() == parallel[split].to_list()


def test_challenge_2015(test_data, tmp_path):
    training = test_data / "challenge-2015-1.0.0" / "training"
    data = load_dataset("wfdb_pairs", data_dir=training, cache_dir=tmp_path)
    records = {record for rows in data.values() for record in rows["record_id"]}
    assert sum(map(len, (set(rows["subject_id"]) for rows in data.values()))) == len(records)
    kept = 0
    for header in sorted(training.glob("*.hea")):
        raw = wfdb.rdrecord(str(header.with_suffix("")))
        ecg, ppg = (raw.p_signal[:, raw.sig_name.index(name)] for name in ("II", "PLETH"))
        for start in range(0, len(ecg) - 2499, 2500):
            window = np.stack([ecg[start : start + 2500], ppg[start : start + 2500]])
            if not np.isfinite(window).all():
                continue
            changes = [np.flatnonzero(np.diff(channel, prepend=np.nan, append=np.nan) != 0) for channel in window]
            kept += all(np.diff(change).max() <= 1250 for change in changes)
        assert raw.fs == 250
    assert sum(data.num_rows.values()) == kept
    row = data["train"][0]
    raw = wfdb.rdrecord(str(training / row["record_id"]))
    start = int(row["start_time"] * 250)
    np.testing.assert_allclose(row["ppg"], raw.p_signal[start : start + 2500, raw.sig_name.index("PLETH")], rtol=1e-6)


@pytest.mark.parametrize(
    ("frame_rate", "ecg", "ppg"),
    [
        (1 / 1.024, 256, 128),
        (0.1, 2500, 1250),
        (1 / 30, 7500, 3750),  # as EDF files have
        (1.0, 250, 75),
        (1 / 7, 1750, 875),
        (50.0, 3, 2),
        (0.1, 1250, 2500),
        (125.0, 1, 1),
    ],
)
@pytest.mark.parametrize(("window_seconds", "stride_seconds"), [(10, 10), (7.5, 3.1)])
def test_windows_do_not_depend_on_frames(folder, frame_rate, ecg, ppg, window_seconds, stride_seconds):
    """They last as long as asked, begin where they say and hold what was recorded then in both channels."""
    for person in range(3):
        write_wfdb_frames(
            folder, f"r{person}", frame_rate=frame_rate, ecg=ecg, ppg=ppg, seconds=61 if frame_rate >= 1 else 120
        )
    rows = load(folder, window_seconds=window_seconds, stride_seconds=stride_seconds)["test"]
    rate = frame_rate * max(ecg, ppg)
    seconds = round((61 if frame_rate >= 1 else 120) * frame_rate) / frame_rate
    stride = round(stride_seconds * rate) / rate
    assert len(rows) == int((seconds - window_seconds) / stride + 1e-9) + 1
    for index, row in enumerate(rows):
        assert row["sampling_rate"] == pytest.approx(rate)
        assert row["start_time"] == pytest.approx(index * stride)
        times = row["start_time"] + np.arange(round(window_seconds * rate)) / rate
        expected = np.sin(2 * np.pi * 1.5 * times)
        for channel, count in (("ecg", ecg), ("ppg", ppg)):
            assert len(row[channel]) == len(times)
            # Resampling knows nothing beyond the ends of the recording.
            inner = (times > 0.2) & (times < seconds - 0.2) if count < max(ecg, ppg) else np.full(len(times), True)
            np.testing.assert_allclose(np.array(row[channel])[inner], expected[inner], atol=0.01)


def test_slices_of_channels_at_different_rates_fit_together(folder, monkeypatch):
    for person in range(3):
        write_wfdb_frames(folder, f"r{person}", frame_rate=1.0, ecg=100, ppg=30, seconds=300)
    whole = load(folder, stride_seconds=7)["test"].to_list()
    monkeypatch.setattr("cmssl_hf.dataset_builders.wfdb_pairs.wfdb_pairs._SLICE_SECONDS", 30)
    sliced = load_dataset("wfdb_pairs", data_dir=folder, cache_dir=folder.parent / "sliced", stride_seconds=7)["test"]
    for one, other in zip(whole, sliced, strict=True):
        assert one["start_time"] == other["start_time"]
        np.testing.assert_allclose(one["ppg"], other["ppg"], atol=1e-4)


def test_missing_samples_of_the_slower_channel_cost_their_windows_only(folder):
    for person in range(3):
        write_wfdb_frames(folder, f"r{person}", frame_rate=1.0, ecg=100, ppg=30, seconds=60)
        path = folder / f"r{person}_ppg.dat"
        samples = np.fromfile(path, "<i2")
        samples[30 * 25 : 30 * 26] = -32768  # WFDB's mark of what is missing
        samples.tofile(path)
    rows = load(folder)["test"]
    assert rows["start_time"] == [0, 10, 30, 40, 50]
    for row in rows:
        times = row["start_time"] + np.arange(1000) / 100
        inner = (times > 0.2) & (times < 59.8)
        np.testing.assert_allclose(np.array(row["ppg"])[inner], np.sin(3 * np.pi * times)[inner], atol=0.01)


def test_header_without_a_length(folder):
    """The same rows as with one."""
    for person in range(3):
        write_wfdb_record(folder, f"r{person}", {"II": None, "PLETH": None})
    with_length = load(folder)
    for header in folder.glob("*.hea"):
        first, _, rest = header.read_text().partition("\n")
        assert first.split()[3] == "3750"
        header.write_text(" ".join(first.split()[:3]) + "\n" + rest)
    without = load(folder)
    assert {split: rows.to_list() for split, rows in without.items()} == {
        split: rows.to_list() for split, rows in with_length.items()
    }


SUBJECTS = {
    "folders": (["p0/s0", "p0/s1", "p1/s0", "p2/a/s0"], None, {"p0": 2, "p1": 1, "p2": 1}),
    "folders in a folder": (["data/x/p0/s0", "data/x/p1/s0", "data/x/p2/s0"], None, {"p0": 1, "p1": 1, "p2": 1}),
    "no folders": (["s0", "s1", "s2"], None, {"s0": 1, "s1": 1, "s2": 1}),
    "all in one folder": (["d/s0", "d/s1", "d/s2"], None, {"s0": 1, "s1": 1, "s2": 1}),
    "some in folders": (["s0", "p0/s0", "p0/s1", "p1/s0"], None, {"s0": 1, "p0": 2, "p1": 1}),
    "MIMIC-III": (
        [
            "p00/p000020/p000020-2183-04-28-17-47",
            "p00/p000020/p000020-2183-05-01-17-47",
            "p00/p000033/x",
            "p01/p010013/y",
        ],
        None,
        {"p000020": 2, "p000033": 1, "p010013": 1},
    ),
    "MIMIC-IV": (
        ["p10/p10014354/81739927/81739927", "p10/p10014354/8174/8174", "p10/p10019003/1/1", "p11/p11100011/2/2"],
        None,
        {"p10014354": 2, "p10019003": 1, "p11100011": 1},
    ),
    "each its own": (["p0/s0", "p0/s1", "p1/s0"], "record", {"p0/s0": 1, "p0/s1": 1, "p1/s0": 1}),
    "subject_session": (["a_0", "a_1", "b_0", "c_x_0"], "(.*)_[^_]*$", {"a": 2, "b": 1, "c_x": 1}),
}


@pytest.mark.parametrize(("records", "subject", "expected"), SUBJECTS.values(), ids=SUBJECTS)
def test_whose_a_record_is(folder, records, subject, expected):
    for record in records:
        write_wfdb_record((folder / record).parent, record.rpartition("/")[2], {"II": None, "PLETH": None}, seconds=10)
    counts = {}
    for row in all_rows(load(folder, **({} if subject is None else {"subject": subject}))):
        counts[row["subject_id"]] = counts.get(row["subject_id"], 0) + 1
    assert counts == expected


@pytest.mark.parametrize(
    ("records", "options", "warned"),
    [
        (["s0", "s1", "s2"], {}, "3 records lie in no folder of a person"),
        (["s0", "p0/s0", "p1/s0"], {}, "1 records lie in no folder of a person"),
        (["p0/s0", "p1/s0", "p2/s0"], {}, None),
        (["s0", "s1", "s2"], {"subject": "record"}, None),
    ],
)
def test_what_is_assumed_about_people_is_said(folder, caplog, records, options, warned):
    for record in records:
        write_wfdb_record((folder / record).parent, record.rpartition("/")[2], {"II": None, "PLETH": None}, seconds=10)
    data = load(folder, **options)
    assert (warned is not None) == bool(caplog.messages)
    assert warned is None or warned in caplog.messages[0]
    builder = load_dataset_builder("wfdb_pairs", data_dir=folder, **options)
    assert "may be in two splits" in builder.subject_note
    assert builder.subject_note in data["train"].info.description


def test_one_signal_alone_is_enough_where_no_other_is_asked_for(folder):
    flat = np.zeros(3750)
    for index in range(3):
        write_wfdb_record(folder, f"alone{index}", {"PLETH": None, "RESP": None})
        write_wfdb_record(folder, f"pair{index}", {"II": flat, "PLETH": None})
        write_wfdb_record(folder, f"other{index}", {"II": None})
    data = load(folder, channels=["ppg"])
    rows = all_rows(data)
    assert sorted(row["record_id"] for row in rows) == sorted(
        [f"{kind}{index}" for kind in ("alone", "pair") for index in range(3) for _ in range(3)]
    )
    assert set(data["train"].column_names) == {
        "ppg", "sampling_rate", "subject_id", "record_id", "start_time", "ppg_channel"
    }  # fmt: skip
    frequencies = {"alone": 1, "pair": 2}  # of the sines, by the place of the channel
    for row in rows:
        times = np.arange(1250) / 125
        frequency = frequencies[row["record_id"][:-1]]
        np.testing.assert_allclose(row["ppg"], np.sin(2 * np.pi * frequency * times), atol=1e-3)
    assert report(folder, channels=["ppg"])["skipped_records"].keys() == {"other0", "other1", "other2"}
    with pytest.raises(ValueError, match=r"`channels` are ecg and/or ppg, but got \['abp'\]"):
        load(folder, channels=["abp"])


@pytest.mark.parametrize("option", ["subject", "ecg_patterns", "ppg_patterns"])
def test_expressions_that_are_none(folder, option):
    write_wfdb_record(folder, "r0", {"II": None, "PLETH": None})
    with pytest.raises(ValueError, match=rf"`{option}`: '\(' is not a regular expression"):
        load(folder, **{option: "(" if option == "subject" else ["("]})


def test_heart_rate_is_that_of_the_beats(folder):
    """Of simulated people, whose beats are known; a window whose ECG shows none has no label and is left out."""
    people = {}
    for index in range(3):
        generator = np.random.default_rng(index)
        person = draw_subject(generator, arrhythmia_share=0.0)
        people[f"r{index}"] = simulate_recording(person, 60, 125, generator)
    noise = np.random.default_rng(0).normal(size=1250)
    for name, recording in people.items():
        ecg = recording.ecg.copy()
        ecg[2500:3750] = noise
        write_wfdb_record(folder, name, {"II": ecg, "PLETH": recording.ppg})
    cache_dir = folder.parent / "cache"
    rows = all_rows(load_dataset("wfdb_pairs", "hr", data_dir=folder, cache_dir=cache_dir))
    assert {row["record_id"] for row in rows} == set(people)
    assert 2500 / 125 not in {row["start_time"] for row in rows}
    assert 11 <= len(rows) <= 15
    errors = [
        row["label"] - people[row["record_id"]].heart_rate(row["start_time"], row["start_time"] + 10) for row in rows
    ]
    assert np.median(np.abs(errors)) < 0.3 and np.max(np.abs(errors)) < 3
    first = next(row for row in rows if row["record_id"] == "r1" and row["start_time"] == 0)
    assert np.corrcoef(first["signal"], people["r1"].ppg[:1250])[0, 1] > 0.999
    # What a model of the PPG asks for, and what it cannot have.
    of_ppg = load_dataset("wfdb_pairs", "hr", data_dir=folder, cache_dir=cache_dir, channels=["ppg"])
    assert [row["label"] for row in all_rows(of_ppg)] == [row["label"] for row in rows]
    with pytest.raises(ValueError, match="rows of the configuration hr hold the PPG"):
        load_dataset("wfdb_pairs", "hr", data_dir=folder, cache_dir=cache_dir, channels=["ecg"])
    builder = load_dataset_builder("wfdb_pairs", "hr", data_dir=folder, cache_dir=cache_dir)
    counts = [split["windows"] for split in builder.preparation_report["splits"].values()]
    assert (
        sum(split["unlabelled"] for split in counts) == 18 - len(rows) == 18 - sum(split["kept"] for split in counts)
    )
