"""`cmssl-hf quality`: what is wrong with recordings, as a table."""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from ..models.cmssl.recording_windows_cmssl import Window, fill_gaps, judge, reason_not_to_use, window_times
from ..models.cmssl.recordings_cmssl import Recording
from ..models.cmssl.recordings_cmssl import read_recording as read_channels
from ..recordings import read_recording
from .answering import Rows, add_files, positive, write_table


_CHANNELS = ("ecg", "ppg")
_WINDOWS_AT_A_TIME = 64


class _Quality:
    def __init__(self, options: argparse.Namespace):
        self.options = options

    def __call__(self, files: Sequence[str]) -> Iterator[Rows]:
        for file in files:
            yield [row for recording in self._recordings(file) for row in self._rows(recording)]

    def _recordings(self, file: str) -> list[Recording]:
        """One for each signal of a file."""
        channel, column, rate = self.options.channel, self.options.column, self.options.sampling_rate
        if channel is not None:
            return [read_channels(file, (channel,), sampling_rate=rate, column=column)]
        signals = read_recording(file, column, rate).signals
        known = [(name, signal) for name, signal in signals.items() if signal.kind is not None]
        if not known:
            raise ValueError(
                f"{file} does not say which of its signals are ECG or PPG: give `--channel ecg` or `--channel ppg`. It has"
                f" {', '.join(signals)}."
            )
        return [
            Recording(name, {str(signal.kind): signal.samples}, {str(signal.kind): signal.sampling_rate})
            for name, signal in known
        ]

    def _rows(self, given: Recording) -> Rows:
        recording, filled = fill_gaps(given)
        (channel,) = recording.signals
        rows: Rows = []
        usable: list[tuple[dict[str, Any], Window]] = []
        for start, end in window_times(recording, self.options.window_seconds, self.options.window_seconds):
            window = Window(start, end, recording.cut(start, end), filled.cut(start, end))
            row = {"start": start, "end": end, "channel": channel}
            if self.options.channel is None:
                row["signal"] = recording.name
            reason = reason_not_to_use(window, recording.sampling_rates, patch_seconds=1.0)
            if reason is None:
                usable.append((row, window))
            else:
                row["reason"] = reason
            rows.append(row)
        for first in range(0, len(usable), _WINDOWS_AT_A_TIME):
            part = usable[first : first + _WINDOWS_AT_A_TIME]
            found = judge([window for _, window in part], recording.sampling_rates)
            for (row, _), issues, quality in zip(part, *found):
                row |= {"quality": float(quality), "quality_issues": ";".join(issues)}
        return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description="What is wrong with recordings: a row for each window and signal, with the file, start and end in seconds,"
        " its `quality` from 0 (noise) to 1 and `quality_issues` (nothing for a good window), or the `reason` why no model can read"
        " it."
    )
    add_files(parser)
    parser.add_argument("--channel", choices=_CHANNELS, help="what the signal is; found by its name if left out")
    parser.add_argument("--window_seconds", type=positive, default=10.0)
    return write_table(_Quality, parser.parse_args())
