"""Pre-training by whatever needs nothing but the signals of the windows: a tokenizer, or an encoder with most objectives."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from transformers import EvalPrediction, PreTrainedModel, set_seed

from ..data.batches import WindowsCollator, WindowsDataset
from ..models.cmssl.configuration_cmssl import ENCODER_SIZES, CMSSLEncoderConfig
from ..models.cmssl.configuration_cmssl_classification import SignalClassificationConfig
from ..models.cmssl.feature_extraction_cmssl import CMSSLFeatureExtractor
from ..models.resnet1d.configuration_resnet1d import ResNet1DConfig
from .arguments import DataArguments, NewModelArguments, parse_config_overrides
from .data import describe_data, load_stage_data, median_window_seconds
from .engine.arguments import StageArguments
from .engine.trainer import StageTrainer
from .model_card import write_model_card
from .stage import Stage


@dataclass(kw_only=True)
class PretrainingArguments(NewModelArguments):
    """The encoder that is pre-trained, with whatever objective."""

    objective: str = field(
        default="tokens",
        metadata={
            "help": "What is learnt without labels: `tokens`, `simclr`, `byol`, `simsiam`, `moco_v3`, `tfc`, `clip`, `masked`, or"
            " one of your own."
        },
    )
    channel: str = field(default="ppg", metadata={"help": "The one signal that the encoder reads: `ecg` or `ppg`."})
    backbone: Literal["resnet1d"] | None = field(
        default=None,
        metadata={
            "help": "The encoder of published baselines, in place of the transformer; for objectives that compare windows."
        },
    )
    encoder_size: str | None = field(
        default=None,
        metadata={"help": "Published size of the transformer: `small`, `base` or `large`; `small` if left out."},
    )
    config_overrides: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "Fields of `CMSSLEncoderConfig` or `ResNet1DConfig`, e.g. `num_hidden_layers=6`."},
    )

    #: See `parse_arguments`: a file that says nothing of a backbone means the transformer.
    OVERRIDES: ClassVar[dict[str, tuple[str, ...]]] = {"backbone": ("encoder_size", "config_overrides")}
    #: Whether an objective needs an output for each patch, which a transformer has.
    NEEDS_PATCHES: ClassVar[bool] = True

    def __post_init__(self):
        if self.backbone is not None and self.NEEDS_PATCHES:
            raise ValueError(
                f"`{self.objective}` learns from an output for each patch, which `{self.backbone}` does not have: leave `backbone`"
                " out, or take an objective that compares windows, such as simclr."
            )
        if self.backbone is not None and self.encoder_size is not None:
            raise ValueError(
                f"`encoder_size` is one of the transformer's: give `config_overrides` for the size of a `{self.backbone}`, such as"
                " base_filters=32,num_blocks=18."
            )
        config_class = CMSSLEncoderConfig if self.backbone is None else ResNet1DConfig
        self.config_overrides = parse_config_overrides(self.config_overrides, config_class)
        of_size = set(ENCODER_SIZES["small"])
        if self.encoder_size is not None and of_size <= set(self.config_overrides):
            raise ValueError(
                f"`encoder_size` {self.encoder_size} does nothing, since `config_overrides` give all of it"
                f" ({', '.join(sorted(of_size))}): leave one of them out."
            )
        channels = tuple(self.config_overrides.get("channels", self.channels))
        if channels != self.channels:
            raise ValueError(
                f"The encoder reads {self.channel}, but `config_overrides` ask for {' and '.join(channels)}: give `channel`."
            )

    @property
    def channels(self) -> tuple[str, ...]:
        """The signals of a window that are read."""
        return (self.channel,)

    def config(self) -> SignalClassificationConfig:
        chosen = {"channels": self.channels, **self.config_overrides}
        if self.backbone is not None:
            return ResNet1DConfig(**chosen)
        return CMSSLEncoderConfig.from_size(self.encoder_size or "small", **chosen)


class LossTrainer(StageTrainer):
    """For models whose output holds a `loss` that the input alone decides; validation knows its mean over windows."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, compute_metrics=self._metrics, **kwargs)

    def predict_batch(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self.on_device(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, _ = self.compute_loss(model, inputs, return_outputs=True)
        per_window = loss.detach().expand(len(inputs["input_values"]))
        # `Trainer` computes metrics where there are labels.
        return loss.detach(), per_window, per_window

    def _metrics(self, evaluation: EvalPrediction) -> dict[str, float]:
        return {"loss_per_window": float(np.mean(evaluation.predictions))}


class FixedWindows(WindowsDataset):
    """Windows that are changed alike at each validation."""

    def set_epoch(self, epoch: int) -> None:
        """The loaders of `accelerate` tell every dataset which epoch it is."""


def pretrain_one_signal(
    stage: Stage,
    model_class: type[PreTrainedModel],
    arguments: PretrainingArguments,
    data_arguments: DataArguments,
    training_arguments: StageArguments,
    **decisive: Any,
) -> dict[str, Any]:
    """The whole of such a stage: trains on the training split and validates on the validation split; test subjects are not
    touched. The run's folder is like that of the other stages.

    Args:
        stage: registered by `register_objective`.
        model_class: of a model that has the encoder as its `encoder`, takes its config, and whose
            `forward(input_values, attention_mask=None)` returns an output with a `loss`.
        arguments: which encoder, and how training windows are changed.
        data_arguments: which data.
        training_arguments: how it is trained.
        decisive: what else makes this another run than one with other values.

    Returns:
        Validation metrics of the best checkpoint.

    Raises:
        ValueError: if the data lack the signal.
    """
    return pretrain_by_loss(stage, model_class, arguments, data_arguments, training_arguments, **decisive)


def pretrain_by_loss(
    stage: Stage,
    make_model: Callable[[Any], PreTrainedModel],
    arguments: NewModelArguments,
    data_arguments: DataArguments,
    training_arguments: StageArguments,
    *,
    trainer_class: type[StageTrainer] = LossTrainer,
    collator_class: type[WindowsCollator] = WindowsCollator,
    **decisive: Any,
) -> dict[str, Any]:
    """What [`pretrain_one_signal`] does, for models, batches or results of other kinds.

    Args:
        stage: as there.
        make_model: called with the config.
        arguments: of the model; the `channels` of its config are read of each window.
        data_arguments: as there.
        training_arguments: as there.
        trainer_class: what trains the model.
        collator_class: what makes its input of windows; it is given the model's `patch_size`.
        decisive: as there.
    """
    set_seed(training_arguments.seed)
    data_arguments.check_for_pretraining()
    config = arguments.config()
    feature_extractor = CMSSLFeatureExtractor(
        channels=config.channels,
        sampling_rate=config.sampling_rate,
        patch_size=config.patch_size,
        do_band_pass=data_arguments.do_band_pass is not False,
    )
    splits = load_stage_data(data_arguments, feature_extractor, training_arguments, ("train", "validation"))
    config.window_seconds = median_window_seconds(splits["train"], config.sampling_rate)
    augmentation = arguments.augmentation(config.sampling_rate)
    run, checkpoint = stage.open_run(
        training_arguments, config, describe_data(splits, data_arguments), augmentation=vars(augmentation), **decisive
    )
    seed = training_arguments.seed
    trainer = trainer_class(
        model=make_model(config),
        args=training_arguments,
        data_collator=collator_class(config.patch_size),
        train_dataset=WindowsDataset(splits["train"], ["input_values"], augmentation=augmentation, seed=seed),
        eval_dataset=FixedWindows(
            splits["validation"],
            ["input_values"],
            augmentation=arguments.validation_augmentation(config.sampling_rate),
            seed=seed,
        ),
        processing_class=feature_extractor,
    )
    metrics = trainer.run(run, checkpoint)
    trainer.publish(write_model_card)
    return metrics
