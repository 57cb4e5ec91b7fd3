"""Masked reconstruction: an encoder that sees a part of its signal tells the samples that were hidden (He et al. 2022, Xie et al.
2022)."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ...data.augmentation import Augmentation
from ...data.batches import WindowBatch, WindowsCollator, joined, stack_if_alike
from ...models.cmssl.configuration_cmssl import CMSSLEncoderConfig
from ...models.cmssl.modeling_cmssl_encoder import CMSSLEncoderModel, CMSSLEncoderPreTrainedModel
from ..arguments import DataArguments
from ..engine.arguments import StageArguments
from ..pretraining import PretrainingArguments, pretrain_by_loss
from .models import ObjectiveOutput
from .stages import objective_stage
from .trainer import ObjectiveTrainer


@dataclass(kw_only=True)
class MaskedArguments(PretrainingArguments):
    """Pre-training by masked reconstruction."""

    objective: str = field(default="masked", metadata={"help": "Tell the samples that are hidden."})
    masked_share: float = field(
        default=0.6,
        metadata={"help": "Share of a window that is hidden in spans of half a second, which may overlap."},
    )

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.masked_share < 1:
            raise ValueError(
                f"`masked_share` must be more than 0 and less than 1, such as 0.6, but is {self.masked_share}: hidden samples are"
                " what is learnt from."
            )

    def validation_augmentation(self, sampling_rate: float) -> Augmentation:
        return Augmentation(sampling_rate, masked_share=self.masked_share)


class HiddenSamplesCollator(WindowsCollator):
    """Windows, and which of their samples are hidden: `hidden (batch, samples)`. Whole windows are changed first by all else that
    an augmentation does."""

    def __call__(self, batch: WindowBatch | list[WindowBatch]) -> dict[str, torch.Tensor]:
        batch = joined(batch)
        augmentation = batch.augmentation
        if not isinstance(augmentation, Augmentation) or not augmentation.masked_share:
            raise ValueError("Samples are hidden by an `Augmentation` with a `masked_share`: give the dataset one.")
        windows, _ = replace(augmentation, masked_share=0.0)(batch.windows, None, batch.generators)
        features = self.pad(stack_if_alike(windows))
        hidden = np.zeros((len(windows), features["input_values"].shape[-1]), dtype=bool)
        for row, window, generator in zip(hidden, windows, batch.generators):
            num_samples = window.shape[-1]
            row[:num_samples] = augmentation.hidden_samples(num_samples, generator)
        if not hidden.any():
            raise ValueError(
                f"A `masked_share` of {augmentation.masked_share} hides nothing in windows as short as these: give a larger one."
            )
        return {**features, "hidden": torch.from_numpy(hidden)}


class EncoderForMaskedReconstruction(CMSSLEncoderPreTrainedModel):
    """Encoder, a linear layer to the samples of each patch, and the loss of batches of a [`HiddenSamplesCollator`]."""

    def __init__(self, config: CMSSLEncoderConfig):
        super().__init__(config)
        self.encoder = CMSSLEncoderModel(config)
        self.samples_head = nn.Linear(config.hidden_size, config.patch_size)
        self.post_init()

    def forward(
        self, input_values: torch.Tensor, hidden: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> ObjectiveOutput:
        seen = input_values.masked_fill(hidden[:, None], 0.0)
        told = self.samples_head(self.encoder(seen, attention_mask).last_hidden_state).flatten(1)
        return ObjectiveOutput(nn.functional.mse_loss(told[hidden].float(), input_values[:, 0][hidden].float()))


class MaskedTrainer(ObjectiveTrainer):
    """Trains with batches of a [`HiddenSamplesCollator`]; each hidden sample of a step counts the same."""

    def loss_terms(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return inputs["hidden"].sum()[None]


def pretrain_by_reconstruction(
    arguments: MaskedArguments, data_arguments: DataArguments, training_arguments: StageArguments
) -> dict[str, Any]:
    """Trains an encoder; see [`pretrain_one_signal`]."""
    return pretrain_by_loss(
        MASKED,
        EncoderForMaskedReconstruction,
        arguments,
        data_arguments,
        training_arguments,
        trainer_class=MaskedTrainer,
        collator_class=HiddenSamplesCollator,
    )


MASKED = objective_stage(
    "masked",
    "masked reconstruction",
    learns="reconstruction of hidden samples",
    task="tell the samples of hidden spans from the rest of the window",
    results_note=(
        "The loss is the mean squared error in hidden samples of standardised signals: about 1 where they are taken to be at the"
        " mean."
    ),
    arguments=(MaskedArguments, DataArguments, StageArguments),
    function=pretrain_by_reconstruction,
)
