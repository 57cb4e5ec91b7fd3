"""Pipelines: recordings of any length to rates, pressures, classes or features, per window and for the whole recording."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoModelForSequenceClassification
from transformers.pipelines.base import ChunkPipeline
from transformers.utils import logging

from .configuration_cmssl import CMSSLTokenizerConfig
from .quality_cmssl import QUALITY_ISSUES, find_quality_issues
from .recordings_cmssl import Recording, read_recording
from .signal_processing_cmssl import reason_to_drop
from .time_axis_cmssl import LONGEST_FILLED_GAP, fill_short_gaps, gaps


logger = logging.get_logger(__name__)

#: Window in seconds for models whose config does not say what they were trained on; the published one.
DEFAULT_WINDOW_SECONDS = 10.0
#: Each window takes this much memory, whatever the length of the recording.
LONGEST_WINDOW_SECONDS = 3600.0
#: Windows of which more than this share would have to be filled are not used.
LARGEST_FILLED_SHARE = 0.25

_ISSUES = (*QUALITY_ISSUES, "filled")


@dataclass(frozen=True)
class _Member:
    """A recording of a list or generator."""

    number: int
    source: Any


class PhysiologicalSignalPipeline(ChunkPipeline):
    r"""
    Cuts a recording into windows, runs the model on those that can be used, and sums up.

    Args of the pipeline and of each call:
        sampling_rate (`float`, *optional*):
            Rate in Hz of inputs that do not state theirs, by a header or by times: bare arrays and columns without times.
        column (`str` or `dict[str, str]`, *optional*):
            Column or WFDB channel to read, whatever its name; found by the model's modality if left out (`read_recording`).
        window_seconds (`float`, *optional*):
            Length of the windows, an hour at most; `config.window_seconds`, the one that the model was trained on, by default.
        stride_seconds (`float`, *optional*):
            Distance between the starts of two windows; the length of a window by default. What remains at the end is a
            shorter, masked window.
        excluded_issues (`Sequence[str]`, *optional*):
            Windows with one of these `quality_issues` are answered, but do not count for the answer to the recording:
            by default those without a pulse and PPG that is upside down. `()` lets all count.
        on_error (`str`, *optional*, defaults to `"raise"`):
            With `"skip"` a recording that cannot be read or used does not end a list or generator: its answer has the `value`
            `None`, the error as its `reason`, and no windows.
        batch_size (`int`, *optional*, defaults to 1):
            Windows, also of different recordings, that the model gets at a time.

    Inputs are arrays `(samples,)`, series, tables, dictionaries, paths of WFDB records or of text files (see `read_recording`),
    or a list, a generator or a `datasets.Dataset` of them. The answer to each is a dictionary with

    - `start`, `end` (s): of the recording, which begins at 0;
    - `value`: the answer for the whole recording, see the subclasses; `None`, with a `reason`, if no window counts;
    - `usable_share`: share of the windows' time that the answer rests on, between 0 and 1: how far to trust it;
    - `quality_issues`: those of at least half of the windows that were answered;
    - `windows`: for each window `start`, `end`, `value` and `quality_issues`, a list that is empty for a good one
      (`find_quality_issues`, e.g. `["ppg_no_pulse"]`; `"ppg_filled"`: missing samples were interpolated, in gaps of at most
      `LONGEST_FILLED_GAP`), or where `value` is `None` a `reason`: `"missing"` (NaN or infinite samples), `"flat"` (constant
      over more than half of it), `"short"` (less than one patch, at the end of a recording) or `"not finite"` (the model's
      answer is not a number).

    Raises:
        ValueError: if the model can read no window of a recording, or for an input that cannot be read; the message names it.
        FileNotFoundError: if there is no such file.
    """

    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = True
    _load_tokenizer = False

    #: Key of the model's output that windows are answered from.
    _output_name = "logits"
    _excluded_issues: tuple[str, ...] = ("ecg_no_pulse", "ppg_no_pulse", "ppg_inverted")

    def __call__(self, inputs: Any, **kwargs: Any) -> dict[str, Any] | list[dict[str, Any]] | Iterator[dict[str, Any]]:
        if isinstance(inputs, list):
            numbered = [_Member(number, source) for number, source in enumerate(inputs)]
            return super().__call__(numbered, **kwargs) if numbered else []
        if isinstance(inputs, Iterator) or (hasattr(inputs, "features") and hasattr(inputs, "column_names")):
            return super().__call__((_Member(number, source) for number, source in enumerate(inputs)), **kwargs)
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(
        self,
        sampling_rate=None,
        column=None,
        window_seconds=None,
        stride_seconds=None,
        excluded_issues=None,
        on_error=None,
        **kwargs,
    ):
        if kwargs:
            raise TypeError(f"{type(self).__name__} has no parameter {', '.join(kwargs)}.")
        for name, seconds in (("window_seconds", window_seconds), ("stride_seconds", stride_seconds)):
            if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
                raise ValueError(f"`{name}` must be a positive number of seconds, but is {seconds!r}.")
        if on_error not in (None, "raise", "skip"):
            raise ValueError(f"`on_error` must be 'raise' or 'skip', but is {on_error!r}.")
        known = [f"{channel}_{issue}" for channel in self.feature_extractor.channels for issue in _ISSUES]
        if isinstance(excluded_issues, str) or not set(excluded_issues or ()).issubset(known):
            raise ValueError(f"`excluded_issues` must be a list of {', '.join(known)}, but is {excluded_issues!r}.")
        preprocess = {
            "sampling_rate": sampling_rate,
            "column": column,
            "window_seconds": window_seconds,
            "stride_seconds": stride_seconds,
            "on_error": on_error,
        }
        postprocess = {"excluded_issues": excluded_issues, "on_error": on_error}
        return (
            {name: value for name, value in preprocess.items() if value is not None},
            {},
            {name: value for name, value in postprocess.items() if value is not None},
        )

    def preprocess(
        self,
        source: Any,
        sampling_rate: float | None = None,
        column: str | Mapping[str, str] | None = None,
        window_seconds: float | None = None,
        stride_seconds: float | None = None,
        on_error: str = "raise",
    ) -> Iterator[dict[str, Any]]:
        """Yields the usable windows of one recording as the model's input of batch size 1."""
        number, source = (source.number, source.source) if isinstance(source, _Member) else (None, source)
        window_seconds = window_seconds or getattr(self.model.config, "window_seconds", None) or DEFAULT_WINDOW_SECONDS
        stride_seconds = stride_seconds or window_seconds
        self._check_windows(window_seconds, stride_seconds)
        try:
            recording = read_recording(
                source, self.feature_extractor.channels, sampling_rate=sampling_rate, column=column
            )
            yield from self._windows(recording, window_seconds, stride_seconds)
        except (ValueError, FileNotFoundError) as error:
            message = str(error) if number is None else f"Recording {number} of those given: {error}"
            if on_error == "raise":
                raise (FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError)(message) from error
            yield self._skipped(message, window_seconds)

    def _check_windows(self, window_seconds: float, stride_seconds: float) -> None:
        extractor = self.feature_extractor
        patch_seconds = extractor.patch_size / extractor.sampling_rate
        if window_seconds < patch_seconds:
            raise ValueError(
                f"`window_seconds` ({window_seconds}) must be at least one patch of {patch_seconds:.3g} s."
            )
        if window_seconds > LONGEST_WINDOW_SECONDS:
            raise ValueError(
                f"`window_seconds` ({window_seconds:g}) must be at most {LONGEST_WINDOW_SECONDS:g}: shorter windows are padded to"
                " it, and longer recordings are cut into several."
            )
        if stride_seconds * extractor.sampling_rate < 1:
            raise ValueError(
                f"`stride_seconds` ({stride_seconds:g}) must be at least one sample of the model's"
                f" {extractor.sampling_rate:g} Hz."
            )

    def _num_samples(self, window_seconds: float) -> int:
        """Samples of the model's input for a window, in whole patches. All windows get one length, so that those of different
        recordings and the last ones fit into one batch."""
        extractor = self.feature_extractor
        return (
            math.ceil(round(window_seconds * extractor.sampling_rate / extractor.patch_size, 6)) * extractor.patch_size
        )

    def _windows(self, given: Recording, window_seconds: float, stride_seconds: float) -> Iterator[dict[str, Any]]:
        extractor = self.feature_extractor
        self._check_rates(given)
        recording, filled = _fill_gaps(given)
        patch_seconds = extractor.patch_size / extractor.sampling_rate
        usable, unusable = [], []
        for start, end in window_times(recording, window_seconds, stride_seconds):
            reason = _reason_not_to_use(
                recording.cut(start, end), filled.cut(start, end), recording.sampling_rates, patch_seconds
            )
            if reason is None:
                usable.append((start, end))
            else:
                unusable.append({"start": start, "end": end, "value": None, "reason": reason})
        if not usable:
            reasons = ", ".join(sorted({window["reason"] for window in unusable})) or "empty"
            raise ValueError(f"No window of {recording.name} can be used: {reasons}.{_describe_gaps(given)}")
        for index, (start, end) in enumerate(usable):
            is_last = index == len(usable) - 1
            try:
                features = extractor(
                    **recording.cut(start, end),
                    sampling_rate=recording.sampling_rates,
                    padding="max_length",
                    max_length=self._num_samples(window_seconds),
                    truncation=True,
                    return_tensors="pt",
                )
            except ValueError as error:
                raise ValueError(f"{recording.name}, {start:g}-{end:g} s: {error}") from error
            issues = _quality_issues(recording.cut(start, end), recording.sampling_rates)
            issues += [f"{channel}_filled" for channel, samples in filled.cut(start, end).items() if samples.any()]
            yield {
                **features,
                "start": start,
                "end": end,
                "quality_issues": issues,
                "recording": recording.name,
                "duration": recording.duration,
                "unusable": unusable if is_last else None,
                "reason": None,
                "is_last": is_last,
            }

    def _skipped(self, reason: str, window_seconds: float) -> dict[str, Any]:
        """What stands for a recording that was not read: the model is run on nothing, and its answer is left out."""
        num_samples = self._num_samples(window_seconds)
        return {
            "input_values": torch.zeros(1, len(self.feature_extractor.channels), num_samples),
            "attention_mask": torch.ones(1, num_samples, dtype=torch.int32),
            "start": 0.0,
            "end": 0.0,
            "quality_issues": [],
            "recording": "",
            "duration": None,
            "unusable": [],
            "reason": reason,
            "is_last": True,
        }

    def _check_rates(self, recording: Recording) -> None:
        """Refuses rates at which nothing of what the model reads is left, and warns of those at which some is missing."""
        if not self.feature_extractor.do_band_pass:
            return
        for channel, rate in recording.sampling_rates.items():
            low, high = self.feature_extractor.pass_bands[channel]
            if rate <= 2 * low:
                raise ValueError(
                    f"{recording.name}, at {rate:g} Hz, holds nothing of the {low:g}-{high:g} Hz of {channel} that the model"
                    " reads."
                )
            if rate < 2 * high:
                logger.warning(
                    "%s, at %g Hz, holds only frequencies below %g Hz; the model was made for %s of %g-%g Hz.",
                    recording.name,
                    rate,
                    rate / 2,
                    channel,
                    low,
                    high,
                )

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        notes = {
            name: value for name, value in model_inputs.items() if name not in self.feature_extractor.model_input_names
        }
        inputs = {name: model_inputs[name] for name in self.feature_extractor.model_input_names}
        return {"outputs": self.model(**inputs)[self._output_name], **notes}

    def postprocess(
        self,
        model_outputs: list[dict[str, Any]],
        excluded_issues: Sequence[str] | None = None,
        on_error: str = "raise",
        **parameters: Any,
    ) -> dict[str, Any]:
        """The answer for one recording from the outputs of its usable windows."""
        last = model_outputs[-1]
        if last["reason"] is not None:
            return _no_answer(last)
        windows, finite = list(last["unusable"]), []
        for window in model_outputs:
            if torch.isfinite(window["outputs"]).all():
                finite.append(window)
            else:
                times = {"start": window["start"], "end": window["end"]}
                windows.append({**times, "value": None, "reason": "not finite"})
        if not finite:
            reason = f"The model's answer to {last['recording']} is not a number for any window."
            if on_error == "raise":
                raise ValueError(reason)
            return _no_answer({**last, "reason": reason})
        outputs = torch.cat([window["outputs"] for window in finite]).float().numpy()
        durations = np.array([window["end"] - window["start"] for window in finite])
        excluded = set(self._excluded_issues if excluded_issues is None else excluded_issues)
        counts = np.array([excluded.isdisjoint(window["quality_issues"]) for window in finite])
        weights = durations * counts if counts.any() else durations
        answers, summary = self._answer(outputs, weights, **parameters)
        issues = [
            issue
            for issue in dict.fromkeys(issue for window in finite for issue in window["quality_issues"])
            if durations[[issue in window["quality_issues"] for window in finite]].sum() >= durations.sum() / 2
        ]
        if not counts.any():
            found = excluded.intersection(issue for window in finite for issue in window["quality_issues"])
            upside_down = " Turn the PPG over: give it times -1." if "ppg_inverted" in found else ""
            reason = f"No window counts: all have {' or '.join(sorted(found))}.{upside_down}"
            summary = {**summary, **dict.fromkeys(summary.keys() & {"value", "scores"}), "reason": reason}
        for window, answer in zip(finite, answers):
            times = {"start": window["start"], "end": window["end"]}
            windows.append({**times, **answer, "quality_issues": window["quality_issues"]})
        windows.sort(key=lambda window: window["start"])
        total = sum(window["end"] - window["start"] for window in windows)
        return {
            "start": 0.0,
            "end": last["duration"],
            **summary,
            "usable_share": float((durations * counts).sum() / total),
            "quality_issues": issues,
            "windows": windows,
        }

    def _answer(
        self, outputs: np.ndarray, durations: np.ndarray, **parameters: Any
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The answers to windows with `outputs (windows, ...)` and `durations (windows,)` in seconds, and the one answer to
        the recording."""
        raise NotImplementedError

    @classmethod
    def serves(cls, config) -> bool:
        """Whether the saved model with this config can answer."""
        return True


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
        config = self.model.config
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
        return not isinstance(config, CMSSLTokenizerConfig)

    def _answer(self, outputs, durations):
        return [{"value": row} for row in outputs], {"value": np.average(outputs, axis=0, weights=durations)}


def window_times(recording: Recording, window_seconds: float, stride_seconds: float) -> Iterator[tuple[float, float]]:
    """Start and end in seconds of the windows of a recording. The last one ends with it and may be shorter; it is the first
    that reaches the end."""
    # Times are sums of fractions: half a sample decides what has reached the end.
    tolerance = 0.5 / max(recording.sampling_rates.values())
    for index in range(math.ceil(recording.duration / stride_seconds)):
        start = index * stride_seconds
        end = start + window_seconds
        if end < recording.duration - tolerance:
            yield start, end
            continue
        if start < recording.duration - tolerance:
            yield start, recording.duration
        return


def weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    """The value with half of the weight on either side; the middle of two where they share it evenly."""
    order = np.argsort(values)
    values, cumulative = values[order], np.cumsum(weights[order]) / np.sum(weights)
    low = values[np.searchsorted(cumulative, 0.5 - 1e-9)]
    high = values[min(np.searchsorted(cumulative, 0.5 + 1e-9), len(values) - 1)]
    return float((low + high) / 2)


def _quality_issues(signals: Mapping[str, np.ndarray], sampling_rates: Mapping[str, float]) -> list[str]:
    return [
        f"{channel}_{issue}"
        for channel, signal in signals.items()
        for issue in find_quality_issues([signal], sampling_rates[channel], channel)[0]
    ]


def _reason_not_to_use(
    signals: Mapping[str, np.ndarray],
    filled: Mapping[str, np.ndarray],
    sampling_rates: Mapping[str, float],
    patch_seconds: float,
) -> str | None:
    if any(len(signal) / sampling_rates[channel] < patch_seconds - 1e-9 for channel, signal in signals.items()):
        return "short"
    if any(samples.sum() > LARGEST_FILLED_SHARE * len(samples) for samples in filled.values()):
        return "missing"
    return next(filter(None, map(reason_to_drop, signals.values())), None)


def _fill_gaps(recording: Recording) -> tuple[Recording, Recording]:
    """The recording with short gaps interpolated, and which samples were."""
    filled = {
        channel: fill_short_gaps(signal, recording.sampling_rates[channel], LONGEST_FILLED_GAP[channel])
        for channel, signal in recording.signals.items()
    }
    return (
        replace(recording, signals={channel: signal for channel, (signal, _) in filled.items()}),
        replace(recording, signals={channel: samples for channel, (_, samples) in filled.items()}),
    )


def _describe_gaps(recording: Recording) -> str:
    """How many samples a recording lacks, where, and what can be done; nothing if it lacks none."""
    told = []
    for channel, signal in recording.signals.items():
        missing = ~np.isfinite(signal)
        if missing.any():
            start, end = max(gaps(missing), key=np.ptp) / recording.sampling_rates[channel]
            told.append(
                f" Of {channel}, {missing.sum():,} of {len(signal):,} samples are missing (NaN or infinite) in"
                f" {len(gaps(missing)):,} gaps, the longest at {start:.6g}-{end:.6g} s. Gaps of up to"
                f" {LONGEST_FILLED_GAP[channel]} s are filled, but no window with more than {LARGEST_FILLED_SHARE:.0%} of them."
            )
    return "".join([*told, " Choose shorter `window_seconds`, or interpolate longer gaps."]) if told else ""


def _no_answer(window: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a recording that was skipped."""
    return {
        "start": 0.0,
        "end": window["duration"],
        "value": None,
        "reason": window["reason"],
        "usable_share": 0.0,
        "quality_issues": [],
        "windows": [],
    }


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
