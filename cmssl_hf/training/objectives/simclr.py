"""SimCLR: two views of a window are to be found among those of all other windows (Chen et al. 2020)."""

from dataclasses import dataclass, field

import torch

from ...models.cmssl.configuration_cmssl_classification import SignalClassificationConfig
from .losses import nt_xent, rows_to_contrast
from .models import ObjectiveModel, ObjectiveOutput, new_encoder, projection_head
from .views import ViewsArguments, check_temperature, views_objective


@dataclass(kw_only=True)
class SimCLRArguments(ViewsArguments):
    """Pre-training by SimCLR."""

    objective: str = field(default="simclr", metadata={"help": "Find the other view of a window among all windows."})
    temperature: float = field(default=0.1, metadata={"help": "That cosines are divided by (CM-SSL: 0.07)."})

    def __post_init__(self):
        super().__post_init__()
        check_temperature(self.temperature)


class EncoderForSimCLR(ObjectiveModel):
    """Encoder, projection head of two layers, and the loss of batches of a [`TwoViewsCollator`]."""

    def __init__(self, config: SignalClassificationConfig, arguments: SimCLRArguments):
        super().__init__(config)
        self.temperature = arguments.temperature
        self.encoder = new_encoder(config)
        self.projector = projection_head(
            config.hidden_size, arguments.projection_hidden_size, arguments.projection_size
        )
        self.post_init()

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> ObjectiveOutput:
        projections = self.projector(self.encoder(input_values, attention_mask).pooler_output)
        first, second = rows_to_contrast(self, *projections.chunk(2))
        return ObjectiveOutput(nt_xent(first, second, self.temperature), projections.chunk(2)[0])


SIMCLR = views_objective(
    "simclr",
    "SimCLR",
    EncoderForSimCLR,
    SimCLRArguments,
    learns="contrast of views",
    task="tell two changed views of a window from those of all other windows (SimCLR, Chen et al. 2020)",
)
