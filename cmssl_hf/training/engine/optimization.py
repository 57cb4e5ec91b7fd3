"""Parameter groups: weight decay, layer-wise learning rates, and a learning rate of its own for the head."""

import re
from collections.abc import Collection

from torch import nn


def parameter_groups(
    model: nn.Module,
    *,
    decayed: Collection[str],
    learning_rate: float,
    weight_decay: float,
    layerwise_lr_decay: float = 1.0,
    head_learning_rate: float | None = None,
) -> list[dict]:
    """Groups of trainable parameters for an optimizer, each within one part of the model (`part`: `"encoder"`, `"decoder"`,
    `"classifier"`...), so that the rates of parts can be changed separately.

    Args:
        model: a tokenizer, or an encoder with or without head; the layers that decay are those of its `encoder`.
        decayed: names of the parameters that `weight_decay` applies to.
        learning_rate: of everything above the encoder's layers (decoder, code projections) and of its last layer.
        weight_decay: of the parameters in `decayed`; the others have none.
        layerwise_lr_decay: factor from each layer of the encoder to the one below it; what makes patches into the first
            layer's input lies below it (Bao et al. 2022, BEiT).
        head_learning_rate: of the heads, if it is to differ.
    """
    num_layers = 1 + max(
        (int(match.group(1)) for name, _ in model.named_parameters() if (match := _LAYER.match(name))), default=-1
    )
    groups: dict[tuple[str, float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = learning_rate * layerwise_lr_decay ** _depth_below_top(name, num_layers)
        if head_learning_rate is not None and name.startswith(("classifier.", "interval_head.")):
            rate = head_learning_rate
        part = name.partition(".")[0]
        groups.setdefault((part, rate, weight_decay if name in decayed else 0.0), []).append(parameter)
    return [
        {"params": members, "part": part, "lr": rate, "weight_decay": decay}
        for (part, rate, decay), members in groups.items()
    ]


_LAYER = re.compile(r"(?:encoder\.)?layers\.(\d+)\.")


def _depth_below_top(name: str, num_layers: int) -> int:
    match = _LAYER.match(name)
    if match:
        return num_layers - 1 - int(match.group(1))
    return num_layers if re.match(r"(?:encoder\.)?(?:stem|patch_projection|positional_convolution)\.", name) else 0
