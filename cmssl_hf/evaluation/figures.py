"""Figures of a benchmark: label efficiency, scatter and Bland-Altman plots, ROC curves."""

from collections.abc import Collection, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from scipy.special import softmax
from sklearn.metrics import roc_auc_score, roc_curve

from .row_names import (
    CLASSICAL,
    CONSTANT_ROWS,
    RANDOM_FROZEN,
    SCRATCH,
    SCRATCH_SAME_STEPS,
    encoder_name,
    in_order,
    is_frozen,
)
from .summary import Cell, CellPredictions
from .task_windows import TaskWindows


_COLOURS = {
    "mean": "0.6",
    "median": "0.75",
    "majority": "0.6",
    CLASSICAL: "black",
    RANDOM_FROZEN: "tab:brown",
    SCRATCH: "tab:red",
    SCRATCH_SAME_STEPS: "salmon",
}


def _colours(rows: Collection[str]) -> dict[str, str]:
    """A colour for each row, in their order; frozen and full rows of an encoder share theirs."""
    names = {row: name for row in in_order(rows) if (name := encoder_name(row)) is not None}
    # Without the red and the brown of random weights.
    of_name = dict(zip(sorted(set(names.values())), cycle(f"C{number}" for number in (0, 1, 2, 4, 6, 7, 8, 9))))
    return {row: of_name[names[row]] if row in names else _COLOURS[row] for row in in_order(rows)}


def label_efficiency(results: pd.DataFrame, path: Path) -> None:
    """The main metric of every row over the share of labelled subjects, with intervals over subjects; one panel per split.

    Args:
        results: the lines of one task from `summary.result_rows`.
        path: of the PNG.
    """
    splits = sorted(results["split"].unique(), reverse=True)
    colours = _colours(set(results["row"]))
    figure = Figure(figsize=(6 * len(splits), 4.5), layout="constrained")
    for axes, split in zip(figure.subplots(1, len(splits), squeeze=False)[0], splits):
        of_split = results[results["split"] == split]
        rows = [row for row in colours if row in set(of_split["row"])]
        for position, row in enumerate(rows):
            line = of_split[of_split["row"] == row].sort_values("labels")
            # Side by side, so that intervals do not hide each other.
            x = line["labels"] * 1.03 ** (position - len(rows) / 2)
            errors = np.abs(line[["low", "high"]].to_numpy().T - line["value"].to_numpy())
            style = ":" if row in CONSTANT_ROWS else "--" if is_frozen(row) else "-"
            axes.errorbar(
                x, line["value"], yerr=errors, label=row, color=colours[row], linestyle=style, marker="o", capsize=3
            )
        axes.set_xscale("log")
        shares = sorted(of_split["labels"].unique())
        axes.set_xticks(shares, [f"{share:.0%}" for share in shares])
        axes.minorticks_off()
        axes.set_xlabel("labelled training subjects")
        axes.set_ylabel(results["metric"].iloc[0])
        where = "published split" if split == "paper" else "cross-validation over subjects"
        axes.set_title(f"{results['task'].iloc[0]}, {where} ({of_split['test_subjects'].iloc[0]} subjects)")
        axes.grid(alpha=0.3)
    # A row may be in one of the two only.
    shown: dict[str, Artist] = {}
    for each in figure.axes:
        handles, labels = each.get_legend_handles_labels()
        shown.update(zip(labels, handles))
    order = [row for row in colours if row in shown]
    axes.legend([shown[row] for row in order], order, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=110)


def agreement(cells: Mapping[Cell, CellPredictions], windows: TaskWindows, split: str, path: Path) -> None:
    """Predictions against labels, and Bland-Altman plots with bias and limits of agreement (1.96 standard deviations of the
    differences), for all labels and the first seed; one column per row of the benchmark."""
    shown = _shown(cells, windows, split)
    colours = _colours(shown)
    figure = Figure(figsize=(3.4 * len(shown), 6.8), layout="constrained")
    grid = figure.subplots(2, len(shown), squeeze=False, sharex="row", sharey="row")
    unit = windows.task.unit
    for column, (row, cell) in enumerate(shown.items()):
        labels = windows.labels[cell.rows].reshape(len(cell.rows), -1)[:, 0]
        predictions = next(iter(cell.by_seed.values()))[:, 0]
        above, below = grid[:, column]
        above.plot(labels, predictions, ".", markersize=2, alpha=0.4, color=colours[row])
        ends = [min(labels.min(), predictions.min()), max(labels.max(), predictions.max())]
        above.plot(ends, ends, color="0.4", linewidth=0.8)
        above.set_title(f"{row}, MAE {np.abs(predictions - labels).mean():.2f} {unit}", fontsize=9)
        above.set_xlabel(f"label ({unit})")
        difference = predictions - labels
        bias, limit = difference.mean(), 1.96 * difference.std()
        below.plot((labels + predictions) / 2, difference, ".", markersize=2, alpha=0.4, color=colours[row])
        for height, style in ((bias, "-"), (bias - limit, "--"), (bias + limit, "--")):
            below.axhline(height, color="0.3", linestyle=style, linewidth=0.8)
        below.set_title(f"bias {bias:+.2f}, limits {bias - limit:+.1f} to {bias + limit:+.1f}", fontsize=9)
        below.set_xlabel(f"mean of label and prediction ({unit})")
    grid[0, 0].set_ylabel(f"prediction ({unit})")
    grid[1, 0].set_ylabel(f"prediction - label ({unit})")
    figure.savefig(path, dpi=110)


def roc(cells: Mapping[Cell, CellPredictions], windows: TaskWindows, split: str, path: Path) -> None:
    """ROC curves of each class that has positives and negatives, for all labels and the first seed."""
    shown = _shown(cells, windows, split)
    colours = _colours(shown)
    labels = windows.labels[next(iter(shown.values())).rows]
    of_one_class = labels.ndim == 1
    if of_one_class:
        labels = labels[:, None] == np.arange(len(windows.output_names))
    scored = [index for index in range(labels.shape[1]) if 0 < (labels[:, index] > 0.5).sum() < len(labels)]
    figure = Figure(figsize=(3.6 * len(scored), 3.9), layout="constrained")
    for axes, index in zip(figure.subplots(1, len(scored), squeeze=False)[0], scored):
        positive = labels[:, index] > 0.5
        for row, cell in shown.items():
            scores = next(iter(cell.by_seed.values()))
            if of_one_class:
                scores = softmax(scores, axis=-1)
            scores = scores[:, index]
            false, true, _ = roc_curve(positive, scores)
            area = roc_auc_score(positive, scores)
            style = "--" if is_frozen(row) else "-"
            axes.plot(false, true, style, label=f"{row} {area:.2f}", color=colours[row], linewidth=1.2)
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
        axes.set_title(f"{windows.output_names[index]} ({positive.sum()} of {len(positive)})", fontsize=10)
        axes.set_xlabel("false positive rate")
        axes.legend(fontsize=7, loc="lower right")
    figure.axes[0].set_ylabel("true positive rate")
    figure.savefig(path, dpi=110)


def _shown(cells: Mapping[Cell, CellPredictions], windows: TaskWindows, split: str) -> dict[str, CellPredictions]:
    of_task = {cell: found for cell, found in cells.items() if cell.task == windows.task.name and cell.split == split}
    largest = max(cell.fraction for cell in of_task)
    by_row = {cell.row: found for cell, found in of_task.items() if cell.fraction == largest}
    shown = [row for row in in_order(by_row) if row not in (*CONSTANT_ROWS, SCRATCH_SAME_STEPS)]
    return {row: by_row[row] for row in shown or by_row}


def draw_figures(
    results: pd.DataFrame,
    cells: Mapping[Cell, CellPredictions],
    windows: Mapping[str, TaskWindows],
    folder: Path,
) -> Sequence[Path]:
    """Draws all figures of a benchmark into `folder` and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for task in results["task"].unique():
        of_task = results[results["task"] == task]
        paths.append(folder / f"{task}-label_efficiency.png")
        label_efficiency(of_task, paths[-1])
        regression = windows[task].task.problem_type == "regression"
        for split in of_task["split"].unique():
            paths.append(folder / f"{task}-{split}-{'agreement' if regression else 'roc'}.png")
            (agreement if regression else roc)(cells, windows[task], split, paths[-1])
    return paths


def limits(measured: Mapping[str, Any], unit: str, path: Path) -> None:
    """How often intervals hold the label, over how often they are to, and the error over the share of windows that is answered.

    Args:
        measured: of `cmssl_hf.training.calibration.measure_limits`.
        unit: of the error, e.g. `"bpm"`.
        path: of the PNG.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    coverage, risk = figure.subplots(1, 2)
    coverage.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    coverage.plot(*([row[name] for row in measured["coverage"]] for name in ("asked", "covered")), "o-", color="C0")
    coverage.set(xlabel="asked for", ylabel="held the label", title="intervals", xlim=(0.4, 1), ylim=(0.4, 1))
    risk.plot(*([row[name] for row in measured["risk"]] for name in ("answered", "error")), "o-", color="C1")
    risk.set(xlabel="share of windows answered, surest first", ylabel=f"mean absolute error, {unit}", title="answers")
    risk.set(xlim=(0, 1.03), ylim=(0, None))
    figure.savefig(path, dpi=110)
