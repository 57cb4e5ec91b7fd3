"""Exports an encoder, with its pre-training or task head if it has one, to ONNX.

    python scripts/export_onnx.py --model runs/finetuned --output_dir runs/finetuned_onnx

The folder gets `model.onnx` beside the model's configuration and feature extractor. The batch size and the number of patches
are dynamic; the inputs are `input_values (batch, channels, samples)` and `attention_mask (batch, samples)`, as the feature
extractor writes them. onnxruntime must give the outputs of torch at several shapes, or the export fails.

Needs the extra `onnx` (`pip install cmssl_hf[onnx]`).
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    HfArgumentParser,
    PreTrainedModel,
)

import cmssl_hf


MODEL_CLASSES = {
    cmssl_hf.CMSSLEncoderModel.__name__: AutoModel,
    cmssl_hf.CMSSLEncoderForPreTraining.__name__: AutoModelForPreTraining,
    cmssl_hf.CMSSLEncoderForSequenceClassification.__name__: AutoModelForSequenceClassification,
}
VALIDATED_SHAPES = ((1, 1), (1, 10), (3, 8), (8, 61))


@dataclass
class ExportArguments:
    """What to export, and where to."""

    model: str = field(metadata={"help": "Folder or Hub repository of an encoder or a fine-tuned model."})
    output_dir: str = field(metadata={"help": "Folder for `model.onnx`, configuration and feature extractor."})
    tolerance: float = field(
        default=1e-4,
        metadata={"help": "Largest difference allowed between torch and onnxruntime, relative to the largest output."},
    )


def load_model(name: str) -> PreTrainedModel:
    """The model of a folder or repository with the head that it was saved with, in evaluation mode and float32.

    Raises:
        ValueError: if it is not an encoder.
    """
    architecture = (AutoConfig.from_pretrained(name).architectures or ["unknown"])[0]
    if architecture not in MODEL_CLASSES:
        raise ValueError(f"{name} holds a {architecture}; these can be exported: {', '.join(MODEL_CLASSES)}.")
    return MODEL_CLASSES[architecture].from_pretrained(name, dtype=torch.float32).eval()


def example_inputs(model: PreTrainedModel, batch_size: int, num_patches: int) -> dict[str, torch.Tensor]:
    """Random signals; the first window ends in half a patch of padding, the last in all but one patch of it."""
    config = model.config
    samples = num_patches * config.patch_size
    attention_mask = torch.ones(batch_size, samples, dtype=torch.int64)
    attention_mask[-1, config.patch_size :] = 0
    attention_mask[0, samples - config.patch_size // 2 :] = 0
    generator = torch.Generator().manual_seed(0)
    input_values = torch.randn(batch_size, len(config.channels), samples, generator=generator)
    return {"input_values": input_values, "attention_mask": attention_mask}


def export_model(model: PreTrainedModel, path: Path) -> None:
    """Writes `model` to the file `path`, with one ONNX output per field of its torch output."""
    # 0 and 1 are special to torch's shape analysis, so the example has more of everything.
    inputs = example_inputs(model, batch_size=2, num_patches=3)
    with torch.no_grad():
        output_names = list(model(**inputs).keys())
    batch = torch.export.Dim("batch")
    samples = model.config.patch_size * torch.export.Dim("num_patches")
    torch.onnx.export(
        model,
        kwargs=inputs,
        f=str(path),
        input_names=list(inputs),
        output_names=output_names,
        dynamic_shapes={"input_values": {0: batch, 2: samples}, "attention_mask": {0: batch, 1: samples}},
        dynamo=True,
        # One file, which protobuf allows up to 2 GB; the largest published encoder has 0.6 GB.
        external_data=False,
        verbose=False,
    )


def largest_difference(model: PreTrainedModel, path: Path) -> float:
    """Largest difference between onnxruntime's outputs and torch's at several shapes, relative to the largest output."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    differences = []
    for batch_size, num_patches in VALIDATED_SHAPES:
        inputs = example_inputs(model, batch_size, num_patches)
        with torch.no_grad():
            expected = model(**inputs)
        outputs = session.run(names, {name: value.numpy() for name, value in inputs.items()})
        for name, output in zip(names, outputs):
            reference = expected[name].numpy()
            largest = np.abs(reference).max()
            # An output of zeros alone has no scale.
            differences.append(np.abs(output - reference).max() / (largest if largest > 0 else 1.0))
    return float(np.max(differences))


def main() -> None:
    (arguments,) = HfArgumentParser(ExportArguments).parse_args_into_dataclasses()
    model = load_model(arguments.model)
    output_dir = Path(arguments.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    export_model(model, output_dir / "model.onnx")
    difference = largest_difference(model, output_dir / "model.onnx")
    # What is not a number is not within the tolerance either.
    if not difference <= arguments.tolerance:
        raise SystemExit(
            f"error: onnxruntime differs from torch by {difference:.2g}, more than {arguments.tolerance:.2g}"
        )
    model.config.save_pretrained(output_dir)
    AutoFeatureExtractor.from_pretrained(arguments.model).save_pretrained(output_dir)
    print(json.dumps({"model": str(output_dir / "model.onnx"), "largest_relative_difference": difference}))


if __name__ == "__main__":
    main()
