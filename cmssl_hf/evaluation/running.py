"""Runs the combinations of a benchmark, each once, also when several processes work on it."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..tasks import get_task
from ..training.arguments import DataArguments
from .plan import BenchmarkPlan
from .results_store import Combination, ResultsStore
from .row_names import encoder_name, is_frozen, is_full
from .rows import TaskBenchmark
from .task_windows import TaskWindows


def make_benchmarks(
    plan: BenchmarkPlan,
    data_dirs: Mapping[str, str],
    encoders: Mapping[str, Mapping[str, Sequence[str]]],
    work_dir: Path,
    *,
    cache_dir: str | None = None,
    architecture: str = "small",
) -> dict[str, TaskBenchmark]:
    """What is needed to compute each task of a plan.

    Args:
        plan: the plan.
        data_dirs: folder of the release by dataset.
        encoders: folders of pre-trained encoders by channel and name, as `read_encoders` gives them.
        work_dir: for embeddings and runs.
        cache_dir: for prepared data.
        architecture: published size for random encoders where no folder is given.
    """
    benchmarks = {}
    for name, task_plan in plan.tasks.items():
        task = get_task(name)
        data = DataArguments(
            data_dir=data_dirs.get(task.dataset), cache_dir=cache_dir, dataset_options=dict(task_plan.dataset_options)
        )
        benchmarks[name] = TaskBenchmark(
            windows=TaskWindows(task, data, plan.num_folds),
            encoders=encoders.get(task.channel, {}),
            architecture=architecture,
            recipe=task_plan.recipe,
            training={**plan.training, **task_plan.training},
            scratch={**plan.scratch, **task_plan.scratch},
            spectrum=task_plan.spectrum,
            work_dir=work_dir,
        )
    return benchmarks


def benchmark_tasks(
    chosen: Sequence[Combination], benchmarks: Mapping[str, TaskBenchmark], store: ResultsStore
) -> Iterator[tuple[Combination, str]]:
    """Computes what is not finished and not claimed by another process, and says what became of each combination.

    Raises:
        ValueError: if the store holds results of another model, recipe or data for a combination.
    """
    for combination in chosen:
        benchmark = benchmarks[combination.task]
        identity = combination_identity(benchmark, combination)
        with store.claim(combination) as is_mine:
            if not is_mine:
                yield combination, "another process is at it"
                continue
            # Only now: another process may have finished it a moment ago.
            if store.is_finished(combination, identity):
                yield combination, "was finished"
                continue
            start = time.monotonic()
            outcome = benchmark.run(combination)
            outcome.details |= {"identity": identity, "seconds": round(time.monotonic() - start, 1)}
            store.save(combination, outcome)
            state = f"refused: {outcome.refusal}" if outcome.refusal else f"{outcome.details['seconds']} s"
        yield combination, state


def combination_identity(benchmark: TaskBenchmark, combination: Combination) -> str:
    """Hash of everything that decides the result of a combination beside its name: data, encoder, recipe."""
    described = {"data": benchmark.windows.fingerprint, "num_folds": benchmark.windows.num_folds}
    frozen, full = is_frozen(combination.row), is_full(combination.row)
    if frozen or full:
        try:
            source = benchmark.encoder_of(combination)
            # Of random weights only the architecture is somebody's.
            described["encoder"] = _fingerprint_of_folder(source, weights=encoder_name(combination.row) is not None)
        except ValueError as error:
            # It will be refused for the same reason.
            described["encoder"] = str(error)
    if frozen:
        overrides = benchmark.recipe.get("config_overrides", {})
        described |= {"spectrum": benchmark.spectrum, "piece_seconds": overrides.get("piece_seconds")}
        if benchmark.recipe.get("accept_unknown_provenance"):
            described["accept_unknown_provenance"] = True
    if full:
        described |= {"recipe": benchmark.recipe, "training": benchmark.training_of(combination.row)}
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _fingerprint_of_folder(source: str, weights: bool) -> str:
    """Hash of config and weights of a model's folder, or the name of a size or Hub id."""
    folder = Path(source)
    patterns = ("config.json", "preprocessor_config.json", *(("*.safetensors",) if weights else ()))
    files = sorted(file for pattern in patterns for file in folder.glob(pattern)) if folder.is_dir() else []
    digest = hashlib.sha256(b"" if files else source.encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
