"""Several CPU processes: the same losses, codebook and weights as one process with the same global batch, and the same metrics
to the last bit."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from safetensors.torch import load_file
from transformers import TrainingArguments

from cmssl_hf.models.cmssl.modeling_cmssl_layers import CMSSLLayer
from cmssl_hf.training.arguments import DataArguments
from cmssl_hf.training.engine.arguments import StageArguments
from cmssl_hf.training.engine.parsing import parse_arguments
from cmssl_hf.training.tokenizer import TokenizerArguments, TokenizerTrainingArguments, pretrain_tokenizer
from helpers import distributed_worker, sharded_worker
from helpers.checkout import ROOT
from helpers.distributed_worker import PRETRAINED
from helpers.launched import flags


CONFIGS = ROOT / "scripts" / "accelerate"

# Sums over a batch are added in another order by several processes, which float32 shows after a few AdamW steps.
TOLERANCE = 1e-5


def launch(*command, check=True):
    """Runs a command with all its processes; none is left behind, also if one waits for another in vain."""
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, command)],
        cwd=ROOT,
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=1200)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert not check or process.returncode == 0, output[-4000:]
    return process.returncode, output


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """What one process ends with."""
    folder = tmp_path_factory.mktemp("one")
    distributed_worker.main(folder)
    return ended_with(folder, 0)


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.long)])
def several(request, tmp_path_factory):
    """What each of several processes ends with."""
    folder = tmp_path_factory.mktemp("several")
    worker = ROOT / "tests" / "helpers" / "distributed_worker.py"
    launch("torch.distributed.run", "--standalone", "--nproc_per_node", request.param, worker, folder)
    return [ended_with(folder, rank) for rank in range(request.param)]


def ended_with(folder, rank):
    return torch.load(folder / f"weights-{rank}.pt"), json.loads((folder / f"results-{rank}.json").read_text())


STAGES = ["tokenizer", "encoder", "head", "head of resnet1d"]
OBJECTIVES = list(PRETRAINED)


@pytest.mark.parametrize("stage", [*STAGES, *OBJECTIVES])
def test_all_processes_end_with_the_same_weights_and_metrics(several, stage):
    (first, results), *others = several
    for weights, of_other in others:
        for name, tensor in first[stage].items():
            assert torch.equal(weights[stage][name], tensor), name
        assert of_other[stage]["trained"] == results[stage]["trained"]


@pytest.mark.parametrize("stage", [*STAGES, *OBJECTIVES])
def test_weights_are_those_of_one_process(single, several, stage):
    # Of the tokenizer the codebook too, which k-means has set and moving averages have followed.
    for name, tensor in single[0][stage].items():
        torch.testing.assert_close(
            several[0][0][stage][name], tensor, rtol=0, atol=TOLERANCE, msg=lambda m, n=name: f"{n}: {m}"
        )
    if stage == "tokenizer":
        assert {"codebook.weight", "codebook.cluster_size", "codebook.vector_sum"} <= single[0][stage].keys()


@pytest.mark.parametrize("stage", [*STAGES, *OBJECTIVES])
def test_losses_are_those_of_one_process(single, several, stage):
    expected = single[1][stage]["losses"]
    assert len(expected) == (3 if stage in OBJECTIVES else 14)
    for _, results in several:
        np.testing.assert_allclose(results[stage]["losses"], expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("stage", [*STAGES, *OBJECTIVES])
def test_metrics_of_the_same_weights_are_exactly_those_of_one_process(single, several, stage):
    expected = single[1][stage]["same weights"]
    assert "eval_loss" in expected and len(expected) >= (2 if stage == "masked" else 4)
    for _, results in several:
        assert results[stage]["same weights"] == expected


def test_predictions_of_the_same_weights_are_exactly_those_of_one_process(single, several):
    expected = single[1]["head"]["predictions"]
    assert len(expected) == 7
    for _, results in several:
        assert results["head"]["predictions"] == expected


REPORT = """
import sys
from cmssl_hf.training.engine.arguments import StageArguments

arguments = StageArguments(output_dir=sys.argv[1], report_to="none")
print(f"connected: {arguments.world_size} processes, {arguments.parallel_mode.value}", flush=True)
"""


def test_processes_of_the_cpu_config_are_connected_without_a_flag(tmp_path, monkeypatch):
    # It would hide what a new machine does.
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    script = tmp_path / "report.py"
    script.write_text(REPORT)
    _, output = launch("accelerate.commands.launch", "--config_file", CONFIGS / "cpu_2.yaml", script, tmp_path / "run")
    assert output.count("connected: 2 processes, distributed") == 2


def test_the_cpu_config_hides_gpus_from_its_processes(tmp_path):
    script = tmp_path / "visible.py"
    script.write_text("import os, sys; sys.stdout.write('visible: ' + os.environ['CUDA_VISIBLE_DEVICES'] + chr(10))")
    _, output = launch("accelerate.commands.launch", "--config_file", CONFIGS / "cpu_2.yaml", script)
    # CUDA sees the devices before the first that does not exist.
    assert output.count("visible: -1,-1") == 2


def test_processes_that_are_not_connected_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    # What transformers makes of a launcher that accelerate does not recognise.
    monkeypatch.setattr(TrainingArguments, "__post_init__", lambda self: None)
    monkeypatch.setattr(StageArguments, "world_size", 1)
    with pytest.raises(ValueError, match="2 processes were launched, but they are not connected"):
        StageArguments(output_dir=str(tmp_path), report_to="none")


def test_stage_1_by_accelerate_launch_is_that_of_one_process(tmp_path):
    config = ROOT / "scripts" / "configs" / "pretrain_tokenizer_small-data.yaml"
    _, output = launch(
        "accelerate.commands.launch",
        "--config_file",
        CONFIGS / "cpu_2.yaml",
        ROOT / "scripts" / "pretrain_tokenizer.py",
        config,
        *flags(tmp_path / "two", tmp_path / "cache", 8, max_steps=10),
    )
    assert "| codes in use" in output
    # Each process stores the state of its own random numbers.
    assert {path.name for path in (tmp_path / "two" / "checkpoint-10").glob("rng_state*")} == {
        "rng_state_0.pth",
        "rng_state_1.pth",
    }
    arguments = parse_arguments(
        (TokenizerArguments, DataArguments, TokenizerTrainingArguments),
        [str(config), *flags(tmp_path / "one", tmp_path / "cache", 16, max_steps=10)],
    )
    pretrain_tokenizer(*arguments)
    two, one = (load_file(tmp_path / name / "model.safetensors") for name in ("two", "one"))
    assert two.keys() == one.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=TOLERANCE, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.long
def test_refusal_ends_all_processes_with_its_message(tmp_path):
    code, output = launch(
        "accelerate.commands.launch",
        "--config_file",
        CONFIGS / "cpu_2.yaml",
        ROOT / "scripts" / "pretrain_tokenizer.py",
        *flags(tmp_path / "run", tmp_path / "cache", 8, max_steps=10, kmeans_windows=1),
        check=False,
    )
    assert code != 0
    assert "error: k-means needs at least one latent per code" in output


@pytest.mark.parametrize(
    ("name", "distributed_type", "num_processes", "num_machines"),
    [
        ("cpu_2", "MULTI_GPU", 2, 1),
        ("gpu_1", "NO", 1, 1),
        ("gpu_4_ddp", "MULTI_GPU", 4, 1),
        ("gpu_8_fsdp", "FSDP", 8, 1),
        ("two_nodes", "MULTI_GPU", 8, 2),
    ],
)
def test_shipped_configs_are_read_by_accelerate(name, distributed_type, num_processes, num_machines):
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert config.distributed_type == distributed_type
    assert (config.num_processes, config.num_machines) == (num_processes, num_machines)
    arguments = launch_command_parser().parse_args(["--config_file", str(CONFIGS / f"{name}.yaml"), "script.py"])
    arguments, _, _ = _validate_launch_command(arguments)
    assert (arguments.multi_gpu or arguments.use_fsdp) == (num_processes > 1)
    assert arguments.num_processes == num_processes
    assert arguments.mixed_precision == ("no" if name == "cpu_2" else "bf16")


def test_fsdp_on_cpus_is_refused(monkeypatch, tmp_path):
    """accelerate knows it for accelerators only, and would train by DDP instead."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="FSDP needs GPUs"):
        StageArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)


def test_fsdp_wraps_the_layers_of_both_models():
    config = load_config_from_file(str(CONFIGS / "gpu_8_fsdp.yaml"))
    assert config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"] == CMSSLLayer.__name__
    assert config.fsdp_config["fsdp_version"] == 2


@pytest.mark.long
def test_two_shards_of_a_model_train_what_one_process_trains(tmp_path):
    """Without accelerate, FSDP works on CPUs too."""
    worker = ROOT / "tests" / "helpers" / "sharded_worker.py"
    launch("torch.distributed.run", "--standalone", "--nproc_per_node", 2, worker, tmp_path)
    for name, whole in sharded_worker.train().items():
        for rank in range(2):
            weights = torch.load(tmp_path / f"weights-{rank}.pt")[name]
            assert weights.keys() == whole.keys()
            for key, tensor in whole.items():
                torch.testing.assert_close(
                    weights[key], tensor, rtol=0, atol=TOLERANCE, msg=lambda m, n=key: f"{n}: {m}"
                )
        # Buffers, which each process keeps whole.
        assert name == "encoder" or {"codebook.weight", "codebook.cluster_size", "codebook.vector_sum"} <= whole.keys()
