"""The notebook of the documents runs as it stands, and is kept without outputs."""

import nbformat
import pytest
from nbclient import NotebookClient

from helpers.checkout import ROOT


NOTEBOOK = ROOT / "docs/first_steps.ipynb"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_kept_without_outputs(notebook):
    assert not any(cell.get("outputs") for cell in notebook.cells)


def test_it_runs(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    client = NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    figures = [output for output in shown if "image/png" in output.get("data", {})]
    assert len(figures) == 4
    (answer,) = [output["text"] for output in shown if "right is" in output.get("text", "")]
    told, right = (float(answer.split(word)[1].split()[0].strip(",")) for word in ("heart rate ", "right is "))
    assert told == pytest.approx(right, abs=3)
