"""What a benchmark computes: read from a YAML file, cut down by flags, in an order in which early results are useful."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from ..tasks import get_task
from .results_store import Combination
from .row_names import is_frozen, is_full, is_row, rows_of_task


#: The default of `BenchmarkPlan.scratch`.
UNTIL_IT_STOPS_IMPROVING = {
    "max_steps": 6000,
    "early_stopping_patience": 10,
    "lr_scheduler_type": "constant_with_warmup",
    "warmup_steps": 100,
}


@dataclass
class TaskPlan:
    """How one task is benchmarked.

    Attributes:
        dataset_options: options of the builder, e.g. the length of the windows.
        recipe: fields of `TaskArguments` for full fine-tuning: augmentation, `config_overrides`, `accept_unknown_provenance`.
        training: fields of `FinetuningArguments`, over those of the whole benchmark.
        scratch: likewise, for the row `scratch`.
        spectrum: whether frozen features describe variation at respiratory frequencies.
        splits: `"paper"` and/or `"folds"`.
        full_on_folds: rows with full fine-tuning that are computed on the folds too.
        published: metrics of published models on this task, for orientation; with `parameters`, how many they have.
    """

    dataset_options: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    scratch: dict[str, Any] = field(default_factory=dict)
    spectrum: bool = False
    splits: list[str] = field(default_factory=lambda: ["paper", "folds"])
    full_on_folds: list[str] = field(default_factory=list)
    published: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass
class BenchmarkPlan:
    """The whole benchmark.

    Attributes:
        tasks: the plan of each task.
        fractions: shares of the labelled subjects.
        full_on_folds_fractions: those for full fine-tuning on folds, which takes longest.
        full_on_folds_seeds: seeds for it; the folds themselves already train five models.
        seeds: at least three for claims.
        num_folds: folds of the cross-validation over subjects.
        num_resamples: draws of the bootstrap.
        training: fields of `FinetuningArguments` for all tasks.
        scratch: those that differ for the row `scratch`, which is to be trained until it stops improving on the validation
            subjects: a generous limit of steps, and after how many evaluations without a better one it ends.
        comparisons: pairs of rows whose difference is shown. By default each row against random weights, the classical method,
            and the others of its table.
    """

    tasks: dict[str, TaskPlan]
    fractions: list[float] = field(default_factory=lambda: [0.1, 1.0])
    full_on_folds_fractions: list[float] = field(default_factory=lambda: [1.0])
    full_on_folds_seeds: list[int] = field(default_factory=lambda: [0])
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    num_folds: int = 5
    num_resamples: int = 1000
    training: dict[str, Any] = field(default_factory=dict)
    scratch: dict[str, Any] = field(default_factory=lambda: dict(UNTIL_IT_STOPS_IMPROVING))
    comparisons: list[list[str]] | None = None


def read_plan(path: str | Path) -> BenchmarkPlan:
    """The plan in a YAML file.

    Raises:
        ValueError: if it names something that does not exist.
    """
    content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not isinstance(content.get("tasks"), dict):
        raise ValueError(f"{path} must hold `tasks`.")
    _check_fields(path, content, BenchmarkPlan)
    plans = {}
    for name, options in content["tasks"].items():
        get_task(name)
        _check_fields(f"{path}, {name}", options or {}, TaskPlan)
        plans[name] = TaskPlan(**(options or {}))
        unknown = {*plans[name].splits} - {"paper", "folds"}
        unknown |= {row for row in plans[name].full_on_folds if not is_full(row)}
        if unknown:
            raise ValueError(f"{path}, {name}: there is no {', '.join(sorted(unknown))}.")
    for pair in content.get("comparisons") or ():
        if not isinstance(pair, list) or len(pair) != 2 or not all(is_row(str(row)) for row in pair):
            raise ValueError(f"{path}: `comparisons` holds pairs such as [simclr_full, scratch], but has {pair}.")
    return BenchmarkPlan(**{**content, "tasks": plans})


def _check_fields(where: str | Path, options: dict, kind: type) -> None:
    unknown = sorted(map(str, set(options) - {part.name for part in fields(kind)}))
    if unknown:
        raise ValueError(f"{where} names options that do not exist: {', '.join(unknown)}.")


def combinations(
    plan: BenchmarkPlan,
    encoders: Mapping[str, Mapping[str, Sequence[str]]],
    *,
    tasks: Sequence[str] | None = None,
    rows: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
) -> list[Combination]:
    """Everything that is to be computed: what takes seconds first, then the published split, then the folds.

    Args:
        plan: the plan.
        encoders: by channel and name; each gives a frozen row and a full one for the tasks whose signal it reads.
        tasks, rows, splits: only these; all by default.

    Raises:
        ValueError: if one of them is not in the plan.
    """
    of_task = {
        name: rows_of_task(task, encoders.get(task.channel, ())) for name in plan.tasks for task in [get_task(name)]
    }
    for chosen, known, kind in (
        (tasks, plan.tasks, "task"),
        (rows, [*dict.fromkeys(row for of_one in of_task.values() for row in of_one)], "row"),
        (splits, ("paper", "folds"), "split"),
    ):
        unknown = sorted(set(chosen or ()) - set(known))
        if unknown:
            raise ValueError(f"There is no {kind} {', '.join(unknown)}; there are {', '.join(known)}.")
    found: list[Combination] = []
    for name, task_plan in plan.tasks.items():
        if tasks and name not in tasks:
            continue
        for row in of_task[name]:
            if rows and row not in rows:
                continue
            for split in task_plan.splits:
                if splits and split not in splits:
                    continue
                found += _of_row(plan, task_plan, name, row, split)
    return sorted(found, key=_urgency)


def _of_row(plan: BenchmarkPlan, task_plan: TaskPlan, name: str, row: str, split: str) -> Iterable[Combination]:
    fractions, seeds = plan.fractions, plan.seeds
    if split == "folds" and is_full(row):
        if row not in task_plan.full_on_folds:
            return
        fractions, seeds = plan.full_on_folds_fractions, plan.full_on_folds_seeds
    for fold in range(plan.num_folds) if split == "folds" else (None,):
        for fraction in fractions:
            for seed in seeds:
                yield Combination(name, row, fraction, seed, fold)


def _urgency(combination: Combination) -> tuple:
    kind = 2 if is_full(combination.row) else 1 if is_frozen(combination.row) else 0
    fold = -1 if combination.fold is None else combination.fold
    return kind, combination.split == "folds", combination.seed, fold, combination.fraction, combination.task
