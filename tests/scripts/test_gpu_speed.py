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
    workloads = ["stage 1", "stage 2", "fine-tuning", "tokenising", "embedding"]
    assert [case["workload"] for case in results["speed"]] == workloads
    for case in results["speed"]:
        assert case["windows_per_second"].keys() == {str(side) for side in gpu.SIDES}
        assert case["ratio_to_published_float16"]["published, float16"] == 1
    of_stage_2 = results["speed"][1]
    for side in map(str, gpu.SIDES):
        peak = results["machine"]["measured_peak_tflops"][side.rpartition(", ")[2]]
        assert of_stage_2["share_of_measured_peak"][side] == pytest.approx(of_stage_2["matrix_tflops"][side] / peak)
    memory = [(row["workload"], row["side"]) for row in results["memory"]]
    assert memory == [(workload, str(side)) for workload in workloads[:3] for side in gpu.MEMORY_SIDES]
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


def test_the_cases_are_those_of_the_table_of_speed():
    encoders = [("stage 2", size) for size in ("small", "base", "large")]
    others = [(workload, "small") for workload in ("stage 1", "fine-tuning", "tokenising", "embedding")]
    assert sorted(gpu.Measurement("cpu", small=False, deadline=0).cases) == sorted(encoders + others)
    for who in ("published", "ours"):
        assert {side.dtype for side in gpu.SIDES if side.who == who} == {"float32", "float16", "bfloat16"}


def test_operations_are_two_per_weight_and_patch_forward_and_four_backward():
    measurement = gpu.Measurement("cpu", small=True, deadline=0)
    # Per layer 4 width^2 of attention and 8 width^2 of the feed-forward network; patches and codes.
    weights = 12 * 12 * 256**2 + 125 * 256 + 256 * 8192
    assert measurement._operations("small") == 6 * 10 * weights
