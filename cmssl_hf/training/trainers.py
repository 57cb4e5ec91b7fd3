"""`transformers.Trainer` for each of the three stages."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import upload_folder
from torch import nn
from transformers import EarlyStoppingCallback, EvalPrediction, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..models.cpu_kernels import use_cpu_kernels
from ..tasks import Task
from .checkpoints import CheckpointingTrainer, best_checkpoint, refuse_damaged
from .codebook_collapse import CodebookCollapseCallback
from .codebook_initialization import initialize_codebook
from .codebook_revival import revive_codes
from .divergence import DivergenceCallback
from .encoder_probes import probe_encoder
from .model_card import write_model_card
from .optimization import parameter_groups
from .reconstruction_metrics import codebook_metrics, reconstruction_metrics, reconstruction_statistics
from .reconstruction_report import reconstruction_report
from .run_folder import RunFolder
from .scoring import score
from .soft_targets import soft_code_cross_entropy
from .termination import TerminationCallback
from .window_order import SharedWindowsTrainer


# Labels of people who were asked for their data, not for its publication; and paths of this machine.
_NOT_UPLOADED = ("_*", f"{PREFIX_CHECKPOINT_DIR}-*", "predictions.csv", "reconstructions.png", TRAINER_STATE_NAME)


#: Figure of stage 1 in the run's folder.
RECONSTRUCTIONS_FILE = "reconstructions.png"


class StageTrainer(CheckpointingTrainer, SharedWindowsTrainer):
    """What the stages share: early stopping, parameter groups, and the parts of the loss in the log."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._loss_parts: dict[str, list[torch.Tensor]] = defaultdict(list)
        if self.args.device.type == "cpu":
            use_cpu_kernels(self.model)
        self.add_callback(_Epochs)
        self.add_callback(_LogBeforeSaving)
        self._divergence = DivergenceCallback()
        self.add_callback(self._divergence)
        if self.args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(self.args.early_stopping_patience))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
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

    def run(self, folder: RunFolder, checkpoint: str | None) -> dict[str, float]:
        """Trains, or continues from `checkpoint`; validates the best model and stores it with its results in `folder`.

        Returns:
            The validation metrics, with the prefix `eval_`.

        Raises:
            RunTerminated: if SIGTERM ended the training.
            DivergedError: if loss or weights are not finite or the loss explodes.
            CheckpointError: if a checkpoint cannot be written or the best one is damaged.
        """
        if checkpoint is None or not self._restore_if_complete(checkpoint):
            with TerminationCallback(self.accelerator) as termination:
                self.add_callback(termination)
                self.train(resume_from_checkpoint=checkpoint)
        metrics = self.evaluate()
        if self.is_world_process_zero():
            metrics.update(self.report(folder.path))
        # Saving as users do would already push, before there are results for the model card.
        self.save_model(_internal_call=True)
        self.save_state()
        self.save_metrics("eval", metrics)
        if self.is_world_process_zero():
            folder.note_results(metrics)
        return metrics

    def report(self, folder: Path) -> dict[str, float]:
        """Further validation metrics of the best model, with the prefix `eval_`, and figures in `folder`."""
        return {}

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self._divergence.check_loss(loss.item() * self.current_gradient_accumulation_steps, self.args, self.state)
        return loss

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._divergence.check_weights(self.model, self.args, self.state)
        super()._save_checkpoint(model, trial)

    def publish(self) -> None:
        """Writes the model card of the finished run and, with `push_to_hub`, uploads the run's folder but for checkpoints,
        predictions and the trainer's state."""
        self.create_model_card()
        if self.args.push_to_hub and self.is_world_process_zero():
            upload_folder(
                repo_id=self.hub_model_id,
                folder_path=self.args.output_dir,
                ignore_patterns=list(_NOT_UPLOADED),
                commit_message="End of training",
                token=self.args.hub_token,
                revision=self.args.hub_revision,
            )

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        # A pickle with paths of this machine and `hub_token` in it must not be uploaded; `run.json` says what decides.
        Path(output_dir or self.args.output_dir, TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def create_model_card(self, *args, **kwargs) -> None:
        """Writes the card from the run's record, in place of the draft that transformers makes."""
        if self.is_world_process_zero():
            write_model_card(self.args.output_dir, self.hub_model_id)

    def _restore_if_complete(self, checkpoint: str) -> bool:
        """Restores the end of a run whose last checkpoint this is; transformers would train on from it."""
        state = TrainerState.load_from_json(str(Path(checkpoint, TRAINER_STATE_NAME)))
        if not state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]:
            return False
        best = best_checkpoint(Path(checkpoint).parent, state) if self.args.load_best_model_at_end else None
        refuse_damaged(best or checkpoint)
        self._load_from_checkpoint(best or checkpoint)
        self.state = state
        return True

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


class TokenizerTrainer(StageTrainer):
    """Stage 1: an autoencoder for `warm_start_steps`, then k-means, then training with the quantiser.

    Validation reports each channel's L1 and explained variance, commitment, perplexity and codes in use. During the warm
    start it is done without the quantiser, and no checkpoint of it can become the best one.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, compute_metrics=self._metrics, **kwargs)
        self.add_callback(_CodebookInitialization(self))
        self.add_callback(_CodebookRevival(self))
        self.add_callback(
            CodebookCollapseCallback(self.model.codebook, self.args.perplexity_floor, self.args.warm_start_steps)
        )

    @property
    def quantizes(self) -> bool:
        """Whether the codebook is in use: always, but for the warm start of a training that is under way."""
        return not self.is_in_train or self.state.global_step >= self.args.warm_start_steps

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch=None
    ):
        outputs = model(**inputs, quantize=self.quantizes)
        if model.training:
            self.note_loss_part("reconstruction_loss", outputs.reconstruction_loss)
            self.note_loss_part("commitment_loss", outputs.commitment_loss)
            self.last_latents = outputs.latents.detach(), outputs.codes
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def predict_batch(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        statistics = reconstruction_statistics(
            outputs.reconstruction.float(), inputs["input_values"], inputs.get("attention_mask")
        )
        commitment = outputs.commitment_loss.expand(len(statistics))
        return loss.detach(), (statistics, commitment), outputs.codes

    def _metrics(self, evaluation: EvalPrediction) -> dict[str, float]:
        statistics, commitment = evaluation.predictions
        config = self.model.config
        metrics = reconstruction_metrics(statistics, config.channels)
        if self.quantizes:
            metrics["commitment_loss"] = float(commitment.mean())
            metrics.update(codebook_metrics(evaluation.label_ids, config.codebook_size))
        return metrics

    def report(self, folder: Path) -> dict[str, float]:
        model = self.accelerator.unwrap_model(self.model)
        metrics = reconstruction_report(model, self.eval_dataset, folder / RECONSTRUCTIONS_FILE)
        return {f"eval_{name}": value for name, value in metrics.items()}

    def _determine_best_metric(self, metrics: dict[str, float], trial) -> bool:
        # Without the quantiser the loss is lower than any that follows.
        return super()._determine_best_metric(metrics, trial) if self.quantizes else False


class _CodebookInitialization(TrainerCallback):
    """Sets the codebook by k-means when the warm start ends, before anything is evaluated or saved, and slows the encoder."""

    def __init__(self, trainer: TokenizerTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        if state.max_steps <= args.warm_start_steps:
            raise ValueError(
                f"`warm_start_steps` ({args.warm_start_steps}) must be fewer than the steps of the training"
                f" ({state.max_steps}): nothing would be quantised."
            )
        if state.global_step == 0:
            self._end_warm_start(args, state)

    def on_step_end(self, args, state, control, **kwargs):
        self._end_warm_start(args, state)

    def _end_warm_start(self, args, state):
        if state.global_step != args.warm_start_steps:
            return
        # Checkpoints hold the state of the scheduler, the changed rates included.
        scheduler = self.trainer.lr_scheduler
        scheduler = getattr(scheduler, "scheduler", scheduler)
        for index, group in enumerate(self.trainer.optimizer.param_groups):
            if group["part"] == "encoder":
                scheduler.base_lrs[index] *= args.quantized_encoder_lr
                group["lr"] *= args.quantized_encoder_lr
        if args.kmeans_windows == 0:
            return
        initialize_codebook(
            self.trainer.accelerator.unwrap_model(self.trainer.model),
            self.trainer.train_dataset,
            self.trainer.accelerator,
            num_windows=args.kmeans_windows,
            num_iterations=args.kmeans_iterations,
            seed=args.seed,
            windows_per_step=args.train_batch_size * args.world_size,
        )


class _CodebookRevival(TrainerCallback):
    """Revives unused codes every `revival_steps` steps; not in the last fifth of the training, in which codes settle."""

    def __init__(self, trainer: TokenizerTrainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        step = state.global_step
        if (
            not args.revival_steps
            or step % args.revival_steps
            or not args.warm_start_steps < step < 0.8 * state.max_steps
        ):
            return
        latents, codes = self.trainer.last_latents
        revive_codes(
            self.trainer.accelerator.unwrap_model(self.trainer.model).codebook,
            latents[codes >= 0],
            self.trainer.accelerator,
            usage=args.revival_usage,
            seed=args.seed + step,
        )


class EncoderTrainer(StageTrainer):
    """Stage 2: cross-entropy against the frozen tokenizer's codes.

    Args:
        code_counts: how often each code occurs in the training set `(codebook_size,)`. Validation compares the
            cross-entropy with that of always predicting these frequencies.
        dataset_channels: channels of the datasets' `input_values`; with them the best model is probed for what the windows
            tell, see `encoder_probes`.
        codebook: the tokenizer's codes `(codebook_size, codebook_dim)`; with them and a `soft_target_temperature` the encoder
            is trained towards codes like the right one too. Validation knows right and wrong only.
    """

    def __init__(
        self,
        *args,
        code_counts: np.ndarray,
        dataset_channels: Sequence[str] = (),
        codebook: torch.Tensor | None = None,
        **kwargs,
    ):
        super().__init__(*args, compute_metrics=self._metrics, **kwargs)
        self.dataset_channels = dataset_channels
        self.codebook = None if codebook is None else codebook.to(self.args.device)
        # One more of each: a code that is new in validation would otherwise be infinitely surprising.
        self._log_frequencies = np.log((code_counts + 1) / (code_counts + 1).sum())

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch=None
    ):
        if model.training and self.codebook is not None and self.args.soft_target_temperature > 0:
            labels = inputs["labels"]
            outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
            temperature = self.args.soft_target_temperature
            outputs.loss = soft_code_cross_entropy(outputs.logits, labels, self.codebook, temperature)
        else:
            outputs = model(**inputs, return_logits=return_outputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def predict_batch(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        labels = inputs["labels"]
        log_probabilities = outputs.logits.float().log_softmax(-1)
        of_label = log_probabilities.gather(-1, labels.clamp(min=0)[..., None])
        # The number of codes that are more likely than the right one, in place of the whole distribution.
        rank = (log_probabilities > of_label).sum(-1)
        return loss.detach(), (-of_label[..., 0], rank), labels

    def _metrics(self, evaluation: EvalPrediction) -> dict[str, float]:
        negative_log_likelihood, rank = evaluation.predictions
        labels = evaluation.label_ids
        real = labels >= 0
        return {
            "cross_entropy": float(negative_log_likelihood[real].mean()),
            "token_frequency_cross_entropy": float(-self._log_frequencies[labels[real]].mean()),
            "top1_accuracy": float((rank[real] < 1).mean()),
            "top5_accuracy": float((rank[real] < 5).mean()),
        }

    def report(self, folder: Path) -> dict[str, float]:
        if not self.dataset_channels:
            return {}
        encoder = self.accelerator.unwrap_model(self.model).encoder
        metrics = probe_encoder(
            encoder,
            self.train_dataset.dataset,
            self.eval_dataset.dataset,
            channels=self.dataset_channels,
            channel=encoder.config.channels[0],
        )
        return {f"eval_{name}": value for name, value in metrics.items()}


class FinetuningTrainer(StageTrainer):
    """Stage 3: labels in physical units, judged by the metric module of the problem type.

    Args:
        task: what is learnt.
    """

    def __init__(self, *args, task: Task, **kwargs):
        super().__init__(*args, compute_metrics=self._metrics, **kwargs)
        self.task = task

    def _metrics(self, evaluation: EvalPrediction) -> dict[str, float]:
        return score(self.task, evaluation.predictions, evaluation.label_ids)
