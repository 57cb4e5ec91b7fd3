"""The BIDMC builder against the raw files, read here independently of it, and on small recordings written here."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb

from cmssl_hf.data.loading import load_dataset, load_dataset_builder
from helpers.releases import BIDMC_BREATHS, BIDMC_SECONDS, write_bidmc_recording


RELEASE = "bidmc-ppg-and-respiration-dataset-1.0.0"


@pytest.fixture(scope="module")
def release(test_data):
    return test_data / RELEASE


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def small_release(tmp_path_factory):
    """Subjects 1 and 2 (train), 11 (validation) and 8 (test)."""
    folder = tmp_path_factory.mktemp("bidmc")
    for subject in (1, 2, 8, 11):
        write_bidmc_recording(folder, subject)
    return folder


def windows_of(dataset, record_id):
    return dataset.select(np.flatnonzero(np.array(dataset["record_id"]) == record_id))


class TestSmallRelease:
    def test_pairs(self, small_release, tmp_path):
        data = load_dataset("bidmc", data_dir=small_release, cache_dir=tmp_path)
        assert {split: sorted(set(rows["subject_id"])) for split, rows in data.items()} == {
            "train": ["1", "2"],
            "validation": ["11"],
            "test": ["8"],
        }
        # 3751 samples hold (3751 - 1250) // 250 + 1 windows.
        assert data["test"]["start_time"] == [2.0 * index for index in range(11)]
        row = data["test"][3]
        times = 6 + np.arange(1250) / 125
        np.testing.assert_allclose(row["ecg"], np.sin(2 * np.pi * 1.5 * times + 8), atol=1e-3)
        np.testing.assert_allclose(row["ppg"], 0.5 + 0.3 * np.sin(2 * np.pi * 1.5 * times), atol=1e-3)
        assert (row["sampling_rate"], row["record_id"], row["age"], row["sex"]) == (125.0, "bidmc08", 90.0, "F")

    def test_heart_rate_is_the_mean_of_the_valid_values(self, tmp_path):
        heart_rate = np.arange(BIDMC_SECONDS + 1.0) + 60
        heart_rate[4] = np.nan
        heart_rate[16:] = np.nan
        write_bidmc_recording(tmp_path, 8, heart_rate=heart_rate)
        data = load_dataset("bidmc", "hr", data_dir=tmp_path, cache_dir=tmp_path / "cache", split="test")
        starts = range(0, 21, 2)
        expected = {start: np.nanmean(heart_rate[start : start + 10]) for start in starts if start < 16}
        assert data["start_time"] == list(expected)
        np.testing.assert_allclose(data["label"], list(expected.values()), rtol=1e-6)
        builder = load_dataset_builder("bidmc", "hr", data_dir=tmp_path, cache_dir=tmp_path / "cache")
        assert builder.preparation_report["splits"]["test"]["windows"] == {"kept": 8, "unlabelled": 3}

    @pytest.mark.parametrize("annotator", [1, 2])
    def test_respiratory_rate_counts_breaths(self, small_release, tmp_path, annotator):
        data = load_dataset(
            "bidmc", "rr", data_dir=small_release, cache_dir=tmp_path, split="test", annotator=annotator
        )
        expected = [
            6 * sum(250 * index <= breath < 250 * index + 1250 for breath in BIDMC_BREATHS[f"ann{annotator}"])
            for index in range(11)
        ]
        assert data["label"] == expected

    def test_respiratory_rate_from_intervals(self, small_release, tmp_path):
        options = {"rr_label": "interval", "window_seconds": 20, "stride_seconds": 5}
        data = load_dataset("bidmc", "rr", data_dir=small_release, cache_dir=tmp_path, split="test", **options)
        # Breaths lie 600 samples = 4.8 s apart, the last two 500 samples.
        np.testing.assert_allclose(data["label"], [12.5, 12.5, 60 * 125 * 4 / 2300], rtol=1e-6)
        assert len(data["signal"][0]) == 2500

    def test_ecg_as_the_signal(self, small_release, tmp_path):
        pairs = load_dataset("bidmc", data_dir=small_release, cache_dir=tmp_path, split="test")
        labelled = load_dataset(
            "bidmc", "hr", data_dir=small_release, cache_dir=tmp_path, split="test", modality="ecg"
        )
        assert labelled["signal"] == pairs["ecg"]

    def test_csv_form(self, small_release, tmp_path):
        folder = tmp_path / "bidmc_csv"
        folder.mkdir()
        raw = wfdb.rdrecord(str(small_release / "bidmc08")).p_signal
        heart_rate = wfdb.rdrecord(str(small_release / "bidmc08n")).p_signal[:, 0]
        signals = {"Time [s]": np.arange(len(raw)) / 125, " RESP": raw[:, 0], " PLETH": raw[:, 1], " II": raw[:, 2]}
        pd.DataFrame(signals).to_csv(folder / "bidmc_08_Signals.csv", index=False)
        numerics = {"Time [s]": np.arange(BIDMC_SECONDS + 1), " HR": heart_rate.round(), " PULSE": 50}
        pd.DataFrame(numerics).to_csv(folder / "bidmc_08_Numerics.csv", index=False)
        # Samples are counted from 1 here.
        columns = [pd.Series(BIDMC_BREATHS[f"ann{number}"]) + 1 for number in (1, 2)]
        names = ["breaths ann1 [signal sample no]", " breaths ann2 [signal sample no]"]
        pd.concat(columns, axis=1, keys=names).to_csv(folder / "bidmc_08_Breaths.csv", index=False)
        (folder / "bidmc_08_Fix.txt").write_text("bidmc_08\nAge: 90+\nGender: F\n")
        for config, options in (("pairs", {}), ("hr", {}), ("rr", {"annotator": 2})):
            text, binary = (
                load_dataset("bidmc", config, data_dir=data_dir, cache_dir=tmp_path / "cache", split="test", **options)
                for data_dir in (folder, small_release)
            )
            assert text.to_list() == binary.to_list()

    def test_flat_and_missing_windows_are_dropped_and_counted(self, tmp_path):
        ppg = 0.5 + 0.3 * np.sin(np.arange(BIDMC_SECONDS * 125 + 1) / 10)
        ppg[:1000] = 0.4
        ppg[3000] = np.nan
        write_bidmc_recording(tmp_path, 8, ppg=ppg)
        data = load_dataset("bidmc", data_dir=tmp_path, cache_dir=tmp_path / "cache", split="test")
        # The window at 0 is flat for 8 s, the one at 2 s for 6 s; those from 14.02 s on hold sample 3000.
        assert data["start_time"] == [4.0, 6.0, 8.0, 10.0, 12.0, 14.0]
        report = json.loads(next((tmp_path / "cache").rglob("preparation_report.json")).read_text())
        assert report["splits"]["test"]["windows"] == {"flat": 2, "kept": 6, "missing": 3}

    def test_cross_validation_folds_are_disjoint(self, tmp_path):
        for subject in (1, 2, 3, 4):
            write_bidmc_recording(tmp_path, subject)
        tested = []
        for fold in range(3):
            data = load_dataset("bidmc", data_dir=tmp_path, cache_dir=tmp_path / "cache", fold=fold, num_folds=3)
            subjects = [subject for rows in data.values() for subject in set(rows["subject_id"])]
            assert sorted(subjects) == ["1", "2", "3", "4"]
            tested += set(data["test"]["subject_id"]) if "test" in data else []
        assert sorted(tested) == ["1", "2", "3", "4"]

    def test_streaming_and_processes_give_the_same_rows(self, small_release, tmp_path):
        data = load_dataset("bidmc", "hr", data_dir=small_release, cache_dir=tmp_path)
        streamed = load_dataset("bidmc", "hr", data_dir=small_release, cache_dir=tmp_path, streaming=True)
        parallel = load_dataset("bidmc", "hr", data_dir=small_release, cache_dir=tmp_path / "two", num_proc=2)
        for split, rows in data.items():
            assert list(streamed[split]) == rows.to_list() == parallel[split].to_list()
        reports = [json.loads(path.read_text()) for path in sorted(tmp_path.rglob("preparation_report.json"))]
        assert len(reports) == 2 and reports[0] == reports[1]


class TestErrors:
    def test_missing_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"nowhere does not exist\. Expected: `bidmcNN\.hea`.*Download"):
            load_dataset("bidmc", data_dir=tmp_path / "nowhere", cache_dir=tmp_path)

    def test_empty_folder(self, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match=r"empty is empty\. Expected: `bidmcNN\.hea`.*Download"):
            load_dataset("bidmc", data_dir=tmp_path / "empty", cache_dir=tmp_path)

    def test_file_instead_of_a_folder(self, tmp_path):
        (tmp_path / "bidmc.zip").write_bytes(b"")
        with pytest.raises(FileNotFoundError, match=r"bidmc\.zip is not a folder"):
            load_dataset("bidmc", data_dir=tmp_path / "bidmc.zip", cache_dir=tmp_path)

    def test_folder_that_is_not_the_release(self, tmp_path):
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "notes.txt").write_text("nothing")
        with pytest.raises(ValueError, match=r"other is not the BIDMC PPG and Respiration Dataset.*Expected"):
            load_dataset("bidmc", data_dir=tmp_path / "other", cache_dir=tmp_path)

    @pytest.mark.parametrize("num_proc", [None, 2])
    @pytest.mark.parametrize("file", ["bidmc02.dat", "bidmc02n.hea", "bidmc02.breath"])
    def test_damaged_file_is_named(self, small_release, tmp_path, file, num_proc):
        folder = tmp_path / "release"
        shutil.copytree(small_release, folder)
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: len(content) // 2] if file.endswith("dat") else b"")
        with pytest.raises(ValueError, match=r"bidmc02n?\.(hea|breath) (cannot be read|has no breaths)"):
            load_dataset("bidmc", "rr", data_dir=folder, cache_dir=tmp_path, num_proc=num_proc)

    def test_damaged_recordings_within_the_allowed_share_are_reported(self, small_release, tmp_path):
        folder = tmp_path / "release"
        shutil.copytree(small_release, folder)
        (folder / "bidmc02.dat").write_bytes(b"")
        options = {"data_dir": folder, "cache_dir": tmp_path, "max_damaged_share": 0.25}
        data = load_dataset("bidmc", **options)
        assert set(data["train"]["subject_id"]) == {"1"}
        damaged = load_dataset_builder("bidmc", **options).preparation_report["splits"]["train"]["damaged_records"]
        assert [Path(name).name for name in damaged] == ["bidmc02.hea"]
        with pytest.raises(
            ValueError, match=r"1 of 4 recordings .* are damaged, more than `max_damaged_share=0\.2` allows"
        ):
            load_dataset("bidmc", **options | {"max_damaged_share": 0.2})

    def test_recording_without_ppg(self, tmp_path):
        write_bidmc_recording(tmp_path, 8)
        header = tmp_path / "bidmc08.hea"
        header.write_text(header.read_text().replace("PLETH,", "ABP,"))
        with pytest.raises(ValueError, match=r"bidmc08\.hea has no PLETH; it has \['RESP', 'ABP', 'II'"):
            load_dataset("bidmc", data_dir=tmp_path, cache_dir=tmp_path / "cache")

    def test_split_without_any_usable_window(self, tmp_path):
        write_bidmc_recording(tmp_path, 8, ppg=np.full(BIDMC_SECONDS * 125 + 1, 0.5))
        with pytest.raises(
            ValueError, match=r"The test split of the BIDMC .* would be empty: 0 windows kept; dropped: 11 flat"
        ):
            load_dataset("bidmc", data_dir=tmp_path, cache_dir=tmp_path / "cache")

    @pytest.mark.parametrize(
        ("option", "value"), [("modality", "abp"), ("annotator", 3), ("rr_label", "median"), ("window_seconds", 0)]
    )
    def test_impossible_option(self, small_release, tmp_path, option, value):
        with pytest.raises(ValueError, match=f"`{option}`"):
            load_dataset("bidmc", "rr", data_dir=small_release, cache_dir=tmp_path, **{option: value})


class TestRelease:
    """On the recordings of the release."""

    def test_published_split_and_size(self, release, cache):
        data = load_dataset("bidmc", "hr", data_dir=release, cache_dir=cache)
        subjects = {split: {int(subject) for subject in rows.unique("subject_id")} for split, rows in data.items()}
        assert subjects["test"] == {8, 15, 29, 39, 43, 52}
        assert sorted(subject for members in subjects.values() for subject in members) == list(range(1, 54))
        assert data.num_rows == {"train": 42 * 236, "validation": 5 * 236, "test": 6 * 236}

    @pytest.mark.parametrize("subject", [8, 27, 46])
    def test_rows_equal_the_raw_files(self, release, cache, subject):
        record = release / f"bidmc{subject:02d}"
        raw = wfdb.rdrecord(str(record))
        names = [name.rstrip(",") for name in raw.sig_name]
        ppg, ecg = (raw.p_signal[:, names.index(name)] for name in ("PLETH", "II"))
        heart_rate = wfdb.rdrecord(f"{record}n").p_signal[:, 0]
        annotation = wfdb.rdann(str(record), "breath")
        breaths = [sample for sample, note in zip(annotation.sample, annotation.aux_note) if "ann1" in note]
        rows = {}
        for config in ("pairs", "hr", "rr"):
            data = load_dataset("bidmc", config, data_dir=release, cache_dir=cache)
            rows[config] = next(
                part for part in (windows_of(split, record.name) for split in data.values()) if len(part)
            )
            assert len(rows[config]) == 236
        for index in (0, 1, 100, 235):
            cut = slice(250 * index, 250 * index + 1250)
            np.testing.assert_allclose(rows["pairs"][index]["ecg"], ecg[cut], rtol=1e-6)
            np.testing.assert_allclose(rows["pairs"][index]["ppg"], ppg[cut], rtol=1e-6)
            assert rows["hr"][index]["signal"] == rows["rr"][index]["signal"] == rows["pairs"][index]["ppg"]
            assert rows["hr"][index]["start_time"] == 2 * index
        expected = [np.nanmean(heart_rate[2 * index : 2 * index + 10]) for index in range(236)]
        np.testing.assert_allclose(rows["hr"]["label"], expected, atol=2e-3)
        expected = [6 * sum(250 * i <= breath < 250 * i + 1250 for breath in breaths) for i in range(236)]
        assert rows["rr"]["label"] == expected

    def test_csv_form_gives_the_same_rows(self, release, cache):
        for config, options in (
            ("pairs", {}),
            ("hr", {}),
            ("rr", {}),
            ("rr", {"annotator": 2, "rr_label": "interval"}),
        ):
            binary = load_dataset("bidmc", config, data_dir=release, cache_dir=cache, split="train", **options)
            text = load_dataset(
                "bidmc", config, data_dir=release / "bidmc_csv", cache_dir=cache, split="train", **options
            ).to_pandas()
            assert list(text["subject_id"].unique()) == ["1", "27"]
            binary = binary.select(np.flatnonzero(np.isin(binary["subject_id"], ["1", "27"]))).to_pandas()
            signals = [name for name in ("ecg", "ppg", "signal") if name in binary]
            pd.testing.assert_frame_equal(binary.drop(columns=signals), text.drop(columns=signals))
            for name in signals:
                # The CSV form has five significant digits.
                np.testing.assert_allclose(np.stack(binary[name]), np.stack(text[name]), atol=1e-4)

    def test_breaths_that_both_annotators_marked_at_one_sample(self, release, cache, tmp_path):
        breaths = pd.read_csv(release / "bidmc_csv" / "bidmc_01_Breaths.csv")
        first, second = (breaths.iloc[:, column].dropna().astype(int) - 1 for column in (0, 1))
        annotation = wfdb.rdann(str(release / "bidmc01"), "breath")
        left = [sample for sample, note in zip(annotation.sample, annotation.aux_note) if note == "ann1"]
        assert set(first) - set(left) == set(first) & set(second) != set()
        expected = [6 * sum(250 * i <= breath < 250 * i + 1250 for breath in first) for i in range(236)]
        data = load_dataset("bidmc", "rr", data_dir=release, cache_dir=cache, split="train")
        assert data["label"][:236] == expected
        for path in release.glob("bidmc01*"):
            shutil.copy(path, tmp_path)
        expected = [6 * sum(250 * i <= breath < 250 * i + 1250 for breath in left) for i in range(236)]
        data = load_dataset("bidmc", "rr", data_dir=tmp_path, cache_dir=cache, split="train")
        assert data["label"] == expected

    def test_damaged_csv_is_named(self, release, tmp_path):
        shutil.copytree(release / "bidmc_csv", tmp_path / "bidmc_csv")
        for content in ("", "Time [s], PULSE\n0,90\n"):
            (tmp_path / "bidmc_csv" / "bidmc_27_Numerics.csv").write_text(content)
            with pytest.raises(
                ValueError, match=r"bidmc_27_(Numerics|Signals)\.csv (cannot be read|has no column HR)"
            ):
                load_dataset("bidmc", "hr", data_dir=tmp_path, cache_dir=tmp_path / "cache")

    @pytest.mark.parametrize(
        ("kind", "row", "column", "cell", "problem"),
        [
            ("Signals", 3, " PLETH", "x", "'x' is not a number"),
            ("Numerics", 4, " HR", "90;5", "'90;5' is not a number"),
            ("Breaths", 2, "breaths ann1 [signal sample no]", "1.5", r"1\.5 is not a whole number"),
            ("Breaths", 5, " breaths ann2 [signal sample no]", "inf", "inf is not a whole number"),
        ],
    )
    def test_damaged_cell_is_named(self, release, tmp_path, kind, row, column, cell, problem):
        folder = tmp_path / "bidmc_csv"
        shutil.copytree(release / "bidmc_csv", folder)
        table = pd.read_csv(folder / f"bidmc_27_{kind}.csv", dtype=str)
        table.loc[row - 2, column] = cell
        table.to_csv(folder / f"bidmc_27_{kind}.csv", index=False)
        with pytest.raises(
            ValueError, match=rf"bidmc_27_{kind}\.csv, row {row}, column `{re.escape(column.strip())}`: {problem}"
        ):
            load_dataset("bidmc", "hr", data_dir=folder, cache_dir=tmp_path / "cache")
