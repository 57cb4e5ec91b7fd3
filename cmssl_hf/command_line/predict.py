"""`cmssl-hf predict`: what a fine-tuned model answers to recordings, as a table."""

import argparse

from transformers import AutoConfig

from ..models.cmssl.pipeline_cmssl import PIPELINES
from .answering import write_table
from .models import ModelAnswers, add_model, add_rows


#: Tasks whose models were fine-tuned on labels.
_TASKS = ("physiological-signal-regression", "physiological-signal-classification")


def make_answer(options: argparse.Namespace) -> ModelAnswers:
    config = AutoConfig.from_pretrained(options.model)
    # The first one refuses a model that none of them serves.
    return ModelAnswers(next((task for task in _TASKS if PIPELINES[task][0].serves(config)), _TASKS[0]), options)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="What a fine-tuned model answers to recordings: a row for each window, with the file, start and end in"
        " seconds, a column for each label or the class and its scores, and what is wrong with the signal."
    )
    add_model(parser, "heart-rate")
    add_rows(parser)
    return write_table(make_answer, parser.parse_args())
