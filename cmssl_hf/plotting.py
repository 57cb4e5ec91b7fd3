"""Figures of the answers of pipelines, for notebooks; needs matplotlib."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import naming_the_extra
from .heartbeats import beat_times


with naming_the_extra():
    from matplotlib import colormaps, pyplot
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 11.0
#: Heights of the panels of a signal, of numbers, and of a strip.
_TALL, _MIDDLE, _STRIP = 1.8, 2.0, 0.35


def plot(answer: Mapping[str, Any]) -> Figure:
    """Draws the answer of a pipeline to one recording over time: with `return_recording=True` the signals and their beats; the
    quality of the windows, grey where none could be used; numbers with their intervals, or the probabilities of classes.

    Raises:
        ValueError: if the answer has no windows, or holds features.
    """
    if not answer["windows"]:
        raise ValueError(f"The answer has no windows: {answer.get('reason')}")
    answered = [window for window in answer["windows"] if window["value"] is not None]
    panels: list[tuple[float, Any, tuple[Any, ...]]] = []
    if "recording" in answer:
        panels += [(_TALL, _draw_signal, (answer["recording"], channel)) for channel in answer["recording"].signals]
    panels.append((_STRIP, _draw_quality, ()))
    classes = next((list(window["scores"]) for window in answered if "scores" in window), [])
    if classes:
        panels.append((_STRIP * (1 + len(classes)), _draw_classes, (classes,)))
    elif any(not isinstance(window["value"], Mapping) for window in answered):
        raise ValueError("Numbers and classes are drawn, but this answer holds features.")
    else:
        names = dict.fromkeys(name for window in answered for name in window["value"])
        panels += [(_MIDDLE, _draw_numbers, (name, answer)) for name in names]
    heights = [height for height, *_ in panels]
    figure = pyplot.figure(figsize=(_WIDTH, sum(heights) + 0.6), layout="constrained")
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (_, draw, arguments) in zip(grid, panels):
        draw(axes, answer["windows"], *arguments)
    grid[-1].set_xlim(answer["start"], answer["end"])
    grid[-1].set_xlabel("time (s)")
    # Notebooks show what is returned, and would show an open figure as well.
    pyplot.close(figure)
    return figure


def _draw_signal(axes: Axes, windows: Sequence[Mapping[str, Any]], recording: Any, channel: str) -> None:
    signal, rate = recording.signals[channel], recording.sampling_rates[channel]
    times = np.arange(len(signal)) / rate
    axes.plot(times, signal, color="0.3", linewidth=0.7)
    beats = beat_times(signal, rate, channel)
    axes.plot(beats, np.interp(beats, times, signal), ".", color="tab:red", markersize=4, label="beats")
    unit = recording.units.get(channel)
    axes.set_ylabel(f"{channel} ({unit})" if unit else channel)
    axes.legend(loc="upper right", fontsize=8)


def _draw_quality(axes: Axes, windows: Sequence[Mapping[str, Any]]) -> None:
    for window in windows:
        colour = colormaps["RdYlGn"](window["quality"]) if "quality" in window else "0.8"
        axes.broken_barh([(window["start"], window["end"] - window["start"])], (0, 1), facecolor=colour)
    axes.set_ylim(0, 1)
    axes.set_yticks([0.5], ["quality"])


def _draw_numbers(axes: Axes, windows: Sequence[Mapping[str, Any]], name: str, answer: Mapping[str, Any]) -> None:
    for window in windows:
        if window["value"] is None:
            continue
        times = (window["start"], window["end"])
        if window.get("interval"):
            axes.fill_between(times, *window["interval"][name], color="tab:blue", alpha=0.2, linewidth=0)
        axes.plot(times, [window["value"][name]] * 2, color="tab:blue", linewidth=2)
    if answer["value"] is not None:
        whole = answer["value"][name]
        axes.axhline(whole, color="0.3", linestyle="--", linewidth=0.8, label=f"{whole:.4g} {answer['unit'] or ''}")
        axes.legend(loc="upper right", fontsize=8)
    label = name.replace("_", " ")
    axes.set_ylabel(f"{label} ({answer['unit']})" if answer["unit"] else label)
    axes.grid(alpha=0.3)


def _draw_classes(axes: Axes, windows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> None:
    for window in windows:
        if window["value"] is None:
            continue
        for row, name in enumerate(classes):
            colour = colormaps["Blues"](window["scores"][name])
            axes.broken_barh([(window["start"], window["end"] - window["start"])], (row - 0.5, 1), facecolor=colour)
    axes.set_yticks(range(len(classes)), classes)
    axes.set_ylim(len(classes) - 0.5, -0.5)


__all__ = ["plot"]
