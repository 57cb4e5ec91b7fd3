"""`cmssl-hf info`: what recordings hold."""

import argparse
import sys
from collections.abc import Iterator

import numpy as np

from ..models.cmssl.recordings_cmssl import Recording, read_recording
from .files import recordings_in


_CHANNELS = ("ecg", "ppg")


def describe(file: str, sampling_rate: float | None = None, column: str | None = None) -> list[str]:
    """A line for each signal of a file that models read.

    Raises:
        ValueError: if there is none, or the file cannot be read.
    """
    lines, errors = [], []
    for channel in _CHANNELS:
        try:
            recording = read_recording(file, (channel,), sampling_rate=sampling_rate, column=column)
            lines.append(f"{channel}  {_signal(recording, channel)}")
        except ValueError as error:
            errors.append(error)
    if not lines:
        raise errors[0]
    return lines


def _signal(recording: Recording, channel: str) -> str:
    signal, rate = recording.signals[channel], recording.sampling_rates[channel]
    present = signal[np.isfinite(signal)]
    told = f"{len(signal):,} samples at {rate:g} Hz, {len(signal) / rate:,.1f} s"
    if not len(present):
        return f"{told}, all missing"
    missing = f", {1 - len(present) / len(signal):.1%} missing" if len(present) < len(signal) else ""
    return f"{told}, from {present.min():.4g} to {present.max():.4g}{missing}"


def _lines(options: argparse.Namespace) -> Iterator[tuple[str, bool]]:
    for file in recordings_in(options.recordings):
        try:
            yield (
                "\n".join([file, *(f"  {line}" for line in describe(file, options.sampling_rate, options.column))]),
                True,
            )
        except (ValueError, OSError) as error:
            yield f"{file}\n  cannot be read: {error}", False


def main() -> int:
    parser = argparse.ArgumentParser(
        description="What recordings hold: for each signal that models read its samples, rate, duration, range and gaps."
    )
    parser.add_argument("recordings", nargs="+", help="files, and folders with all that is below them")
    parser.add_argument("--sampling_rate", type=float, help="in Hz, where the files do not state it")
    parser.add_argument("--column", help="column or WFDB channel to read, where its name does not say what it is")
    could_be_read = True
    try:
        for lines, is_recording in _lines(parser.parse_args()):
            print(lines)
            could_be_read &= is_recording
    except ImportError as error:
        sys.exit(f"error: {error}")
    return 0 if could_be_read else 1
