"""Arguments of the commands that run a model over the windows of recordings, and how its answers become rows."""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from transformers import pipeline
from transformers.utils.logging import disable_progress_bar

from ..heartbeats import find_heartbeats, heart_rate_variability
from ..models.cpu_kernels import cpu_kernels
from ..shipped import find_model, pretrained_names
from .answering import Rows, add_files, positive, positive_count
from .rows import answer_rows


def add_model(parser: argparse.ArgumentParser, default: str) -> None:
    """Arguments of `add_files`, the model, by default one that comes with the package, and the windows that it reads."""
    add_files(parser)
    parser.add_argument(
        "--model",
        type=find_model,
        default=default,
        help=f"folder of a run, Hub id, or a model of the package ({', '.join(pretrained_names())}; {default} if left out)",
    )
    parser.add_argument("--window_seconds", type=positive, help="those that the model was trained on, if left out")
    parser.add_argument(
        "--stride_seconds", type=positive, help="between the starts of windows; their length if left out"
    )
    parser.add_argument("--batch_size", type=positive_count, default=64, help="windows that the model gets at a time")


def add_rows(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", choices=("windows", "recordings"), default="windows", help="what a row stands for")


def parameters(options: argparse.Namespace) -> dict[str, Any]:
    """Of the pipelines."""
    names = ("sampling_rate", "column", "window_seconds", "stride_seconds", "batch_size")
    return {"on_error": "skip", **{name: getattr(options, name) for name in names}}


def failure(answer: Mapping[str, Any]) -> dict[str, str]:
    """The row of a recording without windows."""
    # Its number among those that the model got together says nothing here.
    return {"reason": re.sub(r"^Recording \d+ of those given: ", "", answer["reason"])}


class ModelAnswers:
    """The rows of a pipeline's answers.

    Args:
        task: of the pipeline.
        options: of `add_model` and `add_rows`.
        precision: `"bf16"` multiplies matrices in that format, which is faster on processors that have instructions for it.
        limits: further parameters of the pipeline.
    """

    def __init__(
        self, task: str, options: argparse.Namespace, precision: Literal["fp32", "bf16"] = "fp32", **limits: Any
    ):
        disable_progress_bar()
        # transformers' overloads name its own tasks.
        self.pipeline: Any = pipeline(task, model=options.model, **parameters(options), **limits)  # type: ignore[call-overload]
        self.per_window = options.rows == "windows"
        self.precision = precision
        self.beats = getattr(options, "beats", False)

    def __call__(self, files: Sequence[str]) -> Iterator[Rows]:
        in_bf16 = self.precision == "bf16"
        device = self.pipeline.device.type
        kernels = cpu_kernels(self.pipeline.model, "off" if in_bf16 else "auto")
        with kernels, torch.autocast(device, torch.bfloat16, enabled=in_bf16):
            for answer in self.pipeline(iter(files), return_recording=self.beats):
                if self.beats and answer["windows"]:
                    _add_heartbeats(answer, self.per_window)
                yield answer_rows(answer, self.per_window) or [failure(answer)]


def _add_heartbeats(answer: dict[str, Any], per_window: bool) -> None:
    beats = find_heartbeats(answer)
    for one in answer["windows"] if per_window else [answer]:
        one["beats"] = heart_rate_variability(beats.between(one["start"], one["end"]))
