"""Arguments that stages share: which data they read, and how training windows are changed."""

from dataclasses import dataclass, field, fields
from typing import Any

from transformers import PreTrainedConfig

from ..data.augmentation import Augmentation
from ..data.prepared.reading import read_manifest
from .engine.arguments import parse_options


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

    def augmentation(self, sampling_rate: float, scales_labels: bool = False) -> Augmentation:
        """The augmentation of windows at `sampling_rate` (Hz); `scales_labels` where labels are rates."""
        return Augmentation(
            sampling_rate=float(sampling_rate),
            time_stretch=self.time_stretch,
            scales_labels=scales_labels,
            amplitude_jitter=self.amplitude_jitter,
            noise=self.noise,
            baseline_wander=self.baseline_wander,
            polarity_flip=self.polarity_flip,
            masked_share=self.masked_share,
        )


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
