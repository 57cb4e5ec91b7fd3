"""`Trainer` of stage 2."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import EvalPrediction

from .encoder_probes import probe_encoder
from .soft_targets import soft_targets
from .stage_trainer import StageTrainer


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
        temperature = self.args.soft_target_temperature
        self._soft_targets = None
        if codebook is not None and temperature > 0:
            self._soft_targets = soft_targets(codebook.detach().to(self.args.device), temperature)
        # One more of each: a code that is new in validation would otherwise be infinitely surprising.
        self._log_frequencies = np.log((code_counts + 1) / (code_counts + 1).sum())

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch=None
    ):
        soft = self._soft_targets if model.training else None
        outputs = model(**inputs, return_logits=return_outputs, soft_targets=soft)
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
