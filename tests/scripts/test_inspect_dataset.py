"""What `scripts/inspect_dataset.py` counts and draws, on small releases written here."""

import importlib.util

import datasets
import matplotlib.image
import numpy as np
import pytest

from cmssl_hf.data.loading import load_dataset
from helpers.checkout import ROOT
from helpers.releases import (
    CSN_CODES,
    dalia_content,
    write_csn_recording,
    write_dalia_subject,
    write_ptb_xl_release,
    write_uci_fold,
)


@pytest.fixture(scope="module")
def inspect_dataset():
    path = ROOT / "scripts/inspect_dataset.py"
    specification = importlib.util.spec_from_file_location("inspect_dataset", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def run(module, capsys, tmp_path, *arguments, data_dir):
    """Output of the script and the figure, as an array."""
    folders = [
        "--data_dir",
        str(data_dir),
        "--output_dir",
        str(tmp_path / "out"),
        "--cache_dir",
        str(tmp_path / "cache"),
    ]
    module.main([*arguments, *folders])
    output = capsys.readouterr().out
    (figure,) = (tmp_path / "out").iterdir()
    assert output.endswith(f"figure: {figure}\n")
    return output, matplotlib.image.imread(figure)


def colours_of(image):
    """Which of red (ECG) and blue (PPG) are in a figure."""
    red, green, blue = (image[..., index] for index in range(3))
    return {name for name, mask in {"ecg": red > green + 0.5, "ppg": blue > red + 0.4}.items() if mask.any()}


class TestCounts:
    def test_overlapping_windows_and_dropped_ones(self, inspect_dataset, capsys, tmp_path):
        for number in (1, 2, 3):
            content = dalia_content(number)
            content["signal"]["wrist"]["BVP"][:200] = 0
            content["label"][3:5] = np.nan
            write_dalia_subject(tmp_path / "release", number, content)
        output, image = run(
            inspect_dataset, capsys, tmp_path, "ppg_dalia", "hr", "--split", "test", data_dir=tmp_path / "release"
        )
        (subject,) = load_dataset(
            "ppg_dalia", "hr", data_dir=tmp_path / "release", cache_dir=tmp_path / "cache", split="test"
        ).unique("subject_id")
        number = int(subject[1:])
        labels = np.delete(np.arange(27) + 70 + number, [3, 4])
        # The windows cover the whole minute, although two of them are missing.
        assert "test: 1 subjects, 25 windows of 8 s at 64 Hz, 0.02 h" in output
        quartiles = " ".join(f"{value:.1f}" for value in np.percentile(labels, (0, 25, 50, 75, 100)))
        assert f"labels: {labels.mean():.1f} +- {labels.std():.1f}, quartiles {quartiles}" in output
        assert output.count("dropped: 2 unlabelled") == 3
        assert colours_of(image) == {"ppg"}

    def test_gaps_between_windows_are_not_counted(self, inspect_dataset):
        rows = datasets.Dataset.from_dict(
            {
                "signal": [[0.0] * 100] * 4,
                "sampling_rate": [10.0] * 4,
                "record_id": ["a", "a", "a", "b"],
                "start_time": [0.0, 5.0, 100.0, 5.0],
            }
        )
        assert inspect_dataset.covered_hours(rows) == pytest.approx((15 + 10 + 10) / 3600)

    def test_classes_and_damaged_records(self, inspect_dataset, capsys, tmp_path):
        folder = tmp_path / "release"
        for number in range(40):
            write_csn_recording(folder, number, CSN_CODES[number % 6])
        (folder / "JS00000.mat").unlink()
        arguments = ["csn", "rhythm", "--option", "max_damaged_share=0.1", "--option", "lead=V1", "--num_windows", "3"]
        output, image = run(inspect_dataset, capsys, tmp_path, *arguments, data_dir=folder)
        data = load_dataset(
            "csn", "rhythm", data_dir=folder, cache_dir=tmp_path / "cache", max_damaged_share=0.1, lead="V1"
        )
        for split, rows in data.items():
            counts = [list(rows["label"]).count(label) for label in range(4)]
            assert (
                f"{split}: {len(rows)} subjects, {len(rows)} windows of 10 s at 500 Hz, {len(rows) / 360:.2f} h"
                in output
            )
            assert "labels: SB {}, SR {}, AFIB {}, GSVT {}".format(*counts) in output
        assert output.count("damaged: ") == 1 and "JS00000.hea cannot be read" in output
        assert "several_rhythms" in output
        shown = data["train"].select(inspect_dataset.example_rows(data["train"], 3))
        assert list(shown["label"]) == [0, 1, 2]
        assert colours_of(image) == {"ecg"}

    def test_several_labels_and_leads(self, inspect_dataset, capsys, tmp_path):
        (tmp_path / "release").mkdir()
        write_ptb_xl_release(tmp_path / "release")
        arguments = ["ptb_xl", "all", "--option", "lead=all"]
        output, image = run(inspect_dataset, capsys, tmp_path, *arguments, data_dir=tmp_path / "release")
        assert "train: 1 subjects, 2 windows of 10 s at 100 Hz, 0.01 h" in output
        assert "labels: SR 1, NORM 1, NDT 1, IMI 1, 67 classes 0, none of them 0" in output
        assert colours_of(image) == {"ecg"}

    def test_two_outputs(self, inspect_dataset, capsys, tmp_path):
        (tmp_path / "release").mkdir()
        for fold in range(3):
            write_uci_fold(tmp_path / "release", fold)
        output, _ = run(inspect_dataset, capsys, tmp_path, "uci_bp", data_dir=tmp_path / "release")
        assert "labels: 142.5 +- 1.7, quartiles 140.0 141.2 142.5 143.8 145.0; 71.2 +- 0.9" in output

    def test_pairs_show_both_signals(self, inspect_dataset, capsys, tmp_path):
        for number in (1, 2, 3):
            write_dalia_subject(tmp_path / "release", number)
        output, image = run(inspect_dataset, capsys, tmp_path, "ppg_dalia", data_dir=tmp_path / "release")
        assert "train: 1 subjects, 6 windows of 10 s at 125 Hz, 0.02 h\n  dropped: none" in output
        assert "labels" not in output
        assert colours_of(image) == {"ecg", "ppg"}

    def test_skipped_records(self, inspect_dataset, capsys, tmp_path):
        (tmp_path / "release").mkdir()
        write_ptb_xl_release(tmp_path / "release")
        (tmp_path / "release/records100/00000/00002_lr.hea").unlink()
        output, _ = run(inspect_dataset, capsys, tmp_path, "ptb_xl", data_dir=tmp_path / "release")
        assert "skipped records: 1 not in this folder" in output


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nothing"], "invalid choice: 'nothing'"),
            (["csn", "--option", "lead"], "--option takes NAME=VALUE, not 'lead'"),
        ],
    )
    def test_mistakes(self, inspect_dataset, capsys, arguments, message):
        with pytest.raises(SystemExit):
            inspect_dataset.main(arguments)
        assert message in capsys.readouterr().err

    def test_unknown_split(self, inspect_dataset, capsys, tmp_path):
        for fold in range(3):
            write_uci_fold(tmp_path, fold)
        with pytest.raises(SystemExit):
            inspect_dataset.main(
                ["uci_bp", "--data_dir", str(tmp_path), "--cache_dir", str(tmp_path / "c"), "--split", "dev"]
            )
        assert "there is no split 'dev'; there are train, validation, test" in capsys.readouterr().err
