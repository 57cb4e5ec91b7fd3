"""`cmssl-hf atlas` on files, in-process."""

import csv
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from cmssl_hf import CMSSLFeatureExtractor, CMSSLTokenizerModel
from cmssl_hf.command_line.main import main
from helpers.pipelines import PATCH, noisy_recording, save_model
from helpers.tiny import tokenizer_config


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    CMSSLTokenizerModel(tokenizer_config()).save_pretrained(tmp_path / "tokenizer")
    CMSSLFeatureExtractor(channels=("ecg", "ppg"), patch_size=PATCH).save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "recordings").mkdir()
    ppg = noisy_recording(25)
    columns = np.stack([np.arange(len(ppg)) / 64, ppg**3, ppg], 1)
    np.savetxt(tmp_path / "recordings/a.csv", columns, header="time,ecg,ppg", comments="", delimiter=",")
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["cmssl-hf", "atlas", "recordings", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, capsys.readouterr().err

    return run


def test_a_table_and_a_figure(run, tmp_path):
    (tmp_path / "recordings/broken.csv").write_text("no table\n")
    status, errors = run("--model", "tokenizer", "--output", "out/atlas.csv", "--num_codes", "5")
    assert status == 1 and "left out: recordings/broken.csv" in errors
    with (tmp_path / "out/atlas.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    counts = [int(row["count"]) for row in rows]
    # 25 s in patches of 0.2 s, each of which has one code.
    assert 0 < len(rows) <= 5 and counts == sorted(counts, reverse=True)
    assert [float(row["share"]) for row in rows] == pytest.approx([count / 125 for count in counts])
    assert imread(tmp_path / "out/atlas.png").min() < 0.5


def test_what_cannot_be_is_said(run, tmp_path):
    save_model(tmp_path / "encoder")
    assert (
        run("--model", "encoder", "--output", "atlas.csv")[0] == "error: encoder is no tokenizer, but a cmssl_encoder."
    )
    status, errors = run("--model", "tokenizer", "--output", "atlas.pdf")
    assert status == 2 and "must end in .csv" in errors
