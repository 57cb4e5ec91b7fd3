"""`Trainer` of stage 1."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import EvalPrediction, TrainerCallback

from .codebook_collapse import CodebookCollapseCallback
from .codebook_initialization import initialize_codebook
from .codebook_revival import revive_codes
from .reconstruction_metrics import codebook_metrics, reconstruction_metrics, reconstruction_statistics
from .reconstruction_report import reconstruction_report
from .stage_trainer import StageTrainer


#: Figure of stage 1 in the run's folder.
RECONSTRUCTIONS_FILE = "reconstructions.png"


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
            if self.args.revival_steps:
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
