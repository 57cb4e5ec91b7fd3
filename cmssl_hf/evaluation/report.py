"""The report of a benchmark: one Markdown file, CSV tables and figures."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pandas as pd

from ..tasks import get_task
from .figures import draw_figures
from .plan import BenchmarkPlan
from .results_store import Combination, ResultsStore
from .row_names import SCRATCH, in_order
from .summary import AS_PUBLISHED, SAME_BACKBONE, collect, comparison_rows, result_rows
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
                parts += [_heading(task, split, lines), *_tables(task, split, lines, plan)]
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
        " `frozen` rows are linear models on the output of an encoder that is not trained, `full` rows train it too. Random weights"
        f" are `random_frozen`, `{SCRATCH}`, which is trained until it stops improving on validation subjects, and"
        " `scratch_same_steps`, which is trained as long as pre-trained ones.\n\n"
        "*Same backbone*: one architecture, one recipe; what differs is pre-training. Its steps and windows are those that"
        " `run.json` records, the tokenizer's included, at most: early stopping may have ended it. Compute is windows x passes"
        " through the encoder x parameters, where passes without gradients count a third. *As published*: other"
        " architectures and sizes, with the number of parameters of the encoder; models of other work get the part of the recipe"
        " that they can follow. The two are not to be compared.\n\n"
        "Of differences that are none, one in twenty is called certain: the more comparisons, the more of these."
    )


def _heading(task: str, split: str, lines: pd.DataFrame) -> str:
    where = "published split" if split == "paper" else "cross-validation over all subjects"
    subjects, windows = lines["test_subjects"].iloc[0], lines["test_windows"].iloc[0]
    return f"## {task}, {where}: {subjects} test subjects, {windows} windows"


def _tables(task: str, split: str, lines: pd.DataFrame, plan: BenchmarkPlan) -> Iterator[str]:
    """The two tables, as far as there are rows, and whether scratch was trained to its end."""
    same, published = (lines[lines["table"] == table] for table in (SAME_BACKBONE, AS_PUBLISHED))
    if len(same):
        yield "### Same backbone"
        yield pd.DataFrame(_lines(task, same, _pretraining)).fillna("").to_markdown(index=False, disable_numparse=True)
    for _, line in same[(same["row"] == SCRATCH) & same["converged"].notna()].iterrows():
        yield (
            f"`{SCRATCH}` with {line['labels']:.0%} of the labels: {line['converged']:.0%} of the runs stopped improving before"
            f" the limit of steps; {line['steps']:.0f} steps on average."
        )
    table = _lines(task, published, _parameters)
    if split == "paper":
        kind, metric = get_task(task).problem_type, lines["metric"].iloc[0]
        for name, values in plan.tasks[task].published.items():
            table.append(
                {
                    "labels": "100%",
                    "row": f"published: {name}",
                    "parameters": _size(values.get("parameters", float("nan"))),
                    **{
                        key: _number(key, values[key], _DECIMALS[kind])
                        for key in (metric, *_ALSO_SHOWN[kind])
                        if key in values
                    },
                }
            )
    if table:
        yield "### As published"
        yield pd.DataFrame(table).fillna("").to_markdown(index=False, disable_numparse=True)


def _pretraining(line: pd.Series) -> dict[str, str]:
    steps, windows, compute = (line[f"pretraining_{name}"] for name in ("steps", "windows", "compute"))
    return {"pre-training steps": _size(steps), "windows seen": _size(windows), "compute": _size(compute)}


def _parameters(line: pd.Series) -> dict[str, str]:
    return {"parameters": _size(line["parameters"])}


def _size(value: float) -> str:
    return (
        ""
        if pd.isna(value)
        else f"{value:,.0f}"
        if value < 1e5
        else f"{value:.3g}".replace("e+0", "e").replace("e+", "e")
    )


def _lines(task: str, lines: pd.DataFrame, size: Callable[[pd.Series], dict[str, str]]) -> list[dict[str, str]]:
    kind = get_task(task).problem_type
    decimals, shown = _DECIMALS[kind], _ALSO_SHOWN[kind]
    rank = {row: position for position, row in enumerate(in_order(set(lines["row"])))}
    table = []
    for _, line in lines.sort_values(
        ["labels", "row"], key=lambda c: c.map(rank) if c.name == "row" else -c
    ).iterrows():
        spread = f" ± {line['seed_std']:.{decimals}f}" if round(line["seed_std"], decimals) > 0 else ""
        table.append(
            {
                "labels": f"{line['labels']:.0%}",
                "row": line["row"],
                **size(line),
                line["metric"]: f"{line['value']:.{decimals}f}{spread}",
                "95 % interval": f"{line['low']:.{decimals}f} to {line['high']:.{decimals}f}",
                **{name: _number(name, line[name], decimals) for name in shown},
                "seeds": str(line["seeds"]),
            }
        )
    return table


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
                "backbone": "same" if line["same_backbone"] else "other",
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
