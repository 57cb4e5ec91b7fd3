"""What converters of published checkpoints share: files read without running code in them, and parameters checked one by one."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel


#: By names of parameters that no other architecture has: what a file is, and the module that converts it.
_ARCHITECTURES = {
    "basicblock_list.": ("a ResNet-1D such as PaPaGei", "cmssl_hf.models.papagei.convert_papagei_checkpoint"),
    "spa_embed.": ("HeartLang's encoder", "cmssl_hf.models.heartlang.convert_heartlang_checkpoint"),
    "encoder.spa_embed.": ("HeartLang's VQ-HBR", "cmssl_hf.models.heartlang.convert_heartlang_checkpoint"),
    "te.linear.": ("a CM-SSL tokenizer", "cmssl_hf.models.cmssl.convert_original_checkpoint"),
    "encoder.linear_projection.": ("a CM-SSL encoder", "cmssl_hf.models.cmssl.convert_original_checkpoint"),
    "backbone.linear_projection.": (
        "a fine-tuned CM-SSL encoder",
        "cmssl_hf.models.cmssl.convert_original_checkpoint",
    ),
}


def read_checkpoint(checkpoint: str | Path, admitted: Iterable[type] = ()) -> dict[str, Any]:
    """The dictionary in a file, read without running any code in it.

    Args:
        checkpoint: the file.
        admitted: classes beside tensors and plain containers that may be in it; no other is built.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if it is no checkpoint, damaged, or holds something else.
    """
    with open(checkpoint, "rb") as file:
        try:
            with torch.serialization.safe_globals(list(admitted)):
                content = torch.load(file, map_location="cpu", weights_only=True)
        # What torch raises on a damaged file depends on where the damage is.
        except Exception as error:
            raise ValueError(f"{checkpoint} is not a PyTorch checkpoint, or is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{checkpoint} is not a checkpoint: it holds a {type(content).__name__}, not a dictionary.")
    return content


def listed(keys: Iterable[Any]) -> str:
    return ", ".join(sorted(map(str, keys))) or "none"


def describe_architecture(state_dict: Mapping[str, Any]) -> str:
    """What a state dictionary is by the names of its parameters, and how it is converted; nothing if it is not known."""
    for prefix, (architecture, module) in _ARCHITECTURES.items():
        if any(str(key).removeprefix("module.").startswith(prefix) for key in state_dict):
            return f" It is {architecture}: convert it with `python -m {module}`."
    return ""


def check_keys(state_dict: Mapping[str, Any], names: Mapping[str, str | None], checkpoint: str | Path) -> None:
    """
    Raises:
        ValueError: if the keys of `state_dict` are not exactly those of `names`.
    """
    missing, unexpected = names.keys() - state_dict.keys(), state_dict.keys() - names.keys()
    if missing or unexpected:
        raise ValueError(
            f"{checkpoint} does not hold the parameters of the published code. Missing keys: {listed(missing)}."
            f" Unexpected keys: {listed(unexpected)}."
        )


def matrix_shape(state_dict: Mapping[str, Any], name: str, checkpoint: str | Path) -> tuple[int, int]:
    shape = tuple(getattr(state_dict[name], "shape", ()))
    if len(shape) != 2:
        raise ValueError(f"{checkpoint} is damaged: {name} is not a matrix.")
    return shape


def load_weights(
    model: PreTrainedModel, state_dict: Mapping[str, Any], names: Mapping[str, str | None], checkpoint: str | Path
) -> Any:
    """Fills `model` with the tensors of `state_dict`, and returns it in evaluation mode.

    Args:
        model: with every parameter that `names` leads to.
        state_dict: of the published code.
        names: published name -> ours; `None` for what is not converted.
        checkpoint: what messages call the file.

    Raises:
        ValueError: if keys or sizes are not those expected.
    """
    check_keys(state_dict, names, checkpoint)
    for name, tensor in state_dict.items():
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{checkpoint} is damaged: {name} is a {type(tensor).__name__}, not a tensor.")
    own = model.state_dict()
    wrong = [
        f"{name} {tuple(state_dict[name].shape)} instead of {tuple(own[our_name].shape)}"
        for name, our_name in names.items()
        if our_name is not None and state_dict[name].shape != own[our_name].shape
    ]
    if wrong:
        raise ValueError(f"{checkpoint} holds parameters of unexpected sizes: {', '.join(wrong)}.")
    converted = {our_name: state_dict[name] for name, our_name in names.items() if our_name is not None}
    model.load_state_dict(converted, strict=False)
    return model.eval()


__all__ = ["check_keys", "describe_architecture", "listed", "load_weights", "matrix_shape", "read_checkpoint"]
