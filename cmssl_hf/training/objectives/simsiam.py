"""SimSiam: one view of a window predicts what the encoder itself makes of the other (Chen and He 2021)."""

from dataclasses import dataclass, field

import torch

from ...models.cmssl.configuration_cmssl_classification import SignalClassificationConfig
from .losses import mean_cosine
from .models import ObjectiveModel, ObjectiveOutput, new_encoder, projection_head
from .stages import COLLAPSE_NOTE
from .views import LastCheckpointArguments, ViewsArguments, views_objective


@dataclass(kw_only=True)
class SimSiamArguments(ViewsArguments):
    """Pre-training by SimSiam."""

    objective: str = field(default="simsiam", metadata={"help": "Predict what the encoder makes of the other view."})
    projection_size: int = field(default=2048, metadata={"help": "Size of the projections."})
    predictor_hidden_size: int = field(default=512, metadata={"help": "Width of the predictor's hidden layer."})

    def __post_init__(self):
        super().__post_init__()
        if self.predictor_hidden_size < 1:
            raise ValueError(f"`predictor_hidden_size` must be at least 1, but is {self.predictor_hidden_size}.")


class EncoderForSimSiam(ObjectiveModel):
    """Encoder, projector of three layers, predictor of two, and the loss of batches of a [`TwoViewsCollator`]."""

    def __init__(self, config: SignalClassificationConfig, arguments: SimSiamArguments):
        super().__init__(config)
        hidden, size = arguments.projection_hidden_size, arguments.projection_size
        self.encoder = new_encoder(config)
        self.projector = projection_head(config.hidden_size, hidden, hidden, size, normalizes_output=True)
        self.predictor = projection_head(size, arguments.predictor_hidden_size, size)
        self.post_init()

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> ObjectiveOutput:
        pooled = self.encoder(input_values, attention_mask).pooler_output
        # Each view has its own statistics in the heads.
        first, second = map(self.projector, pooled.chunk(2))
        cosines = mean_cosine(self.predictor(first), second) + mean_cosine(self.predictor(second), first)
        return ObjectiveOutput(-cosines / 2, first)


SIMSIAM = views_objective(
    "simsiam",
    "SimSiam",
    EncoderForSimSiam,
    SimSiamArguments,
    learns="prediction of views",
    task="predict from one changed view of a window what it makes itself of another (SimSiam, Chen and He 2021)",
    results_note=COLLAPSE_NOTE,
    training_arguments=LastCheckpointArguments,
)
