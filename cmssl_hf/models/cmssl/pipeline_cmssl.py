"""Pipelines: recordings of any length to rates, pressures, classes or features, per window and for the whole recording."""

from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from .pipeline_base_cmssl import PhysiologicalSignalPipeline


class _LabellingPipeline(PhysiologicalSignalPipeline):
    """What regression and classification share: they need a trained head of the right kind."""

    _problem_types: tuple[str, ...] = ()

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        config = self.model.config
        # A head that the checkpoint lacks has random weights, and answers all the same.
        if config.architectures and not _has_head(config):
            raise ValueError(
                f"{config.name_or_path or 'This model'} is a {config.architectures[0]}: it was not fine-tuned, and has no"
                " labels to predict."
            )
        if _problem_type(config) not in self._problem_types:
            raise ValueError(
                f"The model's `problem_type` is {_problem_type(config)!r}, but {self.task or type(self).__name__} needs"
                f" {' or '.join(self._problem_types)}."
            )

    @classmethod
    def serves(cls, config) -> bool:
        return _has_head(config) and _problem_type(config) in cls._problem_types

    def _label_names(self) -> list[str]:
        config: Any = self.model.config
        return [config.id2label[index] for index in range(config.num_labels)]


def _has_head(config) -> bool:
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


def _problem_type(config) -> str:
    if config.problem_type is not None:
        return config.problem_type
    return "regression" if config.num_labels == 1 else "single_label_classification"


class PhysiologicalSignalRegressionPipeline(_LabellingPipeline):
    r"""
    `"physiological-signal-regression"`: heart rate, respiratory rate, blood pressure and the like.

    `value` maps the name of each label to a number in physical units, and `unit` is `config.label_unit`. The value of the whole
    recording is the median over the windows that count, weighted by their duration: a few windows spoiled by motion do not
    move it.

    ```python
    >>> from transformers import pipeline
    >>> import cmssl_hf

    >>> heart_rate = pipeline("physiological-signal-regression", model="runs/bidmc_hr")
    >>> heart_rate(ppg, sampling_rate=64)
    {'start': 0.0, 'end': 25.0, 'value': {'heart_rate': 71.9}, 'unit': 'bpm', 'usable_share': 1.0,
     'windows': [{'start': 0.0, 'end': 10.0, 'value': {'heart_rate': 71.9}}, ...]}
    ```
    """

    _problem_types = ("regression",)

    def _answer(self, outputs, durations):
        names = self._label_names()
        answers = [{"value": dict(zip(names, map(float, row)))} for row in outputs]
        medians = [weighted_median(column, durations) for column in outputs.T]
        return answers, {"value": dict(zip(names, medians)), "unit": self.model.config.label_unit}


class PhysiologicalSignalClassificationPipeline(_LabellingPipeline):
    r"""
    `"physiological-signal-classification"`: rhythms and diagnoses.

    `scores` maps each label to its probability (softmax for multi-class, sigmoid for multi-label models). `value` is the most
    likely label or, for multi-label models, the list of those with a probability of at least `threshold` (a parameter like
    the others, 0.5 by default). The scores of the whole recording are the mean over its windows, weighted by their duration.

    Windows without a pulse count, unless `excluded_issues` names them: some with atrial fibrillation are flagged so, all with
    ventricular fibrillation and asystole, and there are models with a class for noise.
    """

    _problem_types = ("single_label_classification", "multi_label_classification")
    _excluded_issues = ("ppg_inverted",)

    def _sanitize_parameters(self, threshold=None, **kwargs):
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        if threshold is not None:
            if not 0 <= threshold <= 1:
                raise ValueError(f"`threshold` must be a probability, but is {threshold!r}.")
            postprocess["threshold"] = threshold
        return preprocess, forward, postprocess

    def _answer(self, outputs, durations, threshold: float = 0.5):
        logits = torch.from_numpy(outputs)
        multi_label = _problem_type(self.model.config) == "multi_label_classification"
        probabilities = (logits.sigmoid() if multi_label else logits.softmax(-1)).numpy()
        mean = np.average(probabilities, axis=0, weights=durations)
        names = self._label_names()

        def answer(row: np.ndarray) -> dict[str, Any]:
            value: str | list[str]
            if multi_label:
                value = [name for name, probability in zip(names, row) if probability >= threshold]
            else:
                value = names[int(row.argmax())]
            return {"value": value, "scores": dict(zip(names, map(float, row)))}

        return [answer(row) for row in probabilities], answer(mean)


class PhysiologicalSignalFeatureExtractionPipeline(PhysiologicalSignalPipeline):
    r"""
    `"physiological-signal-feature-extraction"`: `value` is the encoder's `pooler_output`, an array `(hidden_size,)`; for the
    whole recording the mean over those that count, weighted by their duration. For the codes of a tokenizer, call its `encode`.
    """

    _output_name = "pooler_output"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if not self.serves(self.model.config):
            raise ValueError(
                f"{self.model.config.name_or_path or 'This model'} is a tokenizer: call `encode` for its codes."
            )

    @classmethod
    def serves(cls, config) -> bool:
        return config.model_type != "cmssl_tokenizer"

    def _answer(self, outputs, durations):
        return [{"value": row} for row in outputs], {"value": np.average(outputs, axis=0, weights=durations)}


def weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    """The value with half of the weight on either side; the middle of two where they share it evenly."""
    order = np.argsort(values)
    values, cumulative = values[order], np.cumsum(weights[order]) / np.sum(weights)
    low = values[np.searchsorted(cumulative, 0.5 - 1e-9)]
    high = values[min(int(np.searchsorted(cumulative, 0.5 + 1e-9)), len(values) - 1)]
    return float((low + high) / 2)


#: The pipeline class of each task, and the Auto class that loads its model.
PIPELINES = {
    "physiological-signal-regression": (PhysiologicalSignalRegressionPipeline, AutoModelForSequenceClassification),
    "physiological-signal-classification": (
        PhysiologicalSignalClassificationPipeline,
        AutoModelForSequenceClassification,
    ),
    "physiological-signal-feature-extraction": (PhysiologicalSignalFeatureExtractionPipeline, AutoModel),
}


__all__ = [
    "PIPELINES",
    "PhysiologicalSignalClassificationPipeline",
    "PhysiologicalSignalFeatureExtractionPipeline",
    "PhysiologicalSignalPipeline",
    "PhysiologicalSignalRegressionPipeline",
]
