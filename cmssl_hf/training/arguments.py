"""Arguments of the three stages, and how a YAML file and flags become them."""

import difflib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser, PreTrainedConfig, TrainingArguments

from ..data.augmentation import Augmentation
from ..data.prepared import read_manifest
from ..models.cmssl.configuration_cmssl import CMSSLEncoderConfig, CMSSLTokenizerConfig


@dataclass
class DataArguments:
    """Which data a run reads."""

    dataset: str | None = field(
        default=None, metadata={"help": "Name of the dataset, as in `cmssl_hf.load_dataset`; a task brings its own."}
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the dataset."})
    data_dir: str | None = field(default=None, metadata={"help": "Folder with the release."})
    prepared_dir: str | None = field(
        default=None,
        metadata={"help": "Folder written by `scripts/prepare_data.py`; it says itself which dataset it holds."},
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Folder for prepared data."})
    dataset_options: dict | str | None = field(
        default=None, metadata={"help": "Options of the dataset, e.g. `num_subjects=40,stride_seconds=5`."}
    )
    additional_data: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Further datasets for pre-training, `name=folder` each, read in the same configuration: their subjects"
            " join those of `dataset`, split by split."
        },
    )
    num_proc: int | None = field(default=None, metadata={"help": "Processes that prepare the data."})
    exclude_issues: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Leave out training windows with these `quality_issues`, such as `ppg_no_pulse ecg_clipped`."
        },
    )
    do_band_pass: bool = field(default=True, metadata={"help": "Band-pass the signals (ECG 0.5-40 Hz, PPG 0.5-8 Hz)."})

    def __post_init__(self):
        self.dataset_options = parse_options(self.dataset_options)
        for entry in self.additional_data:
            if not all(entry.partition("=")):
                raise ValueError(f"`additional_data` takes `name=folder`, but got {entry!r}.")
        if self.prepared_dir is not None:
            settings = read_manifest(self.prepared_dir)["settings"]
            self.dataset, self.dataset_config = settings["dataset"], settings["config_name"]
            self.dataset_options = settings["options"]


@dataclass
class AugmentationArguments:
    """Random changes of training windows; see `cmssl_hf.data.augmentation.Augmentation`."""

    time_stretch: float = field(
        default=1.0, metadata={"help": "Play training windows up to this much faster or slower; rates scale with it."}
    )
    amplitude_jitter: float = field(default=0.0, metadata={"help": "Spread of a smooth random gain (training only)."})
    noise: float = field(default=0.0, metadata={"help": "Largest level of added white noise (training only)."})
    baseline_wander: float = field(default=0.0, metadata={"help": "Largest level of added drift (training only)."})
    polarity_flip: float = field(
        default=0.0, metadata={"help": "How often a window is turned upside down (training only; for ECG)."}
    )

    masked_share: float = field(
        default=0.0, metadata={"help": "Share of a window that is hidden in spans of half a second (training only)."}
    )

    def augmentation(self, scales_labels: bool = False) -> Augmentation:
        """The augmentation; `scales_labels` where labels are rates."""
        return Augmentation(
            time_stretch=self.time_stretch,
            scales_labels=scales_labels,
            amplitude_jitter=self.amplitude_jitter,
            noise=self.noise,
            baseline_wander=self.baseline_wander,
            polarity_flip=self.polarity_flip,
            masked_share=self.masked_share,
        )


@dataclass(kw_only=True)
class TokenizerArguments(AugmentationArguments):
    """The tokenizer of stage 1."""

    channels: list[str] = field(
        default_factory=lambda: ["ecg", "ppg"], metadata={"help": "Signals that are tokenised together."}
    )
    config_overrides: dict | str | None = field(
        default=None,
        metadata={"help": "Fields of `CMSSLTokenizerConfig`, e.g. `codebook_size=1024,num_hidden_layers=4`."},
    )

    def __post_init__(self):
        self.config_overrides = parse_config_overrides(self.config_overrides, CMSSLTokenizerConfig)


@dataclass(kw_only=True)
class EncoderArguments(AugmentationArguments):
    """The encoder of stage 2 and the tokenizer it learns from.

    What changes all signals together (playing speed, gain, polarity) changes the tokens too, so it is done in copies of the
    data that are tokenised once; what only hides the encoder's own signal (noise, drift, masks) is drawn anew at each step.
    """

    tokenizer: str = field(metadata={"help": "Folder or Hub id of the tokenizer of stage 1."})
    channel: str = field(default="ppg", metadata={"help": "The one signal that the encoder reads: `ecg` or `ppg`."})
    encoder_size: str = field(default="small", metadata={"help": "Published size: `small`, `base` or `large`."})
    augmented_copies: int = field(
        default=0,
        metadata={
            "help": "Copies of the training windows with `time_stretch`, `amplitude_jitter` and `polarity_flip`, tokenised anew."
        },
    )
    config_overrides: dict | str | None = field(
        default=None, metadata={"help": "Fields of `CMSSLEncoderConfig`, e.g. `num_hidden_layers=6`."}
    )

    def __post_init__(self):
        self.config_overrides = parse_config_overrides(self.config_overrides, CMSSLEncoderConfig)
        changes_tokens = self.time_stretch > 1 or self.amplitude_jitter > 0 or self.polarity_flip > 0
        if changes_tokens != (self.augmented_copies > 0):
            raise ValueError(
                "`time_stretch`, `amplitude_jitter` and `polarity_flip` change the tokens and are done in `augmented_copies`: give"
                " both or neither."
            )


@dataclass(kw_only=True)
class TaskArguments(AugmentationArguments):
    """The model that is fine-tuned in stage 3, and for what."""

    task: str = field(metadata={"help": "Name of the task, e.g. `bidmc_hr`."})
    model_name_or_path: str = field(
        default="small",
        metadata={"help": "Folder or Hub id of an encoder, or a published size to start from random weights."},
    )
    config_overrides: dict | str | None = field(
        default=None, metadata={"help": "Fields of `CMSSLEncoderConfig`, e.g. `classifier_head=linear`."}
    )
    freeze_encoder: bool = field(default=False, metadata={"help": "Linear probing: train the head only."})
    balance_classes: float = field(
        default=0.0,
        metadata={"help": "Weight classes by their frequency to minus this power: 0 not at all, 1 all classes alike."},
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

    def __post_init__(self):
        self.config_overrides = parse_config_overrides(self.config_overrides, CMSSLEncoderConfig)


@dataclass
class StageArguments(TrainingArguments):
    """`TrainingArguments` with the defaults that all stages share."""

    output_dir: str = field(default="runs/run", metadata={"help": "Folder of the run; a run that is there continues."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: `steps` or `epoch`."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save; the same as `eval_strategy`."})
    hub_strategy: str = field(
        default="end",
        metadata={"help": "With `push_to_hub`: `end` uploads the finished run, `every_save` each save too."},
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept; the best one stays."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best checkpoint."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning-rate schedule."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Warm-up steps, or their share if below 1."})
    logging_steps: float = field(default=10, metadata={"help": "Steps between two log lines."})
    report_to: str | None = field(default="tensorboard", metadata={"help": "Where to log."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "A loss that is not finite ends the training; here it would be hidden."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "The collator chooses the columns."})
    # Codebooks are kept equal by summing over processes; sending buffers around at each step would only cost time.
    ddp_broadcast_buffers: bool | None = field(default=False, metadata={"help": "See `TrainingArguments`."})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "See `TrainingArguments`."})
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "Early stopping goes on counting after an interruption."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after this many evaluations without a better one."}
    )
    layerwise_lr_decay: float = field(
        default=1.0, metadata={"help": "Each layer of the encoder learns this much slower than the one above it."}
    )

    def __post_init__(self):
        # Launched processes on a machine without accelerator find each other only if they are told that there is none.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        super().__post_init__()
        if int(os.environ.get("WORLD_SIZE", 1)) > 1 and self.world_size == 1:
            raise ValueError(
                f"{os.environ['WORLD_SIZE']} processes were launched, but they are not connected: each would train by itself in"
                " the same folder. On a machine with GPUs that are not to be used, give `--use_cpu true`."
            )
        if self.eval_strategy == "epoch" and self.save_strategy == "steps":
            raise ValueError(
                "With `save_strategy` steps and `eval_strategy` epoch a checkpoint may be saved at the end of an epoch but before"
                " its evaluation, and a run that continues from it would leave that out. Evaluate by steps, too, or save by"
                " epochs."
            )
        if self.save_only_model:
            raise ValueError(
                "With `save_only_model` no run could continue from its checkpoints, which hold more than weights."
            )
        # On a CPU there is nothing to pin for, and torch warns at every epoch.
        self.dataloader_pin_memory = self.dataloader_pin_memory and self.device.type != "cpu"


@dataclass
class TokenizerTrainingArguments(StageArguments):
    """Training of stage 1."""

    warm_start_steps: int = field(
        default=200,
        metadata={
            "help": "Steps as a plain autoencoder before k-means sets the codebook; 0 starts quantised (published)."
        },
    )
    quantized_encoder_lr: float = field(
        default=0.1,
        metadata={
            "help": "Factor for the encoder's learning rate once the codebook is in use: an encoder that moves faster than its"
            " codes leaves most of them behind; 1 is published."
        },
    )
    kmeans_windows: int = field(
        default=4096,
        metadata={"help": "Training windows for k-means; 0 leaves the codebook at random (published default)."},
    )
    kmeans_iterations: int = field(default=10, metadata={"help": "Iterations of k-means."})
    revival_steps: int = field(
        default=0,
        metadata={
            "help": "Every so many steps codes that are hardly used move onto latents of the batch; 0: never (published)."
        },
    )
    revival_usage: float = field(
        default=0.03, metadata={"help": "A code used less than this share of the mean is hardly used."}
    )
    perplexity_floor: float = field(
        default=0.01,
        metadata={"help": "Warn when the perplexity of the codes in use is below this share of the codebook."},
    )


@dataclass
class EncoderTrainingArguments(StageArguments):
    """Training of stage 2."""

    soft_target_temperature: float = field(
        default=0.0,
        metadata={
            "help": "Train towards codes like the right one, by softmax(cosine / temperature); 0: the right one only (published)."
        },
    )


@dataclass
class FinetuningArguments(StageArguments):
    """Training of stage 3."""

    head_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the head; `learning_rate` if left out."}
    )


def parse_options(options: dict | str | None) -> dict[str, Any]:
    """A dictionary from `"name=value,name=value"`, values read as YAML; a dictionary is returned as it is.

    Raises:
        ValueError: if a part has no `=`.
    """
    if not options:
        return {}
    if isinstance(options, dict):
        return dict(options)
    parsed = {}
    for part in options.split(","):
        name, separator, value = part.partition("=")
        if not separator:
            raise ValueError(f"Options are given as `name=value,name=value`, but got {options!r}.")
        parsed[name.strip()] = yaml.safe_load(value)
    return parsed


def parse_config_overrides(overrides: dict | str | None, config_class: type[PreTrainedConfig]) -> dict[str, Any]:
    """Options for a model's config, in the forms of [`parse_options`].

    Raises:
        ValueError: if the config has no such field; transformers itself would take it for a new one.
    """
    overrides = parse_options(overrides)
    unknown = sorted(map(str, set(overrides) - {field.name for field in fields(config_class)}))
    if unknown:
        raise ValueError(
            f"`config_overrides` names fields that do not exist: {', '.join(unknown)}. See `{config_class.__name__}`."
        )
    return overrides


def parse_arguments(dataclass_types: Sequence[type], arguments: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Reads `[file.yaml ...] [--flag value ...]` into one instance of each dataclass; flags override files, and a later file
    overrides an earlier one.

    Raises:
        ValueError: if a file is not a YAML mapping or names an argument that does not exist, or a value is of the wrong kind.
        FileNotFoundError: if a file does not exist.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    files = []
    while arguments and not arguments[0].startswith("-"):
        files.append(Path(arguments.pop(0)))
    parser = HfArgumentParser(dataclass_types, allow_abbrev=False)
    actions = {action.dest: action for action in parser._actions}
    for file in files:
        try:
            values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} cannot be read as YAML: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{file} must hold `name: value` lines.")
        unknown = sorted(map(str, set(values) - set(actions)))
        if unknown:
            raise ValueError(f"{file} names arguments that do not exist: {', '.join(unknown)}.")
        for name, value in values.items():
            # YAML reads 1e-3 as text; argparse converts text, as it does for flags.
            parser.set_defaults(**{name: value})
            actions[name].required = False
    try:
        *parsed, unknown = parser.parse_args_into_dataclasses(args=arguments, return_remaining_strings=True)
    # What YAML makes of a slip (nothing, infinity, a list) is compared and converted by transformers unchecked.
    except (TypeError, OverflowError, yaml.YAMLError) as error:
        raise ValueError(f"An argument has a value of the wrong kind: {error}") from error
    if unknown:
        near = difflib.get_close_matches(unknown[0].lstrip("-"), actions, n=1)
        hint = f" Did you mean --{near[0]}?" if near else ""
        raise ValueError(f"There is no argument {unknown[0]}.{hint}")
    return tuple(parsed)
