"""`scripts/speed/gpu.py` runs through on a CPU, with small sizes."""

import json

import gpu
import pytest


@pytest.mark.long
def test_every_part_runs_and_is_stored(tmp_path, capsys):
    # No time is left for compiling.
    gpu.main(["--small", "--device", "cpu", "--seconds", "0", "--output_dir", str(tmp_path)])
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert set(gpu.PARTS) <= results.keys() and results["small"]
    assert "error" not in (tmp_path / "gpu.json").read_text()
    assert set(results["machine"]["measured_peak_tflops"]) == {"bfloat16", "float16", "float32"}
    for case in results["speed"]:
        assert case["windows_per_second"].keys() == {str(side) for side in gpu.SIDES}
        assert case["ratio_to_published_float16"]["published, float16"] == 1
    assert [result["stage"] for result in results["trainers"]] == ["tokenizer", "encoder"]
    assert all(result["share"] > 0 for result in results["trainers"])
    assert all(case["longest"] for case in results["profile"])
    assert {case["skipped"] for case in results["compiled"]} == {"no time was left"}
    assert "ours, fused attention, bfloat16" in capsys.readouterr().out


def test_a_measurement_that_fails_leaves_the_others(tmp_path, monkeypatch):
    def fail(self, workload, size, *rest):
        if workload == "stage 1":
            raise RuntimeError("out of memory")
        return {"workload": workload, "size": size}

    monkeypatch.setattr(gpu.Measurement, "_profile", fail)
    results = gpu.main(["--small", "--device", "cpu", "--parts", "profile", "--output_dir", str(tmp_path)])
    first, second = results["profile"]
    assert first == {"workload": "stage 1", "size": "small", "error": "RuntimeError: out of memory"}
    assert second == {"workload": "stage 2", "size": "small"}
    assert json.loads((tmp_path / "gpu.json").read_text())["profile"] == [first, second]


def test_operations_are_two_per_weight_and_patch_forward_and_four_backward():
    measurement = gpu.Measurement("cpu", small=True, deadline=0)
    # Per layer 4 width^2 of attention and 8 width^2 of the feed-forward network; patches and codes.
    weights = 12 * 12 * 256**2 + 125 * 256 + 256 * 8192
    assert measurement._operations("small") == 6 * 10 * weights
