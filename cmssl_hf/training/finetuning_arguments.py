"""What stage 3 is told: the task, what it starts from and what it trains."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ..models.cmssl.configuration_cmssl import ENCODER_SIZES, CMSSLEncoderConfig
from ..shipped import find_model
from ..tasks import Task
from .arguments import AugmentationArguments, parse_config_overrides
from .engine.arguments import StageArguments, refuse_idle
from .engine.parsing import parse_options


logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class TaskArguments(AugmentationArguments):
    """The model that is fine-tuned in stage 3, and for what."""

    task: str | None = field(default=None, metadata={"help": "Name of the task, e.g. `bidmc_hr`."})
    label: list[str] = field(
        default_factory=list,
        metadata={"help": "In place of a task: column or columns of the metadata of `--dataset signalfolder`."},
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of the encoder or tokenizer that is fine-tuned, or a model of the package; with `--label` that of"
            " the package for the recordings' signal if left out."
        },
    )
    from_scratch: str | None = field(
        default=None,
        metadata={
            "help": "Published size (`small`, `base` or `large`) of an encoder with random weights, in place of a model."
        },
    )
    config_overrides: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Fields of the model's config, e.g. `classifier_head=linear`."}
    )
    pass_band: list[float] | None = field(
        default=None,
        metadata={
            "help": "Lowest and highest frequency in Hz that a new model is given, e.g. `0.08 8` where breathing moves the baseline"
            " of a PPG; that of the model if left out."
        },
    )
    crop_seconds: float | None = field(
        default=None,
        metadata={
            "help": "Train on a random piece of this duration of each longer window, another one in each epoch; validation and test"
            " read windows whole."
        },
    )
    freeze_encoder: bool = field(default=False, metadata={"help": "Linear probing: train the head only."})
    lora_rank: int = field(
        default=0,
        metadata={
            "help": "Train the head and adapters of this rank beside the linear layers of the encoder (LoRA), e.g. 8; 0: all weights."
        },
    )
    balance_classes: float = field(
        default=0.0,
        metadata={"help": "Weight classes by their frequency to minus this power: 0 not at all, 1 all classes alike."},
    )
    accept_unknown_provenance: bool = field(
        default=False,
        metadata={
            "help": "Fine-tune and test a model of which no `run.json` tells whom it has seen; it may be test subjects."
        },
    )
    random_weights: bool = field(
        default=False,
        metadata={
            "help": "Take the architecture of `model_name_or_path`, but not its weights: what pre-training adds."
        },
    )
    label_fraction: float = field(
        default=1.0,
        metadata={
            "help": "Share of the training subjects whose labels are used; drawn by `seed`, a smaller share is part of"
            " a larger one."
        },
    )
    fold: int | None = field(
        default=None, metadata={"help": "Test fold of a cross-validation over all subjects, in place of the split."}
    )
    num_folds: int = field(default=5, metadata={"help": "Folds of the cross-validation."})
    summary_file: str | None = field(default=None, metadata={"help": "CSV that gets one row for this run."})

    #: See `parse_arguments`.
    OVERRIDES: ClassVar[dict[str, tuple[str, ...]]] = {
        "model_name_or_path": ("from_scratch",),
        "from_scratch": ("model_name_or_path",),
        "task": ("label",),
        "label": ("task",),
    }

    def __post_init__(self):
        # What another argument overrides is taken back.
        self.label = self.label or []
        if (self.task is None) == (not self.label):
            raise ValueError(
                "Give either `--task`, such as bidmc_hr, or `--label`, a column of the metadata beside your own recordings"
                " (`--dataset signalfolder`)."
            )
        name, size = self.model_name_or_path, self.from_scratch
        if name in ENCODER_SIZES and not Path(name).is_dir():
            logger.warning("`model_name_or_path` %s, for random weights, is now `from_scratch` %s.", name, name)
            name, size = None, name if size is None else size
        name = None if name is None else find_model(name)
        self.model_name_or_path, self.from_scratch = name, size
        # Which fields there are, a model's own config says.
        self.config_overrides = (
            parse_config_overrides(self.config_overrides, CMSSLEncoderConfig)
            if name is None
            else parse_options(self.config_overrides)
        )
        # For labels of one's own it is chosen where the signal is known.
        if (name is None) == (size is None) and not (name is None and self.label):
            raise ValueError(
                "Give either `model_name_or_path`, the encoder that is fine-tuned, or `from_scratch`, the size of one with random"
                f" weights ({', '.join(ENCODER_SIZES)})."
            )
        if size is not None and size not in ENCODER_SIZES:
            raise ValueError(f"`from_scratch` takes a published size ({', '.join(ENCODER_SIZES)}), but got {size!r}.")
        band = self.pass_band
        if band is not None and not (len(band) == 2 and 0 < band[0] < band[1]):
            raise ValueError(f"`pass_band` takes the lowest and the highest frequency in Hz, but is {band}.")
        if size is not None and self.random_weights:
            raise ValueError("`random_weights` does nothing with `from_scratch`, whose weights are random already.")
        if self.crop_seconds is not None and not self.crop_seconds > 0:
            raise ValueError(f"`crop_seconds` must be positive, but is {self.crop_seconds}.")
        if self.lora_rank < 0:
            raise ValueError(f"`lora_rank` must be at least 1, or 0 to train all weights, but is {self.lora_rank}.")
        if self.lora_rank and (size is not None or self.random_weights):
            raise ValueError(
                "`lora_rank` adapts a pre-trained model, and random weights are none: leave one of them out."
            )
        if self.lora_rank and self.freeze_encoder:
            raise ValueError(
                "`lora_rank` trains adapters in the encoder that `freeze_encoder` leaves as it is: leave one of them out."
            )
        refuse_idle(self, "num_folds", "`fold`", self.fold is not None)
        if not self.balance_classes >= 0:
            raise ValueError(f"`balance_classes` must be at least 0, but is {self.balance_classes}.")

    @property
    def source(self) -> str:
        """`model_name_or_path` or `from_scratch`, whichever is given."""
        return next(name for name in (self.model_name_or_path, self.from_scratch) if name is not None)


@dataclass
class FinetuningArguments(StageArguments):
    """Training of stage 3."""

    head_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the head; `learning_rate` if left out."}
    )

    def __post_init__(self):
        # Before transformers fills in what was left out.
        self._chosen_metric = self.metric_for_best_model, self.greater_is_better
        super().__post_init__()

    def choose_best_by(self, task: Task) -> None:
        """Lets the task's metric decide which checkpoint is the best.

        Raises:
            ValueError: if another one was asked for.
        """
        metric, greater = self._chosen_metric
        if metric not in (None, task.metric_for_best_model, f"eval_{task.metric_for_best_model}") or greater not in (
            None,
            task.greater_is_better,
        ):
            raise ValueError(
                f"The best checkpoint of {task.name} is that with the"
                f" {'largest' if task.greater_is_better else 'smallest'} {task.metric_for_best_model}, which its task says: leave"
                " `metric_for_best_model` and `greater_is_better` out."
            )
        self.metric_for_best_model = f"eval_{task.metric_for_best_model}"
        self.greater_is_better = task.greater_is_better
