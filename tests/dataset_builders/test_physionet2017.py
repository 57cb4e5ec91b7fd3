"""The Challenge 2017 builder against the raw files, read here independently of it, and on recordings written here."""

import numpy as np
import pandas as pd
import pytest
import scipy.io
import wfdb
from sklearn.model_selection import train_test_split

from cmssl_hf.data.loading import load_dataset, load_dataset_builder
from helpers.releases import write_physionet2017_release


@pytest.fixture(scope="module")
def small_release(tmp_path_factory):
    return write_physionet2017_release(tmp_path_factory.mktemp("challenge"), "NAO~" * 10)


class TestSmallRelease:
    def test_whole_recordings_and_stratified_split(self, small_release, tmp_path):
        data = load_dataset("physionet2017", data_dir=small_release, cache_dir=tmp_path)
        assert {split: len(rows) for split, rows in data.items()} == {"train": 32, "validation": 4, "test": 4}
        assert data["train"].features["label"].names == ["N", "A", "O", "~"]
        for split in ("validation", "test"):
            assert sorted(data[split]["label"]) == [0, 1, 2, 3]
        records = [record for rows in data.values() for record in rows["record_id"]]
        assert len(set(records)) == 40
        for row in data["test"]:
            number = int(row["record_id"][1:])
            assert row["subject_id"] == row["record_id"]
            assert (row["sampling_rate"], row["start_time"]) == (300.0, 0.0)
            expected = np.sin(np.arange(2700 + number) / 20) * number / 100
            np.testing.assert_allclose(row["signal"], expected, atol=6e-4)
            assert row["label"] == (number - 1) % 4

    def test_paper_pads_and_squeezes(self, small_release, tmp_path):
        torch = pytest.importorskip("torch")
        whole = load_dataset("physionet2017", data_dir=small_release, cache_dir=tmp_path, split="test")
        paper = load_dataset("physionet2017", "paper", data_dir=small_release, cache_dir=tmp_path, split="test")
        assert paper["record_id"] == whole["record_id"]
        for row, original in zip(paper, whole):
            padded = torch.zeros(1, 1, 18300)
            padded[0, 0, : len(original["signal"])] = torch.tensor(original["signal"])
            expected = torch.nn.functional.interpolate(padded, size=1250, mode="linear", align_corners=False)
            np.testing.assert_allclose(row["signal"], expected.flatten(), atol=1e-5)
            assert row["sampling_rate"] == 125.0

    def test_streaming_gives_the_same_rows(self, small_release, tmp_path):
        data = load_dataset("physionet2017", data_dir=small_release, cache_dir=tmp_path)
        streamed = load_dataset("physionet2017", data_dir=small_release, cache_dir=tmp_path, streaming=True)
        for split, rows in data.items():
            assert list(streamed[split]) == rows.to_list()

    def test_missing_samples_are_dropped_and_counted(self, tmp_path):
        folder = write_physionet2017_release(tmp_path / "release", "NAO~" * 10)
        signal = np.sin(np.arange(2700) / 20)
        signal[7] = np.nan
        for number in range(1, 41):
            if number % 4 == 1:
                wfdb.wrsamp(
                    f"A{number:05d}",
                    fs=300,
                    units=["mV"],
                    sig_name=["ECG"],
                    p_signal=signal[:, None],
                    fmt=["16"],
                    write_dir=str(folder / "training2017"),
                )
        builder = load_dataset_builder("physionet2017", data_dir=folder, cache_dir=tmp_path / "cache")
        builder.download_and_prepare()
        assert set(builder.as_dataset(split="train")["label"]) == {1, 2, 3}
        assert builder.preparation_report["splits"]["test"]["windows"] == {"kept": 3, "missing": 1}


class TestErrors:
    def test_too_few_recordings(self, tmp_path):
        with pytest.raises(ValueError, match="3 recordings cannot be split 80/10/10"):
            load_dataset(
                "physionet2017", data_dir=write_physionet2017_release(tmp_path / "r", "NAO"), cache_dir=tmp_path
            )

    def test_without_reference(self, tmp_path):
        folder = write_physionet2017_release(tmp_path / "r", "NAO")
        (folder / "REFERENCE-v3.csv").unlink()
        with pytest.raises(
            ValueError, match=r"it has no REFERENCE-v3\.csv\. Expected: .*training2017.*Download https"
        ):
            load_dataset("physionet2017", data_dir=folder, cache_dir=tmp_path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", r"REFERENCE-v3\.csv is empty"),
            ("A00001,N\nA00002,Q\n", r"REFERENCE-v3\.csv, row 2, column `label`: 'Q' is none of N, A, O, ~"),
            ("A00001,N\nA00002\n", r"REFERENCE-v3\.csv, row 2, column `label`: the cell is empty"),
            (",N\n", r"REFERENCE-v3\.csv, row 1, column `record`: the cell is empty"),
            ("A00001,N\nA00001,N\n", r"REFERENCE-v3\.csv, row 2, column `record`: A00001 is listed before"),
            ("A00001,N\nA00099,A\n", r"REFERENCE-v3\.csv lists 1 recordings that are not there, such as A00099"),
        ],
    )
    def test_damaged_reference(self, tmp_path, content, message):
        folder = write_physionet2017_release(tmp_path / "r", "NAO")
        (folder / "REFERENCE-v3.csv").write_text(content)
        with pytest.raises(ValueError, match=message):
            load_dataset("physionet2017", data_dir=folder, cache_dir=tmp_path)

    @pytest.mark.parametrize("share", [0.0, 0.5])
    def test_truncated_recording(self, tmp_path, share):
        folder = write_physionet2017_release(tmp_path / "release", "NAO~" * 10)
        test = load_dataset("physionet2017", data_dir=folder, cache_dir=tmp_path / "cache", split="test")
        damaged = folder / "training2017" / f"{test['record_id'][0]}.dat"
        damaged.write_bytes(damaged.read_bytes()[:100])
        builder = load_dataset_builder(
            "physionet2017", data_dir=folder, cache_dir=tmp_path / "cache", max_damaged_share=share
        )
        if share == 0:
            with pytest.raises(ValueError, match=rf"{damaged.stem}\.hea cannot be read"):
                builder.download_and_prepare()
        else:
            builder.download_and_prepare()
            assert builder.as_dataset()["test"]["record_id"] == test["record_id"][1:]
            (message,) = builder.preparation_report["splits"]["test"]["damaged_records"].values()
            assert damaged.stem in message


class TestSamples:
    def test_recordings_and_labels(self, test_data, tmp_path):
        folder = test_data / "challenge-2017-1.0.0"
        data = load_dataset("physionet2017", data_dir=folder, cache_dir=tmp_path)
        reference = pd.read_csv(folder / "REFERENCE-v3.csv", header=None, index_col=0)[1]
        labels = reference.map("NAO~".index).to_numpy()
        rest, test = train_test_split(np.arange(1200), test_size=0.1, random_state=42, stratify=labels)
        train, validation = train_test_split(rest, test_size=0.1 / 0.9, random_state=42, stratify=labels[rest])
        for split, rows in {"train": train, "validation": validation, "test": test}.items():
            rows = np.sort(rows)
            assert data[split]["record_id"] == list(reference.index[rows])
            assert data[split]["label"] == list(labels[rows])
        lengths = [len(signal) / 300 for signal in data["test"]["signal"]]
        assert 9 <= min(lengths) < 20 and 55 < max(lengths) <= 61
        for row in data["test"].select(range(20)):
            raw = scipy.io.loadmat(folder / "training2017" / f"{row['record_id']}.mat")["val"]
            np.testing.assert_allclose(row["signal"], raw[0] / 1000, rtol=1e-6)
