"""A recording that is not over yet: its windows are answered when they are."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .recording_windows_cmssl import Window
from .time_axis_cmssl import LONGEST_FILLED_GAP, fill_short_gaps
from .window_inputs_cmssl import WindowInputs


if TYPE_CHECKING:
    from .pipeline_base_cmssl import PhysiologicalSignalPipeline


class SignalStream:
    """Answers the windows of a recording while it comes in; made by the `stream` of a pipeline.

    Each window is answered as the pipeline answers it in the whole recording. Resampling, filter and standardisation see the
    window and nothing else, in both, so that no filter needs to settle; gaps are filled with up to `LONGEST_FILLED_GAP` of what
    comes before and after it, for which a window that ends in a gap waits. No more than a window and these are kept.

    Args:
        pipe: the pipeline.
        windows: what makes its inputs.
        sampling_rates: in Hz per channel.
        parameters: of the answers.
    """

    def __init__(
        self,
        pipe: "PhysiologicalSignalPipeline",
        windows: WindowInputs,
        sampling_rates: Mapping[str, float],
        parameters: Mapping[str, Any],
    ):
        self._pipe, self._windows = pipe, windows
        self._rates = {channel: float(rate) for channel, rate in sampling_rates.items()}
        self._parameters = parameters
        #: Samples that are kept per channel, and the number of the first of them.
        self._kept = {channel: np.zeros(0) for channel in self._rates}
        self._first = dict.fromkeys(self._rates, 0)
        self._context = {
            channel: math.ceil(LONGEST_FILLED_GAP[channel] * rate) + 2 for channel, rate in self._rates.items()
        }
        self._next = 0
        self._has_ended = False

    def push(self, samples: Any) -> list[dict[str, Any]]:
        """Takes the samples that came since the last call.

        Args:
            samples: any number of them, `(samples,)`, in any unit; a dictionary from channel to such where the model reads several,
                which need not be equally far. NaN stands for each that was lost.

        Returns:
            The windows that are over now, as in the `windows` of an answer to a recording; often none.

        Raises:
            ValueError: if samples are no numbers or of the wrong shape or channels, or the stream has ended.
        """
        if self._has_ended:
            raise ValueError("The stream has ended: begin another one.")
        for channel, new in self._by_channel(samples).items():
            self._kept[channel] = np.concatenate([self._kept[channel], new])
        answers: list[dict[str, Any]] = []
        while True:
            self._forget()
            start = self._next * self._windows.stride_seconds
            end = start + self._windows.window_seconds
            if not all(self._is_over(channel, round(end * rate)) for channel, rate in self._rates.items()):
                return answers
            answers.append(self._answer(start, end))
            self._next += 1

    def finish(self) -> list[dict[str, Any]]:
        """Ends the stream.

        Returns:
            The windows that remained, the last of which may be shorter.
        """
        self._has_ended = True
        duration = min(
            (self._first[channel] + len(self._kept[channel])) / rate for channel, rate in self._rates.items()
        )
        # As in a whole recording, the first window that reaches the end is the last.
        tolerance = 0.5 / max(self._rates.values())
        before = (self._next - 1) * self._windows.stride_seconds + self._windows.window_seconds
        answers: list[dict[str, Any]] = []
        while self._next == 0 or before < duration - tolerance:
            start = self._next * self._windows.stride_seconds
            if start >= duration - tolerance:
                break
            before = start + self._windows.window_seconds
            answers.append(self._answer(start, before if before < duration - tolerance else duration))
            self._next += 1
        self._kept = {channel: np.zeros(0) for channel in self._rates}
        return answers

    def _by_channel(self, samples: Any) -> dict[str, np.ndarray]:
        if not isinstance(samples, Mapping):
            if len(self._rates) > 1:
                raise ValueError(f"The model reads {' and '.join(self._rates)}: give a dictionary of their samples.")
            samples = dict.fromkeys(self._rates, samples)
        if unknown := set(samples) - set(self._rates):
            raise ValueError(
                f"The stream is one of {' and '.join(self._rates)}, not of {', '.join(map(str, unknown))}."
            )
        arrays = {}
        for channel, values in samples.items():
            values = np.asarray(values.tolist() if hasattr(values, "detach") else values)
            if values.ndim != 1 or (values.size and values.dtype.kind not in "iuf"):
                raise ValueError(
                    f"Samples of {channel} must be a 1-d array of numbers, but have shape {values.shape} and type"
                    f" {values.dtype}."
                )
            arrays[channel] = values.astype(np.float64)
        return arrays

    def _forget(self) -> None:
        """Drops what no window needs any more."""
        start = self._next * self._windows.stride_seconds
        for channel, rate in self._rates.items():
            surplus = round(start * rate) - self._context[channel] - self._first[channel]
            if (surplus := min(surplus, len(self._kept[channel]))) > 0:
                # A copy, so that the rest is given back.
                self._kept[channel] = self._kept[channel][surplus:].copy()
                self._first[channel] += surplus

    def _is_over(self, channel: str, end: int) -> bool:
        """Whether a window that ends before the sample `end` is complete, also what a gap at its end is filled with."""
        kept, end = self._kept[channel], end - self._first[channel]
        if len(kept) < end:
            return False
        if end == 0 or np.isfinite(kept[end - 1 :]).any():
            return True
        # A longer gap is not filled, whatever comes.
        last = np.flatnonzero(np.isfinite(kept)).max(initial=-1)
        return bool(len(kept) - last > self._context[channel])

    def _answer(self, start: float, end: float) -> dict[str, Any]:
        signals: dict[str, np.ndarray] = {}
        filled: dict[str, np.ndarray] = {}
        for channel, rate in self._rates.items():
            whole, gaps = fill_short_gaps(self._kept[channel], rate, LONGEST_FILLED_GAP[channel])
            part = slice(round(start * rate) - self._first[channel], round(end * rate) - self._first[channel])
            signals[channel], filled[channel] = whole[part], gaps[part]
        window = Window(start, end, signals, filled)
        reason = self._windows.reason_not_to_use(window, self._rates)
        if reason is None:
            try:
                (inputs,) = self._windows.of_windows([window], self._rates, "The stream")
            except ValueError as error:
                reason = str(error)
        if reason is not None:
            return {"start": start, "end": end, "value": None, "reason": reason}
        return self._pipe.window_answers([self._pipe.forward(inputs)], **self._parameters)[0]


__all__ = ["SignalStream"]
