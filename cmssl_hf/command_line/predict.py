"""`cmssl-hf predict`: what a fine-tuned model answers to recordings, as a table."""

import argparse
from typing import Any

from transformers import AutoConfig

from ..models.cmssl.pipeline_cmssl import PIPELINES
from .answering import write_table
from .models import ModelAnswers, add_model, add_rows


#: Tasks whose models were fine-tuned on labels.
_TASKS = ("physiological-signal-regression", "physiological-signal-classification")
_LIMITS = ("coverage", "max_width", "min_quality")


def find_task(config: Any) -> str:
    """The task of the pipeline for the model with this config."""
    # The first one refuses a model that none of them serves.
    return next((task for task in _TASKS if PIPELINES[task][0].serves(config)), _TASKS[0])


def make_answer(options: argparse.Namespace) -> ModelAnswers:
    task = find_task(AutoConfig.from_pretrained(options.model))
    answers = ModelAnswers(task, options, options.precision, **{name: getattr(options, name) for name in _LIMITS})
    if options.without_intervals:
        answers.pipeline.model.config.calibration = None
    return answers


def main() -> int:
    parser = argparse.ArgumentParser(
        description="What a fine-tuned model answers to recordings: a row for each window, with the file, start and end in"
        " seconds, a column for each label or the class and its scores, and what is wrong with the signal; where there is no answer, a"
        " `reason`."
    )
    add_model(parser, "heart-rate")
    add_rows(parser)
    parser.add_argument("--min_quality", type=float, help="withhold answers to windows of less quality, from 0 to 1")
    parser.add_argument(
        "--max_width",
        type=float,
        help="withhold answers with a wider interval, in the unit of the labels, or a larger set; of calibrated models",
    )
    parser.add_argument("--coverage", type=float, help="how often intervals and sets hold the label, e.g. 0.8")
    parser.add_argument(
        "--without_intervals",
        action="store_true",
        help="answers of a calibrated model without intervals, for which it reads each window four times",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="bf16 is faster on processors that have instructions for it, and changes a heart rate by hundredths",
    )
    parser.add_argument(
        "--beats",
        action="store_true",
        help="heart rate and its variability from the beats too, in columns `beats_...`; needs neurokit2",
    )
    options = parser.parse_args()
    if options.without_intervals and (options.max_width is not None or options.coverage is not None):
        parser.error("`--max_width` and `--coverage` are about intervals: leave them or `--without_intervals` out.")
    return write_table(make_answer, options)
