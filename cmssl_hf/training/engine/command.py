"""Running stages as commands: arguments, logging, refusals in one line, and an orderly end for every process."""

import contextlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import TrainingArguments
from transformers.utils import logging as transformers_logging

from .divergence import DivergedError
from .parsing import parse_arguments
from .termination import RunTerminated


_REFUSALS = (ValueError, OSError, StrictDataclassError, DivergedError)

#: What other libraries say to each other, by the beginning of the message.
_NOT_FOR_USERS = ("`broadcast_buffers` is deprecated",)


@contextlib.contextmanager
def orderly_end() -> Iterator[None]:
    """What is refused inside the block (bad data, arguments that do not fit, a folder that is taken) ends the process with a
    message and exit code 1, without a traceback; SIGTERM and Ctrl-C end it with the exit codes that shells give to them."""
    # Every process refuses, and the first one says so.
    is_first = int(os.environ.get("RANK", 0)) == 0
    try:
        yield
    except RunTerminated as termination:
        logging.getLogger(__name__).warning("%s", termination)
        sys.exit(128 + signal.SIGTERM)
    except KeyboardInterrupt:
        logging.getLogger(__name__).warning("Interrupted; the same command continues from the last checkpoint.")
        sys.exit(128 + signal.SIGINT)
    except _REFUSALS as error:
        logging.getLogger(__name__).debug("refused", exc_info=True)
        # A progress bar may stand on the line.
        sys.exit(f"\nerror: {error}" if is_first else 1)
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def run_command(
    function: Callable[..., dict[str, Any]], argument_types: Sequence[type], arguments: Sequence[str] | None = None
) -> tuple[tuple[Any, ...], dict[str, Any] | None]:
    """Reads the command line and runs a stage.

    Args:
        function: called with one instance of each dataclass.
        argument_types: see `parse_arguments`; a `TrainingArguments` among them.
        arguments: those of the command line if left out.

    Returns:
        The arguments, and the results on the main process (`None` on the others).
    """
    with orderly_end():
        parsed = parse_arguments(argument_types, arguments)
        return parsed, run_stage(function, *parsed)


def run_stage(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any] | None:
    """Runs a stage with logging and returns its results on the main process, `None` on the others.

    Args:
        function: called with `arguments`.
        arguments: dataclasses, a `TrainingArguments` among them.
    """
    training_arguments = next(a for a in arguments if isinstance(a, TrainingArguments))
    _log_to_stderr(training_arguments)
    results = function(*arguments)
    return results if training_arguments.process_index == 0 else None


def _log_to_stderr(arguments: TrainingArguments) -> None:
    level = arguments.get_process_log_level()
    package_logger = logging.getLogger("cmssl_hf")
    if not package_logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
        package_logger.addHandler(handler)
    package_logger.setLevel(level)
    transformers_logging.set_verbosity(level)
    # Each checkpoint would draw bars of its own through that of the training.
    transformers_logging.disable_progress_bar()
    for beginning in _NOT_FOR_USERS:
        warnings.filterwarnings("ignore", message=beginning)
