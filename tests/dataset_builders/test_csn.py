"""The CSN builder against the raw files, read here independently of it, and on recordings written here."""

import re

import numpy as np
import pytest
import scipy.io
import wfdb
from sklearn.model_selection import train_test_split

from cmssl_hf.data.loading import load_dataset, load_dataset_builder
from helpers.releases import (
    CSN_ATRIAL_FLUTTER,
    CSN_CODES,
    CSN_INVERTED_T,
    CSN_SINUS_BRADYCARDIA,
    CSN_SINUS_RHYTHM,
    csn_signals,
    write_csn_recording,
)


RELEASE = "ecg-arrhythmia-1.0.0"


@pytest.fixture
def small_release(tmp_path):
    folder = tmp_path / "release"
    for number in range(40):
        subfolder = folder / f"WFDBRecords/{number // 20:02d}/{number // 10:03d}"
        write_csn_recording(subfolder, number, CSN_CODES[number % 6], comment="#" if number % 2 else "# ")
    return folder


def rows_of(data):
    return {int(row["record_id"][2:]): row for rows in data.values() for row in rows}


class TestSmallRelease:
    def test_codes(self, small_release, tmp_path):
        builder = load_dataset_builder("csn", data_dir=small_release, cache_dir=tmp_path)
        builder.download_and_prepare()
        names, rows = builder.label_names, rows_of(builder.as_dataset())
        assert len(names) == len(set(names)) == 94
        assert set(rows) == {number for number in range(40) if number % 6 != 5}
        readable = {
            CSN_SINUS_BRADYCARDIA: "sinus bradycardia",
            CSN_SINUS_RHYTHM: "sinus rhythm",
            CSN_ATRIAL_FLUTTER: "atrial flutter",
            CSN_INVERTED_T: "T-wave inversion",
        }
        for number, row in rows.items():
            present = {name for name, value in zip(names, row["label"], strict=True) if value}
            assert present == {readable[code] for code in CSN_CODES[number % 6]}
            np.testing.assert_allclose(row["signal"], csn_signals(number)[1] / 1000, rtol=1e-6)
            assert (row["sampling_rate"], row["start_time"]) == (500.0, 0.0)
            assert row["subject_id"] == row["record_id"] == f"JS{number:05d}"
            assert (row["age"], row["sex"]) == ((number + 20.0, "M") if number % 2 else (None, None))
        counts = [split["windows"] for split in builder.preparation_report["splits"].values()]
        assert sum(windows.get("unlabelled", 0) for windows in counts) == 6

    def test_rhythm_groups(self, small_release, tmp_path):
        builder = load_dataset_builder("csn", "rhythm", data_dir=small_release, cache_dir=tmp_path)
        builder.download_and_prepare()
        assert builder.label_names == ("SB", "SR", "AFIB", "GSVT")
        rows = rows_of(builder.as_dataset())
        assert {number: row["label"] for number, row in rows.items()} == {
            number: number % 6 for number in range(40) if number % 6 < 3
        }
        counts = [split["windows"] for split in builder.preparation_report["splits"].values()]
        assert sum(windows.get("several_rhythms", 0) for windows in counts) == 7
        assert sum(windows.get("unlabelled", 0) for windows in counts) == 12

    def test_split(self, small_release, tmp_path):
        rest, test = train_test_split(np.arange(40), test_size=0.1, random_state=42)
        _, validation = train_test_split(rest, test_size=0.1 / 0.9, random_state=42)
        data = load_dataset("csn", data_dir=small_release, cache_dir=tmp_path)
        for split, numbers in {"validation": validation, "test": test}.items():
            expected = [f"JS{number:05d}" for number in sorted(numbers) if number % 6 != 5]
            assert list(data[split]["record_id"]) == expected

    def test_lead(self, small_release, tmp_path):
        data = load_dataset("csn", data_dir=small_release, cache_dir=tmp_path, split="test", lead="aVF")
        number = int(data[0]["record_id"][2:])
        np.testing.assert_allclose(data[0]["signal"], csn_signals(number)[5] / 1000, rtol=1e-6)
        data = load_dataset("csn", data_dir=small_release, cache_dir=tmp_path, split="test", lead="all")
        np.testing.assert_allclose(data[0]["signal"], csn_signals(number) / 1000, rtol=1e-6)

    def test_paper_squeezes(self, small_release, tmp_path):
        data = load_dataset("csn", "paper", data_dir=small_release, cache_dir=tmp_path, split="test")
        lead = csn_signals(int(data[0]["record_id"][2:]))[1] / 1000
        # The middle of four samples lies between the second and the third.
        np.testing.assert_allclose(data[0]["signal"], (lead[1::4] + lead[2::4]) / 2, atol=1e-6)
        assert data[0]["sampling_rate"] == 125.0

    def test_dates_that_wfdb_rejects(self, small_release, tmp_path):
        folder = small_release / "WFDBRecords/00/000"
        plain = rows_of(load_dataset("csn", data_dir=small_release, cache_dir=tmp_path))
        for number in range(5):
            write_csn_recording(folder, number, CSN_CODES[number], date=" 11:59:61 31/02/2020")
        with pytest.raises(ValueError):
            wfdb.rdheader(str(folder / "JS00000"))
        assert rows_of(load_dataset("csn", data_dir=small_release, cache_dir=tmp_path)) == plain

    def test_damaged_recordings_are_skipped_and_named(self, small_release, tmp_path):
        folder = small_release / "WFDBRecords/00/000"
        (folder / "JS00000.mat").write_bytes((folder / "JS00000.mat").read_bytes()[:50_000])
        (folder / "JS00001.hea").write_text("")
        write_csn_recording(folder, 2, CSN_CODES[2], date=" 11:59:61 31/02/2020")
        (folder / "JS00002.mat").unlink()
        options = {"data_dir": small_release, "cache_dir": tmp_path}
        with pytest.raises(
            ValueError, match=r"of 40 recordings of .* are damaged, more than `max_damaged_share=0\.01`"
        ):
            load_dataset("csn", **options)
        builder = load_dataset_builder("csn", **options, max_damaged_share=0.1)
        builder.download_and_prepare()
        damaged = {
            record: problem
            for split in builder.preparation_report["splits"].values()
            for record, problem in split["damaged_records"].items()
        }
        assert sorted(record[-11:] for record in damaged) == ["JS00000.hea", "JS00001.hea", "JS00002.hea"]
        assert all(str(folder) in problem for problem in damaged.values())
        assert set(rows_of(builder.as_dataset())) == {n for n in range(40) if n % 6 != 5} - {0, 1, 2}

    def test_streaming_gives_the_same_rows(self, small_release, tmp_path):
        data = load_dataset("csn", data_dir=small_release, cache_dir=tmp_path)
        streamed = load_dataset("csn", data_dir=small_release, cache_dir=tmp_path, streaming=True)
        for split, rows in data.items():
            assert list(streamed[split]) == rows.to_list()

    def test_another_folder(self, tmp_path):
        (tmp_path / "README").write_text("")
        with pytest.raises(
            ValueError, match=r"is not the 12-lead .*Expected: `WFDBRecords/.*Download and extract https"
        ):
            load_dataset("csn", data_dir=tmp_path)


class TestSamples:
    @pytest.mark.parametrize("config", ["codes", "rhythm"])
    def test_recordings_and_labels(self, test_data, tmp_path, config):
        folder = test_data / RELEASE
        builder = load_dataset_builder("csn", config, data_dir=folder, cache_dir=tmp_path)
        builder.download_and_prepare()
        data = builder.as_dataset()
        codes = {
            path.stem: set(re.search(r"Dx: *([\d,]+)", path.read_text()).group(1).split(","))
            for path in folder.rglob("*.hea")
        }
        assert len(codes) == 20
        for number, row in rows_of(data).items():
            name = f"JS{number:05d}"
            raw = scipy.io.loadmat(next(folder.rglob(f"{name}.mat")))["val"]
            np.testing.assert_allclose(row["signal"], raw[1] / 1000, rtol=1e-6)
            if config == "codes":
                assert sum(row["label"]) == len(codes[name])
            else:
                # All of the sample have sinus tachycardia (3), bradycardia (0) or irregularity (1).
                expected = {"427084000": 3, "426177001": 0, "427393009": 1}
                assert [label for code, label in expected.items() if code in codes[name]] == [row["label"]]
        assert sum(map(len, data.values())) == (20 if config == "codes" else 19)
        assert set(data) == {"train", "validation", "test"}

    def test_label_distribution(self, test_data, tmp_path):
        """All recordings of the sample have premature atrial contractions, 15 sinus tachycardia."""
        builder = load_dataset_builder("csn", data_dir=test_data / RELEASE, cache_dir=tmp_path)
        builder.download_and_prepare()
        labels = np.concatenate([rows.with_format("numpy")["label"][:] for rows in builder.as_dataset().values()])
        counts = dict(zip(builder.label_names, labels.sum(axis=0)))
        headers = [path.read_text() for path in (test_data / RELEASE).rglob("*.hea")]
        assert counts["premature atrial contraction"] == 20
        assert counts["sinus tachycardia"] == sum("427084000" in header for header in headers)
        assert counts["sinus bradycardia"] == sum("426177001" in header for header in headers)
