"""Fine-tunes models x tasks x seeds and ends with one table.

    accelerate launch -q scripts/run_finetuning.py -m "runs/encoder small" -e "bidmc_hr bidmc_rr" --seeds 0 1 2 \
        --data_dir <folder of the release> --output_dir runs/finetuning

A model is a folder or Hub id of an encoder, or a published size (small, base, large) to start from random weights. Every other
flag is one of `scripts/finetune.py` and holds for all runs. A combination that is already finished is not run again, and keeps
its best model but no checkpoints.
"""

import argparse
import re
import sys
from pathlib import Path

from cmssl_hf.extensions import IMPORT_HELP, import_extensions
from cmssl_hf.models.cmssl.configuration_cmssl import ENCODER_SIZES
from cmssl_hf.tasks import get_task
from cmssl_hf.training.arguments import DataArguments
from cmssl_hf.training.engine.checkpoints import remove_checkpoints
from cmssl_hf.training.engine.command import orderly_end, run_stage
from cmssl_hf.training.engine.parsing import parse_arguments
from cmssl_hf.training.finetuning import FinetuningArguments, TaskArguments, finetune
from cmssl_hf.training.results import spread_table


def main() -> None:
    with orderly_end():
        others = import_extensions(sys.argv[1:])
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=IMPORT_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", "--models", required=True, help="models, separated by spaces")
    parser.add_argument("-e", "--tasks", required=True, help="tasks, separated by spaces")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--config", default=str(Path(__file__).parent / "configs" / "finetune.yaml"))
    parser.add_argument("--output_dir", default="runs/finetuning")
    options, flags = parser.parse_known_args(others)
    results: dict[tuple[str, str], list[dict]] = {}
    with orderly_end():
        tasks = [get_task(name) for name in options.tasks.split()]
        for task in tasks:
            for model in options.models.split():
                for seed in options.seeds:
                    folder = Path(options.output_dir) / task.name / re.sub(r"[^\w.-]+", "_", model) / f"seed{seed}"
                    arguments = parse_arguments(
                        (TaskArguments, DataArguments, FinetuningArguments),
                        [
                            options.config,
                            *flags,
                            *("--task", task.name, *_source(model), "--seed", str(seed)),
                            *(
                                "--output_dir",
                                str(folder),
                                "--summary_file",
                                str(Path(options.output_dir) / "summary.csv"),
                            ),
                        ],
                    )
                    run_results = run_stage(finetune, *arguments)
                    if run_results is None:  # not the main process
                        continue
                    remove_checkpoints(folder)
                    for row, metrics in run_results.items():
                        results.setdefault((task.name, row), []).append(metrics)
    if results:
        print(spread_table(results))


def _source(model: str) -> tuple[str, ...]:
    is_size = model in ENCODER_SIZES and not Path(model).is_dir()
    return ("--from_scratch" if is_size else "--model_name_or_path", model)


if __name__ == "__main__":
    main()
