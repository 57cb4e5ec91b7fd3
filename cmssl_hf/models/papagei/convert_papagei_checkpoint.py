"""Converts the published checkpoints of PaPaGei into folders that `from_pretrained` loads.

    python -m cmssl_hf.models.papagei.convert_papagei_checkpoint --checkpoint papagei_s.pt --output_dir papagei_s

`papagei_s.pt`, `papagei_p.pt` and `papagei_s_svri.pt` (https://zenodo.org/records/13983110) are state dictionaries of one network;
the experts of the first are left out.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from ..cmssl.original_checkpoints import check_keys, describe_architecture, load_weights, matrix_shape, read_checkpoint
from .configuration_papagei import PaPaGeiConfig
from .feature_extraction_papagei import PaPaGeiFeatureExtractor
from .modeling_papagei import PaPaGeiModel


_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_LINEAR = ("weight", "bias")
#: Of PaPaGei-S: three experts and a gate for each of two properties of the pulse.
_EXPERTS = (
    *(
        f"expert_layers_{number}.{expert}.{layer}"
        for number, last in ((1, 2), (2, 3))
        for expert in range(3)
        for layer in (0, last)
    ),
    "gating_network_1.0",
    "gating_network_2.0",
)


@dataclass
class ConversionArguments:
    """What to convert."""

    checkpoint: str = field(metadata={"help": "Published file, such as `papagei_s.pt`."})
    output_dir: str = field(metadata={"help": "Folder for the converted model and its feature extractor."})


def convert_papagei(checkpoint: str | Path) -> PaPaGeiModel:
    """The encoder of a published checkpoint, in evaluation mode.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if the file is no readable checkpoint, or its parameters or sizes are not those of PaPaGei; the message lists
            missing and unexpected keys, or says which published model it is.
    """
    state_dict = {str(name).removeprefix("module."): tensor for name, tensor in read_checkpoint(checkpoint).items()}
    blocks = {int(match[1]) for name in state_dict if (match := re.match(r"basicblock_list\.(\d+)\.", name))}
    if not blocks:
        raise ValueError(f"{checkpoint} is no checkpoint of PaPaGei.{describe_architecture(state_dict)}")
    names: dict[str, str | None] = {
        **_names("first_block_conv.conv", "stem.conv", _LINEAR),
        **_names("first_block_bn", "stem.norm", _NORM),
        **_names("final_bn", "norm", _NORM),
        **_names("dense", "dense", _LINEAR),
    }
    for index in range(len(blocks)):
        published, ours = f"basicblock_list.{index}", f"layers.{index}"
        names |= _names(f"{published}.bn1", f"{ours}.norm1", _NORM) | _names(
            f"{published}.bn2", f"{ours}.norm2", _NORM
        )
        names |= _names(f"{published}.conv1.conv", f"{ours}.conv1", _LINEAR)
        names |= _names(f"{published}.conv2.conv", f"{ours}.conv2", _LINEAR)
    # The first block does not use its first norm.
    names |= {f"basicblock_list.0.bn1.{kind}": None for kind in _NORM}
    if any(name.startswith("expert_layers_") for name in state_dict):
        names |= {f"{layer}.{kind}": None for layer in _EXPERTS for kind in _LINEAR}
    check_keys(state_dict, names, checkpoint)
    embedding_size, _ = matrix_shape(state_dict, "dense.weight", checkpoint)
    config = PaPaGeiConfig(
        base_filters=len(state_dict["first_block_bn.weight"]), num_blocks=len(blocks), embedding_size=embedding_size
    )
    return load_weights(PaPaGeiModel(config), state_dict, names, checkpoint)


def _names(published: str, ours: str, kinds: tuple[str, ...]) -> dict[str, str | None]:
    return {f"{published}.{kind}": f"{ours}.{kind}" for kind in kinds}


def convert(arguments: ConversionArguments) -> None:
    """Writes the converted model and its feature extractor to `arguments.output_dir`.

    Raises:
        OSError, ValueError: see [`convert_papagei`].
    """
    convert_papagei(arguments.checkpoint).save_pretrained(arguments.output_dir)
    PaPaGeiFeatureExtractor().save_pretrained(arguments.output_dir)


if __name__ == "__main__":
    try:
        # transformers has a type of its own for what may be any dataclass.
        parser = HfArgumentParser(ConversionArguments)  # type: ignore[arg-type]
        convert(parser.parse_args_into_dataclasses()[0])
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
