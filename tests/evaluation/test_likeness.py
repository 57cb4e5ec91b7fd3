"""What recordings are compared by, against signals of which it is known."""

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from cmssl_hf.evaluation.likeness import compare_windows, measure_windows


RATE = 125
TIMES = np.arange(10 * RATE) / RATE


def window(rate=60.0, delay=0.3):
    beats = np.arange(0.4, 10, 60 / rate)
    ecg = np.exp(-0.5 * ((TIMES[:, None] - beats) / 0.015) ** 2).sum(1)
    ppg = np.exp(-0.5 * ((TIMES[:, None] - beats - delay) / 0.1) ** 2).sum(1)
    return {"ecg": ecg, "ppg": ppg, "sampling_rate": float(RATE)}


def test_rhythm_and_delay():
    table = measure_windows(Dataset.from_list([window(), window(rate=90, delay=0.2)]))
    assert list(table["mean_rate"]) == pytest.approx([60, 90], abs=0.5)
    assert list(table["delay_ms"]) == pytest.approx([300, 200], abs=8)
    assert (table["std"] < 0.01).all() and (table["beat_correlation"] > 0.95).all()


def test_shares_of_power_lie_where_it_is():
    slow, fast = (np.sin(2 * np.pi * frequency * TIMES) for frequency in (1.0, 6.0))
    rows = [
        {"ecg": fast, "ppg": slow, "sampling_rate": float(RATE)},
        {"ecg": slow, "ppg": fast, "sampling_rate": float(RATE)},
    ]
    table = measure_windows(Dataset.from_list(rows))
    assert list(table["ecg_4-10_hz"].round(1)) == [1, 0] and list(table["ecg_0.5-4_hz"].round(1)) == [0, 1]
    assert list(table["ppg_0.5-1.5_hz"].round(1)) == [1, 0] and list(table["ppg_5-8_hz"].round(1)) == [0, 1]
    np.testing.assert_allclose(table.filter(regex="^ecg_.*hz$").sum(axis=1), 1)
    assert table["ppg_kurtosis"][0] == pytest.approx(1.5, abs=0.1)


def test_overlap_is_how_often_one_is_above_the_other():
    first, second = np.random.default_rng(0).normal([[0.5], [0.0]], 1, (2, 200))
    table = compare_windows(
        pd.DataFrame({"x": first, "y": [0.0] * 200}), pd.DataFrame({"x": second, "y": [1.0] * 200})
    )
    assert table["overlap"]["x"] == pytest.approx(np.mean(first[:, None] > second))
    assert table["overlap"]["y"] == 0
    assert table["second 75%"]["x"] == pytest.approx(np.quantile(second, 0.75))


def test_gaps_are_bridged():
    row = window()
    whole = measure_windows(Dataset.from_list([row]))
    row["ppg"][600:610] = row["ecg"][600:610] = np.nan
    with_gap = measure_windows(Dataset.from_list([row]))
    assert np.isfinite(with_gap.to_numpy()).all()
    assert with_gap["ppg_0.5-1.5_hz"][0] == pytest.approx(whole["ppg_0.5-1.5_hz"][0], abs=0.02)


def test_too_few_beats_are_left_out():
    flat = {"ecg": np.cumsum(np.ones(1250)), "ppg": np.sin(TIMES), "sampling_rate": float(RATE)}
    table = measure_windows(Dataset.from_list([window(), flat]))
    assert np.isnan(table["delay_ms"][1])
    assert np.isfinite(compare_windows(table, table)["overlap"]).all()
