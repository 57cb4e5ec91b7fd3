"""The PulseDB builder against the raw files, read here independently of it, and on releases written here."""

import h5py
import numpy as np
import pytest

from cmssl_hf.building.dataset_builder import DamagedRecordError
from cmssl_hf.building.matlab import CellArray
from cmssl_hf.data.loading import load_dataset, load_dataset_builder
from helpers.pulsedb_release import (
    copy_segment_file,
    simulated_segments,
    write_info_file,
    write_scalar_segment_file,
    write_segment_file,
    write_subset_file,
)


SOURCE_DIGITS = {"mimic": "0", "vitaldb": "1"}
SUBJECTS = [f"p{number:06d}{source}" for number in range(1, 6) for source in "01"]


def text_of(file, reference):
    return "".join(map(chr, file[reference][()].ravel()))


def column(file, name):
    """Elements of a field of a struct array, plainly."""
    return [file[reference] for reference in file[name][()].ravel()]


@pytest.fixture(scope="module")
def segments():
    return {subject: simulated_segments(12, seed) for seed, subject in enumerate(SUBJECTS)}


@pytest.fixture(scope="module")
def release(segments, tmp_path_factory):
    """Ten people, of whom pairs share their number, with two segments per case."""
    folder = tmp_path_factory.mktemp("PulseDB")
    for index, (subject, fields) in enumerate(segments.items()):
        write_segment_file(folder, subject, fields, as_row=index % 2 == 0, row_text=index % 3 == 0)
    return folder


@pytest.fixture(scope="module")
def pairs(release, tmp_path_factory):
    return load_dataset("pulsedb", data_dir=release, cache_dir=tmp_path_factory.mktemp("cache"))


def rows_of(dataset):
    return [row for split in dataset.values() for row in split]


def sorted_rows(dataset, *keys):
    return sorted(rows_of(dataset), key=lambda row: [str(row[key]) for key in keys])


def check_against_segment_files(dataset, release, fields=("ECG_F", "PPG_F")):
    rows = rows_of(dataset)
    for row in rows:
        source, number = row["subject_id"].split("_")
        folder = {"mimic": "PulseDB_MIMIC", "vitaldb": "PulseDB_Vital"}[source]
        with h5py.File(release / "Segment_Files" / folder / f"{number}.mat") as file:
            values = {
                name: file[file[f"Subj_Wins/{name}"][()].ravel()[row["segment_index"] - 1]]
                for name in file["Subj_Wins"]
            }
            for modality, field in zip(("ecg", "ppg"), fields):
                assert row[modality] == values[field][()].ravel().astype(np.float32).tolist()
            assert row["sbp"] == np.float32(values["SegSBP"][0, 0])
            assert row["dbp"] == np.float32(values["SegDBP"][0, 0])
            assert row["age"] == np.float32(values["Age"][0, 0])
            assert row["sex"] == chr(values["Gender"][0, 0])
            assert row["start_time"] == values["T"][()].ravel()[0]
            case = values["CaseID"][()].ravel()
            case = "".join(map(chr, case)) if case.dtype == np.uint16 else f"{case[0]:.0f}"
            assert row["record_id"] == f"{row['subject_id']}_{case}"
            assert row["sampling_rate"] == 125.0
    return len(rows)


def test_sample_segment_files_are_read_as_they_are(test_data, tmp_path):
    dataset = load_dataset("pulsedb", data_dir=test_data / "PulseDB", cache_dir=tmp_path)
    assert check_against_segment_files(dataset, test_data / "PulseDB") == 96
    assert {split: dataset[split].num_rows for split in dataset} == {"train": 48, "validation": 24, "test": 24}


def test_raw_signals_of_the_sample_segment_files(test_data, tmp_path):
    dataset = load_dataset("pulsedb", data_dir=test_data / "PulseDB", cache_dir=tmp_path, signals="raw")
    assert check_against_segment_files(dataset, test_data / "PulseDB", ("ECG_Raw", "PPG_Raw")) == 96


def test_sample_subset_files_are_read_as_they_are(test_data, tmp_path):
    folder = test_data / "PulseDB"
    dataset = load_dataset("pulsedb", "bp", data_dir=folder, cache_dir=tmp_path)
    expected = {}
    for name in ("Train", "CalFree_Test"):
        with h5py.File(folder / "Subset_Files" / f"{name}_Subset.mat") as file:
            subset = file["Subset"]
            for i, reference in enumerate(subset["Subject"][()].ravel()):
                subject = text_of(file, reference)
                identity = f"{'mimic' if subject[-1] == '0' else 'vitaldb'}_{subject[:7]}"
                sex = text_of(file, subset["Gender"][()].ravel()[i])
                expected.setdefault((name, identity), []).append(
                    (subset["Signals"][:, 1, i], subset["SBP"][0, i], subset["DBP"][0, i], subset["Age"][0, i], sex)
                )
    subjects = {split: set(dataset[split]["subject_id"]) for split in dataset}
    assert subjects["train"] | subjects["validation"] == {subject for name, subject in expected if name == "Train"}
    assert not subjects["train"] & subjects["validation"]
    assert subjects["test"] == {subject for name, subject in expected if name == "CalFree_Test"}
    remaining = {key: iter(values) for key, values in expected.items()}
    for split in dataset:
        for row in dataset[split]:
            key = ("CalFree_Test" if split == "test" else "Train", row["subject_id"])
            ppg, sbp, dbp, age, sex = next(remaining[key])
            assert row["signal"] == ppg.astype(np.float32).tolist()
            assert row["label"] == [np.float32(sbp), np.float32(dbp)] == [row["sbp"], row["dbp"]]
            assert (row["age"], row["sex"]) == (np.float32(age), sex)
            assert row["start_time"] is None and row["segment_index"] is None
    assert all(next(values, None) is None for values in remaining.values())


def test_written_release_in_both_orientations(pairs, release, segments):
    assert check_against_segment_files(pairs, release) == 12 * len(segments)


def test_a_number_in_both_sources_is_two_people(pairs):
    subjects = {split: set(pairs[split]["subject_id"]) for split in pairs}
    assert {split: len(members) for split, members in subjects.items()} == {"train": 8, "validation": 1, "test": 1}
    assert set().union(*subjects.values()) == {
        f"{source}_p{number:06d}" for number in range(1, 6) for source in SOURCE_DIGITS
    }
    assert sum(map(len, subjects.values())) == 10
    ages = {row["subject_id"]: row["age"] for row in rows_of(pairs)}
    assert ages["mimic_p000001"] != ages["vitaldb_p000001"]


def test_several_processes_and_streaming_give_the_same_rows(pairs, release, tmp_path):
    parallel = load_dataset("pulsedb", data_dir=release, cache_dir=tmp_path, num_proc=2)
    streamed = load_dataset("pulsedb", data_dir=release, cache_dir=tmp_path, streaming=True)
    for split in pairs:
        assert parallel[split].to_list() == pairs[split].to_list() == list(streamed[split])


def test_one_source_only(release, tmp_path):
    dataset = load_dataset("pulsedb", data_dir=release, cache_dir=tmp_path, source="vitaldb")
    assert {row["subject_id"].split("_")[0] for row in rows_of(dataset)} == {"vitaldb"}
    folder = release / "Segment_Files" / "PulseDB_Vital"
    same = load_dataset("pulsedb", data_dir=folder, cache_dir=tmp_path)
    assert sorted_rows(same, "subject_id", "start_time") == sorted_rows(dataset, "subject_id", "start_time")


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_empty_arrays(tmp_path, compression):
    fields = simulated_segments(6, 0)
    fields["Age"][1] = fields["SegSBP"][2] = fields["ECG_F"][3] = None
    fields["PPG_F"][4] = np.ones(1250)
    fields["CaseID"] = [float(case) for case in range(6)]
    for number in (1, 2, 3):
        write_segment_file(tmp_path, f"p{number:06d}0", {**fields, "Gender": [None] * 6}, compression=compression)
    dataset = load_dataset("pulsedb", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    rows = dataset["train"].to_list()
    assert [row["segment_index"] for row in rows] == [1, 2, 3, 6]
    assert [row["age"] for row in rows] == [40, None, 40, 40]
    assert [row["sbp"] is None for row in rows] == [False, False, True, False]
    assert [row["record_id"][-1] for row in rows] == ["0", "1", "2", "5"]
    assert {row["sex"] for row in rows} == {None}
    labelled = load_dataset_builder("pulsedb", "sbp", data_dir=tmp_path, cache_dir=tmp_path / "cache", form="segments")
    labelled.download_and_prepare()
    assert labelled.as_dataset()["train"]["segment_index"][:] == [1, 2, 4, 6]
    outcomes = labelled.preparation_report["splits"]["train"]["windows"]
    assert outcomes == {"kept": 4, "unlabelled": 1, "flat": 1}


def test_struct_of_one_segment_has_no_references(tmp_path):
    for number in (1, 2, 3):
        write_scalar_segment_file(tmp_path, f"p{number:06d}1", simulated_segments(1, number))
    rows = rows_of(load_dataset("pulsedb", data_dir=tmp_path, cache_dir=tmp_path / "cache"))
    assert [row["subject_id"] for row in sorted(rows, key=lambda row: row["subject_id"])] == [
        f"vitaldb_p{number:06d}" for number in (1, 2, 3)
    ]
    for row in rows:
        fields = simulated_segments(1, int(row["subject_id"][-1]))
        assert row["ecg"] == fields["ECG_F"][0].astype(np.float32).tolist()
        assert (row["record_id"][-1], row["sex"]) == ("1", fields["Gender"][0])


def test_reading_by_address_equals_reading_through_hdf5(tmp_path, monkeypatch):
    fields = simulated_segments(40, 3)
    fields["ECG_F"][5] = None
    fields["ECG_F"][6] = np.arange(7.0)
    fields["SegSBP"][7] = None
    plain = write_segment_file(tmp_path, "p0000010", fields)
    compressed = write_segment_file(tmp_path, "p0000020", fields, compression="gzip")
    order = [39, 6, 6, 0, 12]

    def read(path):
        with h5py.File(path) as file:
            struct = file["Subj_Wins"]
            ecg, sbp = CellArray(struct["ECG_F"]), CellArray(struct["SegSBP"])
            return (
                ecg.vectors(1250),
                ecg.vectors(1250, order),
                sbp.numbers(),
                CellArray(struct["T"], slice(3, 9)).vectors(1250),
            )

    fast = read(plain)
    expected = np.array([np.full(1250, np.nan) if v is None or len(v) != 1250 else v for v in fields["ECG_F"]])
    np.testing.assert_array_equal(fast[0], expected)
    np.testing.assert_array_equal(fast[1], expected[order])
    np.testing.assert_array_equal(fast[2], np.array(fields["SegSBP"], dtype=float))
    np.testing.assert_array_equal(fast[3], np.array(fields["T"])[3:9])
    through_hdf5 = []
    monkeypatch.setattr(
        CellArray, "_read_contiguous", lambda self, values, *_: through_hdf5.append(1) or range(len(values))
    )
    for path in (plain, compressed):
        for one, other in zip(fast, read(path)):
            np.testing.assert_array_equal(one, other)
    assert through_hdf5
    monkeypatch.undo()
    for one, other in zip(fast, read(compressed)):
        np.testing.assert_array_equal(one, other)


def test_reading_by_address_needs_no_second_look(tmp_path, monkeypatch):
    path = write_segment_file(tmp_path, "p0000010", simulated_segments(30, 3))
    with h5py.File(path) as file:
        field = CellArray(file["Subj_Wins/ECG_F"])
        values = np.empty((30, 1250))
        first = h5py.h5r.dereference(file["Subj_Wins/ECG_F"][()].flat[0], file.id)
        assert field._read_contiguous(values, first, field._addresses) == []


@pytest.fixture(scope="module")
def subsets(segments, tmp_path_factory):
    """Segment files, Info files and Subset files of the same segments; the rows of a person are not in one piece."""
    folder = tmp_path_factory.mktemp("PulseDB")
    for subject, fields in segments.items():
        write_segment_file(folder, subject, fields)
    listed = {"Train": {s: [3, 1, 2, 8] for s in SUBJECTS[:7]}, "CalFree_Test": {s: [5, 6] for s in SUBJECTS[7:]}}
    listed["CalBased_Test"] = {s: [11] for s in SUBJECTS[:7]}
    for name, rows in listed.items():
        entries = [(subject, index) for subject in reversed(rows) for index in rows[subject]]
        write_info_file(folder, name, entries)
        chosen = {s: {n: [v[i - 1] for i in indices] for n, v in segments[s].items()} for s, indices in rows.items()}
        write_subset_file(folder, name, chosen, row_text=False, chunks=(100, 1, 4), compression="gzip")
    return folder


@pytest.mark.parametrize("chunked", [True, False])
def test_subset_files_with_and_without_info_files_and_info_files_alone(subsets, tmp_path, chunked, monkeypatch):
    monkeypatch.setattr("cmssl_hf.dataset_builders.pulsedb.pulsedb_files._SUBSET_SLICE", 5 if chunked else 2048)
    without_info, info_alone = tmp_path / "without_info", tmp_path / "info_alone"
    for folder, parts in ((without_info, ["Subset_Files"]), (info_alone, ["Info_Files", "Segment_Files"])):
        folder.mkdir()
        for part in parts:
            (folder / part).symlink_to(subsets / part)
    load = {
        folder: load_dataset("pulsedb", form="subsets", data_dir=folder, cache_dir=tmp_path / "cache" / folder.name)
        for folder in (subsets, without_info, info_alone)
    }
    for split in ("train", "validation", "test"):
        both, subset, info = (load[folder][split].to_list() for folder in (subsets, without_info, info_alone))
        assert [row["segment_index"] for row in both] == [row["segment_index"] for row in info]
        assert {row["segment_index"] for row in subset} == {None}
        assert both and {row["start_time"] for row in info} != {None}
        for row in [*both, *subset, *info]:
            for key in ("start_time", "record_id", "segment_index"):
                del row[key]
        assert both == subset == info
    subjects = [set(load[subsets][split]["subject_id"]) for split in ("train", "validation", "test")]
    assert [len(members) for members in subjects] == [6, 1, 3]
    assert len(set().union(*subjects)) == 10


def test_raw_signals_of_a_subset(subsets, tmp_path):
    dataset = load_dataset("pulsedb", form="subsets", data_dir=subsets, cache_dir=tmp_path, signals="raw")
    assert check_against_segment_files(dataset, subsets, ("ECG_Raw", "PPG_Raw")) == 7 * 4 + 3 * 2
    with pytest.raises(ValueError, match=r"Train_Subset\.mat holds filtered signals"):
        load_dataset("pulsedb", form="subsets", data_dir=subsets / "Subset_Files", cache_dir=tmp_path, signals="raw")


def test_subjects_are_shared_only_on_request(subsets, tmp_path):
    options = {"data_dir": subsets, "cache_dir": tmp_path, "test_subset": "CalBased_Test"}
    with pytest.raises(ValueError, match="7 of the 7 subjects of CalBased_Test are in Train too"):
        load_dataset("pulsedb", "sbp", **options)
    dataset = load_dataset("pulsedb", "sbp", calibration_based=True, **options)
    assert set(dataset["test"]["subject_id"]) == set(dataset["train"]["subject_id"]) | set(
        dataset["validation"]["subject_id"]
    )
    assert set(load_dataset("pulsedb", "sbp", **{**options, "test_subset": ""})) == {"train", "validation"}


def test_info_of_other_segments_is_not_believed(subsets, segments, tmp_path, caplog):
    (tmp_path / "Subset_Files").symlink_to(subsets / "Subset_Files")
    write_info_file(tmp_path, "Train", [(SUBJECTS[0], 1)])
    dataset = load_dataset("pulsedb", "dbp", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert set(dataset["train"]["segment_index"]) == {None}
    assert "does not list the segments of its Info file" in caplog.text


def damaged_release(folder, segments):
    template = write_segment_file(folder, "p0000010", simulated_segments(3, 0))
    for number in range(2, 41):
        copy_segment_file(template, folder, f"p{number:06d}0")
    mimic = template.parent
    (mimic / "p000004.mat").write_bytes(b"")
    (mimic / "p000009.mat").write_bytes(template.read_bytes()[:30000])
    (mimic / "p000011.mat").write_bytes(b"not a MATLAB file" * 1000)
    (mimic / "p000017.mat").write_bytes(template.read_bytes())
    return {str(mimic / f"p{number:06d}.mat") for number in (4, 9, 11, 17)}


def test_damaged_files_are_named_and_counted(segments, tmp_path):
    damaged = damaged_release(tmp_path, segments)
    builder = load_dataset_builder("pulsedb", data_dir=tmp_path, cache_dir=tmp_path / "cache", max_damaged_share=0.1)
    builder.download_and_prepare(num_proc=2)
    report = builder.preparation_report["splits"]
    problems = {path: problem for split in report.values() for path, problem in split["damaged_records"].items()}
    assert set(problems) == damaged
    assert all(path in problem for path, problem in problems.items())
    assert "does not hold the segments of p000017" in problems[next(path for path in damaged if "p000017" in path)]
    assert sum(split["windows"]["kept"] for split in report.values()) == 36 * 3
    with pytest.raises(
        ValueError, match=r"of 40 recordings of PulseDB v2_0 are damaged, more than `max_damaged_share=0.05`"
    ):
        load_dataset("pulsedb", data_dir=tmp_path, cache_dir=tmp_path / "cache", max_damaged_share=0.05)
    with pytest.raises(DamagedRecordError, match=r"p0000\d\d\.mat cannot be read"):
        load_dataset("pulsedb", data_dir=tmp_path, cache_dir=tmp_path / "cache", max_damaged_share=0)


def test_damaged_subset_and_missing_segments_are_named(subsets, tmp_path):
    (tmp_path / "Train_Subset.mat").write_bytes(b"nothing")
    with pytest.raises(DamagedRecordError, match=r"Train_Subset\.mat cannot be read"):
        load_dataset("pulsedb", "sbp", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    (tmp_path / "Train_Subset.mat").unlink()
    write_info_file(tmp_path, "Train", [(subject, index) for subject in SUBJECTS for index in (1, 99)])
    (tmp_path / "Segment_Files").symlink_to(subsets / "Segment_Files")
    with pytest.raises(DamagedRecordError, match=r"p00000\d\.mat has 12 segments, but not the wanted 99"):
        options = {"test_subset": "", "max_damaged_share": 0}
        load_dataset("pulsedb", "sbp", data_dir=tmp_path, cache_dir=tmp_path / "cache", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "subset"}, "`form` must be one of"),
        ({"source": "eicu"}, "`source` must be one of"),
        ({"form": "subsets"}, "it has neither Train_Subset.mat nor Train_Info.mat"),
    ],
)
def test_wrong_options(release, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        load_dataset("pulsedb", data_dir=release, cache_dir=tmp_path, **options)


def test_how_to_get_it(tmp_path):
    with pytest.raises(
        ValueError, match=r"`data_dir` is needed for PulseDB v2_0\. Follow https://github.com/pulselabteam"
    ):
        load_dataset("pulsedb", cache_dir=tmp_path)
    (tmp_path / "something").touch()
    with pytest.raises(ValueError, match=r"is not PulseDB v2_0: it has no Segment files"):
        load_dataset("pulsedb", data_dir=tmp_path, cache_dir=tmp_path / "cache")
