"""Converts checkpoints of the published CM-SSL code into folders that `from_pretrained` loads.

    python -m cmssl_hf.models.cmssl.convert_original_checkpoint --checkpoint tokenizer.ckpt --output_dir tokenizer

Three kinds of file exist, told apart by the names of their parameters: Lightning checkpoints of the tokenizer (stage 1) and
of the encoder (stage 2, with a frozen copy of the tokenizer), and state dictionaries of fine-tuned models (stage 3).
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import HfArgumentParser, PreTrainedModel
from transformers.utils import logging

from .configuration_cmssl import CMSSLEncoderConfig, CMSSLTokenizerConfig
from .feature_extraction_cmssl import CMSSLFeatureExtractor
from .modeling_cmssl_encoder import CMSSLEncoderForPreTraining, CMSSLEncoderForSequenceClassification
from .modeling_cmssl_layers import sinusoidal_positions
from .modeling_cmssl_tokenizer import CMSSLTokenizerModel
from .original_checkpoints import (
    check_keys,
    describe_architecture,
    listed,
    load_weights,
    matrix_shape,
    read_checkpoint,
)


logger = logging.get_logger(__name__)

_PREFIXES = {
    "tokenizer": ("te.", "pe.", "je.", "quantizer.", "de.", "proj."),
    "encoder": ("tokenizer.", "encoder.", "prediction_head."),
    "fine-tuned model": ("backbone.", "head."),
}
_CHANNELS = ("ecg", "ppg")
# Published name in a transformer layer -> ours.
_LAYER_NAMES = {
    "self_attn.in_proj_weight": "attention.qkv_proj.weight",
    "self_attn.in_proj_bias": "attention.qkv_proj.bias",
    "self_attn.out_proj.weight": "attention.o_proj.weight",
    "self_attn.out_proj.bias": "attention.o_proj.bias",
    "linear1.weight": "fc1.weight",
    "linear1.bias": "fc1.bias",
    "linear2.weight": "fc2.weight",
    "linear2.bias": "fc2.bias",
    "norm1.weight": "attention_layer_norm.weight",
    "norm1.bias": "attention_layer_norm.bias",
    "norm2.weight": "output_layer_norm.weight",
    "norm2.bias": "output_layer_norm.bias",
}


@dataclass
class ConversionArguments:
    """What to convert, and what the file itself does not hold."""

    checkpoint: str = field(metadata={"help": "Checkpoint of the published code (`.ckpt` or `.pth`)."})
    output_dir: str = field(metadata={"help": "Folder for the converted model and its feature extractor."})
    tokenizer_output_dir: str | None = field(
        default=None,
        metadata={
            "help": "Encoder checkpoints: also write their frozen tokenizer here. It reproduces the published stage-2"
            " targets (`use_code_projection=False`) and has no decoder, so only its `encode` means anything."
        },
    )
    encoder_checkpoint: str | None = field(
        default=None,
        metadata={
            "help": "Fine-tuned models: the encoder checkpoint they started from, which holds heads and channel."
        },
    )
    num_attention_heads: int | None = field(
        default=None, metadata={"help": "Fine-tuned models without `encoder_checkpoint`: number of attention heads."}
    )
    channel: str | None = field(
        default=None,
        metadata={
            "help": "Fine-tuned models without `encoder_checkpoint`: signal they read; taken for ppg if not given.",
            "choices": _CHANNELS,
        },
    )
    problem_type: str | None = field(
        default=None,
        metadata={
            "help": "Fine-tuned models: what the outputs are.",
            "choices": ("regression", "single_label_classification", "multi_label_classification"),
        },
    )
    labels: list[str] | None = field(
        default=None, metadata={"help": "Fine-tuned models: name of each output, in order."}
    )
    label_mean: list[float] | None = field(
        default=None, metadata={"help": "Regression: mean of each label that standardised the training set."}
    )
    label_std: list[float] | None = field(
        default=None, metadata={"help": "Regression: standard deviation of each label likewise."}
    )
    label_unit: str | None = field(default=None, metadata={"help": "Regression: unit of the labels, e.g. bpm."})


def convert_tokenizer(checkpoint: str | Path) -> CMSSLTokenizerModel:
    """Tokenizer of a published stage-1 checkpoint, in evaluation mode.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if the file is no readable checkpoint, or its parameters or sizes are not those of the published
            tokenizer; the message lists missing and unexpected keys.
    """
    state_dict, hyper_parameters = _read_lightning_checkpoint(checkpoint)
    loss_weights = (hyper_parameters["ecg_weight"], hyper_parameters["ppg_weight"])
    config = CMSSLTokenizerConfig(
        **_tokenizer_settings(hyper_parameters),
        channels=[_CHANNELS[index] for index in hyper_parameters["used_channel"]],
        channel_loss_weights=[loss_weights[index] for index in hyper_parameters["used_channel"]],
        num_attention_heads=hyper_parameters["num_encoder_transformer_heads"],
        num_decoder_layers=hyper_parameters["num_transformer_decoder_layers"],
        num_decoder_attention_heads=hyper_parameters["num_decoder_transformer_heads"],
    )
    names = {
        **_tokenizer_encoder_names(config.num_hidden_layers),
        **_linear_names("proj", "encoder.code_projection"),
        **_layer_names("de.decoder.layers", "decoder.layers", config.num_decoder_layers),
        **_linear_names("de.mlp.0", "decoder.fc1"),
        **_linear_names("de.mlp.2", "decoder.fc2"),
        **_linear_names("de.mlp.4", "decoder.fc3"),
    }
    return _load(CMSSLTokenizerModel(config), state_dict, names, checkpoint)


def convert_encoder(checkpoint: str | Path) -> CMSSLEncoderForPreTraining:
    """Encoder and prediction head of a published stage-2 checkpoint, in evaluation mode.

    Raises:
        ValueError: as [`convert_tokenizer`].
    """
    state_dict, hyper_parameters = _read_lightning_checkpoint(checkpoint)
    config = CMSSLEncoderConfig(**_encoder_settings(hyper_parameters))
    names = {
        **dict.fromkeys(_frozen_tokenizer_names(hyper_parameters)),
        **_encoder_names("encoder", config.num_hidden_layers),
        **_linear_names("prediction_head", "code_head"),
    }
    return _load(CMSSLEncoderForPreTraining(config), state_dict, names, checkpoint)


def convert_frozen_tokenizer(checkpoint: str | Path) -> CMSSLTokenizerModel:
    """Frozen tokenizer of a published stage-2 checkpoint, whose `encode` gives the targets the encoder was trained on.

    It lacks the projection before the codebook (see `use_code_projection` in [`CMSSLTokenizerConfig`]) and the decoder,
    which is left untrained here.

    Raises:
        ValueError: as [`convert_tokenizer`].
    """
    state_dict, hyper_parameters = _read_lightning_checkpoint(checkpoint)
    config = CMSSLTokenizerConfig(
        **_tokenizer_settings(hyper_parameters),
        channels=[_CHANNELS[index] for index in hyper_parameters["tokenizer_used_channel"]],
        num_attention_heads=hyper_parameters["num_transformer_heads"],
        num_decoder_attention_heads=hyper_parameters["num_transformer_heads"],
        use_code_projection=False,
    )
    names = {
        **_frozen_tokenizer_names(hyper_parameters),
        **dict.fromkeys(_encoder_names("encoder", hyper_parameters["E_num_layers"])),
        **dict.fromkeys(_linear_names("prediction_head", "")),
    }
    return _load(CMSSLTokenizerModel(config), state_dict, names, checkpoint)


def convert_finetuned(
    checkpoint: str | Path,
    *,
    encoder_checkpoint: str | Path | None = None,
    num_attention_heads: int | None = None,
    channel: str | None = None,
    **config_fields: Any,
) -> CMSSLEncoderForSequenceClassification:
    """Fine-tuned model of a published stage-3 state dictionary, in evaluation mode.

    The file holds neither the number of attention heads nor the signal: both come from the encoder checkpoint or from the
    caller. Published regression outputs are standardised; with `label_mean` and `label_std` the model answers in physical
    units.

    Args:
        checkpoint: the `.pth` file.
        encoder_checkpoint: the stage-2 checkpoint that was fine-tuned.
        num_attention_heads: attention heads of the encoder.
        channel: `"ecg"` or `"ppg"`; without it or an encoder checkpoint PPG is assumed, with a warning.
        config_fields: fields of [`CMSSLEncoderConfig`], e.g. `problem_type`, `id2label`, `label_mean`, `label_std`.

    Raises:
        ValueError: as [`convert_tokenizer`], or if the number of heads is given by neither.
    """
    state_dict = _read_state_dict(checkpoint)
    settings: dict[str, Any] = {
        "hidden_dropout_prob": 0.3,
        "attention_probs_dropout_prob": 0.3,
    }
    if encoder_checkpoint is not None:
        _, hyper_parameters = _read_lightning_checkpoint(encoder_checkpoint)
        settings = _encoder_settings(hyper_parameters)
    if num_attention_heads is not None:
        settings["num_attention_heads"] = num_attention_heads
    if "num_attention_heads" not in settings:
        raise ValueError(
            f"{checkpoint} does not hold the number of attention heads: give `num_attention_heads`, or the"
            " `encoder_checkpoint` that was fine-tuned."
        )
    if channel is not None:
        settings["channels"] = (channel,)
    if "channels" not in settings:
        settings["channels"] = ("ppg",)
        logger.warning("%s does not say which signal it reads; it is taken for PPG.", checkpoint)

    layers = {int(match[1]) for key in state_dict if (match := re.match(r"backbone\.layers\.(\d+)\.", key))}
    num_hidden_layers = max(layers, default=-1) + 1
    names = {
        **_encoder_names("backbone", num_hidden_layers),
        **_linear_names("head.0", "classifier.dense"),
        **_linear_names("head.2", "classifier.out_proj"),
    }
    check_keys(state_dict, names, checkpoint)
    hidden_size, patch_size = matrix_shape(state_dict, "backbone.linear_projection.weight", checkpoint)
    settings |= {
        "hidden_size": hidden_size,
        "patch_size": patch_size,
        "intermediate_size": 4 * hidden_size,
        "num_hidden_layers": num_hidden_layers,
        "num_labels": matrix_shape(state_dict, "head.2.weight", checkpoint)[0],
    }
    config = CMSSLEncoderConfig(**{**settings, **config_fields})
    return _load(CMSSLEncoderForSequenceClassification(config), state_dict, names, checkpoint)


def checkpoint_kind(checkpoint: str | Path) -> str:
    """`"tokenizer"`, `"encoder"` or `"fine-tuned model"`, by the names of the parameters.

    Raises:
        ValueError: if the file is no readable checkpoint, or none of its parameters is known.
    """
    state_dict = _read_state_dict(checkpoint)
    known = {kind: sum(key.startswith(prefixes) for key in state_dict) for kind, prefixes in _PREFIXES.items()}
    kind = max(known, key=lambda kind: known[kind])
    if known[kind] == 0:
        expected = "; ".join(f"{kind}: {', '.join(f'{name}*' for name in names)}" for kind, names in _PREFIXES.items())
        raise ValueError(
            f"{checkpoint} is no checkpoint of the published code.{describe_architecture(state_dict)} Missing keys: all of those expected ({expected})."
            f" Unexpected keys: {listed(state_dict)}."
        )
    return kind


class _HyperParameters(dict):
    """Hyper-parameters of a checkpoint; asking for one that it lacks is an error that says so."""

    def __init__(self, values: dict[str, Any], checkpoint: str | Path):
        super().__init__(values)
        self.checkpoint = checkpoint

    def __missing__(self, name: str) -> None:
        raise ValueError(f"{self.checkpoint} lacks the hyper-parameter `{name}`.")


def _read_state_dict(checkpoint: str | Path) -> dict[str, Any]:
    """Parameters of a Lightning checkpoint or of a bare state dictionary."""
    content = read_checkpoint(checkpoint)
    state_dict = content.get("state_dict", content)
    if not isinstance(state_dict, dict):
        raise ValueError(f"{checkpoint} is damaged: its `state_dict` is a {type(state_dict).__name__}.")
    return state_dict


def _read_lightning_checkpoint(checkpoint: str | Path) -> tuple[dict[str, Any], _HyperParameters]:
    """Parameters and hyper-parameters of a Lightning checkpoint."""
    content = read_checkpoint(checkpoint)
    for name in ("state_dict", "hyper_parameters"):
        if not isinstance(content.get(name), dict):
            raise ValueError(f"{checkpoint} is not a Lightning checkpoint: it holds no `{name}`.")
    return content["state_dict"], _HyperParameters(content["hyper_parameters"], checkpoint)


def _tokenizer_settings(hyper_parameters: _HyperParameters) -> dict[str, Any]:
    """Config fields that stage-1 and stage-2 checkpoints describe by the same names."""
    width = hyper_parameters["D_embed"]
    return {
        "patch_size": hyper_parameters["patch_size"],
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "decoder_mlp_size": 4 * width,
        "num_hidden_layers": hyper_parameters["num_transformer_encoder_layers"],
        "codebook_size": hyper_parameters["quantizer_num_embeddings"],
        "codebook_dim": hyper_parameters["quantizer_embedding_dim"],
        "commitment_weight": hyper_parameters["quantizer_commitment_beta"],
        # These the published code fixes without writing them down.
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "reconstruction_objective": "l1",
        "ema_decay": 0.99,
    }


def _encoder_settings(hyper_parameters: _HyperParameters) -> dict[str, Any]:
    return {
        "channels": (_CHANNELS[hyper_parameters["encoder_input_channel"]],),
        "patch_size": hyper_parameters["E_in_dim"],
        "hidden_size": hyper_parameters["E_embed"],
        "intermediate_size": 4 * hyper_parameters["E_embed"],
        "num_hidden_layers": hyper_parameters["E_num_layers"],
        "num_attention_heads": hyper_parameters["E_nhead"],
        "codebook_size": hyper_parameters["quantizer_num_embeddings"],
        "hidden_dropout_prob": hyper_parameters["E_drop_rate"],
        "attention_probs_dropout_prob": hyper_parameters["E_drop_rate"],
        "drop_path_rate": hyper_parameters["stochastic_depth_prob"],
    }


# Published name -> our name; None for what is not converted: the positions, which are computed (and checked against), and
# whether k-means has run.


def _linear_names(published: str, ours: str) -> dict[str, str | None]:
    return {f"{published}.{name}": f"{ours}.{name}" for name in ("weight", "bias")}


def _layer_names(published: str, ours: str, num_layers: int) -> dict[str, str | None]:
    return {
        f"{published}.{index}.{name}": f"{ours}.{index}.{our_name}"
        for index in range(num_layers)
        for name, our_name in _LAYER_NAMES.items()
    }


def _tokenizer_encoder_names(num_layers: int) -> dict[str, str | None]:
    return {
        **_linear_names("te.linear", "encoder.patch_projection"),
        "pe.pe": None,
        **_layer_names("je.encoder.layers", "encoder.layers", num_layers),
        "quantizer.embedding.weight": "codebook.weight",
        "quantizer.embedding.cluster_size": "codebook.cluster_size",
        "quantizer.embedding.embed_avg": "codebook.vector_sum",
        "quantizer.embedding.initted": None,
    }


def _frozen_tokenizer_names(hyper_parameters: _HyperParameters) -> dict[str, str | None]:
    names = _tokenizer_encoder_names(hyper_parameters["num_transformer_encoder_layers"])
    return {f"tokenizer.{name}": our_name for name, our_name in names.items()}


def _encoder_names(published: str, num_layers: int) -> dict[str, str | None]:
    return {
        **_linear_names(f"{published}.linear_projection", "encoder.patch_projection"),
        f"{published}.pe.pe": None,
        **_layer_names(f"{published}.layers", "encoder.layers", num_layers),
    }


def _load(
    model: PreTrainedModel, state_dict: dict[str, Any], names: dict[str, str | None], checkpoint: str | Path
) -> Any:
    """Fills `model` with the tensors of `state_dict`; keys, sizes and positions must be those expected."""
    for name, tensor in state_dict.items():
        if name.endswith("pe.pe") and not _are_published_positions(tensor):
            raise ValueError(f"{checkpoint} was trained with other positions than the published ones: {name}.")
    return load_weights(model, state_dict, names, checkpoint)


def _are_published_positions(table: Any) -> bool:
    if not isinstance(table, torch.Tensor) or table.ndim != 3:
        return False
    _, num_positions, width = table.shape
    return torch.allclose(table, sinusoidal_positions(num_positions, width, table.device), atol=1e-5)


def _save(model: PreTrainedModel, output_dir: str | Path, **kwargs: Any) -> None:
    config = model.config
    model.save_pretrained(output_dir, **kwargs)
    CMSSLFeatureExtractor(
        channels=config.channels, sampling_rate=config.sampling_rate, patch_size=config.patch_size
    ).save_pretrained(output_dir)


def convert(arguments: ConversionArguments) -> None:
    """Writes the converted model and its feature extractor to `arguments.output_dir`.

    Raises:
        OSError, ValueError: see [`convert_tokenizer`] and [`convert_finetuned`].
    """
    kind = checkpoint_kind(arguments.checkpoint)
    if kind == "tokenizer":
        _save(convert_tokenizer(arguments.checkpoint), arguments.output_dir)
    elif kind == "encoder":
        _save(convert_encoder(arguments.checkpoint), arguments.output_dir)
        if arguments.tokenizer_output_dir is not None:
            tokenizer = convert_frozen_tokenizer(arguments.checkpoint)
            trained = {
                name: value for name, value in tokenizer.state_dict().items() if not name.startswith("decoder.")
            }
            _save(tokenizer, arguments.tokenizer_output_dir, state_dict=trained)
    else:
        fields: dict[str, Any] = {
            "problem_type": arguments.problem_type,
            "label_mean": arguments.label_mean,
            "label_std": arguments.label_std,
            "label_unit": arguments.label_unit,
        }
        if arguments.labels is not None:
            fields["id2label"] = dict(enumerate(arguments.labels))
            fields["label2id"] = {label: index for index, label in enumerate(arguments.labels)}
        model = convert_finetuned(
            arguments.checkpoint,
            encoder_checkpoint=arguments.encoder_checkpoint,
            num_attention_heads=arguments.num_attention_heads,
            channel=arguments.channel,
            **fields,
        )
        _save(model, arguments.output_dir)


if __name__ == "__main__":
    try:
        # transformers has a type of its own for what may be any dataclass.
        parser = HfArgumentParser(ConversionArguments)  # type: ignore[arg-type]
        convert(parser.parse_args_into_dataclasses()[0])
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
