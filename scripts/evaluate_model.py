"""Measures a model on people it has not seen, with intervals over subjects, beside a constant and the classical method.

    python scripts/evaluate_model.py --task bidmc_hr --data_dir bidmc --model runs/pretrained/heart-rate
    python scripts/evaluate_model.py --task bidmc_rr --data_dir bidmc --dataset_options window_seconds=60,stride_seconds=4,rr_label=interval \\
        --predictions runs/folds/*/predictions.csv

The first line takes all subjects of the task's dataset, whatever the split, and refuses a model that was trained or validated on any
of them; the second takes what the folds of a cross-validation have predicted. No network is trained. Of a task with classical features, such as the intervals between
beats, the second line also shows what a model of these says, fitted on the people of each fold, and the mean of both.
"""

import argparse
import logging
from pathlib import Path

import numpy as np
import pandas as pd

from cmssl_hf.evaluation import figures
from cmssl_hf.evaluation.held_out import (
    compare,
    limits_held_out,
    mean_of_probabilities,
    predict_from_features,
    predict_held_out,
    read_predictions,
)
from cmssl_hf.evaluation.task_windows import TaskWindows
from cmssl_hf.tasks import get_task
from cmssl_hf.training.arguments import DataArguments
from cmssl_hf.training.engine.command import orderly_end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, help="name of the task, e.g. `bidmc_hr`")
    parser.add_argument("--data_dir", help="folder with the release; without it the classical method is left out")
    parser.add_argument("--dataset_options", default={}, help="e.g. `window_seconds=60,rr_label=interval`")
    parser.add_argument("--cache_dir", help="folder for prepared data")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="folder or Hub id of a fine-tuned model")
    source.add_argument("--predictions", nargs="+", type=Path, help="`predictions.csv` of runs that share no window")
    parser.add_argument("--accept_unknown_provenance", action="store_true", help="measure a model without `run.json`")
    parser.add_argument("--output", type=Path, help="CSV for the table")
    parser.add_argument("--figure", type=Path, help="PNG of what the intervals of `--model` are worth (regression)")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    with orderly_end():
        task = get_task(arguments.task)
        data = DataArguments(
            data_dir=arguments.data_dir, dataset_options=arguments.dataset_options, cache_dir=arguments.cache_dir
        )
        windows, others = TaskWindows(task, data), {}
        if arguments.model is not None:
            predictions = predict_held_out(arguments.model, windows, arguments.accept_unknown_provenance)
        else:
            predictions = read_predictions(arguments.predictions)
            if arguments.data_dir is not None and task.classical_features is not None:
                classical = predict_from_features(arguments.predictions, windows)
                both = mean_of_probabilities(task, np.stack([*predictions["prediction"]]), classical)
                others = {task.classical_features: classical, f"model and {task.classical_features}": both}
        has_signals = arguments.model is not None or arguments.data_dir is not None
        table = compare(task, predictions, windows if has_signals else None, others=others)
        print(f"{task.name}: {len(predictions):,} windows of {predictions['subject_id'].nunique()} subjects")
        print(table.round(3).to_markdown(index=False))
        if arguments.figure is not None:
            measured = None
            if arguments.model is not None and task.problem_type == "regression":
                measured = limits_held_out(arguments.model, windows, arguments.accept_unknown_provenance)
            if measured is None:
                raise ValueError("`--figure` needs `--model`, a calibrated regression.")
            figures.limits(measured, task.unit or "", arguments.figure)
            for name in ("coverage", "risk"):
                print(pd.DataFrame(measured[name]).round(3).to_markdown(index=False))
        if arguments.output is not None:
            table.to_csv(arguments.output, index=False)


if __name__ == "__main__":
    main()
