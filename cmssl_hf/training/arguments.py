"""Arguments that stages share: which data they read, and how training windows are changed."""

import importlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from ..data.augmentation import Augmentation, WindowAugmentation
from ..data.prepared.reading import read_manifest
from ..models.cmssl.configuration_cmssl_classification import SignalClassificationConfig
from ..models.cmssl.feature_extraction_cmssl import CMSSLFeatureExtractor
from .engine.parsing import parse_options


#: Fields of a model's config that data and task decide, not the user.
_DECIDED_BY_DATA = (
    "window_seconds",
    "num_labels",
    "id2label",
    "label2id",
    "problem_type",
    "label_mean",
    "label_std",
    "label_unit",
    "class_weights",
    "given_channels",
)


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
    dataset_options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Options of the dataset, e.g. `num_subjects=40,stride_seconds=5`."}
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
    do_band_pass: bool | None = field(
        default=None,
        metadata={
            "help": "Band-pass the signals (ECG 0.5-40 Hz, PPG 0.5-8 Hz): true for a new model if left out; a later stage does"
            " what its model was trained with.",
            "nargs": "?",
            "const": True,
        },
    )

    #: See `parse_arguments`: a prepared folder says itself what it holds.
    OVERRIDES: ClassVar[dict[str, tuple[str, ...]]] = {
        "prepared_dir": ("dataset", "dataset_config", "dataset_options")
    }

    def __post_init__(self):
        self.dataset_options = parse_options(self.dataset_options)
        for entry in self.additional_data:
            if not all(entry.partition("=")):
                raise ValueError(f"`additional_data` takes `name=folder`, but got {entry!r}.")
        if self.prepared_dir is not None:
            settings = read_manifest(self.prepared_dir)["settings"]
            self._refuse_other_data(settings)
            self.dataset, self.dataset_config = settings["dataset"], settings["config_name"]
            self.dataset_options = settings["options"]

    @property
    def additional_folders(self) -> dict[str, str]:
        """Folder of each dataset of `additional_data`, by name."""
        return parse_options(self.additional_data, as_text=True)

    def _refuse_other_data(self, settings: Mapping[str, Any]) -> None:
        """Refuses arguments that a prepared folder has decided otherwise."""
        wanted = {"dataset": self.dataset, "dataset_config": self.dataset_config}
        wanted |= {f"dataset_options: {name}": value for name, value in self.dataset_options.items()}
        there = {"dataset": settings["dataset"], "dataset_config": settings["config_name"]}
        there |= {f"dataset_options: {name}": value for name, value in settings["options"].items()}
        for name, value in wanted.items():
            if value is not None and json.loads(json.dumps(value, default=str)) != there.get(name):
                raise ValueError(
                    f"{self.prepared_dir} was prepared with {name} {there.get(name)!r}, but {value!r} is asked for: leave that out,"
                    " or prepare the data again."
                )

    def dataset_name(self) -> str:
        """`dataset`, which must be given."""
        if self.dataset is None:
            raise ValueError("Which data? Give `dataset`, or `prepared_dir`.")
        return self.dataset

    def check_for_pretraining(self) -> None:
        """Refuses what says no data or too much."""
        self.dataset_name()
        if self.prepared_dir is not None and self.data_dir is not None:
            raise ValueError("`data_dir` does nothing where `prepared_dir` is given: leave one of them out.")

    def check_band_pass(self, feature_extractor: CMSSLFeatureExtractor, source: str) -> None:
        """Refuses another filter than that of a model, of which it is a part."""
        there = feature_extractor.do_band_pass
        if self.do_band_pass not in (None, there):
            raise ValueError(
                f"`do_band_pass` is {self.do_band_pass}, but {source} was trained on signals with do_band_pass={there}, which all"
                " later stages keep. Leave it out, or begin with a tokenizer that is trained so."
            )


@dataclass
class AugmentationArguments:
    """Random changes of training windows; see `cmssl_hf.data.augmentation.Augmentation`."""

    time_stretch: float = field(
        default=1.0, metadata={"help": "Play training windows up to this much faster or slower; rates scale with it."}
    )
    amplitude_jitter: float = field(default=0.0, metadata={"help": "Spread of a smooth random gain (training only)."})
    noise: float = field(default=0.0, metadata={"help": "Largest level of added white noise (training only)."})
    baseline_wander: float = field(default=0.0, metadata={"help": "Largest level of added drift (training only)."})
    motion: float = field(default=0.0, metadata={"help": "Largest level of added movement (training only; for PPG)."})
    polarity_flip: float = field(
        default=0.0, metadata={"help": "How often a window is turned upside down (training only; for ECG)."}
    )

    masked_share: float = field(
        default=0.0, metadata={"help": "Share of a window that is hidden in spans of half a second (training only)."}
    )

    def augmentation(self, sampling_rate: float, scales_labels: bool = False) -> Augmentation:
        """The augmentation of windows at `sampling_rate` (Hz); `scales_labels` where labels are rates."""
        return Augmentation(
            sampling_rate=float(sampling_rate),
            time_stretch=self.time_stretch,
            scales_labels=scales_labels,
            amplitude_jitter=self.amplitude_jitter,
            noise=self.noise,
            baseline_wander=self.baseline_wander,
            motion=self.motion,
            polarity_flip=self.polarity_flip,
            masked_share=self.masked_share,
        )


@dataclass
class NewModelArguments(AugmentationArguments):
    """A model that is pre-trained from random weights."""

    def config(self) -> SignalClassificationConfig:
        """Of the model."""
        raise NotImplementedError

    def validation_augmentation(self, sampling_rate: float) -> WindowAugmentation | None:
        """How validation windows are changed, the same each time; not at all, where objectives do not say."""
        return None


def parse_config_overrides(
    overrides: Mapping[str, Any] | str | None, config_class: type[PreTrainedConfig]
) -> dict[str, Any]:
    """Options for a model's config, in the forms of [`parse_options`].

    Raises:
        ValueError: if the config has no such field (transformers itself would take it for a new one), or data and task decide it.
    """
    overrides = parse_options(overrides)
    unknown = sorted(map(str, set(overrides) - {field.name for field in fields(config_class)}))
    if unknown:
        raise ValueError(
            f"`config_overrides` names fields that do not exist: {', '.join(unknown)}. See `{config_class.__name__}`."
        )
    decided = [name for name in _DECIDED_BY_DATA if name in overrides]
    if decided:
        raise ValueError(
            f"`config_overrides` cannot set {', '.join(decided)}: the data and the task decide that. Classes are weighted by"
            " `balance_classes`."
        )
    return overrides


#: Where arguments went that stood here in version 0.1.
_MOVED = {
    "TokenizerArguments": "tokenizer",
    "TokenizerTrainingArguments": "tokenizer",
    "EncoderArguments": "encoder",
    "EncoderTrainingArguments": "encoder",
    "TaskArguments": "finetuning",
    "FinetuningArguments": "finetuning",
    "StageArguments": "engine.arguments",
    "parse_arguments": "engine.parsing",
}


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = f"{__package__}.{_MOVED[name]}"
    warnings.warn(f"{name} is now in {module}.", FutureWarning, stacklevel=2)
    return getattr(importlib.import_module(module), name)
