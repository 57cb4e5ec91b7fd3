"""The table of tasks agrees with the contract, the builders and the metrics."""

from dataclasses import replace

import datasets
import pytest

from cmssl_hf import tasks
from cmssl_hf.data.loading import load_dataset_builder
from cmssl_hf.tasks import TASKS, get_task


PUBLIC = {
    "bidmc_hr": ("bidmc", "ppg", "regression", 1),
    "bidmc_rr": ("bidmc", "ppg", "regression", 1),
    "ppg_dalia_hr": ("ppg_dalia", "ppg", "regression", 1),
    "ppg_dalia_rr": ("ppg_dalia", "ppg", "regression", 1),
    "uci_sbp": ("uci_bp", "ppg", "regression", 1),
    "uci_dbp": ("uci_bp", "ppg", "regression", 1),
    "uci_bp": ("uci_bp", "ppg", "regression", 2),
    "csn": ("csn", "ecg", "multi_label_classification", 0),
    "physionet2017": ("physionet2017", "ecg", "single_label_classification", 0),
    "ptb_xl": ("ptb_xl", "ecg", "multi_label_classification", 0),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_tasks(name):
    task = get_task(name)
    assert (task.dataset, task.channel, task.problem_type, len(task.label_names)) == PUBLIC[name]


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_builder_gives_labels_of_the_task_s_kind(task):
    builder = load_dataset_builder(task.dataset, task.config_name)
    assert task.config_name in builder.builder_configs
    label = builder.info.features["label"]
    if task.problem_type == "single_label_classification":
        assert isinstance(label, datasets.ClassLabel)
    elif task.problem_type == "multi_label_classification" or len(task.label_names) > 1:
        assert label.feature.dtype == "float32"
    else:
        assert label.dtype == "float32"


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_best_checkpoint_is_that_of_the_smallest_error_or_largest_area(task):
    expected = ("mae", False) if task.problem_type == "regression" else ("auroc", True)
    assert (task.metric_for_best_model, task.greater_is_better) == expected


def test_only_rates_scale_with_playing_speed():
    assert {name.rpartition("_")[2] for name, task in TASKS.items() if task.label_is_rate} == {"hr", "rr"}
    assert all(task.label_is_rate for name, task in TASKS.items() if name.endswith(("_hr", "_rr")))


def test_unknown_task_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"Unknown task 'bidmc_bp'\. Tasks: bidmc_hr, .*ptb_xl"):
        get_task("bidmc_bp")


def test_former_name_still_works_with_a_warning(caplog):
    assert get_task("ptb-xl") is TASKS["ptb_xl"]
    assert "The task ptb-xl is now called ptb_xl." in caplog.text


def test_tasks_can_be_registered_but_not_replaced(monkeypatch):
    monkeypatch.setattr(tasks, "TASKS", dict(TASKS))
    mine = replace(TASKS["bidmc_hr"], name="my_hr", dataset="mine")
    assert tasks.register_task(mine) is mine and get_task("my_hr") is mine
    tasks.register_task(replace(mine))  # the same once more: a module that is imported twice
    with pytest.raises(ValueError, match=r"There is another task called 'my_hr': Task.*dataset='mine'"):
        tasks.register_task(replace(mine, dataset="other"))
