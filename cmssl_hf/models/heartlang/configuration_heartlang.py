"""Configuration of HeartLang."""

from typing import Any

from huggingface_hub.dataclasses import strict

from ..cmssl.configuration_cmssl_classification import SignalClassificationConfig


#: No model is built with more layers: a damaged file that asks for millions would only keep the machine busy.
_MOST_LAYERS = 1000


@strict
class HeartLangConfig(SignalClassificationConfig):
    r"""
    Configuration of [`HeartLangModel`]. The defaults are the published encoder; that of its first stage, VQ-HBR, has 4 layers of
    2 heads, 2048 wide, without dropout.

    Args:
        channels (`tuple[str, ...]`, *optional*, defaults to `("ecg",)`):
            ECG, and nothing else; leads are told by their ids.
        sampling_rate (`int`, *optional*, defaults to 100):
            Rate in Hz of the signal that beats are cut from.
        patch_size (`int`, *optional*, defaults to 96):
            Samples of a beat.
        max_beats (`int`, *optional*, defaults to 256):
            Beats of all leads that are read at once, of at most 10 s.
        hidden_size (`int`, *optional*, defaults to 768):
            Width of the transformer.
        num_hidden_layers (`int`, *optional*, defaults to 12):
            Number of layers.
        num_attention_heads (`int`, *optional*, defaults to 8):
            Heads of each layer.
        head_dim (`int`, *optional*, defaults to 64):
            Width of a head.
        intermediate_size (`int`, *optional*, defaults to 1024):
            Width of the feed-forward blocks.
        num_leads (`int`, *optional*, defaults to 16):
            Ids of leads that have a vector: 0 for padding, then I, II, III, aVR, aVL, aVF, V1 to V6.
        num_times (`int`, *optional*, defaults to 16):
            Ids of times that have a vector: 0 for padding, then the seconds.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.1):
            Dropout of embeddings, attention weights and feed-forward blocks.
        layer_norm_eps (`float`, *optional*, defaults to 1e-5):
            Epsilon of the layer norms.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the initial weights.
        kwargs:
            Head and labels of [`HeartLangForSequenceClassification`]: the fields of [`SignalClassificationConfig`].
    """

    model_type = "heartlang"

    channels: list[str] | tuple[str, ...] = ("ecg",)
    sampling_rate: int = 100
    patch_size: int = 96
    max_beats: int = 256
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    head_dim: int = 64
    intermediate_size: int = 1024
    num_leads: int = 16
    num_times: int = 16
    hidden_dropout_prob: float | int = 0.1
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any):
        self.channels = tuple(self.channels)
        super().__post_init__(**kwargs)

    def validate_consistency(self) -> None:
        """Part of the `@strict` validation."""
        if self.channels != ("ecg",):
            raise ValueError(f"HeartLang reads ecg alone, but `channels` is {self.channels}. PaPaGei reads PPG.")
        sizes = ("sampling_rate", "patch_size", "max_beats", "hidden_size", "num_attention_heads", "head_dim")
        for name in (*sizes, "intermediate_size", "num_leads", "num_times"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, but is {getattr(self, name)}.")
        if not 0 <= self.num_hidden_layers <= _MOST_LAYERS:
            raise ValueError(
                f"`num_hidden_layers` must lie between 0 and {_MOST_LAYERS}, but is {self.num_hidden_layers}."
            )


__all__ = ["HeartLangConfig"]
