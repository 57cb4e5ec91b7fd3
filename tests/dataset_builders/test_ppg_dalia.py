"""The PPG-DaLiA builder against the raw files, read here independently of it, and on recordings written here."""

import os
import pickle

import numpy as np
import pytest
from scipy.signal import butter, filtfilt, welch

from cmssl_hf.data.loading import load_dataset, load_dataset_builder
from cmssl_hf.dataset_builders.ppg_dalia.numpy_pickle import load_numpy_pickle
from helpers.releases import dalia_content, write_dalia_subject


@pytest.fixture(scope="module")
def small_release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ppg_dalia")
    for number in range(1, 16):
        write_dalia_subject(folder, number)
    return folder


def subjects_of(data):
    return {split: sorted(set(rows["subject_id"])) for split, rows in data.items()}


class TestSmallRelease:
    def test_heart_rate(self, small_release, tmp_path):
        data = load_dataset("ppg_dalia", "hr", data_dir=small_release, cache_dir=tmp_path)
        for rows in data.values():
            for row in rows:
                number, start = int(row["subject_id"][1:]), row["start_time"]
                assert row["label"] == 70 + number + start / 2
                times = start + np.arange(512) / 64
                np.testing.assert_allclose(row["signal"], 50 * np.sin(2 * np.pi * 1.2 * times + number), atol=1e-3)
                assert (row["sampling_rate"], row["record_id"]) == (64.0, row["subject_id"])
                assert (row["age"], row["sex"]) == (20.0 + number, "F" if number % 2 else "M")
                # Of 8 s from 26 s on, half is sitting and half walking: the first of both counts.
                assert row["activity"] == (1 if start <= 26 else 7)
        assert data["train"].features["activity"].names[7] == "walking"
        assert list(data["validation"]["start_time"]) == list(range(0, 53, 2))

    @pytest.mark.parametrize(
        ("config", "options", "key"), [("hr", {}, str), ("paper", {"label": "hr"}, str), ("paper", {}, int)]
    )
    def test_published_split(self, small_release, tmp_path, config, options, key):
        numbers = sorted(range(1, 16), key=lambda number: key(number) if key is int else f"S{number}")
        np.random.RandomState(42).shuffle(numbers)
        data = load_dataset("ppg_dalia", config, data_dir=small_release, cache_dir=tmp_path, **options)
        assert subjects_of(data) == {
            split: sorted(f"S{number}" for number in part)
            for split, part in {"train": numbers[:12], "validation": numbers[12:13], "test": numbers[13:]}.items()
        }

    def test_leave_one_subject_out(self, small_release, tmp_path):
        tested = []
        for fold in (0, 7, 14):
            data = load_dataset("ppg_dalia", data_dir=small_release, cache_dir=tmp_path, fold=fold, num_folds=15)
            subjects = {split: set(rows["subject_id"]) for split, rows in data.items()}
            assert len(subjects["test"]) == 1 and len(set.union(*subjects.values())) == 15
            assert sum(map(len, subjects.values())) == 15
            tested += subjects["test"]
        assert len(set(tested)) == 3

    def test_respiratory_rate(self, small_release, tmp_path):
        ours = load_dataset("ppg_dalia", "rr", data_dir=small_release, cache_dir=tmp_path, split="test")
        assert len(ours[0]["signal"]) == 1250 and ours[0]["sampling_rate"] == 64.0
        assert list(ours["start_time"]) == list(range(41)) * 2
        for row in ours:
            true_rate = 15 if int(row["subject_id"][1:]) % 2 else 21
            assert abs(row["label"] - true_rate) < 60 * 64 / 1250

    def test_paper(self, small_release, tmp_path):
        options = {"data_dir": small_release, "cache_dir": tmp_path, "streaming": True}
        hertz = {
            (row["subject_id"], row["start_time"]): row
            for rows in load_dataset("ppg_dalia", "paper", **options).values()
            for row in rows
        }
        for rows in load_dataset("ppg_dalia", "rr", **options).values():
            for row in rows:
                published = hertz.pop((row["subject_id"], row["start_time"]))
                assert published["label"] * 60 == pytest.approx(row["label"])
                assert published["signal"] == row["signal"]
                assert published["sampling_rate"] == 125.0
        assert not hertz
        stretched = next(iter(load_dataset("ppg_dalia", "paper", label="hr", **options)["test"]))
        times = ((np.arange(1250) + 0.5) * 512 / 1250 - 0.5) / 64
        expected = 50 * np.sin(2 * np.pi * 1.2 * times + int(stretched["subject_id"][1:]))
        np.testing.assert_allclose(stretched["signal"][1:-1], expected[1:-1], atol=0.2)

    def test_pairs_share_a_rate(self, small_release, tmp_path):
        data = load_dataset("ppg_dalia", data_dir=small_release, cache_dir=tmp_path, split="validation")
        assert list(data["start_time"]) == [0, 10, 20, 30, 40, 50]
        row = data[2]
        times = 20 + np.arange(1250) / 125
        number = int(row["subject_id"][1:])
        np.testing.assert_allclose(row["ecg"], np.sin(2 * np.pi * 1.2 * times + number), atol=5e-3)
        np.testing.assert_allclose(row["ppg"], 50 * np.sin(2 * np.pi * 1.2 * times + number), atol=0.5)
        assert row["sampling_rate"] == 125.0

    def test_shorter_signals_and_missing_labels(self, tmp_path):
        for number in (1, 2, 3):
            write_dalia_subject(tmp_path, number)
        # Subject 2 is the training subject of three.
        content = dalia_content(2)
        content["signal"]["wrist"]["BVP"] = content["signal"]["wrist"]["BVP"][: 64 * 41]
        content["label"][1] = np.nan
        write_dalia_subject(tmp_path, 2, content)
        options = {"data_dir": tmp_path, "cache_dir": tmp_path / "cache"}
        builder = load_dataset_builder("ppg_dalia", "hr", **options)
        builder.download_and_prepare()
        split = next(split for split, rows in builder.as_dataset().items() if "S2" in rows["subject_id"])
        assert list(builder.as_dataset(split=split)["start_time"]) == [0.0, *range(4, 33, 2)]
        assert builder.preparation_report["splits"][split]["windows"] == {"kept": 16, "unlabelled": 1}

    def test_flat_respiration_has_no_rate(self, tmp_path):
        for number in (1, 2, 3):
            content = dalia_content(number)
            content["signal"]["chest"]["Resp"][: 30 * 700] = 0
            write_dalia_subject(tmp_path, number, content)
        data = load_dataset("ppg_dalia", "rr", data_dir=tmp_path, cache_dir=tmp_path / "cache", split="test")
        # A window that begins before 10.47 s ends before 30 s.
        assert list(data["start_time"]) == list(range(11, 41))

    def test_streaming_and_processes_give_the_same_rows(self, small_release, tmp_path):
        data = load_dataset("ppg_dalia", "hr", data_dir=small_release, cache_dir=tmp_path)
        streamed = load_dataset("ppg_dalia", "hr", data_dir=small_release, cache_dir=tmp_path, streaming=True)
        parallel = load_dataset("ppg_dalia", "hr", data_dir=small_release, cache_dir=tmp_path / "two", num_proc=2)
        for split, rows in data.items():
            assert list(streamed[split]) == rows.to_list() == parallel[split].to_list()


class RunsCode:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class TestPickles:
    @pytest.mark.parametrize("protocol", [0, 2, 4, 5])
    def test_arrays_and_plain_containers(self, tmp_path, protocol):
        content = dalia_content(1) | {
            "scalar": np.float64(2.5),
            "bytes": b"\xe9",
            "objects": np.array([1, "a"], dtype=object),
        }
        path = write_dalia_subject(tmp_path, 1, content, protocol)
        read = load_numpy_pickle(path)
        np.testing.assert_array_equal(read["signal"]["chest"]["ECG"], content["signal"]["chest"]["ECG"])
        assert read["questionnaire"] == content["questionnaire"]
        assert (read["scalar"], read["bytes"]) == (2.5, b"\xe9")

    def test_texts_of_python_2(self, tmp_path):
        (tmp_path / "a.pkl").write_bytes(b"\x80\x02U\x02\xe9S.")
        assert load_numpy_pickle(tmp_path / "a.pkl") == "éS"

    @pytest.mark.parametrize("protocol", [0, 2, 4])
    @pytest.mark.parametrize(
        ("function", "arguments"),
        [
            (os.mkdir, ["run"]),
            (os.system, ["mkdir run"]),
            (eval, ["__import__('os').mkdir('run')"]),
            (getattr, ["text", "upper"]),
            (np.load, ["other.npy"]),
        ],
    )
    def test_what_would_run_code_is_refused(self, tmp_path, monkeypatch, function, arguments, protocol):
        monkeypatch.chdir(tmp_path)
        for number in (1, 2, 3):
            content = dalia_content(number) | {"questionnaire": RunsCode(function, *arguments)}
            write_dalia_subject(tmp_path / "release", number, content, protocol)
        with pytest.raises(
            ValueError, match=r"S\d\.pkl cannot be read: UnpicklingError: it names \S+; only numpy arrays"
        ):
            load_dataset("ppg_dalia", data_dir=tmp_path / "release", cache_dir=tmp_path)
        assert not (tmp_path / "run").exists()

    def test_codecs_other_than_latin1_are_refused(self, tmp_path):
        (tmp_path / "a.pkl").write_bytes(b"c_codecs\nencode\n(Vabc\nVbz2\ntR.")
        with pytest.raises(pickle.UnpicklingError, match="encodes text as 'bz2'"):
            load_numpy_pickle(tmp_path / "a.pkl")


class TestErrors:
    @pytest.mark.parametrize("size", [0, 10, 5000])
    def test_truncated(self, tmp_path, size):
        for number in (1, 2, 3):
            path = write_dalia_subject(tmp_path, number)
            path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(ValueError, match=r"S\d\.pkl cannot be read: (EOFError|UnpicklingError)"):
            load_dataset("ppg_dalia", data_dir=tmp_path, cache_dir=tmp_path / "cache")

    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            (("signal", "wrist"), {}, r"S\d\.pkl cannot be read: KeyError: 'BVP'"),
            (
                ("signal", "wrist", "BVP"),
                np.zeros((100, 3)),
                r"S\d\.pkl: BVP has shape \(100, 3\) instead of \(samples, 1\)",
            ),
            (("signal", "chest", "Resp"), np.zeros((0, 1)), r"S\d\.pkl: Resp has shape \(0, 1\)"),
            (("activity",), np.full((240, 1), 9.0), r"S\d\.pkl has activities other than 0 to 8"),
        ],
    )
    def test_other_content(self, tmp_path, path, value, message):
        for number in (1, 2, 3):
            content = dalia_content(number)
            part = content
            for key in path[:-1]:
                part = part[key]
            part[path[-1]] = value
            write_dalia_subject(tmp_path, number, content)
        with pytest.raises(ValueError, match=message):
            load_dataset("ppg_dalia", data_dir=tmp_path, cache_dir=tmp_path / "cache")

    @pytest.mark.parametrize(
        ("config", "options", "message"),
        [
            ("hr", {"window_seconds": 10}, "windows of the configuration 'hr' are fixed: 8 s every 2 s"),
            ("paper", {"stride_seconds": 5}, "windows of the configuration 'paper' are fixed: 19.5312 s every 1 s"),
            ("paper", {"label": "bp"}, "`label` of the configuration 'paper' must be 'hr' or 'rr', but is 'bp'"),
            ("rr", {"label": "hr"}, "`label` of the configuration 'rr' must be 'rr', but is 'hr'"),
        ],
    )
    def test_options(self, small_release, tmp_path, config, options, message):
        with pytest.raises(ValueError, match=message):
            load_dataset("ppg_dalia", config, data_dir=small_release, cache_dir=tmp_path, **options)


class TestSamples:
    @pytest.fixture(scope="class")
    def raw(self, test_data):
        folder = test_data / "ppg_dalia/PPG_FieldStudy"
        return {
            path.stem: pickle.loads(path.read_bytes(), encoding="latin1") for path in sorted(folder.glob("S*/S*.pkl"))
        }

    def test_heart_rate(self, raw, test_data, tmp_path):
        data = load_dataset("ppg_dalia", "hr", data_dir=test_data / "ppg_dalia", cache_dir=tmp_path)
        assert {split: len(rows) for split, rows in data.items()} == {"train": 171, "validation": 57, "test": 57}
        subjects = subjects_of(data)
        assert sorted(subject for part in subjects.values() for subject in part) == sorted(raw)
        for rows in data.values():
            for row in rows:
                index = round(row["start_time"] / 2)
                content = raw[row["subject_id"]]
                assert row["label"] == np.float32(content["label"][index])
                bvp = content["signal"]["wrist"]["BVP"][128 * index : 128 * index + 512, 0]
                np.testing.assert_array_equal(row["signal"], bvp.astype(np.float32))

    def test_respiratory_rate(self, raw, test_data, tmp_path):
        data = load_dataset("ppg_dalia", "rr", data_dir=test_data / "ppg_dalia", cache_dir=tmp_path)
        assert {split: len(rows) for split, rows in data.items()} == {"train": 303, "validation": 101, "test": 101}
        numerator, denominator = butter(2, (0.08, 2), btype="band", fs=700)
        for row in data["test"]:
            start = round(row["start_time"] * 700)
            respiration = raw[row["subject_id"]]["signal"]["chest"]["Resp"][start : start + 13671, 0]
            filtered = filtfilt(numerator, denominator, respiration.astype(np.float64))
            frequencies, power = welch(filtered, 700, window="hamming", nperseg=13671)
            power[(frequencies < 0.1) | (frequencies > 0.5)] = 0
            assert row["label"] == pytest.approx(60 * frequencies[np.argmax(power)], rel=1e-6)
