"""`scripts/speed/benchmark.py` runs through and leaves results, figures and a table."""

import json
import subprocess
import sys
from pathlib import Path

import measurements
import numpy as np
import pytest
from benchmark import main
from tables_and_figures import ratio, write_between_markers

from helpers.objectives import PARTS


@pytest.mark.long
def test_quick_run(tmp_path, capsys):
    document = tmp_path / "performance.md"
    document.write_text("before\n<!-- benchmark -->\nold\n<!-- /benchmark -->\nafter\n")
    main(["--quick", "--device", "cpu", "--output_dir", str(tmp_path), "--write", str(document)])
    results = json.loads((tmp_path / "performance_results.json").read_text())
    assert {case["workload"] for case in results["speed"]} == {
        "stage 1",
        "stage 2",
        "fine-tuning",
        "tokenising",
        "embedding",
    }
    assert {side.partition(",")[0] for side in results["objectives"]["seconds"]} == {"tokens", *PARTS}
    assert (tmp_path / "throughput.png").stat().st_size > 0
    assert (tmp_path / "dataset_size.png").stat().st_size > 0
    report = capsys.readouterr().out.strip()
    assert "Quick run" in report
    written = document.read_text()
    assert report in written
    assert written.startswith("before\n<!-- benchmark -->\n")
    assert written.endswith("\n<!-- /benchmark -->\nafter\n")


def test_ratio_is_the_median_of_pairs():
    case = {"seconds": {"published, float32": [2.0, 30.0, 4.0], "ours, float32": [1.0, 10.0, 1.0]}}
    assert ratio(case, "ours, float32", "published, float32") == 3.0


def test_peak_memory_does_not_count_the_process_that_started_this_one():
    held = np.ones(600_000_000, np.uint8)
    folder = Path(measurements.__file__).parent
    command = [sys.executable, "-c", "import measurements; print(measurements.peak_mb())"]
    output = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert 20 < float(output) < held.nbytes / 1e6


def test_document_without_markers(tmp_path):
    document = tmp_path / "performance.md"
    document.write_text("no markers")
    with pytest.raises(ValueError, match="lacks the lines <!-- benchmark -->"):
        write_between_markers(document, "table")
    assert document.read_text() == "no markers"
