"""What the pipelines share: a recording of any length in windows, the model's answers to them, and what counts of these."""

import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.pipelines.base import ChunkPipeline
from transformers.utils import logging

from .feature_extraction_cmssl import CMSSLFeatureExtractor
from .quality_cmssl import QUALITY_ISSUES
from .recording_windows_cmssl import describe_gaps, fill_gaps, quality_issues, reason_not_to_use, window_times
from .recordings_cmssl import Recording, read_recording


logger = logging.get_logger(__name__)

#: Window in seconds for models whose config does not say what they were trained on; the published one.
DEFAULT_WINDOW_SECONDS = 10.0
#: Each window takes this much memory, whatever the length of the recording.
LONGEST_WINDOW_SECONDS = 3600.0

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
        **kwargs,
    ):
        if kwargs:
            raise TypeError(f"{type(self).__name__} has no parameter {', '.join(kwargs)}.")
        for name, seconds in (("window_seconds", window_seconds), ("stride_seconds", stride_seconds)):
            if seconds is not None and not (
                isinstance(seconds, numbers.Real) and math.isfinite(seconds) and float(seconds) > 0
            ):
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
        if window_seconds < extractor.shortest_seconds:
            raise ValueError(
                f"`window_seconds` ({window_seconds}) must be at least one patch of {extractor.shortest_seconds:.3g} s."
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
        recording, filled = fill_gaps(given)
        usable: list[tuple[float, float]] = []
        unusable: list[dict[str, Any]] = []
        for start, end in window_times(recording, window_seconds, stride_seconds):
            reason = reason_not_to_use(
                recording.cut(start, end), filled.cut(start, end), recording.sampling_rates, extractor.shortest_seconds
            )
            if reason is None:
                usable.append((start, end))
            else:
                unusable.append({"start": start, "end": end, "value": None, "reason": reason})
        if not usable:
            reasons = ", ".join(sorted({window["reason"] for window in unusable})) or "empty"
            raise ValueError(f"No window of {recording.name} can be used: {reasons}.{describe_gaps(given)}")
        for index, (start, end) in enumerate(usable):
            is_last = index == len(usable) - 1
            try:
                features = extractor(
                    **recording.cut(start, end),
                    sampling_rate=recording.sampling_rates,
                    padding="max_length",
                    max_length=self._num_samples(window_seconds),
                    truncation=True,
                    return_attention_mask=True,
                    return_tensors="pt",
                )
            except ValueError as error:
                raise ValueError(f"{recording.name}, {start:g}-{end:g} s: {error}") from error
            issues = quality_issues(recording.cut(start, end), recording.sampling_rates)
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
        nothing = self.feature_extractor.nothing(self._num_samples(window_seconds))
        return {
            **{name: torch.from_numpy(values) for name, values in nothing.items()},
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


__all__ = ["PhysiologicalSignalPipeline"]
