"""The UCI blood pressure builder against the raw files, read here independently of it, and on files written here."""

import numpy as np
import pytest
import scipy.io

from cmssl_hf.data.loading import load_dataset, load_dataset_builder
from helpers.releases import write_uci_fold


SPLIT_OF_FOLD = {0: "test", 1: "validation", 2: "train"}


@pytest.fixture
def small_release(tmp_path):
    folder = tmp_path / "uci2_dataset"
    folder.mkdir()
    return folder, {fold: write_uci_fold(folder, fold) for fold in range(3)}


class TestSmallRelease:
    @pytest.mark.parametrize("config", ["bp", "sbp", "dbp"])
    def test_rows(self, small_release, tmp_path, config):
        folder, folds = small_release
        data = load_dataset("uci_bp", config, data_dir=folder, cache_dir=tmp_path)
        for fold, split in SPLIT_OF_FOLD.items():
            rows, content = data[split].with_format("numpy"), folds[fold]
            np.testing.assert_array_equal(rows["signal"][:], content["signal"].astype(np.float32))
            pressures = np.concatenate([content["SP"], content["DP"]], axis=1).astype(np.float32)
            expected = {"bp": pressures, "sbp": pressures[:, 0], "dbp": pressures[:, 1]}[config]
            np.testing.assert_array_equal(rows["label"][:], expected)
            np.testing.assert_array_equal(np.stack([rows["sbp"][:], rows["dbp"][:]], axis=1), pressures)
            assert list(rows["subject_id"]) == [f"Part_{fold}_0"] * 4 + [f"Part_{fold}_1"] * 2
            assert list(rows["record_id"][:2]) == [f"Part_{fold}_0_0", f"Part_{fold}_0_1"]
            assert list(rows["start_time"]) == [0, 5, 10, 15, 0, 5]
            assert set(rows["sampling_rate"][:]) == {125.0}

    def test_paper_stretches(self, small_release, tmp_path):
        torch = pytest.importorskip("torch")
        folder, folds = small_release
        data = load_dataset("uci_bp", "paper", data_dir=folder, cache_dir=tmp_path, split="train", label="dbp")
        original = torch.tensor(folds[2]["signal"], dtype=torch.float32)[:, None]
        expected = torch.nn.functional.interpolate(original, size=1250, mode="linear", align_corners=False)[:, 0]
        np.testing.assert_allclose(data.with_format("numpy")["signal"][:], expected, atol=1e-5)
        assert list(data["label"]) == list(folds[2]["DP"][:, 0])

    def test_unusable_windows_are_dropped_and_counted(self, small_release, tmp_path):
        folder, folds = small_release
        signal, pressure = folds[2]["signal"].copy(), folds[2]["SP"].copy()
        signal[0, :400] = 1.0
        signal[1, 3] = np.nan
        pressure[2] = np.nan
        write_uci_fold(folder, 2, signal=signal, SP=pressure)
        builder = load_dataset_builder("uci_bp", "dbp", data_dir=folder, cache_dir=tmp_path)
        builder.download_and_prepare()
        assert builder.preparation_report["splits"]["train"]["windows"] == {
            "flat": 1,
            "missing": 1,
            "unlabelled": 1,
            "kept": 3,
        }
        assert builder.as_dataset(split="train")[0]["record_id"] == "Part_2_0_3"

    def test_streaming_gives_the_same_rows(self, small_release, tmp_path):
        folder, _ = small_release
        data = load_dataset("uci_bp", data_dir=folder, cache_dir=tmp_path)
        streamed = load_dataset("uci_bp", data_dir=folder, cache_dir=tmp_path, streaming=True)
        for split, rows in data.items():
            assert list(streamed[split]) == rows.to_list()


class TestErrors:
    @pytest.mark.parametrize(("config", "label"), [("sbp", "dbp"), ("paper", "hr")])
    def test_label_of_another_configuration(self, tmp_path, config, label):
        with pytest.raises(ValueError, match=f"`label` of the configuration '{config}' must be .*, but is"):
            load_dataset("uci_bp", config, data_dir=tmp_path, label=label)

    def test_missing_fold(self, small_release, tmp_path):
        folder, _ = small_release
        (folder / "signal_fold_1.mat").unlink()
        with pytest.raises(ValueError, match=r"it has no signal_fold_1\.mat\. Expected: .*figshare"):
            load_dataset("uci_bp", data_dir=folder, cache_dir=tmp_path)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"signal": None}, r"signal_fold_0\.mat has no variable signal"),
            ({"SP": None, "patient": None}, r"signal_fold_0\.mat has no variable patient, SP"),
            (
                {"signal": np.zeros((6, 600))},
                r"signal_fold_0\.mat: `signal` has shape \(6, 600\) instead of \(rows, 625\)",
            ),
            ({"signal": np.zeros((0, 625))}, r"signal_fold_0\.mat: `signal` has shape \(0, 625\)"),
            ({"DP": np.zeros((5, 1))}, r"signal_fold_0\.mat has 6 signals but \[6, 5, 6, 6\] labels"),
        ],
    )
    def test_other_shape(self, small_release, tmp_path, changes, message):
        folder, _ = small_release
        write_uci_fold(folder, 0, **changes)
        with pytest.raises(ValueError, match=message):
            load_dataset("uci_bp", data_dir=folder, cache_dir=tmp_path)

    @pytest.mark.parametrize("size", [0, 100, 10_000])
    def test_truncated(self, small_release, tmp_path, size):
        folder, _ = small_release
        file = folder / "signal_fold_0.mat"
        file.write_bytes(file.read_bytes()[:size])
        with pytest.raises(ValueError, match=r"signal_fold_0\.mat (cannot be read|has no variable)"):
            load_dataset("uci_bp", data_dir=folder, cache_dir=tmp_path)


class TestSamples:
    def test_rows(self, test_data, tmp_path):
        folder = test_data / "uci2_dataset"
        data = load_dataset("uci_bp", data_dir=folder, cache_dir=tmp_path)
        assert {split: len(rows) for split, rows in data.items()} == {"train": 274, "validation": 116, "test": 115}
        subjects = [set(rows["subject_id"]) for rows in data.values()]
        assert not subjects[0] & subjects[1] and not subjects[0] & subjects[2] and not subjects[1] & subjects[2]
        for fold, split in SPLIT_OF_FOLD.items():
            raw = scipy.io.loadmat(folder / f"signal_fold_{fold}.mat")
            rows = data[split].with_format("numpy")
            np.testing.assert_array_equal(rows["signal"][:], raw["signal"].astype(np.float32))
            np.testing.assert_allclose(rows["label"][:], np.hstack([raw["SP"], raw["DP"]]), rtol=1e-6)
            assert list(rows["record_id"]) == [trial.strip() for trial in raw["trial"].ravel()]
            assert subjects[["train", "validation", "test"].index(split)] == {
                patient.strip() for patient in raw["patient"].ravel()
            }
