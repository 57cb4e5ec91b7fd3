"""Teachers that follow a student's weights by a moving average, once per optimizer step."""

import math
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from .views import ViewsTrainer


def momentum_at(step: int, max_steps: int, start: float) -> float:
    """What a teacher keeps of its weights at a step: rises from `start` to 1 along a cosine (Grill et al. 2020, BYOL)."""
    return 1 - (1 - start) * (math.cos(math.pi * step / max_steps) + 1) / 2


class Teacher(nn.ModuleDict):
    """Copies of a student's parts, to which no gradient flows.

    Batch normalisation keeps statistics of its own, as published; the encoder is without dropout.

    Args:
        parts: new modules of the kinds that the student has under these names, an `encoder` among them.
    """

    def __init__(self, **parts: nn.Module):
        super().__init__(parts)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> "Teacher":
        super().train(mode)
        self["encoder"].eval()
        for module in self["encoder"].modules():
            if isinstance(module, nn.BatchNorm1d):
                module.train(mode)
        return self

    def copy(self, student: nn.Module) -> None:
        """Takes the weights of a student that has a part of each name."""
        for name, part in self.items():
            part.load_state_dict(getattr(student, name).state_dict())

    @torch.no_grad()
    def follow(self, student: nn.Module, momentum: float) -> None:
        """Moves its weights towards those of the student: `momentum * its + (1 - momentum) * the student's`."""
        for name, part in self.items():
            for own, theirs in zip(part.parameters(), getattr(student, name).parameters()):
                own.lerp_(theirs, 1 - momentum)


class TeacherTrainer(ViewsTrainer):
    """Trains a model that has a `teacher` and the `teacher_momentum` with which it begins."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.add_callback(_TeacherFollows)


class _TeacherFollows(TrainerCallback):
    # Called once per step of the optimizer, however many batches it takes, and before a checkpoint of it is saved.
    def on_step_end(self, args, state, control, model=None, **kwargs):
        model.teacher.follow(model, momentum_at(state.global_step - 1, state.max_steps, model.teacher_momentum))
