"""`cmssl-hf atlas`: what the codes of a tokenizer stand for, as a table and a figure."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from transformers import AutoFeatureExtractor, AutoModel
from transformers.utils.logging import disable_progress_bar

from ..evaluation.atlas import token_atlas
from ..models.cmssl.modeling_cmssl_tokenizer import CMSSLTokenizerModel
from ..models.cmssl.pipeline_base_cmssl import PhysiologicalSignalPipeline
from ..models.cpu_kernels import cpu_kernels
from ..shipped import find_model
from .answering import add_recordings
from .files import recordings_in


def main() -> int:
    parser = argparse.ArgumentParser(
        description="The codes that a tokenizer uses most in recordings: how often and where in the beat each occurs, and the mean of"
        " the patches that it stands for, as a table and, beside it, a figure."
    )
    add_recordings(parser)
    parser.add_argument(
        "--output", required=True, type=Path, help="the table, .csv; the figure gets its name, with .png"
    )
    parser.add_argument(
        "--model",
        type=find_model,
        default="tokenizer",
        help="folder of a run or Hub id; that of the package if left out",
    )
    parser.add_argument("--num_codes", type=int, default=24, help="how many codes are told of")
    options = parser.parse_args()
    if options.output.suffix != ".csv":
        parser.error(f"--output must end in .csv, but is {options.output}.")
    disable_progress_bar()
    model = AutoModel.from_pretrained(options.model)
    if not isinstance(model, CMSSLTokenizerModel):
        sys.exit(f"error: {options.model} is no tokenizer, but a {model.config.model_type}.")
    pipeline = PhysiologicalSignalPipeline(
        model=model, feature_extractor=AutoFeatureExtractor.from_pretrained(options.model)
    )
    failed: list[str] = []
    try:
        with cpu_kernels(model):
            atlas = token_atlas(model, _windows(pipeline, options, failed), num_codes=options.num_codes)
    except ValueError as error:
        sys.exit(f"error: {error}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    atlas.to_frame().to_csv(options.output, index=False)
    atlas.draw().savefig(options.output.with_suffix(".png"), dpi=110)
    return 1 if failed else 0


def _windows(
    pipeline: PhysiologicalSignalPipeline, options: argparse.Namespace, failed: list[str]
) -> Iterator[np.ndarray]:
    """The windows of all recordings as the model is given them, without padding; a file that cannot be read is named."""
    for file in recordings_in(options.recordings, options.pattern):
        try:
            for window in pipeline.preprocess(file, options.sampling_rate, options.column):
                yield window["input_values"][0, :, : int(window["attention_mask"].sum())].numpy()
        except (ValueError, OSError, ImportError) as error:
            failed.append(file)
            print(f"left out: {file}: {error}", file=sys.stderr)
