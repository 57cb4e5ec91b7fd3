"""The commands of the stages: extensions, the objective, the run, and a short report of it."""

import argparse
import contextlib
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..extensions import import_extensions
from ..presets import find_preset
from ..tasks import task_of_record
from .engine.command import orderly_end, run_command
from .engine.run_folder import read_run
from .results import metrics_table, result_table, verdict, where_things_are
from .stage import Stage, get_objective


#: The objective of encoder pre-training that the method is named after.
DEFAULT_OBJECTIVE = "tokens"
#: The preset of `finetune` for a folder of recordings.
_OWN_LABELS = "own_labels"


def command(
    stage: Stage | Callable[[Sequence[str]], Stage],
    arguments: Sequence[str] | None = None,
    *,
    presets: str | None = None,
) -> str:
    """Runs a stage by the arguments of the command line.

    Args:
        stage: the stage, or a function that chooses it by the arguments.
        arguments: those of the command line if left out; before the flags may stand YAML files and a folder of recordings.
        presets: what the names of its YAML files begin with; names stand for paths (`find_preset`).

    Returns:
        What came of it, to be printed; nothing on other processes than the first.
    """
    with orderly_end():
        others = _with_presets(import_extensions(sys.argv[1:] if arguments is None else arguments), presets)
        chosen = stage if isinstance(stage, Stage) else stage(others)
    parsed, results = run_command(chosen.function, chosen.arguments, others)
    return "" if results is None else f"\n{report(parsed, results)}\n"


def _with_presets(arguments: Sequence[str], presets: str | None) -> list[str]:
    """The arguments, with paths in place of the names of presets, and a folder of recordings as the flags that it stands for."""
    given = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments))
    folders = [name for name in given if Path(name).is_dir()]
    if len(folders) > 1:
        raise ValueError(f"One folder of recordings is read, but {' and '.join(folders)} are given.")
    files = [name for name in given if name not in folders]
    flags = [*arguments[len(given) :]]
    if folders:
        flags = ["--dataset", "signalfolder", "--data_dir", *folders, *flags]
        files = files or ([_OWN_LABELS] if presets == "finetune" else [])
    # A path that leads nowhere is refused where it is read.
    paths = [file if Path(file).exists() or Path(file).suffix else str(find_preset(file, presets)) for file in files]
    return [*paths, *flags]


def chosen_objective(arguments: Sequence[str]) -> Stage:
    """The stage of the objective that `--objective`, or a YAML file among the arguments, names.

    Raises:
        ValueError: if there is no such objective.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--objective", default=DEFAULT_OBJECTIVE)
    for file in map(Path, itertools.takewhile(lambda argument: not argument.startswith("-"), arguments)):
        # A file that cannot be read is refused where all of it is read.
        with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
            if isinstance(content, dict) and "objective" in content:
                parser.set_defaults(objective=content["objective"])
    return get_objective(parser.parse_known_args(list(arguments))[0].objective)


def report(arguments: Sequence[Any], results: dict[str, Any]) -> str:
    """What a command ends with: a table of results, and where everything is.

    Args:
        arguments: instances of the stage's dataclasses, that of the training last.
        results: of the stage.
    """
    identity = (read_run(arguments[-1].output_dir) or {}).get("identity", {})
    task = task_of_record(identity["task"]) if "task" in identity else None
    table = f"{result_table(task, results)}\n\n{verdict(task, results)}" if task else metrics_table(results)
    return f"{table}\n\n{where_things_are(arguments[-1].output_dir)}"
