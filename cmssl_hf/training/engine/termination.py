"""SIGTERM, which schedulers send before they kill: the run saves a checkpoint and ends."""

import logging
import signal
import threading
from types import FrameType

import torch
from accelerate import Accelerator
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


logger = logging.getLogger(__name__)


class RunTerminated(Exception):
    """The run ended early because it was asked to; the same command continues it."""


class TerminationCallback(TrainerCallback):
    """Ends a training after the step during which SIGTERM came, with a checkpoint that the same command continues from.

    While it is used as a context manager it handles the signal. The `enable_jit_checkpoint` of transformers saves before
    the optimizer's step and notes that training should stop, so that a run would neither continue nor end the same. Only the
    main thread of a process can handle signals: in another one a training goes on without, and SIGTERM does what it does there.

    Args:
        accelerator: of the run; if one process is asked to end, all end after the same step.

    Raises:
        RunTerminated: from `Trainer.train`, once the checkpoint is written.
    """

    def __init__(self, accelerator: Accelerator):
        self._accelerator = accelerator
        self._requested = False
        self._ending = False
        self._of_last_step = torch.tensor(0)

    def __enter__(self) -> "TerminationCallback":
        self._handles_signals = threading.current_thread() is threading.main_thread()
        if self._handles_signals:
            self._previous = signal.signal(signal.SIGTERM, self._request)
        else:
            logger.info("Not in the main thread: SIGTERM will end the run without a checkpoint.")
        return self

    def __exit__(self, error: type[BaseException] | None, *details: object) -> None:
        if not self._handles_signals:
            return
        # `None` stands for one that was not set from Python and cannot be set again.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if self._previous is None else self._previous)
        # It came when there was nothing left to save.
        if error is None and self._requested:
            signal.raise_signal(signal.SIGTERM)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self._requested = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        # What is due at the end of an epoch would be left out if the checkpoint were written before it.
        if not float(state.epoch).is_integer():
            self._save_if_requested(control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self._save_if_requested(control)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        if self._ending:
            raise RunTerminated(
                f"Ended after step {state.global_step} of {state.max_steps} because of SIGTERM; the same command continues."
            )

    def _save_if_requested(self, control: TrainerControl) -> None:
        if self._requested_anywhere():
            self._ending = control.should_save = True

    def _requested_anywhere(self) -> bool:
        if self._accelerator.num_processes == 1:
            return self._requested
        requested = self._accelerator.reduce(torch.tensor(int(self._requested), device=self._accelerator.device))
        if requested.device.type != "cpu":
            # The answer to the step before is there already; to wait for this one would keep the device from the next step.
            requested, self._of_last_step = self._of_last_step, requested
        return bool(requested.item())
