"""What the trainers of the three stages share."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import upload_folder
from torch import nn
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerState,
)
from transformers.integrations import TensorBoardCallback
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, TrainOutput

from ...data.augmentation import Augmentation
from ...data.batches import WindowsDataset
from ...models.cmssl.modeling_cmssl_layers import CMSSLLayer
from ...models.cpu_kernels import cpu_kernels
from .arguments import StageArguments
from .checkpoints import CheckpointingTrainer, best_checkpoint, refuse_damaged
from .divergence import DivergenceCallback
from .optimization import parameter_groups
from .precision import log_precision
from .processes import share_batch_norms
from .progress import Progress
from .run_folder import RunFolder
from .shared_memory import full_shared_memory_explained, refuse_small_shared_memory
from .termination import TerminationCallback
from .window_order import SharedWindowsTrainer


# Labels of people who were asked for their data, not for its publication; and paths of this machine.
_NOT_UPLOADED = (
    "_*",
    f"{PREFIX_CHECKPOINT_DIR}-*",
    "predictions.csv",
    "reconstructions.png",
    "adapter/*",
    TRAINER_STATE_NAME,
)


class StageTrainer(CheckpointingTrainer, SharedWindowsTrainer):
    """What the stages share: early stopping, parameter groups, and the parts of the loss in the log."""

    args: StageArguments
    model: PreTrainedModel
    train_dataset: WindowsDataset
    eval_dataset: WindowsDataset

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._loss_parts: dict[str, list[torch.Tensor]] = defaultdict(list)
        if self.args.augment_on_device:
            if not isinstance(self.train_dataset.augmentation, Augmentation):
                raise ValueError(
                    "`augment_on_device` does nothing where training windows are not changed, or not as windows but as views."
                )
            self.train_dataset.augments_on_device = True
        if self.args.world_size > 1:
            share_batch_norms(self.model)
        if self.args.compile_layers:
            for module in self.model.modules():
                if isinstance(module, CMSSLLayer):
                    module.compile()
        for callback in self.callback_handler.callbacks:
            # Without a training it would write to the working directory.
            if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
                callback.logging_dir = str(Path(self.args.output_dir, "runs"))
        for theirs in (ProgressCallback, PrinterCallback):
            self.remove_callback(theirs)
        self.add_callback(Progress)
        self.add_callback(_Epochs)
        self.add_callback(_LogBeforeSaving)
        self._divergence = DivergenceCallback(delay=0 if self.args.device.type == "cpu" else 1)
        self.add_callback(self._divergence)
        if self.args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(self.args.early_stopping_patience))

    def create_optimizer(self, model: PreTrainedModel | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            model = self.model if model is None else model
            groups = parameter_groups(
                model,
                decayed=self.get_decay_parameter_names(model),
                learning_rate=self.args.learning_rate,
                weight_decay=self.args.weight_decay,
                layerwise_lr_decay=self.args.layerwise_lr_decay,
                head_learning_rate=getattr(self.args, "head_learning_rate", None),
            )
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def run(
        self, folder: RunFolder, checkpoint: str | None, test: Callable[[], dict[str, Any]] | None = None
    ) -> dict[str, Any]:
        """Trains, or continues from `checkpoint`; validates the best model and stores it with its results in `folder`. A run
        that is finished is restored from there, and nothing is computed.

        Args:
            folder: of the run.
            checkpoint: to continue from.
            test: called once, on each process, when the best model is stored; what it returns on the main one are the results.

        Returns:
            The results: validation metrics, with the prefix `eval_`, where there is no `test`.

        Raises:
            RunTerminated: if SIGTERM ended the training.
            DivergedError: if loss or weights are not finite or the loss explodes.
            CheckpointError: if a checkpoint cannot be written or the best one is damaged.
            SharedMemoryError: if loader processes have too little shared memory.
        """
        if (results := folder.results) is not None:
            self._restore(folder.path, folder.path)
            return results
        if checkpoint is None or not self._restore_if_complete(checkpoint):
            log_precision(self.args.device, self.args.computed_in, self.args.precision)
            with TerminationCallback(self.accelerator) as termination:
                self.add_callback(termination)
                self.train(resume_from_checkpoint=checkpoint)
        metrics = self.evaluate()
        if self.is_world_process_zero():
            with cpu_kernels(self.model, self.args.cpu_kernels):
                metrics.update(self.report(folder.path))
        self.store_model()
        self.save_state()
        self.save_metrics("eval", metrics)
        results = metrics if test is None else test()
        if self.is_world_process_zero():
            folder.note_results(results)
        return results

    def report(self, folder: Path) -> dict[str, float]:
        """Further validation metrics of the best model, with the prefix `eval_`, and figures in `folder`."""
        return {}

    def loss_terms(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """How many values each mean in the loss of a batch is taken over `(means,)`; the windows, where stages do not say."""
        values = inputs["input_values"]
        # Filled on the device: a copy would wait for it.
        return values.new_full((1,), len(values), dtype=torch.int64)

    def shares(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Factors `(means,)` by which each mean in the loss of a training batch counts, so that the mean over the batches and
        processes of a step is that over all its values; 1 where all batches are equally large."""
        return self.loss_terms(inputs) / self._mean_loss_terms

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.args.augment_on_device:
            batches = [self.train_dataset.augmented(batch) for batch in batches]
        if batches:
            mean = torch.stack([self.loss_terms(batch) for batch in batches]).float().mean(0)
            self._mean_loss_terms = self.accelerator.reduce(mean.to(device), reduction="mean").clamp(min=1e-12)
        return batches, num_items

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        refuse_small_shared_memory(self.args, self.train_dataset, self.data_collator, self.args.train_batch_size)
        with cpu_kernels(self.model, self.args.cpu_kernels), full_shared_memory_explained(self.args):
            return super().train(*args, **kwargs)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        with cpu_kernels(self.model, self.args.cpu_kernels), full_shared_memory_explained(self.args):
            return super().evaluation_loop(*args, **kwargs)

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self._divergence.note_loss(loss * self.current_gradient_accumulation_steps, self.args, self.state)
        return loss

    def store_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._divergence.check_before_saving(self.model, self.args, self.state)
        super().store_checkpoint(model, trial)

    def publish(self, write_card: Callable[[str, str | None], Any]) -> None:
        """Writes the model card of the finished run and, with `push_to_hub`, uploads the run's folder but for checkpoints,
        predictions and the trainer's state.

        Args:
            write_card: called with the folder, and the Hub id if there is one.
        """
        if self.is_world_process_zero():
            write_card(self.args.output_dir, self.hub_model_id)
        if self.args.push_to_hub and self.is_world_process_zero():
            upload_folder(
                repo_id=self.hub_model_id,
                folder_path=self.args.output_dir,
                ignore_patterns=list(_NOT_UPLOADED),
                commit_message="End of training",
                token=self.args.hub_token,
                revision=self.args.hub_revision,
            )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        # A pickle with paths of this machine and `hub_token` in it must not be uploaded; `run.json` says what decides.
        Path(output_dir or self.args.output_dir, TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the draft that transformers would make knows less than the run's record."""

    def _restore_if_complete(self, checkpoint: str) -> bool:
        """Restores the end of a run whose last checkpoint this is; transformers would train on from it."""
        state = TrainerState.load_from_json(str(Path(checkpoint, TRAINER_STATE_NAME)))
        if not state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]:
            return False
        best = best_checkpoint(Path(checkpoint).parent, state) if self.args.load_best_model_at_end else None
        refuse_damaged(best or checkpoint)
        self._restore(Path(best or checkpoint), Path(checkpoint))
        return True

    def _restore(self, model: Path, state: Path) -> None:
        """Takes the weights in one folder and the state in another."""
        self.load_weights(str(model))
        self.state = TrainerState.load_from_json(str(state / TRAINER_STATE_NAME))

    def note_loss_part(self, name: str, value: torch.Tensor) -> None:
        """Adds a part of the training loss to the next log line, without waiting for the device."""
        self._loss_parts[name].append(value.detach())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._loss_parts:
            means = {name: torch.stack(values).mean() for name, values in self._loss_parts.items()}
            logs.update({name: self.accelerator.gather(mean).mean().item() for name, mean in means.items()})
            self._loss_parts.clear()
        super().log(logs, start_time)


class _Epochs(TrainerCallback):
    """Tells dataset and sampler which epoch begins.

    The data loader of `accelerate` tells neither its dataset when there are several processes or when it skips what was done
    before an interruption, nor its sampler when both is the case: augmentation and order would be those of the first epoch.
    """

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        epoch = int(state.epoch or 0)
        sampler = train_dataloader.batch_sampler
        while hasattr(sampler, "batch_sampler"):
            sampler = sampler.batch_sampler
        for listener in (train_dataloader.dataset, sampler.sampler):
            if hasattr(listener, "set_epoch"):
                listener.set_epoch(epoch)


class _LogBeforeSaving(TrainerCallback):
    """Logs whenever a checkpoint is due: it holds no sums of losses, so that a run continued from it would log other means."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_log = control.should_log or control.should_save

    on_epoch_end = on_step_end
