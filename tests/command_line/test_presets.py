"""The YAML files that come with the package are found by their names."""

import sys

import pytest

from cmssl_hf.command_line.main import main
from cmssl_hf.presets import find_preset, preset_names
from helpers.checkout import ROOT


def test_names_stand_for_the_files_of_the_checkout(monkeypatch, capsys):
    configs = ROOT / "scripts" / "configs"
    files = {str(path.relative_to(configs)).removesuffix(".yaml"): path for path in configs.rglob("*.yaml")}
    files |= {f"accelerate/{path.stem}": path for path in (ROOT / "scripts" / "accelerate").glob("*.yaml")}
    assert preset_names() == sorted(files)
    assert all(find_preset(name).samefile(path) for name, path in files.items())
    assert find_preset("small-data", "pretrain_encoder") == find_preset("pretrain_encoder_small-data.yaml")
    with pytest.raises(ValueError, match=r"no preset 'smal'\. Presets: base, reference, small-data\."):
        find_preset("smal", "pretrain_tokenizer")
    monkeypatch.setattr(sys, "argv", ["cmssl-hf", "preset", "finetune"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().out == f"{find_preset('finetune')}\n"


def test_commands_take_names_of_presets(monkeypatch):
    arguments = ["pretrain-tokenizer", "reference", "--channels", "ecg", "ecg", "--output_dir", "runs/none"]
    monkeypatch.setattr(sys, "argv", ["cmssl-hf", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    # What the file says was read; what the flag says is refused.
    assert "channels" in str(end.value.code) and "preset" not in str(end.value.code)
