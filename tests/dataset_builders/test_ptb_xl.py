"""The PTB-XL builder against the raw files, read here independently of it, and on recordings written here."""

import ast

import numpy as np
import pandas as pd
import pytest
import wfdb

from cmssl_hf.data.loading import load_dataset, load_dataset_builder
from helpers.releases import PTB_XL_LEADS, ptb_xl_signals, write_ptb_xl_release


RELEASE = "ptb-xl-a-large-publicly-available-electrocardiography-dataset-1.0.3"


@pytest.fixture(scope="module")
def small_release(tmp_path_factory):
    return write_ptb_xl_release(tmp_path_factory.mktemp("ptb-xl"))


def labels_of(data, names):
    """Names of the classes present, by record."""
    return {
        row["record_id"]: {name for name, present in zip(names, row["label"], strict=True) if present}
        for rows in data.values()
        for row in rows
    }


class TestSmallRelease:
    @pytest.mark.parametrize(
        ("config", "number", "expected"),
        [
            ("superclass", 5, {"1": {"NORM"}, "2": {"STTC", "MI"}, "3": set(), "4": {"MI"}}),
            ("subclass", 23, {"1": {"NORM"}, "2": {"STTC", "IMI"}, "3": set(), "4": {"IMI"}}),
            ("form", 19, {"1": set(), "2": {"NDT"}, "3": {"PVC"}, "4": {"PVC"}}),
            ("rhythm", 12, {"1": {"SR"}, "2": set(), "3": {"SR"}, "4": set()}),
            ("all", 71, {"1": {"NORM", "SR"}, "2": {"NDT", "IMI"}, "3": {"SR", "PVC"}, "4": {"IMI", "PVC"}}),
        ],
    )
    def test_labels(self, small_release, tmp_path, config, number, expected):
        builder = load_dataset_builder("ptb_xl", config, data_dir=small_release, cache_dir=tmp_path)
        builder.download_and_prepare()
        assert len(builder.label_names) == number
        assert labels_of(builder.as_dataset(), builder.label_names) == expected

    def test_columns_and_split(self, small_release, tmp_path):
        data = load_dataset("ptb_xl", data_dir=small_release, cache_dir=tmp_path)
        assert {split: list(rows["record_id"]) for split, rows in data.items()} == {
            "train": ["1", "2"],
            "validation": ["3"],
            "test": ["4"],
        }
        first, second = data["train"]
        np.testing.assert_allclose(first["signal"], ptb_xl_signals(1, 100)[:, 1], atol=6e-4)
        assert (first["sampling_rate"], first["start_time"]) == (100.0, 0.0)
        assert (first["subject_id"], first["age"], first["sex"]) == ("10", 56.0, "F")
        assert (second["subject_id"], second["age"], second["sex"]) == ("10", 90.0, "M")
        assert data["validation"][0]["age"] is None

    @pytest.mark.parametrize("lead", ["V1", "avr"])
    def test_lead_and_rate(self, small_release, tmp_path, lead):
        data = load_dataset(
            "ptb_xl", data_dir=small_release, cache_dir=tmp_path, split="test", lead=lead, sampling_rate=500
        )
        expected = ptb_xl_signals(4, 500)[:, PTB_XL_LEADS.index(lead.upper())]
        np.testing.assert_allclose(data[0]["signal"], expected, atol=6e-4)
        assert data[0]["sampling_rate"] == 500.0

    def test_all_leads(self, small_release, tmp_path):
        data = load_dataset("ptb_xl", "rhythm", data_dir=small_release, cache_dir=tmp_path, split="test", lead="all")
        np.testing.assert_allclose(data[0]["signal"], ptb_xl_signals(4, 100).T, atol=6e-4)

    def test_paper_stretches(self, small_release, tmp_path):
        data = load_dataset("ptb_xl", "paper", data_dir=small_release, cache_dir=tmp_path, split="test")
        # A slow sine is the same at any rate, but for the half sample by which the ends are extended.
        np.testing.assert_allclose(
            data[0]["signal"][1:-1], np.sin((np.arange(1, 1249) + 0.5) / 125 - 0.005 + 5), atol=1e-3
        )
        assert data[0]["sampling_rate"] == 125.0

    def test_drop_unlabelled(self, small_release, tmp_path):
        options = {"data_dir": small_release, "cache_dir": tmp_path, "drop_unlabelled": True}
        builder = load_dataset_builder("ptb_xl", "form", **options)
        builder.download_and_prepare()
        assert list(builder.as_dataset(split="train")["record_id"]) == ["2"]
        assert builder.preparation_report["splits"]["train"]["windows"] == {"kept": 1, "unlabelled": 1}
        with pytest.raises(ValueError, match=r"validation split of PTB-XL 1\.0\.3 would be empty: .*1 unlabelled"):
            load_dataset("ptb_xl", **options)

    def test_streaming_gives_the_same_rows(self, small_release, tmp_path):
        options = {"data_dir": small_release, "cache_dir": tmp_path, "lead": "all"}
        data = load_dataset("ptb_xl", **options)
        streamed = load_dataset("ptb_xl", **options, streaming=True)
        for split, rows in data.items():
            assert list(streamed[split]) == rows.to_list()

    def test_part_of_the_release(self, tmp_path):
        folder = tmp_path / "release"
        folder.mkdir()
        write_ptb_xl_release(folder)
        for path in (folder / "records100/00000").glob("00002_lr*"):
            path.unlink()
        builder = load_dataset_builder("ptb_xl", data_dir=folder, cache_dir=tmp_path / "cache")
        builder.download_and_prepare()
        assert list(builder.as_dataset(split="train")["record_id"]) == ["1"]
        assert builder.preparation_report["skipped_records"] == {"records100/00000/00002_lr": "not in this folder"}


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"lead": "aVX"}, r"`lead` must be one of I, II, .* or 'all', but is 'aVX'"),
            ({"sampling_rate": 250}, "`sampling_rate` must be 100 or 500, but is 250"),
        ],
    )
    def test_options(self, small_release, tmp_path, options, message):
        with pytest.raises(ValueError, match=message):
            load_dataset("ptb_xl", data_dir=small_release, cache_dir=tmp_path, **options)

    def test_rate_that_is_not_there(self, tmp_path):
        with pytest.raises(ValueError, match=r"it has none of the recordings at 500 Hz\. Expected: .*records500"):
            load_dataset("ptb_xl", data_dir=write_ptb_xl_release(tmp_path, rates=[100]), sampling_rate=500)

    @pytest.mark.parametrize(
        ("file", "content", "message"),
        [
            ("ptbxl_database.csv", "", r"ptbxl_database\.csv cannot be read: EmptyDataError"),
            (
                "ptbxl_database.csv",
                "ecg_id,age\n1,50\n",
                r"ptbxl_database\.csv has no column patient_id, strat_fold, .*; it has ecg_id, age",
            ),
            ("scp_statements.csv", "", r"scp_statements\.csv cannot be read: EmptyDataError"),
            ("scp_statements.csv", None, r"scp_statements\.csv cannot be read: FileNotFoundError"),
            (
                "scp_statements.csv",
                ",diagnostic,diagnostic_class\nX,1,QQQ\n",
                r"scp_statements\.csv has classes that PTB-XL 1\.0\.3 has not: QQQ",
            ),
        ],
    )
    def test_damaged_tables(self, tmp_path, file, content, message):
        folder = write_ptb_xl_release(tmp_path, rates=[100])
        if content is None:
            (folder / file).unlink()
        else:
            (folder / file).write_text(content)
        with pytest.raises(ValueError, match=message):
            load_dataset("ptb_xl", data_dir=folder, cache_dir=tmp_path / "cache")

    @pytest.mark.parametrize(
        ("column", "cell", "problem"),
        [
            ("patient_id", "", "the cell is empty"),
            ("patient_id", "x", "'x' is not a number"),
            ("patient_id", "10.5", r"10\.5 is not a whole number"),
            ("ecg_id", "1", "1 is listed before"),
            ("age", "old", "'old' is not a number"),
            ("age", "-3", "-3 is no age"),
            ("sex", "2", "2 is neither 0 nor 1"),
            ("strat_fold", "11", "11 is none of the folds 1 to 10"),
            ("scp_codes", "", "the cell is empty"),
            ("scp_codes", "['NORM']", r"\"\['NORM'\]\" is no dictionary"),
            ("filename_lr", "", "the cell is empty"),
        ],
    )
    def test_damaged_cell_is_named(self, tmp_path, column, cell, problem):
        folder = write_ptb_xl_release(tmp_path, rates=[100])
        table = pd.read_csv(folder / "ptbxl_database.csv", dtype=str)
        table.loc[2, column] = cell
        table.to_csv(folder / "ptbxl_database.csv", index=False)
        with pytest.raises(ValueError, match=rf"ptbxl_database\.csv, row 4, column `{column}`: {problem}"):
            load_dataset("ptb_xl", data_dir=folder, cache_dir=tmp_path / "cache")

    def test_code_in_a_table_is_not_run(self, tmp_path):
        folder = write_ptb_xl_release(tmp_path, rates=[100])
        table = pd.read_csv(folder / "ptbxl_database.csv")
        table.loc[0, "scp_codes"] = "__import__('os').mkdir('run')"
        table.to_csv(folder / "ptbxl_database.csv", index=False)
        with pytest.raises(
            ValueError, match=r"ptbxl_database\.csv, row 2, column `scp_codes`: .* is no dictionary: malformed node"
        ):
            load_dataset("ptb_xl", data_dir=folder, cache_dir=tmp_path / "cache")

    @pytest.mark.parametrize(("suffix", "size"), [("dat", 1000), ("dat", 0), ("hea", 40), ("hea", 0)])
    def test_truncated_recording(self, tmp_path, suffix, size):
        folder = write_ptb_xl_release(tmp_path, rates=[100])
        file = folder / f"records100/00000/00004_lr.{suffix}"
        file.write_bytes(file.read_bytes()[:size])
        with pytest.raises(ValueError, match=r"00004_lr\.hea (cannot be read|has no lead)"):
            load_dataset("ptb_xl", data_dir=folder, cache_dir=tmp_path / "cache")

    def test_recording_of_another_length(self, tmp_path):
        folder = write_ptb_xl_release(tmp_path, rates=[100])
        wfdb.wrsamp(
            "00004_lr", fs=100, units=["mV"] * 12, sig_name=PTB_XL_LEADS, p_signal=ptb_xl_signals(4, 50), fmt=["16"] * 12,
            write_dir=str(folder / "records100/00000"),
        )  # fmt: skip
        with pytest.raises(ValueError, match=r"00004_lr\.hea has 500 samples instead of 1000"):
            load_dataset("ptb_xl", data_dir=folder, cache_dir=tmp_path / "cache")


class TestSamples:
    def test_superclasses(self, test_data, tmp_path):
        folder = test_data / RELEASE
        data = load_dataset("ptb_xl", data_dir=folder, cache_dir=tmp_path)
        table = pd.read_csv(folder / "ptbxl_database.csv", index_col="ecg_id")
        statements = pd.read_csv(folder / "scp_statements.csv", index_col=0)
        statements = statements[statements["diagnostic"] == 1]["diagnostic_class"]
        classes = sorted(statements.unique())
        for split, folds in {"train": range(1, 9), "validation": [9], "test": [10]}.items():
            part = table[table["strat_fold"].isin(folds)]
            assert list(data[split]["record_id"]) == [str(ecg_id) for ecg_id in part.index]
            for row, text in zip(data[split].select_columns("label"), part["scp_codes"]):
                present = {statements[code] for code in ast.literal_eval(text) if code in statements}
                assert row["label"] == [float(name in present) for name in classes]
        for row, name in zip(data["test"].select(range(10)), table[table["strat_fold"] == 10]["filename_lr"]):
            raw = np.fromfile(folder / f"{name}.dat", dtype="<i2").reshape(1000, 12)
            np.testing.assert_allclose(row["signal"], raw[:, 1] / 1000, rtol=1e-6)
        subjects = [set(rows["subject_id"]) for rows in data.values()]
        assert not subjects[0] & subjects[1] and not subjects[0] & subjects[2] and not subjects[1] & subjects[2]

    def test_500_hz(self, test_data, tmp_path):
        data = load_dataset(
            "ptb_xl", "all", data_dir=test_data / RELEASE, cache_dir=tmp_path, sampling_rate=500, lead="all"
        )
        assert sum(map(len, data.values())) == 20
        row = data["train"][0]
        raw = np.fromfile(test_data / RELEASE / f"records500/00000/{int(row['record_id']):05d}_hr.dat", dtype="<i2")
        np.testing.assert_allclose(row["signal"], raw.reshape(5000, 12).T / 1000, rtol=1e-6)
