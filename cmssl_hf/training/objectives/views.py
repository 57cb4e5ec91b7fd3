"""What the objectives share that compare two views of a window."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

import torch
from transformers import PreTrainedModel

from ...data.augmentation import Augmentation, WindowAugmentation
from ...data.batches import WindowBatch, WindowsCollator, joined, stack_if_alike
from ...data.published_augmentation import PUBLISHED_A, PUBLISHED_B
from ..arguments import AugmentationArguments, DataArguments
from ..engine.arguments import StageArguments
from ..pretraining import PretrainingArguments, pretrain_by_loss
from ..stage import Stage
from .stages import CONTRAST_NOTE, objective_stage
from .trainer import ObjectiveTrainer


def heart_views(sampling_rate: float) -> Augmentation:
    """Changes that leave rate, order and direction of beats: noise, drift, slow gain, and hidden spans of half a second."""
    return Augmentation(sampling_rate, amplitude_jitter=0.2, noise=0.2, baseline_wander=0.2, masked_share=0.3)


@dataclass(kw_only=True)
class ProjectionArguments(PretrainingArguments):
    """The head that projections are made by."""

    projection_hidden_size: int = field(
        default=2048, metadata={"help": "Width of the projection head's hidden layers."}
    )
    projection_size: int = field(default=128, metadata={"help": "Size of the projections."})

    NEEDS_PATCHES: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        for name in ("projection_hidden_size", "projection_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, but is {getattr(self, name)}.")

    def options(self) -> dict[str, Any]:
        """What distinguishes runs of one objective beside encoder and augmentation."""
        common = {own.name for own in fields(PretrainingArguments)}
        return {own.name: getattr(self, own.name) for own in fields(self) if own.name not in common}


@dataclass(kw_only=True)
class ViewsArguments(ProjectionArguments):
    """An encoder that is pre-trained by comparing two views of each window."""

    views: Literal["heart", "published_a", "published_b", "own"] = field(
        default="heart",
        metadata={
            "help": "How the views of a window are made: `heart` leaves its beats, `published_a` and `published_b` repeat"
            " published baselines, and `own` is what `time_stretch`, `noise` and so on say."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        given = [own.name for own in fields(AugmentationArguments) if getattr(self, own.name) != own.default]
        if given and self.views != "own":
            raise ValueError(
                f"`{given[0]}` does nothing with `views` {self.views}: give `views` own, or leave it out."
            )
        if not given and self.views == "own":
            raise ValueError(
                "With `views` own and none of `time_stretch`, `amplitude_jitter`, `noise`, `baseline_wander`, `motion`, `polarity_flip` and"
                " `masked_share`, both views of a window are the same: give at least one."
            )

    def augmentation(self, sampling_rate: float, scales_labels: bool = False) -> WindowAugmentation:  # type: ignore[override]
        """How views of windows at `sampling_rate` (Hz) are made."""
        if self.views == "own":
            return super().augmentation(sampling_rate, scales_labels)
        return {"published_a": PUBLISHED_A, "published_b": PUBLISHED_B}.get(self.views) or heart_views(sampling_rate)

    def validation_augmentation(self, sampling_rate: float) -> WindowAugmentation:
        return self.augmentation(sampling_rate)


def check_temperature(temperature: float) -> None:
    """Refuses what cosines cannot be divided by.

    Raises:
        ValueError: if it is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"`temperature` must be greater than 0, such as 0.1, but is {temperature}.")


def check_momentum(momentum: float) -> None:
    """Refuses what no moving average has.

    Raises:
        ValueError: if it is not at least 0 and less than 1.
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"`teacher_momentum` must be at least 0 and less than 1, such as 0.99, but is {momentum}.")


def check_batches(training_arguments: StageArguments) -> None:
    """Refuses batches of one window, which has no other to be compared with.

    Raises:
        ValueError: if the batch of all processes, or that of an evaluation, is one window.
    """
    if training_arguments.train_batch_size * training_arguments.world_size < 2:
        raise ValueError(
            "A batch of one window has no other window to be told from: give `per_device_train_batch_size` of at least 2, and"
            " rather of 64; accumulated batches do not count as one."
        )
    if training_arguments.eval_batch_size < 2:
        raise ValueError(
            "A batch of one window has no other window to be told from: give `per_device_eval_batch_size` of at least 2."
        )


@dataclass
class LastCheckpointArguments(StageArguments):
    """Training whose checkpoints are not chosen by the loss, which is least where all projections are the same."""

    load_best_model_at_end: bool = field(
        default=False,
        metadata={"help": "End with the best checkpoint, by `metric_for_best_model`, not with the last one."},
    )

    def __post_init__(self):
        super().__post_init__()
        chooses = self.load_best_model_at_end or self.early_stopping_patience is not None
        if chooses and (self.metric_for_best_model or "loss").removeprefix("eval_").startswith("loss"):
            raise ValueError(
                "The loss of this objective is least where the encoder has collapsed, and no checkpoint is chosen by it: leave"
                " out `load_best_model_at_end` and `early_stopping_patience`, or give a `metric_for_best_model` such as"
                " effective_rank, with `greater_is_better`."
            )


class TwoViewsCollator(WindowsCollator):
    """Two views of each window, which was read once: `input_values (2 * batch, channels, samples)`, all first ones before all
    second ones."""

    def __call__(self, batch: WindowBatch | list[WindowBatch]) -> dict[str, torch.Tensor]:
        batch = joined(batch)
        if batch.augmentation is None:
            raise ValueError("Views are made by an augmentation: give the dataset one.")
        views = [batch.augmentation(batch.windows, None, batch.generators)[0] for _ in range(2)]
        return self.pad(stack_if_alike([*views[0], *views[1]]))


class ViewsTrainer(ObjectiveTrainer):
    """Trains with batches of a [`TwoViewsCollator`].

    Raises:
        ValueError: if a batch is larger than the dataset, so that a window would be told from itself.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        refuse_repeated_windows(self)

    def num_windows(self, inputs: dict[str, torch.Tensor]) -> int:
        return len(inputs["input_values"]) // 2


def refuse_repeated_windows(trainer: ObjectiveTrainer) -> None:
    """Refuses batches that hold a window twice, which would have to be told from itself.

    Raises:
        ValueError: if a batch of all processes is larger than the training set.
    """
    batch_size, num_windows = trainer.args.train_batch_size * trainer.args.world_size, len(trainer.train_dataset)
    if batch_size > num_windows:
        raise ValueError(
            f"A batch of {batch_size} windows is larger than the {num_windows} training windows, so that windows would have to be"
            f" told from themselves: give a `per_device_train_batch_size` of at most {num_windows // trainer.args.world_size}."
        )


def views_objective(
    name: str,
    method: str,
    model_class: Callable[..., PreTrainedModel],
    arguments: type[ViewsArguments],
    *,
    learns: str,
    task: str,
    results_note: str = CONTRAST_NOTE,
    training_arguments: type[StageArguments] = StageArguments,
    trainer_class: type[ViewsTrainer] = ViewsTrainer,
    collator_class: type[WindowsCollator] = TwoViewsCollator,
) -> Stage:
    """Registers an objective that compares views; see [`objective_stage`] and [`pretrain_by_loss`].

    Args:
        name: of the objective.
        method: what it is called.
        model_class: called with config and arguments.
        arguments: those of the objective.
        learns, task, results_note: as in [`objective_stage`].
        training_arguments: those of its training.
        trainer_class, collator_class: as in [`pretrain_by_loss`].
    """

    def pretrain(
        arguments: ViewsArguments, data_arguments: DataArguments, training_arguments: StageArguments
    ) -> dict[str, Any]:
        check_batches(training_arguments)
        return pretrain_by_loss(
            stage,
            lambda config: model_class(config, arguments),
            arguments,
            data_arguments,
            training_arguments,
            trainer_class=trainer_class,
            collator_class=collator_class,
            objective=arguments.options(),
            eval_batch_size=training_arguments.eval_batch_size,
        )

    stage = objective_stage(
        name,
        method,
        learns=learns,
        task=task,
        results_note=results_note,
        arguments=(arguments, DataArguments, training_arguments),
        function=pretrain,
    )
    return stage
