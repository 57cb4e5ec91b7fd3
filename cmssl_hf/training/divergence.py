"""Losses that are not finite or explode: the training stops at once and says which recordings it saw."""

import itertools
import math
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerState, TrainingArguments


#: A loss this many times the first one that was logged means that the model is far worse than an untrained one.
EXPLOSION = 100.0


class DivergedError(ArithmeticError):
    """The training stopped because loss or weights are not finite, or the loss has exploded; the message names a file with the
    batch's records."""


class DivergenceCallback(TrainerCallback):
    """Knows which batch of the epoch is being trained on, and stops the training if its loss cannot be learnt from."""

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        self._loader: DataLoader = train_dataloader
        steps_per_epoch = math.ceil(len(train_dataloader) / args.gradient_accumulation_steps)
        # Not 0 where a run continues within an epoch.
        self._first_batch = state.global_step % steps_per_epoch * args.gradient_accumulation_steps
        self._num_batches = 0
        self._epoch = int(state.epoch or 0)

    def check_loss(self, loss: float, args: TrainingArguments, state: TrainerState) -> None:
        """Called with the mean loss of each batch, before the optimizer's step.

        Raises:
            DivergedError: if the loss is not finite, or exceeds `EXPLOSION` times the first one that was logged.
        """
        self._num_batches += 1
        first = next((entry["loss"] for entry in state.log_history if "loss" in entry), math.inf)
        if not math.isfinite(loss):
            self._stop(f"the loss is {loss}", args, state)
        if loss > EXPLOSION * first:
            self._stop(f"the loss is {loss:.3g}, more than {EXPLOSION:g} times the first one", args, state)

    def check_weights(self, model: torch.nn.Module, args: TrainingArguments, state: TrainerState) -> None:
        """Called before weights are stored.

        Raises:
            DivergedError: if any is not finite.
        """
        bad = [name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
        if bad:
            self._stop(f"{len(bad)} weights are not finite, such as {bad[0]}", args, state)

    def _stop(self, problem: str, args: TrainingArguments, state: TrainerState) -> None:
        name = f"diverged_step_{state.global_step}"
        path = Path(args.output_dir) / (
            name + (f"_process_{args.process_index}.csv" if args.world_size > 1 else ".csv")
        )
        self._loader.dataset.provenance(self._batch()).to_pandas().to_csv(path, index=False)
        raise DivergedError(
            f"Training stopped after step {state.global_step}: {problem}. The records of the batch are in {path}. Look at their"
            " signals and labels; otherwise a lower `learning_rate`, a longer warm-up or full precision may help."
        )

    def _batch(self) -> list[int]:
        """Positions in the dataset of the windows of the current batch, drawn again: loaders do not pass them on."""
        sampler = self._loader.batch_sampler
        shuffler = sampler
        while hasattr(shuffler, "batch_sampler"):
            shuffler = shuffler.batch_sampler
        if hasattr(shuffler.sampler, "set_epoch"):
            shuffler.sampler.set_epoch(self._epoch)
        return next(itertools.islice(sampler, self._first_batch + self._num_batches - 1, None))
