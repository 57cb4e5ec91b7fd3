"""What the models that compare windows are built of: encoders of either backbone, heads, and what they return."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
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


def projection_head(*sizes: int, normalizes_output: bool = False) -> nn.Sequential:
    """What projects an encoder's output to where views are compared, and is thrown away after pre-training: linear layers of these sizes,
    the first being that of the input, with batch normalisation and ReLU between them.

    Args:
        sizes: at least two.
        normalizes_output: whether the output is normalised over the batch too, without learnt scale and shift.
    """
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(pairwise(sizes), start=2):
        is_last = number == len(sizes)
        # A bias would be taken off again by the normalisation.
        layers.append(nn.Linear(inputs, outputs, bias=is_last and not normalizes_output))
        if not is_last:
            layers += [nn.BatchNorm1d(outputs), nn.ReLU()]
        elif normalizes_output:
            layers.append(nn.BatchNorm1d(outputs, affine=False))
    return nn.Sequential(*layers)
