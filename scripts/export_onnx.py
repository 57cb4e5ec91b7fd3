"""Exports a tokenizer, or an encoder with its pre-training or task head if it has one, to ONNX.

    python scripts/export_onnx.py --model runs/finetuned --output_dir runs/finetuned_onnx

The folder gets `model.onnx` beside the model's configuration and feature extractor and, with `--int8`, `model_int8.onnx`, whose
weights are 8-bit integers and whose activations become such as they are computed (onnxruntime's dynamic quantisation). The batch size and the number of patches
are dynamic; the inputs are what the feature extractor writes with `return_tensors="np"`: `input_values (batch, channels,
samples)`, float32, and `attention_mask (batch, samples)`, int32. onnxruntime wants both, of these types: where nothing is
padded, the mask is all ones. A tokenizer gives `codes (batch, patches)`, -100 in padding, and the `latents` that they are nearest
to. It must give the outputs of torch at several shapes of the extractor's output, or the export fails; what 8 bits cost is for
recordings to say, and is printed for random signals only.

    session = onnxruntime.InferenceSession("runs/finetuned_onnx/model.onnx")
    extract = CMSSLFeatureExtractor.from_pretrained("runs/finetuned_onnx")
    logits = session.run(None, dict(extract(signal, sampling_rate=125, return_tensors="np")))[0]

Needs the extra `onnx` (`pip install cmssl_hf[onnx]`).
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    HfArgumentParser,
    PreTrainedModel,
)

import cmssl_hf
from cmssl_hf import CMSSLFeatureExtractor, CMSSLTokenizerModel
from cmssl_hf.models.cmssl.modeling_cmssl_layers import mask_signals, patch_attention_mask, patch_signals


MODEL_CLASSES = {
    cmssl_hf.CMSSLTokenizerModel.__name__: AutoModel,
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
    int8: bool = field(default=False, metadata={"help": "Write `model_int8.onnx`, too."})
    tolerance: float = field(
        default=1e-4,
        metadata={"help": "Largest difference allowed between torch and onnxruntime, relative to the largest output."},
    )


class Encode(nn.Module):
    """The half of a tokenizer that finds codes, for batches of any size."""

    def __init__(self, tokenizer: CMSSLTokenizerModel):
        super().__init__()
        self.config = tokenizer.config
        self.encoder = tokenizer.encoder
        self.codebook = tokenizer.codebook

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        signals = mask_signals(input_values, attention_mask)
        patches = patch_signals(signals, self.config.patch_size, len(self.config.channels))
        real = patch_attention_mask(attention_mask, self.config.patch_size)
        latents = self.encoder(patches, real)
        return {"codes": self.codebook.most_similar(latents).masked_fill(~real, -100), "latents": latents}


def load_model(name: str) -> PreTrainedModel | Encode:
    """The model of a folder or repository with the head that it was saved with, in evaluation mode and float32.

    Raises:
        ValueError: if it is none of ours, or cuts windows into pieces.
    """
    config = AutoConfig.from_pretrained(name)
    architecture = (config.architectures or ["unknown"])[0]
    if architecture not in MODEL_CLASSES:
        raise ValueError(f"{name} holds a {architecture}; these can be exported: {', '.join(MODEL_CLASSES)}.")
    if getattr(config, "piece_seconds", None) is not None:
        raise ValueError(
            f"{name} cuts windows into pieces of {config.piece_seconds:g} s, as many as they hold, and a graph has a fixed number."
        )
    model = MODEL_CLASSES[architecture].from_pretrained(name, dtype=torch.float32).eval()
    return Encode(model).eval() if isinstance(model, CMSSLTokenizerModel) else model


def example_inputs(extractor: CMSSLFeatureExtractor, batch_size: int, num_patches: int) -> dict[str, np.ndarray]:
    """What the feature extractor makes of random signals; the first window ends in half a patch of padding, the last of
    several in all but one patch of it."""
    lengths = [num_patches * extractor.patch_size] * batch_size
    lengths[-1] = extractor.patch_size
    lengths[0] = max(num_patches * extractor.patch_size - extractor.patch_size // 2, extractor.patch_size)
    generator = np.random.default_rng(0)
    signals = {name: [generator.standard_normal(length) for length in lengths] for name in extractor.channels}
    features = extractor(
        **signals,
        sampling_rate=extractor.sampling_rate,
        padding="max_length",
        max_length=num_patches * extractor.patch_size,
        return_tensors="np",
    )
    return dict(features)


def export_model(model: PreTrainedModel | Encode, extractor: CMSSLFeatureExtractor, path: Path) -> None:
    """Writes `model` to the file `path`, with one ONNX output per field of its torch output."""
    # 0 and 1 are special to torch's shape analysis, so the example has more of everything.
    inputs = _as_tensors(example_inputs(extractor, batch_size=2, num_patches=3))
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


def quantize(model: PreTrainedModel | Encode, path: Path, quantized_path: Path) -> None:
    """Writes the ONNX file `path` with weights of 8 bits."""
    exported = onnx.load(path)
    # Shapes that the exporter noted before it merged weights, and that onnxruntime refuses as wrong.
    del exported.graph.value_info[:]
    products = [node.name for node in exported.graph.node if node.op_type in ("MatMul", "Gemm")]
    # Eight bits cannot tell thousands of neighbours apart: the codebook, which comes last, stays as it is.
    kept = products[-1:] if isinstance(model, Encode) else []
    quantize_dynamic(exported, quantized_path, weight_type=QuantType.QInt8, per_channel=True, nodes_to_exclude=kept)


def largest_difference(model: PreTrainedModel | Encode, extractor: CMSSLFeatureExtractor, path: Path) -> float:
    """Largest difference between onnxruntime's outputs and torch's for several shapes of the extractor's output, relative to
    the largest output. Of a code it is what the cosine of its latent lacks to that of the nearest code."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    differences = []
    for batch_size, num_patches in VALIDATED_SHAPES:
        inputs = example_inputs(extractor, batch_size, num_patches)
        with torch.no_grad():
            expected = model(**_as_tensors(inputs))
        outputs = session.run(names, inputs)
        for name, output in zip(names, outputs):
            reference = expected[name].numpy()
            if name == "codes":
                differences.append(_difference_of_codes(model, output, reference, expected["latents"]))
                continue
            largest = np.abs(reference).max()
            # An output of zeros alone has no scale.
            differences.append(np.abs(output - reference).max() / (largest if largest > 0 else 1.0))
    return float(np.max(differences))


def _difference_of_codes(model: Encode, codes: np.ndarray, expected: np.ndarray, latents: torch.Tensor) -> float:
    is_padding = expected < 0
    if not np.array_equal(codes < 0, is_padding):
        return float("inf")
    cosines = (latents @ model.codebook.weight.T).numpy()
    chosen = np.take_along_axis(cosines, np.maximum(codes, 0)[..., None], axis=-1)[..., 0]
    return float(np.where(is_padding, 0.0, cosines.max(axis=-1) - chosen).max())


def _as_tensors(inputs: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in inputs.items()}


def main() -> None:
    (arguments,) = HfArgumentParser(ExportArguments).parse_args_into_dataclasses()
    model = load_model(arguments.model)
    extractor = CMSSLFeatureExtractor.from_pretrained(arguments.model)
    output_dir = Path(arguments.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    export_model(model, extractor, output_dir / "model.onnx")
    difference = largest_difference(model, extractor, output_dir / "model.onnx")
    # What is not a number is not within the tolerance either.
    if not difference <= arguments.tolerance:
        raise SystemExit(f"error: onnxruntime differs from torch by {difference:.2g} > {arguments.tolerance:.2g}")
    report = {"model": str(output_dir / "model.onnx"), "largest_relative_difference": difference}
    if arguments.int8:
        quantized = output_dir / "model_int8.onnx"
        quantize(model, output_dir / "model.onnx", quantized)
        report |= {
            "int8": str(quantized),
            "int8_largest_relative_difference": largest_difference(model, extractor, quantized),
        }
    model.config.save_pretrained(output_dir)
    extractor.save_pretrained(output_dir)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
