"""The codes that a tokenizer uses most: the waveforms that they stand for, how often they occur, and where in the beat."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..heartbeats import beat_times
from ..models.cmssl.modeling_cmssl_tokenizer import CMSSLTokenizerModel


#: Parts of a beat in which occurrences are counted.
NUM_PARTS = 20

_COLOURS = {"ecg": "tab:red", "ppg": "tab:blue"}
_CODES_PER_ROW = 6


@dataclass(frozen=True)
class TokenAtlas:
    """What the most used codes of a tokenizer stand for.

    Attributes:
        table: a row for each code, the most used first, with `code`, `count`, `share` (of all patches), `position` (circular mean of
            where in the beat the middle of its patches lies, 0 at one beat and 1 at the next) and `concentration` (0: anywhere in the
            beat, 1: always there); NaN where no beat was found.
        waveforms: mean of its patches and of the patches beside them `(codes, channels, 3 * patch_size)`, in standard deviations of
            the window; NaN if it only occurs at the ends of windows.
        spreads: their standard deviations, of the same shape.
        positions: share of its patches in each of `NUM_PARTS` parts of the beat `(codes, NUM_PARTS)`.
        channels: of the tokenizer.
        sampling_rate: in Hz.
        beat: what beats are counted from: `"R-peak"`, or `"pulse onset"` where the tokenizer reads no ECG.
    """

    table: pd.DataFrame
    waveforms: np.ndarray
    spreads: np.ndarray
    positions: np.ndarray
    channels: tuple[str, ...]
    sampling_rate: int
    beat: str

    def to_frame(self) -> pd.DataFrame:
        """`table` with further columns: the parts of the beat (`beat_0.00`, by where they begin) and the mean patch by the time since
        its first sample (`ecg_8ms`)."""
        parts = pd.DataFrame(self.positions, columns=[f"beat_{part / NUM_PARTS:.2f}" for part in range(NUM_PARTS)])
        size = self.waveforms.shape[-1] // 3
        times = [f"{1000 * sample / self.sampling_rate:g}ms" for sample in range(size)]
        waves = self.waveforms[:, :, size : 2 * size].reshape(len(self.table), -1)
        names = [f"{channel}_{time}" for channel in self.channels for time in times]
        return pd.concat([self.table, parts, pd.DataFrame(waves, columns=names)], axis=1)

    def draw(self) -> Figure:
        """A panel for each code, in the order of their place in the beat: its mean patch (between the dotted lines) with its
        neighbours and their standard deviation, and below it where in the beat it occurs."""
        order = np.argsort(self.table["position"].to_numpy(), kind="stable")
        num_rows = -(-len(order) // _CODES_PER_ROW)
        figure = Figure(figsize=(2.1 * _CODES_PER_ROW, 2.3 * num_rows + 0.6), layout="constrained")
        grid = figure.subplots(2 * num_rows, _CODES_PER_ROW, squeeze=False, height_ratios=[5, 1] * num_rows)
        for axes in grid.flat:
            axes.set_axis_off()
        limits = _limits(self.waveforms, self.spreads)
        for place, code in enumerate(order):
            row, column = divmod(place, _CODES_PER_ROW)
            self._draw_wave(grid[2 * row, column], code, limits)
            self._draw_positions(grid[2 * row + 1, column], code)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), fontsize=8)
        about = (
            "Each code with its share of all patches: the mean patch, between the dotted lines, and its neighbours (standard deviations,"
            f" s).\nBelow: where in the beat it occurs, from one {self.beat} to the next."
        )
        figure.suptitle(about, fontsize=9, x=0.01, ha="left")
        return figure

    def _draw_wave(self, axes: Axes, code: int, limits: tuple[float, float]) -> None:
        size = self.waveforms.shape[-1] // 3
        seconds = np.arange(-size, 2 * size) / self.sampling_rate
        axes.set_axis_on()
        for channel, wave, spread in zip(self.channels, self.waveforms[code], self.spreads[code]):
            axes.plot(seconds, wave, color=_COLOURS[channel], linewidth=1.2, label=channel.upper())
            axes.fill_between(seconds, wave - spread, wave + spread, color=_COLOURS[channel], alpha=0.15, linewidth=0)
        for edge in (0, size / self.sampling_rate):
            axes.axvline(edge, color="0.5", linestyle=":", linewidth=0.8)
        axes.set_ylim(*limits)
        axes.set_xlim(seconds[0], seconds[-1])
        row = self.table.iloc[code]
        axes.set_title(f"code {row['code']:.0f}: {row['share']:.2%}", fontsize=8, pad=3)
        axes.tick_params(labelsize=6, length=2, pad=1)

    def _draw_positions(self, axes: Axes, code: int) -> None:
        axes.set_axis_on()
        axes.bar(np.arange(NUM_PARTS) / NUM_PARTS, self.positions[code], 1 / NUM_PARTS, align="edge", color="0.4")
        axes.set_xlim(0, 1)
        axes.set_yticks([])
        axes.set_xticks([0, 0.5, 1], ["0", "½", "1"], fontsize=6)
        axes.tick_params(length=2, pad=1)


def token_atlas(
    model: CMSSLTokenizerModel, windows: Iterable[np.ndarray], *, num_codes: int = 24, batch_size: int = 64
) -> TokenAtlas:
    """Encodes windows and gathers what each code stands for; memory does not grow with their number.

    Args:
        model: the tokenizer; it is put into evaluation mode.
        windows: float arrays `(channels, samples)` as its feature extractor returns them; what is left of whole patches is cut off.
        num_codes: how many codes are told of; fewer if fewer are used.
        batch_size: windows of one length that the model gets at a time.

    Raises:
        ValueError: if there is no window of at least one patch.
    """
    config = model.config
    size, channels = config.patch_size, tuple(config.channels)
    shape = (config.codebook_size, len(channels), 3 * size)
    counts, inner = np.zeros((2, config.codebook_size), dtype=np.int64)
    sums, squares = np.zeros(shape), np.zeros(shape)
    positions = np.zeros((config.codebook_size, NUM_PARTS))
    turns = np.zeros(config.codebook_size, dtype=np.complex128)
    for signals, codes in _encoded(model, windows, batch_size):
        np.add.at(counts, codes, 1)
        if len(codes) > 2:
            contexts = np.lib.stride_tricks.sliding_window_view(signals, 3 * size, axis=-1)[:, ::size].swapaxes(0, 1)
            np.add.at(inner, codes[1:-1], 1)
            np.add.at(sums, codes[1:-1], contexts)
            np.add.at(squares, codes[1:-1], contexts**2)
        places = _places_in_beat(signals, channels, (np.arange(len(codes)) + 0.5) * size, config.sampling_rate)
        known = np.isfinite(places)
        np.add.at(positions, (codes[known], (places[known] * NUM_PARTS).astype(int)), 1)
        np.add.at(turns, codes[known], np.exp(2j * np.pi * places[known]))
    if not counts.any():
        raise ValueError(f"There is no window of at least one patch ({size} samples).")
    shown = np.argsort(-counts, kind="stable")[: min(num_codes, np.count_nonzero(counts))]
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums[shown] / inner[shown, None, None]
        spreads = np.sqrt(np.maximum(squares[shown] / inner[shown, None, None] - means**2, 0))
        timed = positions[shown].sum(1)
        mean_turns = turns[shown] / timed
        shares = positions[shown] / timed[:, None]
    table = pd.DataFrame(
        {
            "code": shown,
            "count": counts[shown],
            "share": counts[shown] / counts.sum(),
            "position": np.angle(mean_turns) / (2 * np.pi) % 1,
            "concentration": np.abs(mean_turns),
        }
    )
    beat = "R-peak" if "ecg" in channels else "pulse onset"
    return TokenAtlas(table, means, spreads, shares, channels, config.sampling_rate, beat)


def _encoded(
    model: CMSSLTokenizerModel, windows: Iterable[np.ndarray], batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each window, cut to whole patches, with its codes `(patches,)`."""
    size = model.config.patch_size
    whole = (window[:, : window.shape[1] // size * size] for window in map(np.asarray, windows))
    model.eval()
    for (_, length), alike in groupby(whole, key=np.shape):
        while length and (part := [*islice(alike, batch_size)]):
            batch = torch.from_numpy(np.stack(part)).to(model.device, torch.float32)
            with torch.inference_mode():
                codes = model.encode(batch).cpu().numpy()
            yield from zip(part, codes)


def _places_in_beat(
    signals: np.ndarray, channels: tuple[str, ...], samples: np.ndarray, sampling_rate: float
) -> np.ndarray:
    """Where samples lie between a beat (0) and the next one (1); NaN before the first beat and after the last."""
    channel = "ecg" if "ecg" in channels else "ppg"
    beats = beat_times(signals[channels.index(channel)], sampling_rate, channel) * sampling_rate
    if len(beats) < 2:
        return np.full(len(samples), np.nan)
    return np.interp(samples, beats, np.arange(len(beats)), left=np.nan, right=np.nan) % 1


def _limits(waveforms: np.ndarray, spreads: np.ndarray) -> tuple[float, float]:
    """The same for all panels, so that heights can be compared."""
    return float(np.nanmin(waveforms - spreads)), float(np.nanmax(waveforms + spreads))
