"""The number format of a training: the one that the processor gains by, unless it is said."""

import functools
import logging
import time
from typing import Literal

import torch
from accelerate.utils import broadcast_object_list

from ...private_access import has_linear_pointwise, linear_pointwise


logger = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16", "fp16"]

#: What transformers and accelerate call them.
MIXED_PRECISION: dict[Precision, str] = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
PRECISIONS: dict[str, Precision] = {name: precision for precision, name in MIXED_PRECISION.items()}
_DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}

#: A step is more than products: where those are not faster by this, it is not faster.
_WORTHWHILE = 1.5
#: Below this a CPU has no instructions for a format and emulates it.
_EMULATED = 0.5


def fitting_precision(device: torch.device) -> tuple[Precision, str]:
    """The format in which a device trains fastest, and why it is that one; the first process decides for all.

    A GPU is asked what it has. A CPU may have instructions and yet be slower by them, so its products are timed.
    """
    choice = [_fitting_precision(device.type)]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        broadcast_object_list(choice)
    return choice[0]


def _fitting_precision(device_type: str) -> tuple[Precision, str]:
    if device_type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "it has instructions for it"
        return "fp16", "it has none for bf16"
    if device_type != "cpu":
        return "fp32", "nothing is known of bf16 there"
    gain = cpu_gain(torch.bfloat16)
    return "bf16" if gain >= _WORTHWHILE else "fp32", f"products in bf16 take {1 / gain:.2g} times as long as in fp32"


@functools.cache
def cpu_gain(dtype: torch.dtype) -> float:
    """How many times as fast as in float32 this CPU multiplies matrices in a format: the best of some alternating rounds, which
    take a fraction of a second."""
    rows, weight = torch.ones(512, 256), torch.ones(1024, 256)
    product = linear_pointwise if has_linear_pointwise() else torch.nn.functional.linear
    fp32, other = [], []
    for _ in range(5):
        fp32.append(_seconds(product, rows, weight))
        other.append(_seconds(torch.nn.functional.linear, rows.to(dtype), weight.to(dtype)))
    # The first round prepares what later ones use.
    return min(fp32[1:]) / min(other[1:])


def _seconds(product, rows: torch.Tensor, weight: torch.Tensor) -> float:
    start = time.perf_counter()
    product(rows, weight)
    return time.perf_counter() - start


def log_precision(device: torch.device, precision: Precision, asked: str | None) -> None:
    """Says in one line what is computed in, and warns where a CPU emulates it."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"the {device.type.upper()}"
    if asked == "auto":
        # At the level that is shown unless another is asked for.
        logger.warning("Training in %s on %s: %s.", precision, name, fitting_precision(device)[1])
    elif device.type == "cpu" and precision != "fp32" and cpu_gain(_DTYPES[precision]) < _EMULATED:
        logger.warning(
            "Training in %s on the CPU, which has no instructions for it and is many times slower than in fp32; `--precision auto`"
            " takes what the processor gains by.",
            precision,
        )
    else:
        logger.info("Training in %s on %s.", precision, name)
