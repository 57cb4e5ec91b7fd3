"""Converts the published checkpoints of HeartLang into folders that `from_pretrained` loads.

    python -m cmssl_hf.models.heartlang.convert_heartlang_checkpoint --checkpoint checkpoint-200.pth --output_dir heartlang

Of https://huggingface.co/PKUDigitalHealth/HeartLang: the encoder (`checkpoints/pretrain/MIMIC-IV/checkpoint-200.pth`), without its
guesses of hidden words; and the first stage, VQ-HBR (`checkpoints/vqhbr/MIMIC-IV/checkpoint-100.pth`), of which the encoder is
converted, without its codebook and decoder.
"""

import argparse
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from ..cmssl.original_checkpoints import describe_architecture, listed, load_weights, matrix_shape, read_checkpoint
from .configuration_heartlang import HeartLangConfig
from .feature_extraction_heartlang import HeartLangFeatureExtractor
from .modeling_heartlang import HeartLangModel


#: Published name in a layer -> ours.
_LAYER_NAMES = {
    "0.norm.weight": "attention.norm.weight",
    "0.norm.bias": "attention.norm.bias",
    "0.to_qkv.weight": "attention.qkv_proj.weight",
    "0.to_out.0.weight": "attention.o_proj.weight",
    "0.to_out.0.bias": "attention.o_proj.bias",
    "1.net.0.weight": "feed_forward_norm.weight",
    "1.net.0.bias": "feed_forward_norm.bias",
    "1.net.1.weight": "fc1.weight",
    "1.net.1.bias": "fc1.bias",
    "1.net.4.weight": "fc2.weight",
    "1.net.4.bias": "fc2.bias",
}
_EMBEDDINGS = {"spa_embed.embed": "lead_embeddings.weight", "tem_embed.embed": "time_embeddings.weight"}
_OTHER_PARTS_OF_VQ_HBR = ("decoder.", "quantize.", "encode_task_layer.", "decode_task_layer.")
#: Neither of the two files says its number of heads; both have heads of this width.
_HEAD_DIM = 64


@dataclass
class ConversionArguments:
    """What to convert."""

    checkpoint: str = field(metadata={"help": "Published file, such as `checkpoint-200.pth`."})
    output_dir: str = field(metadata={"help": "Folder for the converted model and its feature extractor."})
    leads: list[str] = field(
        default_factory=lambda: ["II"], metadata={"help": "Leads that the model will be given, in their order."}
    )


def convert_heartlang(checkpoint: str | Path) -> HeartLangModel:
    """The encoder of a published checkpoint, in evaluation mode.

    Beside tensors and plain containers the files hold the arguments of their training, an `argparse.Namespace`, which is
    admitted by name; nothing else is.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if the file is no readable checkpoint, or its parameters or sizes are not those of HeartLang; the message
            lists missing and unexpected keys, or says which published model it is.
    """
    content = read_checkpoint(checkpoint, admitted=[argparse.Namespace])
    state_dict = content.get("model", content)
    if not isinstance(state_dict, dict):
        raise ValueError(f"{checkpoint} is damaged: its `model` is a {type(state_dict).__name__}.")
    is_vq_hbr = "quantize.embedding.weight" in state_dict
    left_out = _OTHER_PARTS_OF_VQ_HBR if is_vq_hbr else ("lm_head.",)
    encoder = {
        str(name).removeprefix("encoder."): tensor
        for name, tensor in state_dict.items()
        if not str(name).startswith(left_out)
    }
    layers = {int(match[1]) for name in encoder if (match := re.match(r"transformer\.layers\.(\d+)\.", name))}
    if not layers or not any(name.startswith("spa_embed.") for name in encoder):
        raise ValueError(f"{checkpoint} is no checkpoint of HeartLang.{describe_architecture(state_dict)}")
    names: dict[str, str | None] = {
        "token_embed.tokenConv.weight": "patch_projection.weight",
        "cls_token": "class_token",
        "pos_embed": "position_embeddings",
        "mask_token": None,
        "norm_layer.weight": "norm.weight",
        "norm_layer.bias": "norm.bias",
        **{
            f"transformer.layers.{index}.{published}": f"layers.{index}.{ours}"
            for index in range(len(layers))
            for published, ours in _LAYER_NAMES.items()
        },
    }
    for published, ours in _EMBEDDINGS.items():
        names[f"{published}.weight" if f"{published}.weight" in encoder else published] = ours
    config = HeartLangConfig(**_sizes(encoder, len(layers), checkpoint), hidden_dropout_prob=0.0 if is_vq_hbr else 0.1)
    return load_weights(HeartLangModel(config), encoder, names, checkpoint)


def _sizes(encoder: dict[str, Any], num_layers: int, checkpoint: str | Path) -> dict[str, Any]:
    """Fields of the config that the sizes of the parameters tell."""
    tables = ("spa_embed.embed", "tem_embed.embed")
    needed = ("token_embed.tokenConv.weight", "pos_embed", "transformer.layers.0.0.to_qkv.weight",
              "transformer.layers.0.1.net.1.weight")  # fmt: skip
    missing = [name for name in needed if name not in encoder]
    missing += [name for name in tables if not {name, f"{name}.weight"} & encoder.keys()]
    if missing:
        raise ValueError(f"{checkpoint} does not hold the parameters of HeartLang. Missing keys: {listed(missing)}.")
    rows = [
        matrix_shape(encoder, f"{name}.weight" if f"{name}.weight" in encoder else name, checkpoint)[0]
        for name in tables
    ]
    for name in ("token_embed.tokenConv.weight", "pos_embed"):
        if getattr(encoder[name], "ndim", 0) != 3:
            raise ValueError(f"{checkpoint} is damaged: {name} has not three axes.")
    width, patch_size, _ = encoder["token_embed.tokenConv.weight"].shape
    return {
        "patch_size": patch_size,
        "max_beats": encoder["pos_embed"].shape[1] - 1,
        "hidden_size": width,
        "num_hidden_layers": num_layers,
        "num_attention_heads": matrix_shape(encoder, needed[2], checkpoint)[0] // (3 * _HEAD_DIM),
        "head_dim": _HEAD_DIM,
        "intermediate_size": matrix_shape(encoder, needed[3], checkpoint)[0],
        "num_leads": rows[0],
        "num_times": rows[1],
    }


def convert(arguments: ConversionArguments) -> None:
    """Writes the converted model and its feature extractor to `arguments.output_dir`.

    Raises:
        OSError, ValueError: see [`convert_heartlang`].
    """
    extractor = HeartLangFeatureExtractor(leads=arguments.leads)
    convert_heartlang(arguments.checkpoint).save_pretrained(arguments.output_dir)
    extractor.save_pretrained(arguments.output_dir)


if __name__ == "__main__":
    try:
        # transformers has a type of its own for what may be any dataclass.
        parser = HfArgumentParser(ConversionArguments)  # type: ignore[arg-type]
        convert(parser.parse_args_into_dataclasses()[0])
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
