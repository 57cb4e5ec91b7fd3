"""Every task of the method comes out of `load_dataset` with what the task table says."""

import datasets
import numpy as np
import pytest

from cmssl_hf.data.loading import load_dataset, load_dataset_builder
from cmssl_hf.tasks import TASKS, get_task


RELEASES = {
    "bidmc": "bidmc-ppg-and-respiration-dataset-1.0.0",
    "csn": "ecg-arrhythmia-1.0.0",
    "physionet2017": "challenge-2017-1.0.0",
    "ppg_dalia": "ppg_dalia",
    "ptb_xl": "ptb-xl-a-large-publicly-available-electrocardiography-dataset-1.0.3",
    "uci_bp": "uci2_dataset",
}
# Sampling rate (Hz), shortest and longest row (s), and for regression the range in which labels of living people lie.
EXPECTED = {
    "bidmc_hr": (125, 10, 10, (30, 200)),
    "bidmc_rr": (125, 10, 10, (0, 60)),
    "ppg_dalia_hr": (64, 8, 8, (30, 200)),
    "ppg_dalia_rr": (64, 1250 / 64, 1250 / 64, (6, 30)),
    "uci_sbp": (125, 5, 5, (80, 200)),
    "uci_dbp": (125, 5, 5, (40, 120)),
    "uci_bp": (125, 5, 5, (40, 200)),
    "csn": (500, 10, 10, None),
    "physionet2017": (300, 9, 61, None),
    "ptb_xl": (100, 10, 10, None),
}


def test_all_tasks_of_the_method_are_here():
    # The task of any folder of WFDB records is tested with its builder.
    others = ("simulated", "wfdb_pairs")
    assert set(EXPECTED) == {name for name, task in TASKS.items() if task.dataset not in others}


@pytest.mark.parametrize("name", EXPECTED)
def test_rows_are_as_the_task_says(test_data, tmp_path, name):
    task = get_task(name)
    options = {"data_dir": test_data / RELEASES[task.dataset], "cache_dir": tmp_path}
    label_names = load_dataset_builder(task.dataset, task.config_name, **options).label_names
    data = load_dataset(task.dataset, task.config_name, streaming=True, **options)
    assert list(data) == ["train", "validation", "test"]
    rate, shortest, longest, label_range = EXPECTED[name]
    for rows in data.values():
        for row in rows.take(30):
            assert row["sampling_rate"] == rate
            assert shortest <= len(row["signal"]) / rate <= longest
            assert np.isfinite(row["signal"]).all()
            label = np.atleast_1d(row["label"])
            if task.problem_type == "regression":
                assert len(label) == len(task.label_names)
                assert (label >= label_range[0]).all() and (label <= label_range[1]).all()
            elif task.problem_type == "single_label_classification":
                assert rows.features["label"] == datasets.ClassLabel(names=list(label_names))
                assert row["label"] in range(len(label_names))
            else:
                assert len(label) == len(label_names)
                assert set(label) <= {0.0, 1.0}
