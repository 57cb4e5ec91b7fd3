"""Answers become columns, whatever numbers they hold."""

import numpy as np
import pytest

from cmssl_hf.command_line.rows import answer_rows


ANSWER = {
    "start": 0.0,
    "end": 20.0,
    "value": {"systolic": np.float32(120.5), "diastolic": 80.0},
    "interval": {"systolic": (np.float32(110), 131.0), "diastolic": (70.0, float("inf"))},
    "set": ["normal", "AF"],
    "scores": {"AF": 0.25},
    "quality": 1,
    "quality_issues": [],
    "windows": [{"start": 0.0, "end": 20.0, "value": None, "reason": "flat"}],
}


def test_numbers_of_answers_are_columns():
    assert answer_rows(ANSWER, per_window=False) == [
        {
            "start": 0.0,
            "end": 20.0,
            "systolic": 120.5,
            "diastolic": 80.0,
            "interval_systolic_low": 110.0,
            "interval_systolic_high": 131.0,
            "interval_diastolic_low": 70.0,
            "interval_diastolic_high": None,
            "set": "normal;AF",
            "scores_AF": 0.25,
            "quality": 1,
            "quality_issues": "",
        }
    ]
    assert answer_rows(ANSWER, per_window=True) == [{"start": 0.0, "end": 20.0, "reason": "flat"}]


@pytest.mark.parametrize("size", [2, 3])
def test_features_are_numbered(size):
    (row,) = answer_rows({"value": np.arange(size, dtype=np.float32), "windows": [{}]}, per_window=False)
    assert row == {f"feature_{index}": float(index) for index in range(size)}
