"""`cmssl-hf embed`: features of an encoder, as a table."""

import argparse

from .answering import write_table
from .models import ModelAnswers, add_model, add_rows


def make_answer(options: argparse.Namespace) -> ModelAnswers:
    return ModelAnswers("physiological-signal-feature-extraction", options)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Features of an encoder: a row for each window, with the file, start and end in seconds, the columns"
        " `feature_0`, `feature_1`, ..., and what is wrong with the signal."
    )
    add_model(parser, "ppg-encoder")
    add_rows(parser)
    return write_table(make_answer, parser.parse_args())
