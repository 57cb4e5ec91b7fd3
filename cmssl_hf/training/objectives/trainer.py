"""What training with an objective adds to that of any loss: the encoder is stored alone, and collapse is noticed."""

import copy
import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize
from transformers import EvalPrediction, PreTrainedModel

from ...models.cmssl.feature_extraction_cmssl import CMSSLFeatureExtractor
from ..pretraining import LossTrainer
from ..probes import probe_encoder


logger = logging.getLogger(__name__)

#: Deviations below which projections are called collapsed.
COLLAPSED = 0.02


class ObjectiveTrainer(LossTrainer):
    """Trains a model that has an encoder as its `encoder` and returns an [`ObjectiveOutput`].

    Checkpoints hold the whole model; the run's folder receives the encoder alone, as `AutoModel` loads it. The encoder is probed
    for what the windows tell.
    """

    model: Any  # a model of an objective, each of a class of its own
    processing_class: CMSSLFeatureExtractor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.is_fsdp_enabled:
            raise ValueError(
                "Only `--objective tokens` is trained with FSDP; the others are with DDP, see"
                " `scripts/accelerate/gpu_4_ddp.yaml`."
            )

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch=None
    ):
        outputs = model(**inputs)
        loss = outputs.loss
        if model.training:
            loss = loss * self.shares(inputs)[0]
            if outputs.projections is not None:
                self.note_loss_part("projection_std", projection_std(outputs.projections))
        return (loss, outputs) if return_outputs else loss

    def predict_batch(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self.on_device(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        num_windows = self.num_windows(inputs)
        measures = [loss]
        if outputs.projections is not None:
            measures += [projection_std(outputs.projections), effective_rank(outputs.projections)]
        per_window = torch.stack([measure.detach().float() for measure in measures]).expand(num_windows, -1)
        # `Trainer` computes metrics where there are labels.
        return loss.detach(), per_window, per_window

    def num_windows(self, inputs: dict[str, torch.Tensor]) -> int:
        """How many windows a batch was made of."""
        return len(inputs["input_values"])

    def _metrics(self, evaluation: EvalPrediction) -> dict[str, float]:
        names = ("loss_per_window", "projection_std", "effective_rank")
        metrics = dict(zip(names, evaluation.predictions.mean(0, dtype=float).tolist()))
        if metrics.get("projection_std", 1.0) < COLLAPSED:
            logger.warning(
                "The projections have collapsed: all windows have nearly the same (`projection_std` %.3f; 1 is spread evenly,"
                " effective rank %.1f). A lower learning rate, a larger batch or stronger views may help.",
                metrics["projection_std"],
                metrics["effective_rank"],
            )
        return metrics

    def encoders(self) -> dict[str, PreTrainedModel]:
        """What is stored, by the part of the run's folder that it is stored in."""
        return {"": self.model.encoder}

    def store_model(self) -> None:
        if not self.args.should_save:
            return
        for part, encoder in self.encoders().items():
            folder = Path(self.args.output_dir, part)
            encoder.save_pretrained(folder)
            extractor = copy.copy(self.processing_class)
            extractor.channels = encoder.config.channels
            extractor.save_pretrained(folder)

    def load_weights(self, folder: str) -> None:
        if Path(folder) != Path(self.args.output_dir):
            return super().load_weights(folder)
        for part, encoder in self.encoders().items():
            encoder.load_state_dict(type(encoder).from_pretrained(Path(folder, part)).state_dict())

    def report(self, folder: Path) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for part, encoder in self.encoders().items():
            probed = probe_encoder(
                encoder,
                self.train_dataset.dataset,
                self.eval_dataset.dataset,
                channels=self.model.config.channels,
                channel=encoder.config.channels[0],
            )
            prefix = f"eval_{part}_" if part else "eval_"
            metrics |= {f"{prefix}{name}": value for name, value in probed.items()}
        return metrics


def projection_std(projections: torch.Tensor) -> torch.Tensor:
    """Standard deviation over the rows `(batch, size)`, brought to length 1, of each dimension; their mean, times the square
    root of the size: 1 where directions are spread evenly, 0 where all are the same (Chen and He 2021, SimSiam)."""
    directions = normalize(projections.detach().float(), dim=-1)
    return directions.std(0, correction=0).mean() * directions.shape[1] ** 0.5


def effective_rank(projections: torch.Tensor) -> torch.Tensor:
    """Exponential of the entropy of the singular values, brought to a sum of 1, of the rows `(batch, size)` of length 1: how
    many dimensions they fill (Roy and Vetterli 2007; Garrido et al. 2023). At most the smaller of `batch` and `size`."""
    values = torch.linalg.svdvals(normalize(projections.detach().float(), dim=-1))
    shares = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    return torch.special.entr(shares).sum().exp()
