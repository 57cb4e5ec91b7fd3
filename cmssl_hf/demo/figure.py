"""The figure of a view, all panels over one time axis."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from plotly.colors import cyclical
from plotly.graph_objects import Figure, Heatmap, Scatter
from plotly.subplots import make_subplots

from ..heartbeats import beat_times
from .view import View


#: What a browser can hold: the first half hour, and of its signal this many points.
SHOWN_SECONDS = 1800.0
_MOST_POINTS = 80_000

_SIGNAL, _STRIP, _NUMBERS = 200, 34, 200
_BLOCKS = "▁▂▃▄▅▆▇█"
#: Multiples of it modulo 1 lie far apart, so that codes that follow each other differ in colour.
_GOLDEN_RATIO = (5**0.5 - 1) / 2


def draw(view: View) -> Figure:
    """Signals with beats, quality of the windows, codes with their waveforms, and the answer over time."""
    answer, recording = view.answer, view.answer["recording"]
    windows = [window for window in answer["windows"] if window["start"] < SHOWN_SECONDS]
    classes = next((list(window["scores"]) for window in windows if "scores" in window), [])
    labels = [] if classes else list(dict.fromkeys(name for window in windows for name in window["value"] or ()))
    heights = [*[_SIGNAL] * len(recording.signals), _STRIP, _STRIP]
    heights += [_STRIP * len(classes)] if classes else [_NUMBERS] * len(labels)
    gap, total = 24, sum(heights) + 24 * (len(heights) - 1)
    figure = make_subplots(len(heights), 1, shared_xaxes=True, row_heights=heights, vertical_spacing=gap / total)
    row = 0
    for row, channel in enumerate(recording.signals, 1):
        _draw_signal(figure, row, recording, channel)
    _draw_quality(figure, row + 1, windows)
    _draw_codes(figure, row + 2, view)
    if classes:
        _draw_classes(figure, row + 3, windows, classes)
    for position, name in enumerate(labels):
        _draw_numbers(figure, row + 3 + position, windows, name, answer["unit"])
    figure.update_xaxes(range=[0, min(answer["end"], SHOWN_SECONDS)], showgrid=False)
    figure.update_xaxes(title_text="time (s)", row=len(heights))
    figure.update_layout(
        height=total + 90,
        template="plotly_white",
        showlegend=False,
        margin={"l": 90, "r": 20, "t": 10, "b": 50},
        hoverlabel={"font_family": "monospace"},
    )
    return figure


def _draw_signal(figure: Figure, row: int, recording: Any, channel: str) -> None:
    rate = recording.sampling_rates[channel]
    signal = recording.signals[channel][: round(SHOWN_SECONDS * rate)]
    times = np.arange(len(signal)) / rate
    beats = beat_times(signal, rate, channel)
    heights = np.interp(beats, times, signal)
    times, signal = _thinned(times, signal)
    name = f"{channel} ({unit})" if (unit := recording.units.get(channel)) else channel
    figure.add_trace(Scatter(x=times, y=signal, line={"color": "#555", "width": 1}, hoverinfo="skip"), row, 1)
    beat = {"x": beats, "y": heights, "mode": "markers", "marker": {"color": "#d62728", "size": 5}}
    figure.add_trace(Scatter(**beat, name="beat", hovertemplate="beat at %{x:.2f} s<extra></extra>"), row, 1)
    figure.update_yaxes(title_text=name, row=row)


def _thinned(times: np.ndarray, signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest of each few samples, where there are more than can be seen."""
    step = -(-2 * len(signal) // _MOST_POINTS)
    if step <= 2:
        return times, signal
    padded = np.pad(signal, (0, -len(signal) % step), mode="edge").reshape(-1, step)
    starts = times[::step]
    # Each pair over half of its time; a gap stays one.
    return np.stack([starts, starts + (times[1] - times[0]) * step / 2], 1).ravel(), np.stack(
        [padded.min(1), padded.max(1)], 1
    ).ravel()


def _draw_quality(figure: Figure, row: int, windows: Sequence[Mapping[str, Any]]) -> None:
    said = [
        window.get("reason") or f"quality {window['quality']:.2f} {', '.join(window['quality_issues'])}".strip()
        for window in windows
    ]
    values = [window.get("quality", np.nan) for window in windows]
    _strip(figure, row, windows, [values], [said], "RdYlGn")
    figure.update_yaxes(tickvals=[0], ticktext=["quality"], row=row)


def _draw_codes(figure: Figure, row: int, view: View) -> None:
    codes = view.codes[: round(SHOWN_SECONDS / view.code_seconds)]
    said = _sparklines(view.waveforms)
    texts = [f"code {code}<br>{said[code]}" if code >= 0 else "no code" for code in codes.tolist()]
    colours = np.where(codes >= 0, codes * _GOLDEN_RATIO % 1, np.nan)
    edges = np.arange(len(codes) + 1) * view.code_seconds
    scale = [[share, colour] for share, colour in zip(np.linspace(0, 1, len(cyclical.HSV)), cyclical.HSV)]
    heatmap = Heatmap(x=edges, y=[0], z=[colours], text=[texts], hovertemplate="%{text}<extra></extra>")
    figure.add_trace(heatmap.update(zmin=0, zmax=1, colorscale=scale, showscale=False), row, 1)
    figure.update_yaxes(tickvals=[0], ticktext=["codes"], fixedrange=True, row=row)


def _sparklines(waveforms: Mapping[int, np.ndarray]) -> dict[int, str]:
    """Waveforms as text, all on one scale."""
    if not waveforms:
        return {}
    low, high = np.quantile(np.concatenate([*waveforms.values()]), (0.01, 0.99))
    said = {}
    for code, waveform in waveforms.items():
        means = [part.mean() for part in np.array_split(waveform, min(len(waveform), 12))]
        levels = np.clip((np.array(means) - low) / max(high - low, 1e-9), 0, 1) * (len(_BLOCKS) - 1)
        said[code] = "".join(_BLOCKS[level] for level in levels.round().astype(int))
    return said


def _draw_classes(figure: Figure, row: int, windows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> None:
    values = [
        [np.nan if window["value"] is None else window["scores"][name] for window in windows] for name in classes
    ]
    said = [[f"{name}: {value:.2f}" for value in of_class] for name, of_class in zip(classes, values)]
    _strip(figure, row, windows, values, said, "Blues")
    figure.update_yaxes(tickvals=[*range(len(classes))], ticktext=classes, autorange="reversed", row=row)


def _strip(figure: Figure, row: int, windows: Any, values: Any, said: Any, scale: str) -> None:
    """Rows of coloured windows, which follow each other."""
    edges = [*(window["start"] for window in windows), windows[-1]["end"]]
    strip = Heatmap(x=edges, y=[*range(len(values))], z=values, text=said, hovertemplate="%{text}<extra></extra>")
    figure.add_trace(strip.update(zmin=0, zmax=1, colorscale=scale, showscale=False), row, 1)
    figure.update_yaxes(fixedrange=True, row=row)


def _draw_numbers(figure: Figure, row: int, windows: Any, name: str, unit: str | None) -> None:
    answered = [window for window in windows if window["value"] is not None]
    known = [window for window in answered if window.get("interval")]
    x = [time for window in known for time in (*[window["start"]] * 2, *[window["end"]] * 2, None)]
    y = [
        end
        for w in known
        for end in (w["interval"][name][0], w["interval"][name][1], *w["interval"][name][::-1], None)
    ]
    band = Scatter(x=x, y=y, fill="toself", line={"width": 0}, fillcolor="rgba(31, 119, 180, 0.25)", hoverinfo="skip")
    figure.add_trace(band.update(mode="lines", name="interval"), row, 1)
    x = [time for window in answered for time in (window["start"], window["end"], None)]
    y = [value for window in answered for value in (*[window["value"][name]] * 2, None)]
    line = Scatter(x=x, y=y, mode="lines", name=name, line={"color": "#1f77b4", "width": 3})
    figure.add_trace(line.update(hovertemplate=f"%{{y:.1f}} {unit or ''}<extra></extra>"), row, 1)
    label = name.replace("_", " ")
    figure.update_yaxes(title_text=f"{label}<br>({unit})" if unit else label, row=row)


__all__ = ["SHOWN_SECONDS", "draw"]
