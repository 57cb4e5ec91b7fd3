"""The report of a benchmark: one Markdown file, CSV tables and figures."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from ..tasks import get_task
from .figures import draw_figures
from .plan import BenchmarkPlan
from .results_store import Combination, ResultsStore
from .rows import ROWS
from .summary import collect, comparison_rows, result_rows
from .task_windows import TaskWindows


REPORT_FILE = "benchmark.md"
RESULTS_FILE = "benchmark.csv"
COMPARISONS_FILE = "comparisons.csv"

_DECIMALS = {"regression": 2, "single_label_classification": 3, "multi_label_classification": 3}
#: Further metrics that a table shows beside the main one.
_ALSO_SHOWN = {
    "regression": ("rmse", "r2"),
    "single_label_classification": ("auroc", "num_classes_scored", "f1_weighted", "balanced_accuracy", "kappa"),
    "multi_label_classification": ("num_classes_scored", "auc_pr", "f1_macro"),
}


def write_report(
    store: ResultsStore, windows: Mapping[str, TaskWindows], plan: BenchmarkPlan, folder: Path
) -> pd.DataFrame:
    """Writes `benchmark.md`, `benchmark.csv`, `comparisons.csv` and `figures/` from what is finished.

    Returns:
        The lines of `benchmark.csv`.

    Raises:
        ValueError: if nothing is finished yet.
    """
    outcomes = {combination: outcome for combination, outcome in store.all().items() if combination.task in windows}
    cells = collect(outcomes, plan.num_folds)
    if not cells:
        raise ValueError(f"{store.folder} holds no finished results.")
    results = result_rows(cells, windows, plan)
    comparisons = comparison_rows(cells, windows, plan)
    results.to_csv(folder / RESULTS_FILE, index=False)
    comparisons.to_csv(folder / COMPARISONS_FILE, index=False)
    figures = draw_figures(results, cells, windows, folder / "figures")
    parts = ["# Benchmark", _preface(plan)]
    for task in plan.tasks:
        if task not in set(results["task"]):
            continue
        for split in ("paper", "folds"):
            lines = results[(results["task"] == task) & (results["split"] == split)]
            if len(lines):
                parts += [_heading(task, split, lines), _table(task, split, lines, plan)]
        parts += [f"![{path.stem}](figures/{path.name})" for path in figures if path.name.startswith(f"{task}-")]
    if len(comparisons):
        parts += ["## Paired differences", _comparison_table(comparisons)]
    refused = {combination: outcome.refusal for combination, outcome in outcomes.items() if outcome.refusal}
    if refused:
        parts += ["## Refused", _refusals(refused)]
    (folder / REPORT_FILE).write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return results


def _preface(plan: BenchmarkPlan) -> str:
    return (
        f"Test subjects only; no stage has seen them. Values are means over seeds, with the 95 % interval of a bootstrap over"
        f" test subjects ({plan.num_resamples} draws); ± is the standard deviation over seeds. `labels` is the share of the"
        " training subjects whose labels were used. Checkpoints, features and regularisation were chosen on validation"
        " subjects. Published figures are for orientation: other pre-training data, and for classification other recordings.\n\n"
        "Rows: `classical` needs no network (pulse intervals, respiratory spectrum, or a model of the intervals between R-peaks);"
        " `frozen` rows are linear models on the output of an encoder that is not trained, `full` rows train it too. The encoder"
        " has random weights (`random_frozen`, `scratch`), or was pre-trained on tokens of its `own` signal or on `joint` tokens of"
        " ECG and PPG; the architecture is the same."
    )


def _heading(task: str, split: str, lines: pd.DataFrame) -> str:
    where = "published split" if split == "paper" else "cross-validation over all subjects"
    subjects, windows = lines["test_subjects"].iloc[0], lines["test_windows"].iloc[0]
    return f"## {task}, {where}: {subjects} test subjects, {windows} windows"


def _table(task: str, split: str, lines: pd.DataFrame, plan: BenchmarkPlan) -> str:
    kind = get_task(task).problem_type
    decimals, shown = _DECIMALS[kind], _ALSO_SHOWN[kind]
    metric = lines["metric"].iloc[0]
    rank = {row: position for position, row in enumerate(ROWS)}
    table = []
    for _, line in lines.sort_values(
        ["labels", "row"], key=lambda c: c.map(rank) if c.name == "row" else -c
    ).iterrows():
        spread = f" ± {line['seed_std']:.{decimals}f}" if round(line["seed_std"], decimals) > 0 else ""
        table.append(
            {
                "labels": f"{line['labels']:.0%}",
                "row": line["row"],
                metric: f"{line['value']:.{decimals}f}{spread}",
                "95 % interval": f"{line['low']:.{decimals}f} to {line['high']:.{decimals}f}",
                **{name: _number(name, line[name], decimals) for name in shown},
                "seeds": str(line["seeds"]),
            }
        )
    if split == "paper":
        for name, values in plan.tasks[task].published.items():
            table.append(
                {
                    "labels": "100%",
                    "row": f"published: {name}",
                    **{key: _number(key, values[key], decimals) for key in (metric, *shown) if key in values},
                }
            )
    return pd.DataFrame(table).fillna("").to_markdown(index=False, disable_numparse=True)


def _number(name: str, value: float, decimals: int) -> str:
    return f"{value:.0f}" if name == "num_classes_scored" else f"{value:.{decimals}f}"


def _comparison_table(comparisons: pd.DataFrame) -> str:
    table = []
    for _, line in comparisons.iterrows():
        decimals = _DECIMALS[get_task(line["task"]).problem_type]
        table.append(
            {
                "task": line["task"],
                "split": line["split"],
                "labels": f"{line['labels']:.0%}",
                "is": line["better"],
                "better than": line["than"],
                "by (MAE, F1 or AUROC)": f"{line['gain']:+.{decimals}f}",
                "95 % interval": f"{line['low']:+.{decimals}f} to {line['high']:+.{decimals}f}",
                "certain": ("yes" if line["gain"] > 0 else "no, worse") if line["certain"] else "open",
                "seeds": line["seeds"],
            }
        )
    return pd.DataFrame(table).to_markdown(index=False, disable_numparse=True)


def _refusals(refused: Mapping[Combination, str]) -> str:
    """One line per reason, with what it concerns."""
    by_reason: dict[tuple[str, str, str, str], int] = {}
    for combination, reason in refused.items():
        key = (combination.task, combination.split, combination.row, reason)
        by_reason[key] = by_reason.get(key, 0) + 1
    return "\n".join(
        f"- {task}, {split}, {row} ({number}): {reason}" for (task, split, row, reason), number in by_reason.items()
    )
