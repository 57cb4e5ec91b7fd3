"""What the models that compare windows are built of: encoders of either backbone, and what they return."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModel, PreTrainedModel
from transformers.utils import ModelOutput

from ...models.cmssl.configuration_cmssl_classification import SignalClassificationConfig


class ObjectiveModel(PreTrainedModel):
    """Encoders made by [`new_encoder`], what is thrown away after pre-training, and a loss."""

    config_class = SignalClassificationConfig
    base_model_prefix = "encoder"
    main_input_name = "input_values"
    supports_gradient_checkpointing = True
    # Losses are means over the batch; `Trainer` must divide them itself when it accumulates gradients.
    accepts_loss_kwargs = False


@dataclass
class ObjectiveOutput(ModelOutput):
    """What a model with an objective returns.

    Attributes:
        loss: of the batch.
        projections: one per window `(batch, size)`, where the objective compares projections.
    """

    loss: torch.Tensor | None = None
    projections: torch.Tensor | None = None


def new_encoder(config: SignalClassificationConfig, **fields: Any) -> PreTrainedModel:
    """An encoder with random weights and a config of its own, in which it notes the attention that its kind supports.

    Args:
        config: of the encoder; of which kind decides the class.
        fields: of the config that are others.
    """
    return AutoModel.from_config(type(config)(**{**config.to_dict(), **fields}))
