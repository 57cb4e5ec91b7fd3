"""The builder for folders of recordings with metadata, on files written here."""

import json

import numpy as np
import pandas as pd
import pytest

from cmssl_hf.data.loading import channels_of, load_dataset, load_dataset_builder
from helpers.releases import write_wfdb_record


SECONDS = 20


def times(rate, seconds=SECONDS):
    return np.arange(round(seconds * rate)) / rate


def write_csv(path, seconds=SECONDS, **frequencies):
    """Sines at 50 Hz, by the name of the signal, with their times."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: np.sin(2 * np.pi * frequency * times(50, seconds)) for name, frequency in frequencies.items()}
    pd.DataFrame({"time": times(50, seconds)} | columns).to_csv(path, index=False)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "mine"
    for number in range(6):
        write_csv(folder / f"r{number}.csv", ppg=1 + 0.1 * number)
    return folder


def load(folder, **options):
    return load_dataset("signalfolder", data_dir=folder, cache_dir=folder.parent / "cache", **options)


def builder_of(folder, **options):
    return load_dataset_builder("signalfolder", data_dir=folder, cache_dir=folder.parent / "cache", **options)


def write_metadata(folder, name="metadata.csv", files=None, **columns):
    number = len(next(iter(columns.values()))) if columns else 6
    table = pd.DataFrame({"file_name": files or [f"r{index}.csv" for index in range(number)]} | columns)
    table.to_csv(folder / name, index=False)


def all_rows(data):
    return [row for rows in data.values() for row in rows]


def test_one_signal_without_metadata(folder, caplog):
    builder = builder_of(folder)
    assert channels_of(builder) == ("ppg",)
    data = load(folder)
    rows = {(row["record_id"], row["start_time"]): row for row in all_rows(data)}
    assert rows.keys() == {(f"r{number}", start) for number in range(6) for start in (0.0, 10.0)}
    for number in range(6):
        row = rows[f"r{number}", 10.0]
        assert (row["sampling_rate"], row["subject_id"]) == (50.0, f"r{number}")
        np.testing.assert_allclose(
            row["ppg"], np.sin(2 * np.pi * (1 + 0.1 * number) * (10 + times(50, 10))), atol=1e-6
        )
    assert "name no subjects" in caplog.text and "each record outside of folders for another person" in caplog.text
    caplog.clear()
    load(folder)
    assert "name no subjects" in caplog.text


def test_pairs_of_several_rates_and_formats(tmp_path):
    folder = tmp_path / "mine"
    for person in range(3):
        write_csv(folder / f"p{person}/table.csv", ecg=1.5, ppg=1)
        write_wfdb_record(folder / f"p{person}", "record", {"II": None, "PLETH": None}, fs=62.5, seconds=12)
    rows = all_rows(load(folder))
    assert {(row["subject_id"], row["record_id"], row["sampling_rate"]) for row in rows} == {
        (f"p{person}", f"p{person}/{name}", rate)
        for person in range(3)
        for name, rate in (("table", 50.0), ("record", 62.5))
    }
    for row in rows:
        t = row["start_time"] + times(row["sampling_rate"], 10)
        ecg, ppg = (1, 2) if row["sampling_rate"] == 62.5 else (1.5, 1)
        np.testing.assert_allclose(row["ecg"], np.sin(2 * np.pi * ecg * t), atol=1e-3)
        np.testing.assert_allclose(row["ppg"], np.sin(2 * np.pi * ppg * t), atol=1e-3)
    alone = load(folder, channels=["ppg"])["train"]
    assert "ecg" not in alone.column_names


def test_whole_recordings_and_overlapping_windows(folder):
    write_csv(folder / "r0.csv", seconds=7, ppg=1)
    whole = {row["record_id"]: len(row["ppg"]) for row in all_rows(load(folder, whole_recordings=True))}
    assert whole == {"r0": 350, **{f"r{number}": 1000 for number in range(1, 6)}}
    data = load(folder, window_seconds=8, stride_seconds=4)
    starts = sorted(row["start_time"] for row in all_rows(data) if row["record_id"] == "r1")
    assert starts == [0.0, 4.0, 8.0, 12.0]
    report = builder_of(folder, window_seconds=8, stride_seconds=4).preparation_report
    assert sum(split["windows"].get("short", 0) for split in report["splits"].values()) == 1


def test_short_gaps_are_filled_and_windows_with_longer_ones_left_out(folder):
    table = pd.read_csv(folder / "r1.csv")
    table.loc[100:102, "ppg"] = np.nan
    table.loc[700:720, "ppg"] = np.nan
    table.to_csv(folder / "r1.csv", index=False)
    rows = [row for row in all_rows(load(folder)) if row["record_id"] == "r1"]
    assert [row["start_time"] for row in rows] == [0.0]
    np.testing.assert_allclose(rows[0]["ppg"], np.sin(2 * np.pi * 1.1 * times(50, 10)), atol=0.04)


LABELS = {
    "regression": ({"systolic": [110.5, 120, 130, 125, 118, 140]}, ["systolic"], "regression", (), 120.0),
    "whole numbers": ({"age": [31, 42, 53, 64, 75, 86]}, "age", "regression", (), 42.0),
    "several numbers": (
        {"sbp": [110, 120, 130, 125, 118, 140], "dbp": [70, 80, 75, 72, 71, 90]},
        ["sbp", "dbp"],
        "regression",
        (),
        [120.0, 80.0],
    ),
    "classes": ({"rhythm": ["AF", "SR", "AF", "SR", "AF", "other"]}, "rhythm", "single_label_classification",
                ("AF", "SR", "other"), 1),
    "0 and 1": ({"ill": [0, 1, 0, 1, 1, 0]}, "ill", "single_label_classification", ("0", "1"), 1),
    "truth values": ({"ill": ["True", "False"] * 3}, "ill", "single_label_classification", ("False", "True"), 0),
    "several classes in a cell": (
        {"codes": ["AF", "SR|PVC", "PVC", "SR", "AF; PVC", "SR"]},
        "codes",
        "multi_label_classification",
        ("AF", "PVC", "SR"),
        [0.0, 1.0, 1.0],
    ),
    "several columns of 0 and 1": (
        {"af": [0, 1, 0, 1, 0, 0], "pvc": [0, 1, 1, 0, 0, 1]},
        ["af", "pvc"],
        "multi_label_classification",
        ("af", "pvc"),
        [1.0, 1.0],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("columns", "label", "problem", "names", "of_r1"), LABELS.values(), ids=LABELS)
def test_labels_are_found_by_their_values(folder, columns, label, problem, names, of_r1):
    write_metadata(folder, **columns)
    builder = builder_of(folder, label=label)
    assert (builder.problem_type, builder.label_names) == (problem, names)
    rows = [row for row in all_rows(load(folder, label=label)) if row["record_id"] == "r1"]
    assert [row["label"] for row in rows] == [of_r1, of_r1]


def test_numbers_are_classes_where_that_is_said(folder):
    write_metadata(folder, stage=[0, 1, 2, 10, 2, 1])
    options = {"label": "stage", "problem_type": "single_label_classification"}
    assert builder_of(folder, **options).label_names == ("0", "1", "2", "10")
    assert {row["record_id"]: row["label"] for row in all_rows(load(folder, **options))}["r3"] == 3


def test_metadata_of_other_tools(folder):
    """Of a spreadsheet with decimal commas, and of JSON lines with lists."""
    lines = ["file_name;systolic", *(f"r{number}.csv;{110 + number},5" for number in range(6))]
    (folder / "metadata.csv").write_text("\ufeff" + "\r\n".join(lines))
    assert {row["record_id"]: row["label"] for row in all_rows(load(folder, label="systolic"))}["r3"] == 113.5
    (folder / "metadata.csv").unlink()
    codes = [["AF"], [], ["SR"], ["SR", "AF"], ["SR"], ["AF"]]
    lines = [json.dumps({"file_name": f"./r{number}.csv", "codes": codes[number]}) for number in range(6)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    rows = {row["record_id"]: row["label"] for row in all_rows(load(folder, label="codes"))}
    assert (rows["r0"], rows["r1"], rows["r3"]) == ([1.0, 0.0], [0.0, 0.0], [1.0, 1.0])


def test_splits_and_subjects_of_the_metadata(folder, caplog):
    write_metadata(
        folder, subject_id=["a", "a", "b", "b", "c", "d"], split=["train"] * 2 + ["test"] * 2 + ["val", "train"]
    )
    data = load(folder)
    assert {split: sorted(set(rows["subject_id"])) for split, rows in data.items()} == {
        "train": ["a", "d"], "validation": ["c"], "test": ["b"]
    }  # fmt: skip
    assert "name no subjects" not in caplog.text
    write_metadata(folder, subject_id=list("aabbcd"), split=["train"] * 3 + ["test", "val", "train"])
    with pytest.raises(ValueError, match=r"Subject 'b' is in 2 splits: .*r2\.csv \(train\) and .*r3\.csv \(test\)"):
        load(folder)


def test_splits_of_folders_as_audiofolder_has_them(tmp_path):
    folder = tmp_path / "mine"
    for split, number in (("train", 3), ("valid", 1), ("test", 2)):
        for index in range(number):
            write_csv(folder / split / f"r{index}.csv", ppg=1)
        write_metadata(folder / split, rate=[60.5 + index for index in range(number)])
    data = load(folder, label="rate")
    assert {split: sorted(set(rows["record_id"])) for split, rows in data.items()} == {
        "train": ["train/r0", "train/r1", "train/r2"], "validation": ["valid/r0"], "test": ["test/r0", "test/r1"]
    }  # fmt: skip


def test_people_without_a_split_are_divided_whole(folder):
    write_metadata(folder, subject_id=list("aabbcc"))
    members = [set(rows["subject_id"]) for rows in load(folder).values()]
    assert sorted(subject for split in members for subject in split) == ["a", "b", "c"]
    write_metadata(folder, subject_id=list("aaabbb"))
    with pytest.raises(ValueError, match=r"2 subject\(s\) are too few"):
        load(folder)


NAMES = ["r0.csv", "r1.csv", "r2.csv", "r3.csv", "r4.csv"]
BAD = {
    "labels missing": (
        {"y": [1.5, None, 2, 3, None, 4]}, {}, r"2 of 6 recordings have no label in 'y': .*r1\.csv \(.*metadata\.csv, line 3\)"
    ),
    "a thousand texts": ({"y": [f"note {number}" for number in range(1000)]}, {}, r"'y' holds 1,000 different texts"),
    "a text among numbers": ({"y": [1.5, 2, 3, "high", 4, 5]}, {}, r"line 5, column 'y': 'high' is not a number"),
    "no such column": ({"systolic": [1] * 6}, {"label": "systolc"}, r"no column 'systolc' .* Did you mean 'systolic'\?"),
    "two spellings": ({"y": ["AF", "SR", "af", "SR", "SR", "SR"]}, {}, r"'AF' and 'af', which differ in their case only"),
    "not there": (
        {"y": [1.5] * 6, "files": [*NAMES, "r9.csv"]}, {}, r"name 1 recording\(s\) that are not there: r9\.csv \(.*line 7\)"
    ),
    "not named": ({"y": [1.5] * 5, "files": NAMES}, {}, r"1 recording\(s\) of the folder are in no line .*r5\.csv"),
    "named twice": ({"y": [1.5] * 6, "files": [*NAMES, "r4"]}, {}, r"r4 is named twice: .*line 6 and .*line 7"),
    "no subject": (
        {"y": [1.5] * 6, "subject_id": ["a", "b", None, "c", "d", "e"]}, {}, r"1 line\(s\) of the metadata have no `subject_id`"
    ),
    "no split": ({"y": [1.5] * 6, "split": ["train"] * 5 + ["later"]}, {}, r"`split` is 'later', but must be one of train"),
    "no such problem": ({"y": [1.5] * 6}, {"problem_type": "ranking"}, "`problem_type` must be one of regression"),
}  # fmt: skip


@pytest.mark.parametrize(("columns", "options", "message"), BAD.values(), ids=BAD)
def test_bad_metadata_are_refused_by_file_and_line(folder, columns, options, message):
    write_metadata(folder, **columns)
    with pytest.raises(ValueError, match=message):
        load(folder, **{"label": "y"} | options)


def test_recordings_without_a_label_may_be_left_out(folder):
    write_metadata(folder, y=[1.5, None, 2, 3, None, 4])
    rows = all_rows(load(folder, label="y", skip_unlabelled=True))
    assert {row["record_id"] for row in rows} == {"r0", "r2", "r3", "r5"}
    report = builder_of(folder, label="y", skip_unlabelled=True).preparation_report
    assert report["skipped_records"] == {"r1": "no label", "r4": "no label"}
    assert len({row["record_id"] for row in all_rows(load(folder))}) == 6


def test_two_recordings_of_one_name_are_refused(folder):
    write_wfdb_record(folder, "r3", {"PLETH": None})
    with pytest.raises(ValueError, match=r"Two recordings have one name: .*r3\.csv and .*r3\.hea"):
        load(folder)
    for file in ("r3.hea", "r3.dat"):
        (folder / file).unlink()
    write_csv(folder / "more/r3.csv", ppg=1)
    (folder / "r3.csv").rename(folder / "more/r0.csv")
    files = ["r0.csv", "r1.csv", "r2.csv", "r3.csv", "r4.csv", "r5.csv", "more/r0.csv"]
    write_metadata(folder, files=files, y=[1.5] * 7)
    with pytest.raises(ValueError, match=r"r3\.csv \(.*line 5; there is more/r3\.csv: give the path\)"):
        load(folder, label="y")


def test_labels_without_metadata_are_refused(folder):
    with pytest.raises(ValueError, match=r"has no metadata\.csv or metadata\.jsonl .* file_name and systolic"):
        load(folder, label="systolic")


def test_a_signal_that_says_nothing_must_be_named(tmp_path):
    folder = tmp_path / "mine"
    for number in range(3):
        write_csv(folder / f"r{number}.csv", value=1, other=2)
    with pytest.raises(ValueError, match=r"No ECG and no PPG is found .*r0\.csv has 'value', 'other': say what"):
        load(folder)
    rows = load(folder, channels=["ppg"], ppg_name="other")["train"]
    np.testing.assert_allclose(rows[0]["ppg"], np.sin(4 * np.pi * times(50, 10)), atol=1e-6)


def test_a_recording_that_cannot_be_read_is_named_and_left_out(folder, caplog):
    (folder / "r2.csv").write_text("nothing that is a table")
    with pytest.raises(ValueError, match=r"1 of 6 recordings .* are damaged.*r2\.csv"):
        load(folder)
    rows = all_rows(load(folder, max_damaged_share=0.2))
    assert {row["record_id"] for row in rows} == {"r0", "r1", "r3", "r4", "r5"}


def test_rates_that_files_do_not_state(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for number in range(3):
        pd.DataFrame({"ppg": np.sin(2 * np.pi * times(40))}).to_csv(folder / f"r{number}.csv", index=False)
    with pytest.raises(ValueError, match=r"No ECG and no PPG is found .*`sampling_rate` is required for .*r0\.csv"):
        load(folder)
    assert {row["sampling_rate"] for row in all_rows(load(folder, sampling_rate=40))} == {40.0}
    write_metadata(folder, sampling_rate=[40, 20, 40])
    assert {row["record_id"]: row["sampling_rate"] for row in all_rows(load(folder))} == {
        "r0": 40.0, "r1": 20.0, "r2": 40.0
    }  # fmt: skip


def test_two_metadata_files_in_one_folder_are_refused(folder):
    write_metadata(folder, y=[1.5] * 6)
    (folder / "metadata.jsonl").write_text("{}")
    with pytest.raises(ValueError, match=r"has both metadata\.csv and metadata\.jsonl: keep one"):
        load(folder)
