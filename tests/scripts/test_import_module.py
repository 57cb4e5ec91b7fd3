"""Every command with options of its own takes `--import_module`."""

import runpy
import sys

import pytest

from helpers.checkout import ROOT


SCRIPTS = ROOT / "scripts"


def run(monkeypatch, script, *arguments):
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")
    return end.value.code


@pytest.mark.parametrize("script", ["benchmark_tasks", "inspect_dataset", "prepare_data", "run_finetuning"])
def test_module_is_imported_before_the_arguments_are_read(script, tmp_path, monkeypatch, capsys):
    (tmp_path / f"imported_by_{script}.py").write_text("print('imported')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert run(monkeypatch, script, "--help", "--import_module", f"imported_by_{script}") == 0
    assert capsys.readouterr().out.startswith("imported\nusage: ")
    assert "error: `--import_module absent`: ModuleNotFoundError" in run(
        monkeypatch, script, "--import_module", "absent"
    )
