"""Configuration fields of every model with a head for labels, whatever computes the features."""

import math
from typing import Any, Literal

from transformers import PreTrainedConfig
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME


#: Frequencies in Hz of `pooling="spectrum"`: 5 to 42 cycles per minute, where breathing is searched for.
SPECTRUM_BAND = (0.08, 0.70)
SPECTRUM_STEP = 0.01


def spectrum_frequencies() -> list[float]:
    """The frequencies in Hz that `pooling="spectrum"` looks at."""
    low, high = SPECTRUM_BAND
    return [low + SPECTRUM_STEP * step for step in range(round((high - low) / SPECTRUM_STEP) + 1)]


class SignalClassificationConfig(PreTrainedConfig):
    r"""
    What the heads on the models of this package share.

    Args:
        classifier_head (`"mlp"`, `"linear"` or `"frequency"`, *optional*, defaults to `"mlp"`):
            Head for labels. `"mlp"` is the published `Linear(E, E/2) -> GELU -> Linear`, which the published code uses for
            "linear probing" too; `"linear"` is one linear layer. `"frequency"` is meant for respiratory rates: convolutions over
            the frequencies of `pooling="spectrum"` give the probability of each of them, so that what is learnt of one rate holds
            for all. It sets `label_range` to the rates per minute that it looks at.
        regression_loss (`"mse"`, `"huber"` or `"histogram"`, *optional*, defaults to `"mse"`):
            Loss when `problem_type="regression"`: on the standardised labels, or, with `"histogram"`, the cross-entropy between
            distributions over `num_label_bins` values in `label_range`, whose right one is a normal distribution around the
            label (Imani and White 2018, arXiv 1806.04613). The model then answers with the median of its distribution.
        huber_delta (`float`, *optional*, defaults to 1.0):
            Where `"huber"` turns from squared to absolute error, in standard deviations of the labels. A small one learns
            the median of the labels, which is what the mean absolute error rewards.
        label_range (`tuple[float, float]`, *optional*):
            Lowest and highest value of the labels' distribution with `regression_loss="histogram"`, in their unit. It must reach
            as far as training stretches labels.
        num_label_bins (`int`, *optional*, defaults to 101):
            Number of values of that distribution, which are evenly spaced.
        class_weights (`tuple[float, ...]`, *optional*):
            Weight of each class in the cross-entropy when `problem_type="single_label_classification"`.
        label_mean (`float` or `tuple[float, ...]`, *optional*):
            Mean of each regression label over the training set, in physical units; one number serves all labels.
        label_std (`float` or `tuple[float, ...]`, *optional*):
            Standard deviation of each regression label over the training set, likewise.
        label_unit (`str`, *optional*):
            Unit of the regression labels, e.g. `"bpm"` or `"mmHg"`.
        window_seconds (`float`, *optional*):
            Median duration of the windows that the model was trained on; the pipelines cut recordings into such windows.
        calibration (`dict`, *optional*):
            Quantiles of the model's errors on validation subjects, by which the pipelines give intervals and sets
            (`conformal_cmssl.Calibration`). They are those of the weights that they were stored with: whoever trains on, sets
            it to `None`.
    """

    classifier_head: Literal["mlp", "linear", "frequency"] = "mlp"
    regression_loss: Literal["mse", "huber", "histogram"] = "mse"
    huber_delta: float | int = 1.0
    label_range: list[float | int] | tuple[float | int, ...] | None = None
    num_label_bins: int = 101
    class_weights: list[float | int] | tuple[float | int, ...] | None = None
    label_mean: float | int | list[float | int] | tuple[float | int, ...] | None = None
    label_std: float | int | list[float | int] | tuple[float | int, ...] | None = None
    label_unit: str | None = None
    window_seconds: float | int | None = None
    calibration: dict[str, Any] | None = None

    def __post_init__(self, **kwargs):
        if self.classifier_head == "frequency":
            rates = [60 * frequency for frequency in spectrum_frequencies()]
            self.label_range, self.num_label_bins = (rates[0], rates[-1]), len(rates)
        # transformers runs the pipelines named in a config as remote code and no others. Where this class is installed, so
        # are they, and they need no `trust_remote_code`.
        if not __name__.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME):
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)

    @property
    def predicts_histogram(self) -> bool:
        """Whether the head gives a distribution over values of each label."""
        return self.regression_loss == "histogram" and self.problem_type in (None, "regression")

    def validate_labels(self):
        """Part of the `@strict` validation: what is said of the labels must fit their number."""
        if not self.huber_delta > 0:
            raise ValueError(f"`huber_delta` must be positive, but is {self.huber_delta}.")
        pooling = getattr(self, "pooling", None)
        if self.classifier_head == "frequency" and (pooling, self.regression_loss) != ("spectrum", "histogram"):
            raise ValueError(
                '`classifier_head="frequency"` needs `pooling="spectrum"`, whose frequencies it reads, and'
                f' `regression_loss="histogram"`, but they are "{pooling}" and "{self.regression_loss}".'
            )
        if self.regression_loss == "histogram":
            limits = self.label_range or ()
            if len(limits) != 2 or not -math.inf < limits[0] < limits[1] < math.inf or self.num_label_bins < 2:
                raise ValueError(
                    '`regression_loss="histogram"` needs `label_range`, the lowest and the highest label, and at least two'
                    f" `num_label_bins` between them, but they are {self.label_range} and {self.num_label_bins}."
                )
        for name in ("label_mean", "label_std"):
            values = getattr(self, name)
            if isinstance(values, (list, tuple)) and len(values) != self.num_labels:
                raise ValueError(f"`{name}` must hold one value per label ({self.num_labels}), but is {values}.")
        means = self.label_mean if isinstance(self.label_mean, (list, tuple)) else [self.label_mean]
        if any(value is not None and not math.isfinite(value) for value in means):
            raise ValueError(f"`label_mean` must be finite, but is {self.label_mean}.")
        if self.class_weights is not None and len(self.class_weights) != self.num_labels:
            raise ValueError(
                f"`class_weights` must hold one weight per class ({self.num_labels}), but is {self.class_weights}."
            )
        deviations = self.label_std if isinstance(self.label_std, (list, tuple)) else [self.label_std]
        if any(value is not None and not value > 0 for value in deviations):
            raise ValueError(f"`label_std` must be positive, but is {self.label_std}.")

    def to_dict(self) -> dict[str, Any]:
        output = super().to_dict()
        if "auto_map" in output:
            # Imported here because a configuration needs no pipelines; and by this line transformers finds out that the
            # file belongs to a folder with remote code.
            from .pipeline_cmssl import PIPELINES

            pipelines = {
                task: {"impl": f"pipeline_cmssl.{pipeline_class.__name__}", "pt": [auto_class.__name__]}
                for task, (pipeline_class, auto_class) in PIPELINES.items()
                if pipeline_class.serves(self)
            }
            if pipelines:
                output["custom_pipelines"] = pipelines
        return output


__all__ = ["SignalClassificationConfig"]
