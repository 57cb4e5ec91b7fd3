"""`cmssl-hf tokens`: the codes of recordings, as a table."""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModelForPreTraining
from transformers.utils.logging import disable_progress_bar

from ..models.cmssl.modeling_cmssl_encoder import CMSSLEncoderForPreTraining
from ..models.cmssl.pipeline_base_cmssl import PhysiologicalSignalPipeline
from ..models.cpu_kernels import cpu_kernels
from .answering import Rows, write_table
from .models import add_model, failure, parameters


class TokensPipeline(PhysiologicalSignalPipeline):
    """`value` of each window is the list of its codes, in the order of time."""

    def run_model(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        model: Any = self.model
        if isinstance(model, CMSSLEncoderForPreTraining):
            return {"outputs": model(**inputs).logits.argmax(-1)}
        return {"outputs": model.encode(**inputs)}

    def postprocess(self, model_outputs: Any, *_: Any, **__: Any) -> dict[str, Any]:
        recording = model_outputs[-1]["recording"]
        if recording.reason is not None:
            return {"reason": recording.reason, "windows": []}
        windows = [*recording.unusable]
        for output in model_outputs:
            window, codes = output["window"], output["outputs"][0].tolist()
            windows.append({"start": window.start, "end": window.end, "value": codes})
        return {"windows": sorted(windows, key=lambda window: window["start"])}


class _Tokens:
    def __init__(self, options: argparse.Namespace):
        disable_progress_bar()
        model = AutoModelForPreTraining.from_pretrained(options.model)
        feature_extractor = AutoFeatureExtractor.from_pretrained(options.model)
        self.pipeline: Any = TokensPipeline(model=model, feature_extractor=feature_extractor, **parameters(options))
        codes_per_patch = getattr(model.config, "codes_per_patch", 1)
        self.code_seconds = model.config.patch_size / codes_per_patch / model.config.sampling_rate

    def __call__(self, files: Sequence[str]) -> Iterator[Rows]:
        with cpu_kernels(self.pipeline.model):
            for answer in self.pipeline(iter(files)):
                rows = [row for window in answer["windows"] for row in self._rows(window)]
                yield rows or [failure(answer)]

    def _rows(self, window: dict[str, Any]) -> Rows:
        if window["value"] is None:
            return [{name: window[name] for name in ("start", "end", "reason")}]
        starts = window["start"] + self.code_seconds * np.arange(len(window["value"]))
        return [
            {"start": float(start), "end": float(min(start + self.code_seconds, window["end"])), "code": code}
            for start, code in zip(starts, window["value"])
            # The last window of a recording is padded.
            if start < window["end"] - 1e-6
        ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Codes of recordings, from both signals by a tokenizer, or from one signal by an encoder of stage 2, which"
        " names the codes that its tokenizer would give: a row for each code, with the file, and start and end in seconds."
    )
    add_model(parser, "tokenizer")
    return write_table(_Tokens, parser.parse_args())
