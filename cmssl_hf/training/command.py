"""Running a stage as a command: logging, and an orderly end for every process."""

import logging
import signal
import sys
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.utils import logging as transformers_logging

from .divergence import DivergedError
from .termination import RunTerminated


_REFUSALS = (ValueError, OSError, DivergedError)


def run_stage(stage: Callable[..., dict], *arguments: Any) -> dict | None:
    """Runs a stage and returns its results on the main process, `None` on the others.

    What a stage refuses (bad data, arguments that do not fit, a folder that is taken) ends the process with its message and
    exit code 1, without a traceback; a run that SIGTERM ends has the exit code that shells give to it, 143.

    Args:
        stage: called with `arguments`.
        arguments: dataclasses, a `TrainingArguments` among them.
    """
    training_arguments = next(a for a in arguments if isinstance(a, TrainingArguments))
    _log_to_stderr(training_arguments)
    try:
        results = stage(*arguments)
    except RunTerminated as termination:
        logging.getLogger(__name__).warning("%s", termination)
        sys.exit(128 + signal.SIGTERM)
    except _REFUSALS as error:
        logging.getLogger(__name__).debug("refused", exc_info=True)
        sys.exit(f"error: {error}")
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return results if training_arguments.process_index == 0 else None


def _log_to_stderr(arguments: TrainingArguments) -> None:
    level = arguments.get_process_log_level()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
    package_logger = logging.getLogger("cmssl_hf")
    package_logger.addHandler(handler)
    package_logger.setLevel(level)
    transformers_logging.set_verbosity(level)
