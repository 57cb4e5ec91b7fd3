"""Configuration of the ResNet-1D."""

from typing import Any

from huggingface_hub.dataclasses import strict

from ..cmssl.configuration_cmssl_classification import SignalClassificationConfig
from ..cmssl.signal_processing_cmssl import PASS_BANDS


#: No model is built with more: a damaged file that asks for millions would only keep the machine busy.
_MOST_BLOCKS = 1000


@strict
class ResNet1DConfig(SignalClassificationConfig):
    r"""
    Configuration of [`ResNet1DModel`]. The defaults are those that published work fine-tunes: 16 blocks, 48 to 384 channels wide.

    Args:
        channels (`tuple[str, ...]`, *optional*, defaults to `("ppg",)`):
            Signals that it reads, in the order of the channel axis.
        sampling_rate (`int`, *optional*, defaults to 125):
            Rate of the input in Hz.
        patch_size (`int`, *optional*, defaults to 125):
            Windows are padded to a multiple of this many samples, as for the other models; the network itself takes any number.
        base_filters (`int`, *optional*, defaults to 48):
            Width of the first blocks.
        num_blocks (`int`, *optional*, defaults to 16):
            Blocks of two convolutions each. Those with an odd index halve the time; the width doubles at blocks 4, 8, 12...
        kernel_size (`int`, *optional*, defaults to 3):
            Samples that a convolution sees.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.5):
            Dropout before each convolution but the first.
        embedding_size (`int`, *optional*):
            Width of a linear layer on the mean over time (`dense`, 512 in published pre-training); none by default.
        kwargs:
            Head and labels of [`ResNet1DForSequenceClassification`]: the fields of [`SignalClassificationConfig`].
    """

    model_type = "resnet1d"

    channels: list[str] | tuple[str, ...] = ("ppg",)
    sampling_rate: int = 125
    patch_size: int = 125
    base_filters: int = 48
    num_blocks: int = 16
    kernel_size: int = 3
    hidden_dropout_prob: float | int = 0.5
    embedding_size: int | None = None

    def __post_init__(self, **kwargs: Any):
        self.channels = tuple(self.channels)
        super().__post_init__(**kwargs)

    def validate_consistency(self) -> None:
        """Part of the `@strict` validation."""
        channels = self.channels
        if not channels or len(set(channels)) != len(channels) or not set(channels) <= set(PASS_BANDS):
            raise ValueError(f"`channels` must name one or more of {sorted(PASS_BANDS)} once each, but is {channels}.")
        for name in ("sampling_rate", "patch_size", "base_filters", "kernel_size"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, but is {getattr(self, name)}.")
        if self.embedding_size is not None and not self.embedding_size > 0:
            raise ValueError(f"`embedding_size` must be positive, but is {self.embedding_size}.")
        if not 1 <= self.num_blocks <= _MOST_BLOCKS:
            raise ValueError(f"`num_blocks` must lie between 1 and {_MOST_BLOCKS}, but is {self.num_blocks}.")

    @property
    def trunk_size(self) -> int:
        """Width of the last block."""
        return self.base_filters * 2 ** ((self.num_blocks - 1) // 4)

    @property
    def hidden_size(self) -> int:
        """Width of what the model says of a window."""
        return self.trunk_size if self.embedding_size is None else self.embedding_size


__all__ = ["ResNet1DConfig"]
