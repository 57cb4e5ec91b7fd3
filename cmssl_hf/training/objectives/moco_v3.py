"""MoCo v3: one view of a window is to find, among all windows, what a slowly moving teacher makes of the other (Chen et al. 2021)."""

from dataclasses import dataclass, field

import torch

from ...models.cmssl.configuration_cmssl_classification import SignalClassificationConfig
from .losses import info_nce, rows_to_contrast
from .models import ObjectiveModel, ObjectiveOutput, new_encoder, projection_head
from .teacher import Teacher, TeacherTrainer
from .views import ViewsArguments, check_momentum, check_temperature, views_objective


@dataclass(kw_only=True)
class MoCoV3Arguments(ViewsArguments):
    """Pre-training by MoCo v3."""

    objective: str = field(default="moco_v3", metadata={"help": "Find what a teacher makes of the other view."})
    projection_hidden_size: int = field(default=4096, metadata={"help": "Width of the heads' hidden layers."})
    projection_size: int = field(default=256, metadata={"help": "Size of the projections (CM-SSL: 128)."})
    temperature: float = field(default=0.2, metadata={"help": "That cosines are divided by."})
    teacher_momentum: float = field(
        default=0.99, metadata={"help": "What the teacher keeps of its weights at the first step; rises to 1."}
    )

    def __post_init__(self):
        super().__post_init__()
        check_temperature(self.temperature)
        check_momentum(self.teacher_momentum)


class EncoderForMoCoV3(ObjectiveModel):
    """Encoder, projector of three layers, predictor of two, the teacher, and the loss of batches of a [`TwoViewsCollator`]."""

    def __init__(self, config: SignalClassificationConfig, arguments: MoCoV3Arguments):
        super().__init__(config)
        self.temperature, self.teacher_momentum = arguments.temperature, arguments.teacher_momentum
        hidden, size = arguments.projection_hidden_size, arguments.projection_size
        sizes = (config.hidden_size, hidden, hidden, size)
        self.encoder = new_encoder(config)
        self.projector = projection_head(*sizes, normalizes_output=True)
        self.predictor = projection_head(size, hidden, size, normalizes_output=True)
        self.teacher = Teacher(encoder=new_encoder(config), projector=projection_head(*sizes, normalizes_output=True))
        self.post_init()
        self.teacher.copy(self)

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> ObjectiveOutput:
        pooled = self.encoder(input_values, attention_mask).pooler_output
        # Each view has its own statistics in the heads.
        projections = [self.projector(view) for view in pooled.chunk(2)]
        with torch.no_grad():
            pooled = self.teacher["encoder"](input_values, attention_mask).pooler_output
            keys = rows_to_contrast(self, *map(self.teacher["projector"], pooled.chunk(2)))
        first, second = rows_to_contrast(self, *map(self.predictor, projections))
        contrast = info_nce(first, keys[1], self.temperature) + info_nce(second, keys[0], self.temperature)
        return ObjectiveOutput(2 * self.temperature * contrast, projections[0])


MOCO_V3 = views_objective(
    "moco_v3",
    "MoCo v3",
    EncoderForMoCoV3,
    MoCoV3Arguments,
    learns="contrast of views",
    task=(
        "find, by one changed view of a window and among all windows, what a moving average of itself makes of another view"
        " (MoCo v3, Chen et al. 2021)"
    ),
    trainer_class=TeacherTrainer,
)
