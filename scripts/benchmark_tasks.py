"""Compares models on tasks: models x tasks x shares of labels x seeds, with intervals over subjects.

    python scripts/benchmark_tasks.py scripts/configs/benchmark_tasks.yaml --data_dir bidmc=<folder> physionet2017=<folder> \
        --encoder simclr=<encoder> joint=<encoder>,<encoder> --output_dir runs/benchmark

Each encoder gives the rows `<name>_frozen` and `<name>_full` for the tasks whose signal it reads; several folders of one name are
seeds of pre-training, and a name may stand for an encoder of each signal. Random weights have the architecture of the first
encoder. What is finished is not computed again, and processes that are started with the same command share the work. Tasks whose
data are not given are left out.
"""

import argparse
import sys
import time
from pathlib import Path

from datasets import disable_progress_bars
from transformers.utils import logging as transformers_logging

from cmssl_hf.evaluation.encoders import read_encoders
from cmssl_hf.evaluation.plan import combinations, read_plan
from cmssl_hf.evaluation.report import REPORT_FILE, write_report
from cmssl_hf.evaluation.results_store import ResultsStore
from cmssl_hf.evaluation.running import benchmark_tasks, make_benchmarks
from cmssl_hf.extensions import IMPORT_HELP, import_extensions
from cmssl_hf.tasks import get_task
from cmssl_hf.training.engine.command import orderly_end
from cmssl_hf.training.engine.parsing import parse_options


def main() -> None:
    options = _options()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    with orderly_end():
        plan = read_plan(options.config)
        folders = parse_options(options.data_dir, as_text=True)
        skipped = [name for name in plan.tasks if get_task(name).dataset not in {*folders, "simulated"}]
        plan.tasks = {name: task_plan for name, task_plan in plan.tasks.items() if name not in skipped}
        if skipped:
            print(f"No data for {', '.join(skipped)}.", flush=True)
        encoders = read_encoders(options.encoder)
        output_dir = Path(options.output_dir)
        store = ResultsStore(output_dir / "results")
        benchmarks = make_benchmarks(
            plan,
            folders,
            encoders,
            output_dir / "work",
            cache_dir=options.cache_dir,
            architecture=options.architecture,
        )
        if not options.report_only:
            chosen = combinations(plan, encoders, tasks=options.tasks, rows=options.rows, splits=options.splits)
            start = time.monotonic()
            for number, (combination, state) in enumerate(benchmark_tasks(chosen, benchmarks, store), start=1):
                minutes = (time.monotonic() - start) / 60
                print(f"{number}/{len(chosen)} {combination.name}: {state} ({minutes:.1f} min)", flush=True)
        windows = {name: benchmark.windows for name, benchmark in benchmarks.items()}
        write_report(store, windows, plan, output_dir)
        print(f"{output_dir / REPORT_FILE}")


def _options() -> argparse.Namespace:
    with orderly_end():
        arguments = import_extensions(sys.argv[1:])
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=IMPORT_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", nargs="?", default=str(Path(__file__).parent / "configs" / "benchmark_tasks.yaml"))
    parser.add_argument("--data_dir", nargs="*", default=[], metavar="DATASET=FOLDER", help="releases, by dataset")
    parser.add_argument(
        "--encoder",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=FOLDER[,FOLDER...]",
        help="rows: name and folder of a model, or folders, seeds of its pre-training",
    )
    parser.add_argument("--architecture", default="small", help="size of random encoders where none is given")
    parser.add_argument("--tasks", nargs="*", help="only these")
    parser.add_argument("--rows", nargs="*", help="only these")
    parser.add_argument("--splits", nargs="*", help="only these: paper, folds")
    parser.add_argument("--output_dir", default="runs/benchmark_tasks")
    parser.add_argument("--cache_dir", help="for prepared data")
    parser.add_argument("--report_only", action="store_true", help="write the report from what is finished")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
