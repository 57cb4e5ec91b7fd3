"""Recordings as nobody should have them: words for each, and the rest is answered."""

import csv
import json

import numpy as np
import pytest
import wfdb

from helpers.command import run_command
from helpers.pipelines import noisy_recording, save_model


RATE = 64


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    labels = {"num_labels": 1, "id2label": {0: "heart_rate"}, "label2id": {"heart_rate": 0}}
    return save_model(tmp_path_factory.mktemp("model"), problem_type="regression", **labels)


def column(samples, path, name="ppg") -> None:
    np.savetxt(path, np.asarray(samples, dtype=float)[:, None], header=name, comments="", fmt="%.9g")


@pytest.fixture
def odd(tmp_path, monkeypatch):
    folder = tmp_path / "odd"
    (folder / "one").mkdir(parents=True)
    (folder / "two").mkdir()
    monkeypatch.chdir(tmp_path)
    good = noisy_recording(20, RATE)
    column(good, folder / "good.csv")
    column(good, folder / "one" / "same.csv")
    column(good[: 10 * RATE], folder / "two" / "same.csv")
    (folder / "empty.csv").write_bytes(b"")
    (folder / "empty.hea").write_bytes(b"")
    (folder / "empty.edf").write_bytes(b"")
    (folder / "empty.zip").write_bytes(b"")
    (folder / "header_only.csv").write_text("ppg\n")
    column(good[:1], folder / "one_sample.csv")
    column(np.full(20 * RATE, np.nan), folder / "nothing.csv")
    column(np.ones(20 * RATE), folder / "constant.csv")
    column(good, folder / "unknown.csv", name="banana")
    (folder / "picture.csv").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9)
    (folder / "table.edf").write_bytes((folder / "good.csv").read_bytes())
    (folder / "table.parquet").write_bytes((folder / "good.csv").read_bytes())
    (folder / "table.dcm").write_bytes((folder / "good.csv").read_bytes())
    (folder / "table.xml").write_bytes((folder / "good.csv").read_bytes())
    (folder / "damaged.csv.gz").write_bytes(b"\x1f\x8b\x08\x00damaged")
    (folder / "folder.csv").mkdir()
    wfdb.wrsamp("lost", RATE, ["NU"], ["PLETH"], good[:, None], fmt=["16"], write_dir=str(folder))
    (folder / "lost.dat").unlink()
    return folder


@pytest.mark.parametrize("command", ["predict", "quality"])
def test_each_odd_file_gets_words_and_the_rest_is_answered(model, odd, monkeypatch, command):
    options = ("--model", model) if command == "predict" else ()
    assert run_command(monkeypatch, command, "odd", "--sampling_rate", RATE, "--output", "t.csv", *options) == 1
    with open("t.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    answered = [row["file"] for row in rows if not row["reason"]]
    assert {"odd/good.csv", "odd/one/same.csv", "odd/two/same.csv"} <= set(answered)
    reasons = {row["file"]: row["reason"] for row in rows if row["reason"]}
    files = {str(path.relative_to(odd.parent)) for path in odd.rglob("*") if path.is_file()}
    assert {row["file"] for row in rows} == files
    for name, reason in reasons.items():
        # In words, not what some library said to itself.
        assert "Error" not in reason and len(reason) > 3, f"{name}: {reason}"
    assert reasons["odd/empty.hea"].endswith("its first line states no record.")
    assert reasons["odd/lost.hea"].endswith("lost.dat is missing.")


def test_recordings_of_one_name_are_told_apart(model, odd, monkeypatch):
    arguments = ("--sampling_rate", RATE, "--model", model, "--output", "t.json", "--rows", "recordings")
    assert run_command(monkeypatch, "predict", "odd/one", "odd/two", *arguments) == 0
    rows = json.loads((odd.parent / "t.json").read_text())
    assert [(row["file"], row["end"]) for row in rows] == [("odd/one/same.csv", 20), ("odd/two/same.csv", 10)]


def test_recordings_of_several_rates_share_a_batch(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for rate in (50, 100, 250):
        times = np.arange(20 * rate) / rate
        signal = noisy_recording(20, rate)
        np.savetxt(f"r{rate}.csv", np.stack([times, signal], 1), header="time,ppg", comments="", delimiter=",")
    arguments = ("--model", model, "--output", "t.json", "--rows", "recordings")
    assert run_command(monkeypatch, "predict", "r50.csv", "r100.csv", "r250.csv", *arguments) == 0
    assert [row["end"] for row in json.loads((tmp_path / "t.json").read_text())] == [20, 20, 20]


def test_a_table_among_the_recordings_is_none_of_them(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    column(noisy_recording(10, RATE), "a.csv")
    arguments = ("predict", ".", "--sampling_rate", RATE, "--model", model, "--output", "rates.csv")
    assert run_command(monkeypatch, *arguments) == 0
    assert run_command(monkeypatch, *arguments) == 0
    with open("rates.csv", newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == ["a.csv"]
    (tmp_path / "table.csv").mkdir()
    assert "table.csv is a folder" in run_command(
        monkeypatch, "predict", "a.csv", "--model", model, "--output", "table.csv"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--window_seconds", "0"), "--window_seconds: must be positive"),
        (("--window_seconds", "0.1"), "must be at least one patch"),
        (("--stride_seconds", "nan"), "--stride_seconds: must be positive"),
        (("--sampling_rate", "-64"), "--sampling_rate: must be positive"),
        (("--batch_size", "0"), "--batch_size: must be at least 1"),
        (("--num_proc", "0"), "--num_proc: must be at least 1"),
        (("--without_intervals", "--max_width", "3"), "leave them or `--without_intervals` out"),
    ],
)
def test_options_that_no_recording_fits_are_refused_once(model, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    column(noisy_recording(10, RATE), "a.csv")
    code = run_command(monkeypatch, "predict", "a.csv", "--model", model, "--output", "t.csv", *options)
    assert code not in (0, 1)
    assert message in f"{capsys.readouterr().err}{code}"
    assert not (tmp_path / "t.csv").exists()
