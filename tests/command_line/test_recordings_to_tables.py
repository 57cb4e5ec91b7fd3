"""`cmssl-hf predict`, `embed`, `tokens`, `quality` and `info` on files, in-process."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
import wfdb
from transformers import pipeline

from cmssl_hf import CMSSLEncoderForPreTraining, CMSSLFeatureExtractor, CMSSLTokenizerModel
from cmssl_hf.command_line import models, table
from cmssl_hf.command_line.files import recordings_in
from helpers.command import run_command
from helpers.pipelines import PATCH, REGRESSION, noisy_recording, save_model
from helpers.tiny import tokenizer_config


RATE = 64


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    labels = {"num_labels": 1, "id2label": {0: "heart_rate"}, "label2id": {"heart_rate": 0}, "label_unit": "bpm"}
    folder = tmp_path_factory.mktemp("model")
    return save_model(folder, problem_type="regression", label_mean=70.0, label_std=10.0, **labels)


@pytest.fixture
def recordings(tmp_path, monkeypatch):
    """A folder of two tables, a WFDB record, and what is none of these."""
    folder = tmp_path / "recordings"
    (folder / "night").mkdir(parents=True)
    for name, seconds, seed in (("a.csv", 25, 0), ("night/b.csv", 10, 1)):
        signal = noisy_recording(seconds, RATE, seed)
        times = np.arange(len(signal)) / RATE
        np.savetxt(folder / name, np.stack([times, signal], 1), header="time,ppg", comments="", delimiter=",")
    signal = noisy_recording(20, RATE, seed=2)
    wfdb.wrsamp("c", RATE, ["NU"], ["PLETH"], signal[:, None], fmt=["24"], write_dir=str(folder / "night"))
    (folder / "broken.csv").write_text("no table\n")
    (folder / "notes.md").write_text("Not read.\n")
    monkeypatch.chdir(tmp_path)
    return folder


def read_csv(path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_predict_writes_a_row_for_each_window_and_a_bad_file_does_not_end_the_rest(
    model, recordings, monkeypatch, capsys
):
    status = run_command(
        monkeypatch, "predict", "recordings", "--model", model, "--output", "table.csv", "--batch_size", 2
    )
    assert status == 1
    assert (
        "no answer: recordings/broken.csv: recordings/broken.csv cannot be read as a table" in capsys.readouterr().err
    )
    rows = read_csv("table.csv")
    predict = pipeline(REGRESSION, model=model)
    expected = []
    for name in ("a.csv", "night/b.csv", "night/c.hea"):
        for window in predict(str(recordings / name))["windows"]:
            expected.append((f"recordings/{name}", window["start"], window["end"], window["value"]["heart_rate"]))
    assert [end - start for _, start, end, _ in expected] == [10, 10, 5, 10, 10, 10]
    answered = [row for row in rows if row["file"] != "recordings/broken.csv"]
    assert [row["file"] for row in answered] == [name for name, *_ in expected]
    numbers = [[float(row[name]) for name in ("start", "end", "heart_rate")] for row in answered]
    np.testing.assert_allclose(numbers, [row[1:] for row in expected], rtol=1e-5)
    (bad,) = [row for row in rows if row["file"] == "recordings/broken.csv"]
    assert "cannot be read as a table" in bad["reason"] and not bad["heart_rate"]
    assert not (recordings.parent / "table.csv.partial").exists()


def test_all_formats_hold_the_same_rows(model, recordings, monkeypatch):
    names = ["t.csv", "t.parquet", "t.json", "t.jsonl"]
    for name in names:
        arguments = ("--model", model, "--output", name, "--rows", "recordings", "--pattern", "*.[ch]*")
        assert run_command(monkeypatch, "predict", "recordings", *arguments) == 1
    parquet = pyarrow.parquet.read_table("t.parquet").to_pylist()
    assert [row["file"] for row in parquet] == [
        "recordings/a.csv", "recordings/broken.csv", "recordings/night/b.csv", "recordings/night/c.hea"
    ]  # fmt: skip
    given = [{name: value for name, value in row.items() if value is not None} for row in parquet]
    assert given == json.loads((recordings.parent / "t.json").read_text())
    assert given == [json.loads(line) for line in (recordings.parent / "t.jsonl").read_text().splitlines()]
    as_text = [{name: str(row.get(name, "")) for name in parquet[0]} for row in given]
    assert as_text == read_csv("t.csv")
    assert given[0]["unit"] == "bpm" and given[0]["usable_share"] == 1.0 and given[0]["end"] == 25.0


def test_an_interrupted_command_continues(model, recordings, monkeypatch, capsys):
    arguments = ("predict", "recordings", "--model", model, "--pattern", "*.[ch]*", "--output", "table.csv")
    assert run_command(monkeypatch, *arguments) == 1
    whole = read_csv("table.csv")

    add, added = table.Table.add, []

    def add_and_end(self, rows):
        added.append(rows[0]["file"])
        if len(added) == 3:
            raise KeyboardInterrupt
        add(self, rows)

    monkeypatch.setattr(table.Table, "add", add_and_end)
    assert run_command(monkeypatch, *arguments) == 130
    assert "table.csv.partial; the same command continues it" in capsys.readouterr().err
    # The older table stays until there is a new one.
    assert read_csv("table.csv") == whole
    with (recordings.parent / "table.csv.partial").open("a") as file:
        file.write('{"file": "recordings/night/b.csv", "sta')
    assert "is of another command" in run_command(monkeypatch, *arguments, "--window_seconds", 5)

    assert run_command(monkeypatch, *arguments) == 1
    # What was done last may lack rows, and is done again.
    assert added[3:] == ["recordings/broken.csv", "recordings/night/b.csv", "recordings/night/c.hea"]
    assert read_csv("table.csv") == whole


def test_answers_are_withheld_on_request_and_the_table_says_why(tmp_path, recordings, monkeypatch):
    calibration = {
        "quantiles": {"0.8": [2.0], "0.9": [3.0]},
        "floors": [0.5],
        "window_seconds": [10.0, 10.0],
        "num_subjects": 12,
        "num_windows": 360,
    }
    labels = {"num_labels": 1, "id2label": {0: "heart_rate"}, "label2id": {"heart_rate": 0}}
    folder = save_model(tmp_path / "limits", problem_type="regression", calibration=calibration, **labels)
    # Ten seconds of pulse, as many of noise, and half of that.
    noise = np.random.default_rng(0).standard_normal(10 * RATE)
    signal = np.concatenate([noisy_recording(10, RATE), noise, noisy_recording(5, RATE)])
    np.savetxt("mixed.csv", signal[:, None], header="ppg", comments="")
    arguments = ("predict", "mixed.csv", "--sampling_rate", RATE, "--model", folder, "--output", "t.csv")
    assert run_command(monkeypatch, *arguments, "--min_quality", 0.5, "--max_width", 1e6) == 0
    rows = read_csv("t.csv")
    assert [row["reason"] for row in rows] == ["", "low quality", "no interval"]
    assert [bool(row["heart_rate"]) for row in rows] == [True, False, False]
    width = float(rows[0]["interval_heart_rate_high"]) - float(rows[0]["interval_heart_rate_low"])
    assert run_command(monkeypatch, *arguments, "--max_width", 0.99 * width, "--coverage", 0.9) == 0
    assert read_csv("t.csv")[0]["reason"] == "too wide"
    rate = float(rows[0]["heart_rate"])
    assert run_command(monkeypatch, *arguments, "--without_intervals") == 0
    assert float(read_csv("t.csv")[0]["heart_rate"]) == pytest.approx(rate, rel=1e-5)
    assert "interval_heart_rate_low" not in read_csv("t.csv")[0]
    assert run_command(monkeypatch, *arguments, "--precision", "bf16") == 0
    in_bf16 = float(read_csv("t.csv")[0]["heart_rate"])
    assert in_bf16 != rate and in_bf16 == pytest.approx(rate, abs=0.05 * width)
    # The same scores times 2 in place of 3.
    assert run_command(monkeypatch, *arguments, "--max_width", 0.67 * width, "--coverage", 0.8) == 0
    assert read_csv("t.csv")[0]["reason"] == ""


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (("--min_quality", 2), "`min_quality` must lie between 0 and 1"),
        (("--max_width", 3), "needs a model that was calibrated"),
    ],
)
def test_limits_that_make_no_sense_are_a_line(model, recordings, monkeypatch, limit, message):
    said = run_command(monkeypatch, "predict", "recordings", "--model", model, "--output", "t.csv", *limit)
    assert said.startswith("error: ") and message in said


def test_what_a_reader_did_not_foresee_does_not_end_the_rest(model, recordings, monkeypatch):
    answers = models.ModelAnswers.__call__

    def fail(self, files):
        if "recordings/night/b.csv" in files:
            raise IndexError("list index out of range")
        return answers(self, files)

    monkeypatch.setattr(models.ModelAnswers, "__call__", fail)
    files = [f"recordings/{name}" for name in ("a.csv", "night/b.csv", "night/c.hea")]
    assert run_command(monkeypatch, "predict", *files, "--model", model, "--output", "t.json") == 1
    rows = json.loads((recordings.parent / "t.json").read_text())
    assert [row["file"][-5:] for row in rows] == ["a.csv", "a.csv", "a.csv", "b.csv", "c.hea", "c.hea"]
    assert rows[3] == {"file": "recordings/night/b.csv", "reason": "IndexError: list index out of range"}


def test_predict_adds_what_the_beats_say(model, tmp_path, monkeypatch):
    pytest.importorskip("neurokit2", reason="needs the extra `beats`")
    # 75 beats per minute, with breaths at 0.25 Hz that shift them.
    times = np.arange(130 * 125) / 125
    beats = np.cumsum(0.8 + 0.05 * np.sin(2 * np.pi * 0.25 * 0.8 * np.arange(160)))
    ppg = np.exp(-0.5 * ((times[:, None] - beats) / 0.1) ** 2).sum(1)
    np.savetxt(tmp_path / "a.csv", np.stack([times, ppg], 1), header="time,ppg", comments="", delimiter=",")
    monkeypatch.chdir(tmp_path)
    for rows, number in (("recordings", 1), ("windows", 13)):
        arguments = ("--model", model, "--output", f"{rows}.json", "--rows", rows, "--beats")
        assert run_command(monkeypatch, "predict", "a.csv", *arguments) == 0
        table = json.loads((tmp_path / f"{rows}.json").read_text())
        assert len(table) == number and "recording" not in table[0] and "heart_rate" in table[0]
        assert [row["beats_heart_rate"] for row in table] == pytest.approx([75] * number, abs=3)
        assert all((row.get("beats_lf_hf") is not None) == (number == 1) for row in table)
    (row,) = json.loads((tmp_path / "recordings.json").read_text())
    assert row["beats_sdnn"] == pytest.approx(50 / np.sqrt(2), rel=0.15) and row["beats_lf_hf"] < 0.1


def test_embed_writes_features(model, recordings, monkeypatch):
    arguments = ("--model", model, "--output", "t.json", "--rows", "recordings")
    assert run_command(monkeypatch, "embed", "recordings/a.csv", *arguments) == 0
    (row,) = json.loads((recordings.parent / "t.json").read_text())
    embed = pipeline("physiological-signal-feature-extraction", model=model)
    expected = embed("recordings/a.csv")["value"]
    np.testing.assert_allclose([row[f"feature_{i}"] for i in range(len(expected))], expected, rtol=1e-4, atol=1e-6)


def test_tokens_of_both_signals_are_those_of_the_tokenizer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    tokenizer = CMSSLTokenizerModel(tokenizer_config(channels=("ecg", "ppg"), initializer_range=0.3)).eval()
    extractor = CMSSLFeatureExtractor(channels=("ecg", "ppg"), patch_size=PATCH)
    tokenizer.save_pretrained("tokenizer")
    extractor.save_pretrained("tokenizer")
    pair = np.stack([noisy_recording(13, 125, seed) for seed in (0, 1)])
    np.savetxt("pair.csv", pair.T, header="chest,wrist", comments="", delimiter=",", fmt="%.17g")
    arguments = (
        "--model",
        "tokenizer",
        "--output",
        "t.json",
        "--sampling_rate",
        125,
        "--column",
        "ecg=chest,ppg=wrist",
    )
    assert run_command(monkeypatch, "tokens", "pair.csv", *arguments) == 0
    rows = json.loads((tmp_path / "t.json").read_text())
    expected = []
    for window in (pair[:, :1250], pair[:, 1250:]):
        inputs = extractor(ecg=window[0], ppg=window[1], sampling_rate=125, return_tensors="pt")
        with torch.no_grad():
            expected += tokenizer.encode(**inputs)[0].tolist()
    assert [row["code"] for row in rows] == expected and len(set(expected)) > 1
    # Codes of 25 samples at 125 Hz.
    np.testing.assert_allclose([row["start"] for row in rows], 0.2 * np.arange(65))
    np.testing.assert_allclose([row["end"] for row in rows], 0.2 * np.arange(1, 66))


def test_tokens_of_one_signal_are_what_an_encoder_names(tmp_path, recordings, monkeypatch):
    folder = save_model(tmp_path / "encoder", CMSSLEncoderForPreTraining, codes_per_patch=2)
    assert run_command(monkeypatch, "tokens", "recordings/night/b.csv", "--model", folder, "--output", "t.json") == 0
    rows = json.loads((tmp_path / "t.json").read_text())
    model = CMSSLEncoderForPreTraining.from_pretrained(folder).eval()
    signal = np.loadtxt("recordings/night/b.csv", delimiter=",", skiprows=1)[:, 1]
    inputs = CMSSLFeatureExtractor.from_pretrained(folder)(ppg=signal, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        assert [row["code"] for row in rows] == model(**inputs).logits[0].argmax(-1).tolist()
    assert len(rows) == 100 and rows[1]["start"] == pytest.approx(0.1)


def test_quality_and_info_need_no_model(recordings, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    times = np.arange(30 * RATE) / RATE
    # A pulse that rises faster than it falls, white noise, and nothing.
    signal = np.exp(3 * np.sin(2 * np.pi * 1.2 * times + 0.6 * np.sin(2 * np.pi * 1.2 * times)))
    signal[10 * RATE : 20 * RATE] = rng.standard_normal(10 * RATE)
    signal[20 * RATE :] = 1.0
    table = np.stack([times, signal, rng.standard_normal(len(times))], 1)
    np.savetxt("two.csv", table, header="time,wrist PPG,II", comments="", delimiter=",")
    assert run_command(monkeypatch, "quality", "two.csv", "--output", "t.json") == 0
    rows = json.loads((recordings.parent / "t.json").read_text())
    assert [(row["signal"], row["channel"], row["start"]) for row in rows] == [
        (name, channel, start) for name, channel in (("wrist PPG", "ppg"), ("II", "ecg")) for start in (0, 10, 20)
    ]
    assert "ppg_no_pulse" not in rows[0]["quality_issues"]
    assert rows[1]["quality_issues"] == "ppg_no_pulse"
    assert rows[0]["quality"] > 0.8 and rows[1]["quality"] == 0
    assert rows[2]["reason"] == "flat"
    assert all("ecg_no_pulse" in row["quality_issues"] for row in rows[3:])

    np.savetxt("unnamed.csv", times[:, None], header="value", comments="")
    assert run_command(monkeypatch, "quality", "unnamed.csv", "--sampling_rate", RATE, "--output", "t.json") == 1
    assert "unnamed.csv does not say which of its signals are ECG or PPG: give `--channel" in capsys.readouterr().err

    assert run_command(monkeypatch, "info", "two.csv", "recordings/broken.csv") == 1
    said = capsys.readouterr().out
    assert "wrist PPG: ppg, 1,920 samples at 64 Hz, 30.0 s, from " in said
    assert "recordings/broken.csv\n  cannot be read: " in said


def test_a_folder_of_an_empatica_is_one_recording(recordings):
    (recordings / "e4").mkdir()
    for name in ("BVP.csv", "EDA.csv"):
        np.savetxt(recordings / "e4" / name, [1.6e9, 64.0, *range(640)], fmt="%.1f")
    assert list(recordings_in(["recordings", "else.csv"])) == [
        f"recordings/{name}" for name in ("a.csv", "broken.csv", "e4", "night/b.csv", "night/c.hea")
    ] + ["else.csv"]
    assert list(recordings_in(["recordings"], "*.hea")) == ["recordings/e4", "recordings/night/c.hea"]


def test_refusals_are_a_line(model, recordings, monkeypatch):
    (recordings / "empty").mkdir()
    arguments = ("--model", model, "--output")
    assert "There is no recording in recordings/empty" in run_command(
        monkeypatch, "predict", "recordings/empty", *arguments, "t.csv"
    )
    assert "A table is written as .csv, .parquet, .json, .jsonl" in run_command(
        monkeypatch, "predict", "recordings", *arguments, "t.xls"
    )
    said = run_command(monkeypatch, "predict", "recordings", "--model", recordings, "--output", "t.csv")
    assert said.startswith("error: ") and not (recordings.parent / "t.csv.partial").exists()
    assert "there is no command 'predikt'. Did you mean predict?" in run_command(monkeypatch, "predikt")


@pytest.mark.long
def test_several_processes_write_the_same_table(model, recordings, monkeypatch):
    for name, num_proc in (("one.csv", 1), ("two.csv", 2)):
        arguments = ("--model", model, "--output", name, "--num_proc", num_proc)
        assert run_command(monkeypatch, "predict", "recordings", *arguments) == 1
    assert read_csv("one.csv") == read_csv("two.csv")


def test_without_a_model_one_of_the_package_answers_and_can_be_named(recordings, monkeypatch):
    run_command(monkeypatch, "predict", "recordings/night/b.csv", "--output", "rates.csv")
    assert float(read_csv("rates.csv")[0]["heart_rate"]) > 0
    run_command(monkeypatch, "embed", "recordings/night/b.csv", "--model", "ppg-encoder", "--output", "features.json")
    assert len(json.loads(Path("features.json").read_text())) == 1
