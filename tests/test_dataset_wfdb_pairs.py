"""The builder for any folder of WFDB records, on records written here and on those of the Challenge 2015."""

import numpy as np
import pytest
import wfdb

from cmssl_hf.data.loading import load_dataset, load_dataset_builder


def write_record(folder, name, channels, *, fs=125.0, seconds=30):
    """Writes a WFDB record whose channels are `{name: samples}` or, for `None`, sines that tell the channels apart."""
    folder.mkdir(parents=True, exist_ok=True)
    times = np.arange(int(seconds * fs)) / fs
    signals = [
        np.sin(2 * np.pi * (1 + index) * times) if samples is None else samples
        for index, samples in enumerate(channels.values())
    ]
    wfdb.wrsamp(
        name,
        fs=fs,
        units=["mV"] * len(channels),
        sig_name=list(channels),
        p_signal=np.stack(signals, axis=1),
        fmt=["16"] * len(channels),
        write_dir=str(folder),
    )


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
        write_record(folder / f"group{index}", f"r{index}", {"II": None, "PLETH": None}, fs=fs)
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
        write_record(folder, f"r{index}", dict.fromkeys(names))
    row = load(folder)["test"][0]
    assert (row["ecg_channel"], row["ppg_channel"]) == (ecg, ppg)
    stripped = [name.strip(",") for name in names]
    times = np.arange(1250) / 125
    np.testing.assert_allclose(row["ecg"], np.sin(2 * np.pi * (1 + stripped.index(ecg)) * times), atol=1e-3)
    np.testing.assert_allclose(row["ppg"], np.sin(2 * np.pi * (1 + stripped.index(ppg)) * times), atol=1e-3)


def test_own_patterns(folder):
    for index in range(3):
        write_record(folder, f"r{index}", {"wrist_red": None, "wrist_green": None, "chest": None, "II": None})
    row = load(folder, ecg_patterns=["chest"], ppg_patterns=["wrist_green", "wrist.*"])["test"][0]
    assert (row["ecg_channel"], row["ppg_channel"]) == ("chest", "wrist_green")


def test_subjects_are_never_in_two_splits(folder):
    for person in range(4):
        for session in range(3):
            write_record(folder / f"p{person}", f"s{session}", {"II": None, "PLETH": None})
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
    write_record(folder, "a", {"II": None, "PLETH": missing})
    write_record(folder, "b", {"II": flat, "PLETH": None})
    write_record(folder, "c", {"II": None, "PLETH": None})
    write_record(folder, "d", {"II": None, "ABP": None})
    write_record(folder, "numerics", {"HR": None, "PULSE": None}, fs=1.0)
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
    write_record(folder, "a", {"II": None, "ABP": None})
    with pytest.raises(
        ValueError, match=r"records is not a folder of WFDB .* none of its 1 records has both .*\(PLETH\|PPG\)"
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
        write_record(folder, f"r{index}", {"II": None, "PLETH": None})
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
    write_record(folder, "long_0001", {"II": None, "PLETH": None}, seconds=20)
    write_record(folder, "long_0002", {"II": None, "ABP": None}, seconds=20)
    write_record(folder, "long_0003", {"PLETH": None, "V": None}, seconds=20)
    header = ["long/5 2 125 9375", "long_layout 0", "long_0001 2500", "~ 1875", "long_0002 2500", "long_0003 2500"]
    (folder / "long.hea").write_text("\n".join(header) + "\n")
    (folder / "long_layout.hea").write_text(
        "long_layout 3 125 0\n~ 0 200 16 0 0 0 0 II\n~ 0 200 16 0 0 0 0 PLETH\n~ 0 200 16 0 0 0 0 V\n"
    )
    for index in range(2):
        write_record(folder, f"r{index}", {"II": None, "PLETH": None})
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
        write_record(folder, f"r{index}", {"II": signal[:, 0], "PLETH": signal[:, 1]}, fs=50.0)
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
        write_record(folder, f"r{index}", {"II": None, "PLETH": None})
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
