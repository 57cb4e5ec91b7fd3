"""What is shown of a recording: a model's answer, and the codes that an encoder of stage 2 names in it."""

import functools
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForPreTraining, pipeline

from ..command_line.predict import find_task
from ..command_line.tokens import TokensPipeline
from ..models.cpu_kernels import cpu_kernels
from ..shipped import find_model, pretrained


_BATCH_SIZE = 64


@dataclass(frozen=True)
class View:
    """
    Attributes:
        answer: of the pipeline, with its `recording`.
        codes: for each `code_seconds` of the recording, -1 where there is none.
        code_seconds: duration of a code.
        waveforms: of the codes that occur: the mean of what the tokenizer's decoder makes of them here `(samples,)`, standardised.
    """

    answer: dict[str, Any]
    codes: np.ndarray
    code_seconds: float
    waveforms: dict[int, np.ndarray]


def view_files(
    files: Sequence[str], model: str, sampling_rate: float | None = None, column: str | None = None
) -> View:
    """Answers one recording.

    Args:
        files: of the recording: one, or several that belong together, such as a WFDB record or those of an Empatica E4.
        model: name of one of the package that was fine-tuned, a folder or a Hub id.
        sampling_rate: in Hz, where the files do not state it.
        column: or WFDB channel to read, where its name does not say what it is.

    Raises:
        ValueError: if the recording cannot be read or used; the message names its file, without folders.
    """
    predict = _predictor(model)
    with _one_recording(files) as path:
        try:
            with cpu_kernels(predict.model):
                answer = predict(
                    path, sampling_rate=sampling_rate, column=column, return_recording=True, batch_size=_BATCH_SIZE
                )
        # Parsers of damaged files raise almost anything.
        except Exception as error:
            kind = "" if isinstance(error, (ValueError, OSError, ImportError)) else f"{type(error).__name__}: "
            raise ValueError(f"{kind}{error}".replace(f"{Path(path).parent}/", "")) from error
    recording = answer["recording"]
    (channel, signal), *_ = recording.signals.items()
    name = _namer(channel)
    with cpu_kernels(name.model):
        given = {channel: signal, "sampling_rate": recording.sampling_rates[channel]}
        windows = name(given, batch_size=_BATCH_SIZE, on_error="skip")
    config = name.model.config
    code_seconds = config.patch_size / getattr(config, "codes_per_patch", 1) / config.sampling_rate
    codes = np.full(int(np.ceil(recording.duration / code_seconds - 1e-6)), -1)
    named = [window for window in windows["windows"] if window["value"] is not None]
    for window in named:
        first = round(window["start"] / code_seconds)
        # The last window is padded.
        part = codes[first : first + len(window["value"])]
        part[:] = window["value"][: len(part)]
    return View(answer, codes, code_seconds, _waveforms([window["value"] for window in named], channel))


def _waveforms(windows: Sequence[Sequence[int]], channel: str) -> dict[int, np.ndarray]:
    tokenizer = _tokenizer()
    row = tokenizer.config.channels.index(channel)
    sums: dict[int, np.ndarray] = {}
    counts: dict[int, int] = {}
    for start in range(0, len(windows), _BATCH_SIZE):
        codes = torch.tensor(windows[start : start + _BATCH_SIZE])
        with torch.no_grad(), cpu_kernels(tokenizer):
            decoded = tokenizer.decode(codes)[:, row]
        pieces = decoded.reshape(codes.numel(), -1).double().numpy()
        for code, piece in zip(codes.flatten().tolist(), pieces):
            sums[code] = sums.get(code, 0) + piece
            counts[code] = counts.get(code, 0) + 1
    return {code: total / counts[code] for code, total in sums.items()}


@contextmanager
def _one_recording(files: Sequence[str]) -> Iterator[str]:
    """The path of the recording that these files are, which need not lie in one folder."""
    if not files:
        raise ValueError("There is no recording: choose a file first.")
    if len(files) == 1:
        yield files[0]
        return
    headers = [Path(file).name for file in files if file.lower().endswith(".hea")]
    if len(headers) > 1:
        raise ValueError(f"One recording is shown at a time, but these are {', '.join(headers)}.")
    with tempfile.TemporaryDirectory() as folder:
        together = Path(folder, "recording")
        together.mkdir()
        for file in files:
            (together / Path(file).name).symlink_to(Path(file).resolve())
        yield str(together / headers[0] if headers else together)


@functools.cache
def _predictor(model: str) -> Any:
    folder = find_model(model)
    # transformers' overloads name its own tasks.
    return pipeline(find_task(AutoConfig.from_pretrained(folder)), model=folder)  # type: ignore[call-overload]


@functools.cache
def _namer(channel: str) -> Any:
    folder = pretrained(f"{channel}-encoder")
    model = AutoModelForPreTraining.from_pretrained(folder)
    return TokensPipeline(model=model, feature_extractor=AutoFeatureExtractor.from_pretrained(folder))


@functools.cache
def _tokenizer() -> Any:
    return AutoModel.from_pretrained(pretrained("tokenizer")).eval()


__all__ = ["View", "view_files"]
