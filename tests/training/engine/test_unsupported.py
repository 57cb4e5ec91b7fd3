"""Every training argument acts or is refused in one line, before data are read."""

import subprocess
import sys
from dataclasses import fields

import pytest

from cmssl_hf.tasks import get_task
from cmssl_hf.training.engine.arguments import StageArguments
from cmssl_hf.training.engine.parsing import parse_arguments
from cmssl_hf.training.engine.unsupported import REFUSED
from cmssl_hf.training.finetuning import FinetuningArguments
from helpers.checkout import ROOT


SCRIPTS = ROOT / "scripts"
GIVEN = {
    "resume_from_checkpoint": "runs/other/checkpoint-8",
    "include_for_metrics": ["inputs"],
    "label_names": ["targets"],
    "length_column_name": "len",
    "label_smoothing_factor": 0.1,
    "optim_target_modules": "all-linear",
    "liger_kernel_config": {"rope": True},
    "deepspeed": "zero3.json",
}


def stage_arguments(**options):
    return StageArguments(**{"output_dir": "run", "use_cpu": True, "report_to": "none"} | options)


@pytest.mark.parametrize("name", REFUSED)
def test_argument_that_would_not_be_heeded_is_refused(name):
    default = {field.name: field.default for field in fields(StageArguments)}[name]
    with pytest.raises(ValueError, match=f"^`{name}` "):
        stage_arguments(**{name: GIVEN.get(name, not default)})


def test_flag_and_file_are_refused_alike(tmp_path):
    (tmp_path / "run.yaml").write_text("use_cpu: true\nresume_from_checkpoint: runs/other/checkpoint-8\n")
    for arguments in (
        [str(tmp_path / "run.yaml")],
        ["--use_cpu", "true", "--resume_from_checkpoint", "runs/other/checkpoint-8"],
    ):
        with pytest.raises(ValueError, match=r"continues by itself when its command is given again .* `output_dir`"):
            parse_arguments((StageArguments,), arguments)


@pytest.mark.parametrize("strategy", ["group_by_length", "batch_rebalance"])
def test_orders_that_cannot_be_made_are_refused(strategy):
    with pytest.raises(ValueError, match=f"must be random or sequential here, but is '{strategy}'"):
        stage_arguments(train_sampling_strategy=strategy)


@pytest.mark.parametrize("strategy", ["checkpoint", "all_checkpoints"])
def test_checkpoints_are_not_uploaded(strategy):
    with pytest.raises(ValueError, match=f"must be end or every_save here, but is '{strategy}'"):
        stage_arguments(hub_strategy=strategy)


@pytest.mark.parametrize("options", [{"hub_private_repo": True}, {"hub_revision": "a"}])
def test_settings_of_an_upload_need_one(options):
    with pytest.raises(ValueError, match="does nothing without `push_to_hub`"):
        stage_arguments(**options)


@pytest.mark.parametrize(
    "options",
    [{"eval_strategy": "no", "save_strategy": "no"}, {"metric_for_best_model": None}],
)
def test_patience_needs_something_to_compare(options):
    with pytest.raises(ValueError, match="`early_stopping_patience` needs evaluations"):
        stage_arguments(early_stopping_patience=2, load_best_model_at_end=False, **options)


@pytest.mark.parametrize("report_to", ["wandb", ["tensorboard", "wandb"], ["nowhere"]])
def test_logger_that_is_not_there_is_refused(report_to, monkeypatch):
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: False)
    with pytest.raises(ValueError, match=r"wandb|nowhere"):
        stage_arguments(report_to=report_to)


def test_several_loggers_or_none():
    for flags, expected in (
        (["tensorboard"], ["tensorboard"]),
        (["tensorboard", "tensorboard"], ["tensorboard"] * 2),
        (["none"], []),
    ):
        (arguments,) = parse_arguments((StageArguments,), ["--use_cpu", "true", "--report_to", *flags])
        assert arguments.report_to == expected


def test_refused_logger_is_one_line_before_data_are_read(tmp_path):
    command = [
        sys.executable, str(SCRIPTS / "finetune.py"), "--task", "bidmc_hr", "--data_dir", str(tmp_path / "nothing"),
        "--output_dir", str(tmp_path / "run"), "--from_scratch", "small", "--use_cpu", "true", "--report_to", "swanlab",
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert (
        result.stderr.strip().splitlines()[-1].startswith("error: `report_to` names swanlab, which cannot be used: ")
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "is_refused"),
    [
        ({}, False),
        ({"metric_for_best_model": "mae"}, False),
        ({"metric_for_best_model": "eval_mae", "greater_is_better": False}, False),
        ({"metric_for_best_model": "rmse"}, True),
        ({"metric_for_best_model": "loss"}, True),
        ({"greater_is_better": True}, True),
    ],
)
def test_metric_of_the_task_decides_or_says_so(options, is_refused):
    arguments = FinetuningArguments(output_dir="run", use_cpu=True, report_to="none", **options)
    task = get_task("bidmc_hr")
    if is_refused:
        with pytest.raises(ValueError, match="The best checkpoint of bidmc_hr is that with the smallest mae"):
            arguments.choose_best_by(task)
    else:
        arguments.choose_best_by(task)
        assert (arguments.metric_for_best_model, arguments.greater_is_better) == ("eval_mae", False)
