"""What figures of answers show."""

import numpy as np
import pytest
from matplotlib import colormaps, pyplot

from cmssl_hf.models.cmssl.recordings_cmssl import Recording
from cmssl_hf.plotting import plot


def regression(**more) -> dict:
    windows = [
        {"start": 0.0, "end": 10.0, "value": {"rate": 70.0}, "interval": {"rate": [65.0, 76.0]}, "quality": 0.9},
        {"start": 10.0, "end": 20.0, "value": None, "reason": "flat"},
        {"start": 20.0, "end": 25.0, "value": {"rate": 80.0}, "interval": None, "quality": 0.2},
    ]
    return {"start": 0.0, "end": 25.0, "value": {"rate": 75.0}, "unit": "bpm", "windows": windows, **more}


def strip(axes) -> dict:
    """Start and row of each bar of a strip, and its colour."""
    return {
        (path.vertices[:, 0].min(), np.ptp(path.vertices[:, 1]) / 2 + path.vertices[:, 1].min()): tuple(
            collection.get_facecolor()[0]
        )
        for collection in axes.collections
        for path in collection.get_paths()
    }


def test_numbers_stand_over_their_windows_with_their_intervals():
    quality, rates = plot(regression()).axes
    lines = [line.get_xydata().tolist() for line in rates.lines]
    assert lines == [[[0, 70], [10, 70]], [[20, 80], [25, 80]], [[0, 75], [1, 75]]]
    (interval,) = rates.collections
    corners = interval.get_paths()[0].vertices
    assert (corners.min(0).tolist(), corners.max(0).tolist()) == ([0, 65], [10, 76])
    assert rates.get_ylabel() == "rate (bpm)" and rates.get_xlim() == (0, 25)
    scale = colormaps["RdYlGn"]
    colours = strip(quality)
    assert {start: colours[start, 0.5] for start, _ in colours} == {
        0: scale(0.9), 10: (0.8, 0.8, 0.8, 1.0), 20: scale(0.2)
    }  # fmt: skip


def test_the_signal_is_shown_with_its_beats():
    times = np.arange(25 * 125) / 125
    beats = np.arange(0.5, 25, 0.8)
    ecg = np.exp(-0.5 * ((times[:, None] - beats) / 0.012) ** 2).sum(1)
    recording = Recording("r", {"ecg": ecg}, {"ecg": 125.0}, {"ecg": "mV"})
    signal, *_ = plot(regression(recording=recording)).axes
    samples, found = signal.lines
    np.testing.assert_array_equal(samples.get_xydata(), np.stack([times, ecg], 1))
    np.testing.assert_allclose(found.get_xdata(), beats, atol=0.01)
    np.testing.assert_allclose(found.get_ydata(), 1, atol=0.2)
    assert signal.get_ylabel() == "ecg (mV)"


def test_classes_have_a_row_each():
    windows = [
        {"start": 0.0, "end": 30.0, "value": "A", "scores": {"N": 0.1, "A": 0.9}, "quality": 1.0},
        {
            "start": 30.0,
            "end": 60.0,
            "value": None,
            "scores": {"N": 0.5, "A": 0.5},
            "reason": "too wide",
            "quality": 1.0,
        },
    ]
    answer = {"start": 0.0, "end": 60.0, "value": "A", "scores": {"N": 0.1, "A": 0.9}, "windows": windows}
    _, classes = plot(answer).axes
    # What is withheld is not drawn.
    assert strip(classes) == {(0, 0): colormaps["Blues"](0.1), (0, 1): colormaps["Blues"](0.9)}
    assert [label.get_text() for label in classes.get_yticklabels()] == ["N", "A"]


def test_an_answer_that_is_withheld_is_drawn_without_its_value():
    answer = regression(value=None, reason="too wide")
    _, rates = plot(answer).axes
    assert len(rates.lines) == 2


def test_no_figure_stays_open():
    plot(regression())
    assert not pyplot.get_fignums()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"windows": [], "reason": "There is no file"}, "has no windows: There is no file"),
        ({"windows": [{"start": 0, "end": 10, "value": np.zeros(3), "quality": 1.0}]}, "holds features"),
    ],
)
def test_answers_that_cannot_be_drawn(answer, message):
    with pytest.raises(ValueError, match=message):
        plot(answer)
