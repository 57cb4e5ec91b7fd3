"""Pipelines: recordings of any length to rates, pressures, classes or features, per window and for the whole recording."""

import numbers
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from .conformal_cmssl import Calibration, abstains, outputs_and_spreads
from .pipeline_base_cmssl import PhysiologicalSignalPipeline


class _LabellingPipeline(PhysiologicalSignalPipeline):
    """What regression and classification share: they need a trained head of the right kind, and know their limits where the
    model was calibrated."""

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

    def _sanitize_parameters(self, coverage=None, max_width=None, **kwargs):
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        calibration = Calibration.from_config(self.model.config)
        for name, value in (("coverage", coverage), ("max_width", max_width)):
            if value is None:
                continue
            if calibration is None:
                raise ValueError(f"`{name}` needs a model that was calibrated, but its `config.calibration` is empty.")
            if not isinstance(value, numbers.Real) or not float(value) > 0:
                raise ValueError(f"`{name}` must be a positive number, but is {value!r}.")
        if coverage is not None and calibration is not None:
            calibration.choose(coverage)
            postprocess["coverage"] = coverage
        if max_width is not None:
            postprocess["max_width"] = float(max_width)
        return preprocess, forward, postprocess

    def _limits(self, coverage: float | None) -> tuple[Calibration, str] | None:
        """The model's calibration and the key of the coverage in it; `None` for a model without one."""
        calibration = Calibration.from_config(self.model.config)
        return None if calibration is None else (calibration, calibration.choose(coverage))

    def _reason_to_abstain(self, answer, max_width: float | None = None, **parameters):
        return None if max_width is None else abstains(answer, max_width)

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

    With a model that was calibrated (`config.calibration`), each window has an `interval` per label, in which the label of a
    random window of a person like those of the calibration lies with the probability `coverage` (a parameter, 0.9 by default
    where there were people enough). That of the recording is the median of its windows' bounds. Windows of another duration
    than those of the calibration have none. With `max_width`, in the labels' unit, answers with a wider interval or without
    one are withheld: their `value` is `None`, and the `reason` `"too wide"` or `"no interval"`.

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

    def run_model(self, inputs):
        if Calibration.from_config(self.model.config) is None:
            return super().run_model(inputs)
        outputs, spreads = outputs_and_spreads(self.model, **inputs)
        return {"outputs": outputs, "spreads": spreads}

    def _window_answers(self, outputs, model_outputs, coverage: float | None = None, **parameters):
        names = self._label_names()
        answers: list[dict[str, Any]] = [{"value": dict(zip(names, values))} for values in outputs.tolist()]
        if (limits := self._limits(coverage)) is None:
            return answers
        calibration, key = limits
        spreads = torch.cat([output["spreads"] for output in model_outputs]).numpy()
        bounds = calibration.intervals(outputs, spreads, key).tolist()
        for answer, output, pairs in zip(answers, model_outputs, bounds):
            covered = calibration.covers(output["window"].end - output["window"].start)
            answer["interval"] = dict(zip(names, pairs)) if covered else None
        return answers

    def _recording_answer(self, outputs, weights, answers, coverage: float | None = None, **parameters):
        names = self._label_names()
        medians = [weighted_median(column, weights) for column in outputs.T]
        answer = {"value": dict(zip(names, medians)), "unit": self.model.config.label_unit}
        if (limits := self._limits(coverage)) is None:
            return answer
        having = np.array([known["interval"] is not None for known in answers])
        interval = None
        if weights[having].any():
            bounds = np.array([[known["interval"][name] for name in names] for known in answers if known["interval"]])
            interval = {
                name: [weighted_median(bounds[:, label, side], weights[having]) for side in (0, 1)]
                for label, name in enumerate(names)
            }
        return {**answer, "interval": interval, "coverage": float(limits[1])}


class PhysiologicalSignalClassificationPipeline(_LabellingPipeline):
    r"""
    `"physiological-signal-classification"`: rhythms and diagnoses.

    `scores` maps each label to its probability (softmax for multi-class, sigmoid for multi-label models). `value` is the most
    likely label or, for multi-label models, the list of those with a probability of at least `threshold` (a parameter like
    the others, 0.5 by default). The scores of the whole recording are the mean over its windows, weighted by their duration.

    With a model of single classes that was calibrated (`config.calibration`), `set` lists the classes among which the right one
    is with the probability `coverage` (a parameter, 0.9 by default where there were people enough), for a random window of a
    person like those of the calibration. Models of several labels have none. With `max_width`, answers with a larger set are
    withheld: their `value` is `None`, and the `reason` `"too wide"`, or `"no interval"` for windows of another duration than
    those of the calibration.

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

    def _window_answers(
        self, outputs, model_outputs, threshold: float = 0.5, coverage: float | None = None, **parameters
    ):
        probabilities = self._probabilities(outputs)
        answers = [self._from_scores(scores, threshold) for scores in probabilities]
        if (limits := self._limits(coverage)) is not None:
            calibration, key = limits
            for answer, output, belongs in zip(answers, model_outputs, calibration.sets(probabilities, key)):
                covered = calibration.covers(output["window"].end - output["window"].start)
                answer["set"] = self._members(belongs) if covered else None
        return answers

    def _recording_answer(
        self, outputs, weights, answers, threshold: float = 0.5, coverage: float | None = None, **parameters
    ):
        mean = np.average(self._probabilities(outputs), axis=0, weights=weights)
        answer = self._from_scores(mean, threshold)
        if (limits := self._limits(coverage)) is not None:
            calibration, key = limits
            having = any(known["set"] is not None for known, weight in zip(answers, weights) if weight)
            answer["set"] = self._members(calibration.sets(mean, key)) if having else None
            answer["coverage"] = float(key)
        return answer

    def _probabilities(self, outputs: np.ndarray) -> np.ndarray:
        logits = torch.from_numpy(outputs)
        return (logits.sigmoid() if self._is_multi_label() else logits.softmax(-1)).numpy()

    def _is_multi_label(self) -> bool:
        return _problem_type(self.model.config) == "multi_label_classification"

    def _from_scores(self, scores: np.ndarray, threshold: float) -> dict[str, Any]:
        names = self._label_names()
        value: str | list[str] = names[int(scores.argmax())]
        if self._is_multi_label():
            value = [name for name, score in zip(names, scores) if score >= threshold]
        return {"value": value, "scores": dict(zip(names, map(float, scores)))}

    def _members(self, belongs: np.ndarray) -> list[str]:
        return [name for name, member in zip(self._label_names(), belongs) if member]


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

    def _window_answers(self, outputs, model_outputs, **parameters):
        return [{"value": output} for output in outputs]

    def _recording_answer(self, outputs, weights, answers, **parameters):
        return {"value": np.average(outputs, axis=0, weights=weights)}


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
