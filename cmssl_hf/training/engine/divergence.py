"""Losses that are not finite or explode: the training stops at once and says which recordings it saw."""

import itertools
import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerState

from .arguments import StageArguments


#: Losses this many times that of an untrained model mean that the model is far worse than one.
EXPLOSION = 100.0
#: So many batches in a row: a single one may hold an outlier.
EXPLODED_BATCHES = 3
#: The loss of an untrained model, where the first one that was logged is lower, such as that of a model that is trained further.
#: Signals and regression labels are standardised and all else are cross-entropies, so that it is about 1.
UNTRAINED_LOSS = 1.0


class DivergedError(ArithmeticError):
    """The training stopped because loss or weights are not finite, or the loss has exploded; the message names a file with the
    batch's records."""


@dataclass
class _Batch:
    """A batch whose loss is to be checked: its mean, and how to find its windows again."""

    loss: torch.Tensor
    step: int
    loader: Any  # of accelerate, which has no types
    epoch: int
    number: int

    def window_positions(self) -> list[int]:
        """Positions in the dataset of its windows, drawn again: loaders do not pass them on."""
        sampler = self.loader.batch_sampler
        shuffler = sampler
        while hasattr(shuffler, "batch_sampler"):
            shuffler = shuffler.batch_sampler
        if hasattr(shuffler.sampler, "set_epoch"):
            shuffler.sampler.set_epoch(self.epoch)
        return next(itertools.islice(sampler, self.number, None))


class DivergenceCallback(TrainerCallback):
    """Knows which batch of the epoch is being trained on, and stops the training if its loss cannot be learnt from.

    Args:
        delay: batches by which a loss is looked at later than it was computed. With an accelerator, which computes while the
            next batch is being prepared, 0 would make each wait for the other. Whatever the delay, all losses are checked
            before a checkpoint is stored.
    """

    def __init__(self, delay: int = 0):
        self._delay = delay
        self._unchecked: deque[_Batch] = deque()
        self._num_exploded = 0

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        self._loader = train_dataloader
        steps_per_epoch = math.ceil(len(train_dataloader) / args.gradient_accumulation_steps)
        # Not 0 where a run continues within an epoch.
        self._next_batch = state.global_step % steps_per_epoch * args.gradient_accumulation_steps
        self._epoch = int(state.epoch or 0)

    def on_train_end(self, args, state, control, **kwargs):
        self.check_losses(args, state)

    def note_loss(self, loss: torch.Tensor, args: StageArguments, state: TrainerState) -> None:
        """Called with the mean loss of each batch, before the optimizer's step.

        Raises:
            DivergedError: if a loss is not finite, or those of `EXPLODED_BATCHES` in a row exceed `EXPLOSION` times the first
                one that was logged, or `UNTRAINED_LOSS` where that is more.
        """
        self._unchecked.append(_Batch(loss.detach(), state.global_step, self._loader, self._epoch, self._next_batch))
        self._next_batch += 1
        self.check_losses(args, state, later=self._delay)

    def check_losses(self, args: StageArguments, state: TrainerState, later: int = 0) -> None:
        """Checks the losses that are still to be checked, but for the last `later` ones.

        Raises:
            DivergedError: as [`note_loss`] does.
        """
        first = next((entry["loss"] for entry in state.log_history if "loss" in entry), math.inf)
        limit = EXPLOSION * max(first, UNTRAINED_LOSS)
        while len(self._unchecked) > later:
            batch = self._unchecked.popleft()
            loss = batch.loss.item()
            if not math.isfinite(loss):
                self._stop(f"the loss is {loss}", batch, args)
            self._num_exploded = self._num_exploded + 1 if loss > limit else 0
            if self._num_exploded == EXPLODED_BATCHES:
                self._stop(
                    f"the loss is {loss:.3g}; {EXPLODED_BATCHES} batches in a row had more than {EXPLOSION:g} times the first one"
                    " and that of an untrained model",
                    batch,
                    args,
                )
            self._last = batch

    def check_before_saving(self, model: torch.nn.Module, args: StageArguments, state: TrainerState) -> None:
        """Called before weights are stored.

        Raises:
            DivergedError: if any weight is not finite, or as [`note_loss`] does.
        """
        self.check_losses(args, state)
        bad = [name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
        if bad:
            self._stop(f"{len(bad)} weights are not finite, such as {bad[0]}", self._last, args, state.global_step)

    def _stop(self, problem: str, batch: _Batch, args: StageArguments, step: int | None = None) -> None:
        step = batch.step if step is None else step
        process = f"_process_{args.process_index}" if args.world_size > 1 else ""
        path = Path(args.output_dir) / f"diverged_step_{step}{process}.csv"
        batch.loader.dataset.provenance(batch.window_positions()).to_pandas().to_csv(path, index=False)
        raise DivergedError(
            f"Training stopped after step {step}: {problem}. The records of the batch are in {path}. Look at their"
            " signals and labels; otherwise a lower `learning_rate`, a longer warm-up or full precision may help."
        )
