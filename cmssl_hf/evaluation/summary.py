"""From outcomes to tables: metrics with intervals over subjects, and paired differences."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..training.results import score
from .intervals import bootstrap, primary_metric
from .plan import BenchmarkPlan
from .results_store import Combination, Outcome
from .task_windows import TaskWindows


#: Which rows are compared with which, on the same subjects and seeds.
COMPARISONS = (
    ("joint_frozen", "random_frozen"),
    ("joint_full", "scratch"),
    ("joint_frozen", "own_frozen"),
    ("joint_full", "own_full"),
    ("own_frozen", "random_frozen"),
    ("own_full", "scratch"),
    ("joint_full", "classical"),
    ("scratch", "classical"),
    ("joint_frozen", "classical"),
)


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
    in. `rows` are the windows' indices, increasing."""

    rows: np.ndarray
    by_seed: dict[int, np.ndarray]
    num_test_folds: int


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
            collected[cell] = CellPredictions(rows, by_seed, needed)
    return collected


def result_rows(
    cells: Mapping[Cell, CellPredictions], windows: Mapping[str, TaskWindows], plan: BenchmarkPlan
) -> pd.DataFrame:
    """One line per cell: mean metrics over seeds, the spread of the main one, and its 95 % interval over subjects."""
    lines = []
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
                "metric": task.selection_metric,
                "value": interval.value,
                "low": interval.low,
                "high": interval.high,
                "seed_std": scores[task.selection_metric].std(ddof=1) if len(scores) > 1 else np.nan,
                "seeds": len(scores),
                "test_subjects": len(np.unique(subjects)),
                "test_windows": len(subjects),
                **scores.mean().to_dict(),
            }
        )
    return pd.DataFrame(lines)


def comparison_rows(
    cells: Mapping[Cell, CellPredictions], windows: Mapping[str, TaskWindows], plan: BenchmarkPlan
) -> pd.DataFrame:
    """One line per comparison: by how much the first row is better (positive, whatever the metric), with the 95 % interval of
    the paired difference over subjects; only seeds that both have."""
    lines = []
    for cell, predicted in cells.items():
        for first, second in COMPARISONS:
            other = cells.get(Cell(cell.task, cell.split, cell.fraction, second))
            if cell.row != first or other is None or not np.array_equal(predicted.rows, other.rows):
                continue
            seeds = sorted(set(predicted.by_seed) & set(other.by_seed))
            if not seeds:
                continue
            of_task = windows[cell.task]
            labels = of_task.labels[predicted.rows]
            metric = primary_metric(of_task.task.problem_type)
            sign = 1 if of_task.task.greater_is_better else -1
            pairs = [(predicted.by_seed[seed], other.by_seed[seed]) for seed in seeds]

            def gain(rows, pairs=pairs, labels=labels, metric=metric, sign=sign):
                return np.mean(
                    [sign * (metric(a[rows], labels[rows]) - metric(b[rows], labels[rows])) for a, b in pairs]
                )

            interval = bootstrap(gain, of_task.subjects[predicted.rows], num_resamples=plan.num_resamples)
            lines.append(
                {
                    "task": cell.task,
                    "split": cell.split,
                    "labels": cell.fraction,
                    "better": first,
                    "than": second,
                    "metric": of_task.task.selection_metric,
                    "gain": interval.value,
                    "low": interval.low,
                    "high": interval.high,
                    "certain": interval.excludes_zero,
                    "seeds": len(seeds),
                }
            )
    return pd.DataFrame(lines)
