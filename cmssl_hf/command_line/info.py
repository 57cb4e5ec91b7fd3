"""`cmssl-hf info`: what recordings hold."""

import argparse
from collections.abc import Iterator

import numpy as np

from ..recordings import Signal, read_recording
from .files import recordings_in


def describe(file: str, sampling_rate: float | None = None) -> list[str]:
    """A line for each signal of a file.

    Raises:
        ValueError: if the file cannot be read.
    """
    recording = read_recording(file, sampling_rate=sampling_rate)
    begin = [] if recording.start is None else [f"begins {recording.start:%Y-%m-%d %H:%M:%S}"]
    return [*begin, *(f"{name}: {_describe_signal(signal)}" for name, signal in recording.signals.items())]


def _describe_signal(signal: Signal) -> str:
    told = f"{len(signal.samples):,} samples at {signal.sampling_rate:g} Hz, {len(signal.samples) / signal.sampling_rate:,.1f} s"
    if signal.kind is not None:
        told = f"{signal.kind}, {told}"
    present = signal.samples[np.isfinite(signal.samples)]
    if not len(present):
        return f"{told}, all missing"
    unit = "" if signal.unit is None else f" {signal.unit}"
    missing = 1 - len(present) / len(signal.samples)
    return f"{told}, from {present.min():.4g} to {present.max():.4g}{unit}" + (
        f", {missing:.1%} missing" if missing else ""
    )


def _lines(options: argparse.Namespace) -> Iterator[tuple[str, bool]]:
    for file in recordings_in(options.recordings):
        try:
            yield (
                "\n".join([file, *(f"  {line}" for line in describe(file, options.sampling_rate))]),
                True,
            )
        except (ValueError, OSError, ImportError) as error:
            yield f"{file}\n  cannot be read: {error}", False


def main() -> int:
    parser = argparse.ArgumentParser(
        description="What recordings hold: for each signal whether it is an ECG or a PPG, and its samples, rate, duration and range."
    )
    parser.add_argument("recordings", nargs="+", help="files, and folders with all that is below them")
    parser.add_argument("--sampling_rate", type=float, help="in Hz, where the files do not state it")
    could_be_read = True
    for lines, is_recording in _lines(parser.parse_args()):
        print(lines)
        could_be_read &= is_recording
    return 0 if could_be_read else 1
