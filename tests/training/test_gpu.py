"""What only a GPU shows: `make test-gpu`."""

import contextlib
import copy
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from cmssl_hf import CMSSLEncoderForPreTraining, CMSSLEncoderForSequenceClassification, CMSSLTokenizerModel
from cmssl_hf.data.augmentation import Augmentation
from cmssl_hf.data.batched_augmentation import KEYS, BatchedAugmentation
from cmssl_hf.training.tokenizer import pretrain_tokenizer
from helpers.checkout import ROOT
from helpers.launched import STAGE, arguments, flags
from helpers.tiny import encoder_config, tokenizer_config
from helpers.trainers import STRETCH, encoder_trainer, finetuning_trainer, run_trainer, tokenizer_trainer


pytestmark = pytest.mark.gpu

HEAD = {"num_labels": 1, "problem_type": "regression", "label_mean": 70.0, "label_std": 10.0}
MODELS = {
    "tokenizer": lambda: CMSSLTokenizerModel(tokenizer_config()),
    "encoder": lambda: CMSSLEncoderForPreTraining(encoder_config()),
    "head": lambda: CMSSLEncoderForSequenceClassification(encoder_config(**HEAD)),
}
TRAINERS = {"tokenizer": tokenizer_trainer, "encoder": encoder_trainer, "head": finetuning_trainer}


def batch(kind, device):
    generator = torch.Generator().manual_seed(0)
    inputs = {"input_values": torch.randn(16, 2 if kind == "tokenizer" else 1, 100, generator=generator)}
    lengths = torch.tensor([100, 25, 60, 75] * 4)
    inputs["attention_mask"] = (torch.arange(100) < lengths[:, None]).long()
    if kind == "encoder":
        inputs["labels"] = torch.randint(16, (16, 4), generator=generator)
        inputs["labels"][torch.arange(4) * 25 >= lengths[:, None]] = -100
    if kind == "head":
        inputs["labels"] = 70 + 10 * torch.randn(16, 1, generator=generator)
    return {name: each.to(device) for name, each in inputs.items()}


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 5e-2), ("fp16", 1e-2)])
@pytest.mark.parametrize("kind", MODELS)
def test_losses_and_gradients_are_those_of_a_cpu(kind, precision, tolerance):
    torch.manual_seed(0)
    on_cpu = MODELS[kind]().train()
    on_gpu = copy.deepcopy(on_cpu).cuda()
    expected = on_cpu(**batch(kind, "cpu")).loss
    expected.backward()
    half = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    with torch.autocast("cuda", half) if half else contextlib.nullcontext():
        loss = on_gpu(**batch(kind, "cuda")).loss
    loss.backward()
    torch.testing.assert_close(loss.cpu(), expected, rtol=tolerance, atol=tolerance)
    for (name, parameter), other in zip(on_cpu.named_parameters(), on_gpu.parameters()):
        largest = parameter.grad.abs().max().item()
        torch.testing.assert_close(
            other.grad.cpu(), parameter.grad, rtol=0, atol=10 * tolerance * max(largest, 1e-3), msg=name
        )


@pytest.mark.parametrize("kind", MODELS)
def test_a_step_does_not_wait_for_the_device(kind):
    model, inputs = MODELS[kind]().train().cuda(), batch(kind, "cuda")
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for mode in ("default", "error"):  # the first step prepares what later ones use
        torch.cuda.set_sync_debug_mode(mode)
        try:
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(**inputs).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_batches_are_changed_as_on_a_cpu():
    augmentation = Augmentation(
        125, time_stretch=1.3, amplitude_jitter=0.2, noise=0.2, baseline_wander=0.2, masked_share=0.3
    )
    keys = torch.stack((torch.full((64,), 2), torch.arange(64)), dim=1)
    changed = [
        BatchedAugmentation(augmentation, 5)({"input_values": values.to(device), KEYS: keys.to(device)})
        for values in [torch.randn(64, 2, 1250, generator=torch.Generator().manual_seed(0))]
        for device in ("cpu", "cuda")
    ]
    assert torch.equal(changed[1]["attention_mask"].cpu(), changed[0]["attention_mask"])
    torch.testing.assert_close(changed[1]["input_values"].cpu(), changed[0]["input_values"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("first_on_cpu", [False, True])
@pytest.mark.parametrize("kind", TRAINERS)
def test_a_checkpoint_of_one_device_continues_on_the_other(tmp_path, kind, first_on_cpu):
    make, options = TRAINERS[kind], {"max_steps": 12}
    if kind != "encoder":
        options["augmentation"] = STRETCH
    # Dropout is drawn by the device.
    config = {"tokenizer": tokenizer_config(), "encoder": encoder_config(), "head": encoder_config(**HEAD)}[kind]
    whole = run_trainer(make(tmp_path / "whole", config, use_cpu=True, **options), tmp_path / "whole")
    folder = tmp_path / "parts"
    run_trainer(make(folder, config, use_cpu=first_on_cpu, **options), folder, interrupted_at=7)
    continued = run_trainer(make(folder, config, use_cpu=not first_on_cpu, **options), folder)
    assert continued["eval_loss"] == pytest.approx(whole["eval_loss"], rel=2e-2)


@pytest.mark.parametrize("kind", TRAINERS)
def test_a_run_in_what_the_processor_has_goes_from_bf16_to_fp32(tmp_path, kind):
    options = {"precision": "auto", "max_steps": 8}
    trainer = TRAINERS[kind](tmp_path, use_cpu=False, **options)
    assert trainer.args.computed_in in ("bf16", "fp16")
    run_trainer(trainer, tmp_path, interrupted_at=5)
    trainer = TRAINERS[kind](tmp_path, use_cpu=True, **options)
    assert run_trainer(trainer, tmp_path)["eval_loss"] > 0


def test_nccl_trains_what_one_process_trains(tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"]
    options = {"use_cpu": False, "per_device_eval_batch_size": 16}
    command = [*launcher, *STAGE, *flags(tmp_path / "nccl", tmp_path / "cache", 16, **options)]
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True, timeout=600)
    pretrain_tokenizer(*arguments(flags(tmp_path / "one", tmp_path / "cache", 16, **options)))
    weights, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("nccl", "one"))
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-4, msg=name)


def test_the_quick_start_runs(tmp_path):
    subprocess.run(
        [sys.executable, "scripts/quickstart.py", "--output_dir", str(tmp_path)], cwd=ROOT, check=True, timeout=1500
    )
    assert (tmp_path / "simulated" / "heart_rate" / "predictions.csv").is_file()


def test_the_common_tests_of_transformers_pass_there():
    # Named so that it sees the GPU.
    command = [sys.executable, "-m", "pytest", "tests/models/test_common_models.py", "-m", "gpu or not long"]
    environment = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=1500)
