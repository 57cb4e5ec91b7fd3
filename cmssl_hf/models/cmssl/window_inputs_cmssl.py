"""The windows of a recording as the input of a model, and what is wrong with them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import logging

from .feature_extraction_cmssl import CMSSLFeatureExtractor
from .recording_windows_cmssl import Window, describe_gaps, fill_gaps, judge, reason_not_to_use, window_times
from .recordings_cmssl import Recording


logger = logging.get_logger(__name__)

#: Each window takes this much memory, whatever the length of the recording.
LONGEST_WINDOW_SECONDS = 3600.0

#: Samples of a channel that are filtered and judged at a time: as many as stay in the processor's cache.
_SAMPLES_AT_A_TIME = 2**16


@dataclass(frozen=True)
class WindowNotes:
    """What is known of a window beside the model's input."""

    start: float
    end: float
    quality: float
    quality_issues: list[str]


@dataclass(frozen=True)
class RecordingNotes:
    """What is known of a recording beside its windows.

    Attributes:
        name: what messages call it.
        duration: in seconds; `None` if it was not read.
        unusable: its windows that the model cannot read, as they are answered.
        reason: why it was not read.
    """

    name: str
    duration: float | None
    unusable: list[dict[str, Any]]
    reason: str | None = None


class WindowInputs:
    """Cuts recordings into windows, and makes the input of the model of those that it can read.

    Args:
        feature_extractor: of the model.
        window_seconds: length of the windows, to which shorter ones are padded.
        stride_seconds: distance between their starts.

    Raises:
        ValueError: if a window is shorter than a patch or longer than `LONGEST_WINDOW_SECONDS`, or the distance less than a
            sample.
    """

    def __init__(self, feature_extractor: CMSSLFeatureExtractor, window_seconds: float, stride_seconds: float):
        if window_seconds < feature_extractor.shortest_seconds:
            raise ValueError(
                f"`window_seconds` ({window_seconds}) must be at least one patch of"
                f" {feature_extractor.shortest_seconds:.3g} s."
            )
        if window_seconds > LONGEST_WINDOW_SECONDS:
            raise ValueError(
                f"`window_seconds` ({window_seconds:g}) must be at most {LONGEST_WINDOW_SECONDS:g}: shorter windows are padded to"
                " it, and longer recordings are cut into several."
            )
        if stride_seconds * feature_extractor.sampling_rate < 1:
            raise ValueError(
                f"`stride_seconds` ({stride_seconds:g}) must be at least one sample of the model's"
                f" {feature_extractor.sampling_rate:g} Hz."
            )
        self.window_seconds, self.stride_seconds = window_seconds, stride_seconds
        self._extractor = feature_extractor
        # In whole patches. All windows get one length, so that those of different recordings and the last ones fit into one
        # batch.
        patch_size = feature_extractor.patch_size
        num_patches = round(window_seconds * feature_extractor.sampling_rate / patch_size, 6)
        self._num_samples = math.ceil(num_patches) * patch_size

    def of_recording(self, given: Recording) -> Iterator[dict[str, Any]]:
        """The inputs of all its usable windows (`of_windows`), with its [`RecordingNotes`].

        Raises:
            ValueError: if no window can be used.
        """
        self.check_rates(given)
        recording, filled = fill_gaps(given)
        usable: list[tuple[float, float]] = []
        unusable: list[dict[str, Any]] = []
        for start, end in window_times(recording, self.window_seconds, self.stride_seconds):
            reason = self.reason_not_to_use(_cut(recording, filled, start, end), recording.sampling_rates)
            if reason is None:
                usable.append((start, end))
            else:
                unusable.append({"start": start, "end": end, "value": None, "reason": reason})
        if not usable:
            reasons = ", ".join(sorted({window["reason"] for window in unusable})) or "empty"
            raise ValueError(f"No window of {recording.name} can be used: {reasons}.{describe_gaps(given)}")
        notes = RecordingNotes(recording.name, recording.duration, unusable)
        size = max(1, int(_SAMPLES_AT_A_TIME / (self.window_seconds * max(recording.sampling_rates.values()))))
        for first in range(0, len(usable), size):
            windows = [_cut(recording, filled, start, end) for start, end in usable[first : first + size]]
            for index, inputs in enumerate(self.of_windows(windows, recording.sampling_rates, recording.name), first):
                yield {**inputs, "recording": notes, "is_last": index == len(usable) - 1}

    def of_windows(
        self, windows: Sequence[Window], sampling_rates: Mapping[str, float], name: str
    ) -> Iterator[dict[str, Any]]:
        """For each usable window the model's input of batch size 1 and its [`WindowNotes`].

        Args:
            windows: of one recording.
            sampling_rates: in Hz per channel.
            name: what messages call the recording.

        Raises:
            ValueError: if samples are too large to be processed.
        """
        try:
            features = self._extractor(
                **{channel: [window.signals[channel] for window in windows] for channel in sampling_rates},
                sampling_rate=sampling_rates,
                padding="max_length",
                max_length=self._num_samples,
                truncation=True,
                return_attention_mask=True,
                return_tensors="pt",
            )
        except ValueError as error:
            if len(windows) == 1:
                raise ValueError(f"{name}, {windows[0].start:g}-{windows[0].end:g} s: {error}") from error
            # One of them is the reason, and its times are to be said.
            for window in windows:
                yield from self.of_windows([window], sampling_rates, name)
            return
        issues, qualities = judge(windows, sampling_rates)
        for index, window in enumerate(windows):
            yield {
                **{key: values[index : index + 1] for key, values in features.items()},
                "window": WindowNotes(window.start, window.end, float(qualities[index]), issues[index]),
            }

    def nothing(self, reason: str) -> dict[str, Any]:
        """What stands for a recording that was not read: the model is run on nothing, and its answer is left out."""
        return {
            **{key: torch.from_numpy(values) for key, values in self._extractor.nothing(self._num_samples).items()},
            "window": WindowNotes(0.0, 0.0, 0.0, []),
            "recording": RecordingNotes("", None, [], reason),
            "is_last": True,
        }

    def reason_not_to_use(self, window: Window, sampling_rates: Mapping[str, float]) -> str | None:
        """Why the model cannot read a window; `None` if it can."""
        return reason_not_to_use(window, sampling_rates, self._extractor.shortest_seconds)

    def check_rates(self, recording: Recording) -> None:
        """Warns of rates at which some of what the model reads is missing.

        Raises:
            ValueError: if nothing of it is left.
        """
        if not self._extractor.do_band_pass:
            return
        for channel, rate in recording.sampling_rates.items():
            low, high = self._extractor.pass_bands[channel]
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


def _cut(recording: Recording, filled: Recording, start: float, end: float) -> Window:
    return Window(start, end, recording.cut(start, end), filled.cut(start, end))


__all__ = ["LONGEST_WINDOW_SECONDS", "RecordingNotes", "WindowInputs", "WindowNotes"]
