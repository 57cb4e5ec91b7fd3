"""What the pipelines share: a recording of any length in windows, the model's answers to them, and what counts of these."""

import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.pipelines.base import ChunkPipeline

from .feature_extraction_cmssl import CMSSLFeatureExtractor
from .quality_cmssl import QUALITY_ISSUES
from .recordings_cmssl import Recording, read_recording
from .stream_cmssl import SignalStream
from .window_inputs_cmssl import RecordingNotes, WindowInputs


#: Window in seconds for models whose config does not say what they were trained on; the published one.
DEFAULT_WINDOW_SECONDS = 10.0

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
        min_quality (`float`, *optional*):
            Windows of less `quality` are not answered, with the reason `"low quality"`, and do not count.
        on_error (`str`, *optional*, defaults to `"raise"`):
            With `"skip"` a recording that cannot be read or used does not end a list or generator: its answer has the `value`
            `None`, the error as its `reason`, and no windows.
        return_recording (`bool`, *optional*, defaults to `False`):
            Whether answers hold what was read, for figures and heartbeats.
        batch_size (`int`, *optional*, defaults to 1):
            Windows, also of different recordings, that the model gets at a time.

    Inputs are arrays `(samples,)`, series, tables, dictionaries, paths of WFDB records or of text files (see `read_recording`),
    or a list, a generator or a `datasets.Dataset` of them. The answer to each is a dictionary with

    - `start`, `end` (s): of the recording, which begins at 0;
    - `value`: the answer for the whole recording, see the subclasses; `None`, with a `reason`, if no window counts;
    - `usable_share`: share of the windows' time that the answer rests on, between 0 and 1: how far to trust it;
    - `quality`: mean over all windows of how much of them is pulse, between 0 and 1 (`judge_windows`); windows that cannot be
      used count as 0;
    - `quality_issues`: those of at least half of the windows that were answered;
    - `windows`: for each window `start`, `end`, `value`, `quality` and `quality_issues`, a list that is empty for a good one
      (`judge_windows`, e.g. `["ppg_no_pulse"]`; `"ppg_filled"`: missing samples were interpolated, in gaps of at most
      `LONGEST_FILLED_GAP`), or where `value` is `None` a `reason`: `"missing"` (NaN or infinite samples), `"flat"` (constant
      over more than half of it), `"short"` (less than one patch, at the end of a recording), `"not finite"` (the model's
      answer is not a number), or one of those for which it was asked to abstain;
    - with `return_recording`, `recording`: the `Recording`, with NaN in its gaps.

    Raises:
        ValueError: if the model can read no window of a recording, or for an input that cannot be read; the message names it.
        FileNotFoundError: if there is no such file.
    """

    feature_extractor: CMSSLFeatureExtractor

    # transformers gives them the type of its default, `None`.
    _load_processor = _load_image_processor = _load_video_processor = _load_tokenizer = False  # type: ignore[assignment]
    _load_feature_extractor = True  # type: ignore[assignment]

    #: Key of the model's output that windows are answered from.
    _output_name = "logits"
    _excluded_issues: tuple[str, ...] = ("ecg_no_pulse", "ppg_no_pulse", "ppg_inverted")

    def __call__(self, inputs: Any, **kwargs: Any) -> dict[str, Any] | list[dict[str, Any]] | Iterator[dict[str, Any]]:
        if isinstance(inputs, list):
            numbered = [_Member(number, source) for number, source in enumerate(inputs)]
            return super().__call__(numbered, **kwargs) if numbered else []
        if isinstance(inputs, Iterator) or (hasattr(inputs, "features") and hasattr(inputs, "column_names")):
            return super().__call__((_Member(number, source) for number, source in enumerate(inputs)), **kwargs)
        # One of torch, which need not end by itself.
        if isinstance(inputs, torch.utils.data.Dataset) and hasattr(inputs, "__len__"):
            return super().__call__((_Member(number, inputs[number]) for number in range(len(inputs))), **kwargs)
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(
        self,
        sampling_rate=None,
        column=None,
        window_seconds=None,
        stride_seconds=None,
        excluded_issues=None,
        on_error=None,
        min_quality=None,
        return_recording=None,
        **kwargs,
    ):
        if kwargs:
            raise TypeError(f"{type(self).__name__} has no parameter {', '.join(kwargs)}.")
        for name, seconds in (("window_seconds", window_seconds), ("stride_seconds", stride_seconds)):
            if seconds is not None and not (
                isinstance(seconds, numbers.Real) and math.isfinite(seconds) and float(seconds) > 0
            ):
                raise ValueError(f"`{name}` must be a positive number of seconds, but is {seconds!r}.")
        if window_seconds is not None or stride_seconds is not None:
            self._window_inputs(window_seconds, stride_seconds)
        if min_quality is not None and not (isinstance(min_quality, numbers.Real) and 0 <= float(min_quality) <= 1):
            raise ValueError(f"`min_quality` must lie between 0 and 1, but is {min_quality!r}.")
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
            "return_recording": return_recording,
        }
        postprocess = {"excluded_issues": excluded_issues, "on_error": on_error, "min_quality": min_quality}
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
        return_recording: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """Yields the usable windows of one recording as the model's input of batch size 1."""
        number, source = (source.number, source.source) if isinstance(source, _Member) else (None, source)
        windows = self._window_inputs(window_seconds, stride_seconds)
        try:
            recording = read_recording(
                source, self.feature_extractor.channels, sampling_rate=sampling_rate, column=column
            )
            for window in windows.of_recording(recording):
                yield {**window, "given": recording if return_recording and window["is_last"] else None}
        except (ValueError, FileNotFoundError) as error:
            message = str(error) if number is None else f"Recording {number} of those given: {error}"
            if on_error == "raise":
                raise (FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError)(message) from error
            yield {**windows.nothing(message), "given": None}

    def _window_inputs(self, window_seconds: float | None, stride_seconds: float | None) -> WindowInputs:
        window_seconds = window_seconds or getattr(self.model.config, "window_seconds", None) or DEFAULT_WINDOW_SECONDS
        return WindowInputs(self.feature_extractor, window_seconds, stride_seconds or window_seconds)

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        notes = {
            name: value for name, value in model_inputs.items() if name not in self.feature_extractor.model_input_names
        }
        inputs = {name: model_inputs[name] for name in self.feature_extractor.model_input_names}
        # What is masked lies at one end. Where nothing is, models need not look.
        if "attention_mask" in inputs and inputs["attention_mask"][:, [0, -1]].all():
            del inputs["attention_mask"]
        return {**self.run_model(inputs), **notes}

    def get_inference_context(self):
        # Tensors that keep no count of their changes.
        return torch.inference_mode

    def run_model(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The `outputs (batch, ...)` for windows, and what else answers need."""
        return {"outputs": self.model(**inputs)[self._output_name]}

    def postprocess(
        self,
        model_outputs: list[dict[str, Any]],
        excluded_issues: Sequence[str] | None = None,
        on_error: str = "raise",
        min_quality: float | None = None,
        **parameters: Any,
    ) -> dict[str, Any]:
        """The answer for one recording from the outputs of its usable windows."""
        recording, given = model_outputs[-1]["recording"], model_outputs[-1]["given"]
        if recording.reason is not None:
            return _no_answer(recording, recording.reason)
        answers = self.window_answers(model_outputs, min_quality=min_quality, **parameters)
        windows = sorted([*recording.unusable, *answers], key=lambda window: window["start"])
        is_finite = [answer.get("reason") != "not finite" for answer in answers]
        if not any(is_finite):
            reason = f"The model's answer to {recording.name} is not a number for any window."
            if on_error == "raise":
                raise ValueError(reason)
            return _no_answer(recording, reason)
        outputs = torch.cat([window["outputs"] for window, keep in zip(model_outputs, is_finite) if keep])
        answers = [answer for answer, keep in zip(answers, is_finite) if keep]
        durations = np.array([answer["end"] - answer["start"] for answer in answers])
        excluded = set(self._excluded_issues if excluded_issues is None else excluded_issues)
        counts = np.array(
            ["reason" not in answer and excluded.isdisjoint(answer["quality_issues"]) for answer in answers]
        )
        weights = durations * counts if counts.any() else durations
        summary = self._recording_answer(outputs.float().numpy(), weights, answers, **parameters)
        withheld = (
            self._reason_to_abstain(summary, **parameters) if counts.any() else _why_none_counts(answers, excluded)
        )
        if withheld is not None:
            summary |= {**dict.fromkeys(summary.keys() & {"value", "scores", "interval", "set"}), "reason": withheld}
        total = sum(window["end"] - window["start"] for window in windows)
        return {
            "start": 0.0,
            "end": recording.duration,
            **summary,
            "usable_share": float((durations * counts).sum() / total) * ("reason" not in summary),
            "quality": float((durations * [answer["quality"] for answer in answers]).sum() / total),
            "quality_issues": [
                issue
                for issue in dict.fromkeys(issue for answer in answers for issue in answer["quality_issues"])
                if durations[[issue in answer["quality_issues"] for answer in answers]].sum() >= durations.sum() / 2
            ],
            "windows": windows,
            **({} if given is None else {"recording": given}),
        }

    def window_answers(
        self, model_outputs: list[dict[str, Any]], min_quality: float | None = None, **parameters: Any
    ) -> list[dict[str, Any]]:
        """The answer to each window that the model was run on; one that is withheld has the `value` `None` and a `reason`."""
        outputs = torch.cat([window["outputs"] for window in model_outputs]).float().numpy()
        is_finite = np.isfinite(outputs).reshape(len(outputs), -1).all(axis=-1)
        # What is not finite is withheld below.
        with np.errstate(invalid="ignore"):
            answers = self._window_answers(outputs, model_outputs, **parameters)
        told = []
        for output, answer, is_number in zip(model_outputs, answers, is_finite):
            window = output["window"]
            about = {"start": window.start, "end": window.end}
            if not is_number:
                told.append({**about, "value": None, "reason": "not finite"})
                continue
            if min_quality is not None and window.quality < min_quality:
                reason: str | None = "low quality"
            else:
                reason = self._reason_to_abstain(answer, **parameters)
            if reason is not None:
                answer |= {"value": None, "reason": reason}
            told.append({**about, **answer, "quality": window.quality, "quality_issues": window.quality_issues})
        return told

    def stream(self, sampling_rate: float | Mapping[str, float] | None = None, **parameters: Any) -> SignalStream:
        """Answers windows while they are recorded.

        Args:
            sampling_rate: rate in Hz of the samples that will come, a dictionary by channel where each has its own; that of the
                pipeline by default.
            parameters: those of a call that are about windows, such as `stride_seconds` or `min_quality`.

        Raises:
            ValueError: if there is no rate, or for parameters that a call refuses.
        """
        reading, _, answering = self._sanitize_parameters(sampling_rate=sampling_rate, **parameters)
        reading, answering = {**self._preprocess_params, **reading}, {**self._postprocess_params, **answering}
        given, channels = reading.get("sampling_rate"), self.feature_extractor.channels
        rates: dict[str, Any] = {
            channel: given.get(channel) if isinstance(given, Mapping) else given for channel in channels
        }
        if not all(
            isinstance(rate, numbers.Real) and math.isfinite(rate) and float(rate) > 0 for rate in rates.values()
        ):
            raise ValueError(
                f"A stream needs `sampling_rate`, in Hz, of {' and '.join(channels)}, but it is {given!r}."
            )
        windows = self._window_inputs(reading.get("window_seconds"), reading.get("stride_seconds"))
        windows.check_rates(Recording("The stream", {}, rates))
        about_recordings = ("excluded_issues", "on_error")
        answering = {name: value for name, value in answering.items() if name not in about_recordings}
        return SignalStream(self, windows, rates, answering)

    def _window_answers(
        self, outputs: np.ndarray, model_outputs: Sequence[Mapping[str, Any]], **parameters: Any
    ) -> list[dict[str, Any]]:
        """The answer to each window with the `outputs (windows, ...)` and what else `_forward` and `WindowInputs` tell of it."""
        raise NotImplementedError

    def _recording_answer(
        self, outputs: np.ndarray, weights: np.ndarray, answers: list[dict[str, Any]], **parameters: Any
    ) -> dict[str, Any]:
        """The one answer from the windows' `outputs (windows, ...)`, their `weights (windows,)` and `answers`."""
        raise NotImplementedError

    def _reason_to_abstain(self, answer: Mapping[str, Any], **parameters: Any) -> str | None:
        """Why the answer to a window or a recording is withheld; `None` if it is not."""
        return None

    @classmethod
    def serves(cls, config) -> bool:
        """Whether the saved model with this config can answer."""
        return True


def _no_answer(recording: RecordingNotes, reason: str) -> dict[str, Any]:
    """The answer to a recording that was skipped."""
    return {
        "start": 0.0,
        "end": recording.duration,
        "value": None,
        "reason": reason,
        "usable_share": 0.0,
        "quality": 0.0,
        "quality_issues": [],
        "windows": [],
    }


def _why_none_counts(answers: Sequence[Mapping[str, Any]], excluded: set[str]) -> str:
    issues = sorted(excluded.intersection(issue for answer in answers for issue in answer["quality_issues"]))
    withheld = dict.fromkeys(answer["reason"] for answer in answers if "reason" in answer)
    said = [
        *([f"have {' or '.join(issues)}"] if issues else []),
        *([f"are withheld ({', '.join(withheld)})"] if withheld else []),
    ]
    upside_down = " Turn the PPG over: give it times -1." if "ppg_inverted" in issues else ""
    return f"No window counts: all {' or '.join(said)}.{upside_down}"


__all__ = ["PhysiologicalSignalPipeline"]
