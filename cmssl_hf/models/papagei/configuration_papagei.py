"""Configuration of PaPaGei."""

from huggingface_hub.dataclasses import strict

from ..resnet1d.configuration_resnet1d import ResNet1DConfig


@strict
class PaPaGeiConfig(ResNet1DConfig):
    r"""
    Configuration of [`PaPaGeiModel`]: a [`ResNet1DConfig`] with the defaults of the three published files.

    Args:
        patch_size (`int`, *optional*, defaults to 1250):
            Samples that are encoded at once, 10 s; longer windows are encoded in such pieces.
        base_filters (`int`, *optional*, defaults to 32):
            Width of the first blocks.
        num_blocks (`int`, *optional*, defaults to 18):
            Number of blocks.
        embedding_size (`int`, *optional*, defaults to 512):
            Width of the embedding.
        kwargs:
            All other fields of [`ResNet1DConfig`].
    """

    model_type = "papagei"

    patch_size: int = 1250
    base_filters: int = 32
    num_blocks: int = 18
    embedding_size: int | None = 512

    def validate_signal(self) -> None:
        """Part of the `@strict` validation."""
        if self.channels != ("ppg",):
            raise ValueError(f"PaPaGei reads ppg alone, but `channels` is {self.channels}. HeartLang reads ECG.")


__all__ = ["PaPaGeiConfig"]
