"""BYOL: one view of a window predicts what a slowly moving teacher makes of the other (Grill et al. 2020)."""

from dataclasses import dataclass, field

import torch

from ...models.cmssl.configuration_cmssl_classification import SignalClassificationConfig
from .losses import mean_cosine
from .models import ObjectiveModel, ObjectiveOutput, new_encoder, projection_head
from .stages import COLLAPSE_NOTE
from .teacher import Teacher, TeacherTrainer
from .views import LastCheckpointArguments, ViewsArguments, check_momentum, views_objective


@dataclass(kw_only=True)
class BYOLArguments(ViewsArguments):
    """Pre-training by BYOL."""

    objective: str = field(default="byol", metadata={"help": "Predict what a teacher makes of the other view."})
    projection_hidden_size: int = field(default=4096, metadata={"help": "Width of the heads' hidden layers."})
    projection_size: int = field(default=256, metadata={"help": "Size of the projections (CM-SSL: 512)."})
    teacher_momentum: float = field(
        default=0.996,
        metadata={
            "help": "What the teacher keeps of its weights at the first step; rises to 1 (CM-SSL: 0.99 throughout)."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        check_momentum(self.teacher_momentum)


class EncoderForBYOL(ObjectiveModel):
    """Encoder, projector and predictor of two layers each, the teacher, and the loss of batches of a [`TwoViewsCollator`]."""

    def __init__(self, config: SignalClassificationConfig, arguments: BYOLArguments):
        super().__init__(config)
        self.teacher_momentum = arguments.teacher_momentum
        hidden, size = arguments.projection_hidden_size, arguments.projection_size
        self.encoder = new_encoder(config)
        self.projector = projection_head(config.hidden_size, hidden, size)
        self.predictor = projection_head(size, hidden, size)
        self.teacher = Teacher(
            encoder=new_encoder(config), projector=projection_head(config.hidden_size, hidden, size)
        )
        self.post_init()
        self.teacher.copy(self)

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> ObjectiveOutput:
        pooled = self.encoder(input_values, attention_mask).pooler_output
        # Each view has its own statistics in the heads.
        projections = [self.projector(view) for view in pooled.chunk(2)]
        first, second = map(self.predictor, projections)
        with torch.no_grad():
            pooled = self.teacher["encoder"](input_values, attention_mask).pooler_output
            of_first, of_second = map(self.teacher["projector"], pooled.chunk(2))
        loss = byol_loss(first, of_second) + byol_loss(second, of_first)
        return ObjectiveOutput(loss, projections[0])


def byol_loss(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of predictions and targets `(batch, size)` of length 1: `2 - 2 * cosine`."""
    return 2 - 2 * mean_cosine(predictions, targets)


BYOL = views_objective(
    "byol",
    "BYOL",
    EncoderForBYOL,
    BYOLArguments,
    learns="prediction of views",
    task="predict from one changed view of a window what a moving average of itself makes of another (BYOL, Grill et al. 2020)",
    results_note=COLLAPSE_NOTE,
    training_arguments=LastCheckpointArguments,
    trainer_class=TeacherTrainer,
)
