"""From outcomes to tables: metrics with intervals over subjects, and paired differences."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from ..training.results import score
from .intervals import bootstrap, primary_metric
from .plan import BenchmarkPlan
from .results_store import Combination, Outcome
from .row_names import CLASSICAL, RANDOM_FROZEN, RANDOM_ROWS, SCRATCH, encoder_name, in_order, is_frozen, is_full
from .task_windows import TaskWindows


#: The two tables: rows of the backbone that random weights have, beside those that have none; and rows of other backbones.
SAME_BACKBONE, AS_PUBLISHED = "same_backbone", "as_published"


@dataclass(frozen=True, order=True)
class Cell:
    """One line of the result table: seeds, and folds, taken together."""

    task: str
    split: str
    fraction: float
    row: str


@dataclass
class CellPredictions:
    """Predictions of all test windows `(windows, outputs)` by seed; on the folds each window comes from the fold it is tested
    in. `rows` are the windows' indices, increasing, and `details` the notes of all outcomes."""

    rows: np.ndarray
    by_seed: dict[int, np.ndarray]
    num_test_folds: int
    details: list[dict[str, Any]] = field(default_factory=list)

    @property
    def backbone(self) -> dict[str, Any] | None:
        """That of the row's encoders, if it has any; seeds have one architecture."""
        return next((details["backbone"] for details in self.details if "backbone" in details), None)


def collect(outcomes: Mapping[Combination, Outcome], num_folds: int) -> dict[Cell, CellPredictions]:
    """Brings the outcomes of seeds and folds together; seeds with missing folds are left out."""
    parts: dict[Cell, dict[int, list[Outcome]]] = defaultdict(lambda: defaultdict(list))
    for combination, outcome in outcomes.items():
        if outcome.predictions is not None:
            cell = Cell(combination.task, combination.split, combination.fraction, combination.row)
            parts[cell][combination.seed].append(outcome)
    collected = {}
    for cell, seeds in sorted(parts.items()):
        needed = num_folds if cell.split == "folds" else 1
        by_seed: dict[int, np.ndarray] = {}
        rows: np.ndarray | None = None
        for seed, found in sorted(seeds.items()):
            if len(found) < needed:
                continue
            indices = np.concatenate([outcome.rows for outcome in found])
            order = np.argsort(indices)
            if rows is not None and not np.array_equal(rows, indices[order]):
                raise ValueError(f"The seeds of {cell} were tested on different windows.")
            rows = indices[order]
            by_seed[seed] = np.concatenate([outcome.predictions for outcome in found])[order]
        if rows is not None:
            details = [outcome.details for seed in by_seed for outcome in seeds[seed]]
            collected[cell] = CellPredictions(rows, by_seed, needed, details)
    return collected


def tables_of(cells: Mapping[Cell, CellPredictions]) -> dict[Cell, str]:
    """Which of the two tables each cell belongs to. Rows of random weights decide for their task what the same backbone is; where
    there are none, the first row does."""
    of_task: dict[str, str] = {}
    order = in_order({cell.row for cell in cells})
    for cell in sorted(cells, key=lambda cell: (cell.row not in RANDOM_ROWS, order.index(cell.row))):
        if (backbone := cells[cell].backbone) is not None:
            of_task.setdefault(cell.task, backbone["key"])
    tables = {}
    for cell, predicted in cells.items():
        backbone = predicted.backbone
        is_same = backbone is None or backbone["key"] == of_task[cell.task]
        tables[cell] = SAME_BACKBONE if is_same else AS_PUBLISHED
    return tables


def result_rows(
    cells: Mapping[Cell, CellPredictions], windows: Mapping[str, TaskWindows], plan: BenchmarkPlan
) -> pd.DataFrame:
    """One line per cell: mean metrics over seeds, the spread of the main one, its 95 % interval over subjects, and what the encoder
    cost."""
    lines: list[dict[str, Any]] = []
    tables = tables_of(cells)
    for cell, predicted in cells.items():
        of_task = windows[cell.task]
        task, labels = of_task.task, of_task.labels[predicted.rows]
        subjects = of_task.subjects[predicted.rows]
        metric = primary_metric(task.problem_type)

        def mean_over_seeds(rows: np.ndarray, predicted=predicted, labels=labels, metric=metric) -> float:
            return float(np.mean([metric(values[rows], labels[rows]) for values in predicted.by_seed.values()]))

        interval = bootstrap(mean_over_seeds, subjects, num_resamples=plan.num_resamples)
        scores = pd.DataFrame([score(task, values, labels) for values in predicted.by_seed.values()])
        lines.append(
            {
                "task": cell.task,
                "split": cell.split,
                "labels": cell.fraction,
                "row": cell.row,
                "table": tables[cell],
                **_cost(predicted),
                "metric": task.selection_metric,
                "value": interval.value,
                "low": interval.low,
                "high": interval.high,
                "seed_std": scores[task.selection_metric].std(ddof=1) if len(scores) > 1 else np.nan,
                "seeds": len(scores),
                "test_subjects": len(np.unique(subjects)),
                "test_windows": len(subjects),
                **{str(name): value for name, value in scores.mean().items()},
            }
        )
    return pd.DataFrame(lines)


def _cost(predicted: CellPredictions) -> dict[str, float]:
    """Size of the encoder and, as means over seeds, its pre-training, the steps of fine-tuning, and the share of runs that stopped
    by themselves; NaN where there is no such thing or it is not recorded."""

    def mean(values: list[Any]) -> float:
        return float(np.mean(values)) if values and None not in values else np.nan

    pretraining = [details.get("pretraining") or {} for details in predicted.details]
    return {
        "parameters": np.nan if predicted.backbone is None else predicted.backbone["parameters"],
        **{
            f"pretraining_{name}": mean([cost.get(name) for cost in pretraining])
            for name in ("steps", "windows", "compute")
        },
        **{name: mean([details.get(name) for details in predicted.details]) for name in ("steps", "converged")},
    }


def pairs(tables: Mapping[Cell, str], plan: BenchmarkPlan) -> Iterator[tuple[Cell, Cell]]:
    """Cells that are compared: those that the plan names or, by default, of each table every two frozen or full rows of encoders;
    of the same backbone each with its random weights; and each with the classical method."""
    by_place: dict[tuple[str, str, float], list[Cell]] = defaultdict(list)
    for cell in tables:
        by_place[cell.task, cell.split, cell.fraction].append(cell)
    for found in by_place.values():
        of_row = {cell.row: cell for cell in found}
        rows = in_order(of_row)
        if plan.comparisons is not None:
            named = [(pair[0], pair[1]) for pair in plan.comparisons]
        else:
            named = []
            for kind, random in ((is_frozen, RANDOM_FROZEN), (is_full, SCRATCH)):
                encoders = [row for row in rows if kind(row) and encoder_name(row) is not None]
                named += [(row, random) for row in encoders if tables[of_row[row]] == SAME_BACKBONE]
                named += [
                    pair for pair in combinations(encoders, 2) if len({tables[of_row[row]] for row in pair}) == 1
                ]
                named += [(row, CLASSICAL) for row in encoders]
            named.append((SCRATCH, CLASSICAL))
        yield from ((of_row[first], of_row[second]) for first, second in named if {first, second} <= of_row.keys())


def comparison_rows(
    cells: Mapping[Cell, CellPredictions], windows: Mapping[str, TaskWindows], plan: BenchmarkPlan
) -> pd.DataFrame:
    """One line per comparison: by how much the first row is better (positive, whatever the metric), with the 95 % interval of
    the paired difference over subjects; only seeds that both have."""
    lines, tables = [], tables_of(cells)
    for cell, other_cell in pairs(tables, plan):
        predicted, other = cells[cell], cells[other_cell]
        seeds = sorted(set(predicted.by_seed) & set(other.by_seed))
        if not seeds or not np.array_equal(predicted.rows, other.rows):
            continue
        of_task = windows[cell.task]
        labels = of_task.labels[predicted.rows]
        metric = primary_metric(of_task.task.problem_type)
        sign = 1 if of_task.task.greater_is_better else -1
        both = [(predicted.by_seed[seed], other.by_seed[seed]) for seed in seeds]

        def gain(rows, both=both, labels=labels, metric=metric, sign=sign):
            return np.mean([sign * (metric(a[rows], labels[rows]) - metric(b[rows], labels[rows])) for a, b in both])

        interval = bootstrap(gain, of_task.subjects[predicted.rows], num_resamples=plan.num_resamples)
        lines.append(
            {
                "task": cell.task,
                "split": cell.split,
                "labels": cell.fraction,
                "better": cell.row,
                "than": other_cell.row,
                "same_backbone": tables[cell] == tables[other_cell] == SAME_BACKBONE,
                "metric": of_task.task.selection_metric,
                "gain": interval.value,
                "low": interval.low,
                "high": interval.high,
                "certain": interval.excludes_zero,
                "seeds": len(seeds),
            }
        )
    return pd.DataFrame(lines)
