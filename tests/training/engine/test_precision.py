"""The number format follows the processor, and a run that leaves it to the processor continues in another one."""

import pytest
import torch

from cmssl_hf.training.engine import precision
from cmssl_hf.training.engine.arguments import StageArguments
from cmssl_hf.training.engine.parsing import parse_arguments
from cmssl_hf.training.engine.run_folder import RunFolder, training_identity
from helpers.checkout import ROOT
from helpers.trainers import encoder_trainer, run_trainer


CONFIGS = ROOT / "scripts" / "configs"


def arguments(**options):
    return StageArguments(**{"output_dir": "run", "use_cpu": True, "report_to": "none"} | options)


@pytest.fixture
def cpu_gain(monkeypatch):
    """Says how many times as fast as in fp32 the CPU multiplies in other formats."""
    return lambda gain: monkeypatch.setattr(precision, "cpu_gain", lambda dtype: gain)


@pytest.mark.parametrize(("gain", "expected"), [(0.05, "fp32"), (0.9, "fp32"), (2.0, "bf16"), (8.0, "bf16")])
def test_a_cpu_takes_the_format_that_it_gains_by(cpu_gain, gain, expected):
    cpu_gain(gain)
    assert arguments(precision="auto").computed_in == expected


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp16")])
def test_a_gpu_takes_bf16_if_it_has_it(monkeypatch, has_bf16, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert precision.fitting_precision(torch.device("cuda"))[0] == expected


def test_the_gain_is_that_of_the_best_rounds_after_the_first(monkeypatch):
    seconds = iter([9.0, 1.0, 4.0, 8.0, 3.0, 2.0, 6.0, 5.0, 5.0, 7.0])  # float32 and the other in turn
    monkeypatch.setattr(precision, "_seconds", lambda product, rows, weight: next(seconds))
    assert precision.cpu_gain.__wrapped__(torch.bfloat16) == 3.0 / 2.0


@pytest.mark.parametrize("launcher", ["no", "fp16"])
@pytest.mark.parametrize(("asked", "mixed"), [("fp32", "no"), ("bf16", "bf16")])
def test_what_is_asked_for_holds_whatever_the_launcher_says(monkeypatch, launcher, asked, mixed):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    assert arguments(precision=asked).mixed_precision == mixed
    assert arguments(precision=asked).computed_in == asked


@pytest.mark.parametrize("other", ["bf16", "fp16"])
def test_two_ways_to_say_it_are_refused(other):
    with pytest.raises(ValueError, match="`precision` is auto: leave `bf16` and `fp16` out"):
        arguments(precision="auto", **{other: True})


def test_left_out_it_is_as_it_was():
    assert arguments().computed_in == "fp32" and arguments(bf16=True).computed_in == "bf16"
    assert training_identity(arguments(precision="bf16")) == training_identity(arguments(bf16=True))
    assert training_identity(arguments(precision="fp32")) == training_identity(arguments())


def test_a_run_of_any_precision_continues_in_what_the_processor_has(tmp_path, cpu_gain):
    for number, there in enumerate(({}, {"bf16": True}, {"precision": "auto"})):
        folder = tmp_path / str(number)
        RunFolder(folder, {"training": training_identity(arguments(**there))}).open()
        (folder / "model.safetensors").touch()
        for gain in (0.1, 3.0):
            cpu_gain(gain)
            RunFolder(folder, {"training": training_identity(arguments(precision="auto"))}).open()
    with pytest.raises(FileExistsError, match=r"training\.mixed_precision \('auto' there, 'bf16' now\)"):
        RunFolder(folder, {"training": training_identity(arguments(bf16=True))}).open()


def test_no_preset_names_a_format_that_a_cpu_may_lack():
    for file in CONFIGS.glob("*.yaml"):
        assert "bf16" not in file.read_text(), file.name


def test_the_base_presets_leave_it_to_the_processor(cpu_gain):
    cpu_gain(0.1)
    for stage in ("tokenizer", "encoder"):
        text = (CONFIGS / f"pretrain_{stage}_base.yaml").read_text()
        assert "precision: auto" in text
    (parsed,) = parse_arguments((StageArguments,), ["--precision", "auto", "--use_cpu"])
    assert parsed.computed_in == "fp32"


def test_a_training_says_its_format_in_one_line(tmp_path, caplog, cpu_gain):
    cpu_gain(0.05)
    caplog.set_level("INFO", logger="cmssl_hf")
    run_trainer(encoder_trainer(tmp_path / "auto", precision="auto", max_steps=2), tmp_path / "auto")
    run_trainer(encoder_trainer(tmp_path / "bf16", precision="bf16", max_steps=2), tmp_path / "bf16")
    said, warned = [record for record in caplog.records if record.message.startswith("Training in")]
    assert said.message == "Training in fp32 on the CPU: products in bf16 take 20 times as long as in fp32."
    assert warned.levelname == "WARNING" and "Training in bf16 on the CPU, which has no instructions" in warned.message


def test_a_scaler_of_another_precision_does_not_stop_a_run(tmp_path, cpu_gain):
    """A run of a GPU in fp16 keeps the state of its gradient scaler, for which there is no use in fp32."""
    cpu_gain(0.1)
    options = {"precision": "auto", "max_steps": 4}
    run_trainer(encoder_trainer(tmp_path, **options), tmp_path, interrupted_at=3)
    checkpoint = tmp_path / "checkpoint-2"
    torch.save({"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5}, checkpoint / "scaler.pt")
    metrics = run_trainer(encoder_trainer(tmp_path, **options), tmp_path)
    assert metrics["eval_cross_entropy"] > 0
