"""Configurations of the CM-SSL tokenizer (stage 1) and encoder (stages 2 and 3)."""

import math
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_cmssl_classification import SignalClassificationConfig
from .signal_processing_cmssl import PASS_BANDS


#: Published encoder sizes. The paper gives 12 layers and 16 heads for `large`; heads of 64 dimensions follow from it.
ENCODER_SIZES: dict[str, dict[str, int]] = {
    "small": {"hidden_size": 256, "num_hidden_layers": 12, "num_attention_heads": 4, "intermediate_size": 1024},
    "base": {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "intermediate_size": 2048},
    "large": {"hidden_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 16, "intermediate_size": 4096},
}


# Saved folders carry this code (`_auto_class` is what `register_for_auto_class` sets; calling it here would import the Auto
# classes, which import this file), and name each Auto class that can load them.
_TOKENIZER_AUTO_CLASSES = {
    "AutoConfig": "configuration_cmssl.CMSSLTokenizerConfig",
    "AutoModel": "modeling_cmssl_tokenizer.CMSSLTokenizerModel",
    "AutoModelForPreTraining": "modeling_cmssl_tokenizer.CMSSLTokenizerModel",
    "AutoModelForSequenceClassification": (
        "modeling_cmssl_tokenizer_classification.CMSSLTokenizerForSequenceClassification"
    ),
}
_ENCODER_AUTO_CLASSES = {
    "AutoConfig": "configuration_cmssl.CMSSLEncoderConfig",
    "AutoModel": "modeling_cmssl_encoder.CMSSLEncoderModel",
    "AutoModelForPreTraining": "modeling_cmssl_encoder.CMSSLEncoderForPreTraining",
    "AutoModelForSequenceClassification": "modeling_cmssl_encoder.CMSSLEncoderForSequenceClassification",
}


def _complete_auto_map(output: dict[str, Any], auto_classes: dict[str, str]) -> dict[str, Any]:
    """Adds to the `auto_map` that saving a model leaves in `output` the Auto classes other than that model's own."""
    if "auto_map" in output:
        # transformers takes every class with "Tokenizer" in its name for a text tokenizer and writes a (slow, fast) pair
        # of classes, which its own loader of remote models then cannot read.
        saved = {
            auto_class: name[0] if isinstance(name, (list, tuple)) else name
            for auto_class, name in output["auto_map"].items()
        }
        output["auto_map"] = {**auto_classes, **saved}
    return output


def _check_channels(channels: list[str] | tuple[str, ...]) -> None:
    if not channels or len(set(channels)) != len(channels) or not set(channels) <= set(PASS_BANDS):
        raise ValueError(f"`channels` must name one or more of {sorted(PASS_BANDS)} once each, but is {channels}.")


#: No model is built with more layers: a damaged file that asks for millions would only keep the machine busy.
_MOST_LAYERS = 1000


def _check_layers(**numbers: int) -> None:
    for name, number in numbers.items():
        if not 0 <= number <= _MOST_LAYERS:
            raise ValueError(f"`{name}` must lie between 0 and {_MOST_LAYERS}, but is {number}.")


def _check_sizes(config: PreTrainedConfig, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"`{name}` must be positive, but is {getattr(config, name)}.")


def _check_heads(hidden_size: int, num_attention_heads: int) -> None:
    if hidden_size % num_attention_heads:
        raise ValueError(
            f"`hidden_size` ({hidden_size}) must be a multiple of the number of attention heads ({num_attention_heads})."
        )


@strict
class CMSSLTokenizerConfig(SignalClassificationConfig):
    r"""
    Configuration of [`CMSSLTokenizerModel`]. The defaults are the published architecture; the defaults of the losses and of
    the codebook update are those that learn on real recordings, and the published ones are named where they differ.

    Args:
        channels (`tuple[str, ...]`, *optional*, defaults to `("ecg", "ppg")`):
            Signals that are tokenised together, in the order of the channel axis: `("ecg", "ppg")`, `("ppg",)` or `("ecg",)`.
        sampling_rate (`int`, *optional*, defaults to 125):
            Rate of the input in Hz.
        patch_size (`int`, *optional*, defaults to 125):
            Samples per patch and channel; one code is given to each patch.
        hidden_size (`int`, *optional*, defaults to 128):
            Width of both transformers.
        num_hidden_layers (`int`, *optional*, defaults to 10):
            Layers of the encoder.
        num_attention_heads (`int`, *optional*, defaults to 8):
            Heads of the encoder.
        intermediate_size (`int`, *optional*, defaults to 512):
            Width of the feed-forward blocks of both transformers.
        num_decoder_layers (`int`, *optional*, defaults to 2):
            Layers of the decoder.
        num_decoder_attention_heads (`int`, *optional*, defaults to 4):
            Heads of the decoder.
        decoder_mlp_size (`int`, *optional*, defaults to 512):
            Width of the two hidden layers between the decoder and the samples.
        codebook_size (`int`, *optional*, defaults to 8192):
            Number of codes.
        codebook_dim (`int`, *optional*, defaults to 128):
            Dimension of the codes, which are unit vectors.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation function.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.1):
            Dropout after attention, after the activation and after the feed-forward block.
        attention_probs_dropout_prob (`float`, *optional*, defaults to 0.1):
            Dropout of the attention weights.
        layer_norm_eps (`float`, *optional*, defaults to 1e-5):
            Epsilon of the layer norms.
        initializer_range (`float`, *optional*, defaults to 0.05):
            Standard deviation of the initial weights.
        reconstruction_objective (`"mse"` or `"l1"`, *optional*, defaults to `"mse"`):
            Error between signal and reconstruction. The published code uses `"l1"`, under which the ECG, near its median
            most of the time, is not learnt.
        channel_loss_weights (`tuple[float, ...]`, *optional*):
            Weight of each channel's reconstruction error in the loss; 1 for each by default.
        commitment_weight (`float`, *optional*, defaults to 0.25):
            Weight of the squared distance between the encoder's output and its code.
        ema_decay (`float`, *optional*, defaults to 0.97):
            Decay of the moving averages that the codebook follows (published: 0.99).
        use_code_projection (`bool`, *optional*, defaults to `True`):
            Whether the encoder's output is projected into the space of the codebook. `False` reproduces a flaw of the
            published stage 2, whose frozen tokenizer lacks the projection that stage 1 trained, so that its targets are not
            the tokens of stage 1: `CMSSLTokenizerModel.from_pretrained(folder, use_code_projection=False)`.
        given_channels (`tuple[str, ...]`, *optional*):
            Those of `channels` that [`CMSSLTokenizerForSequenceClassification`] is given; the slots of the others stay empty.
            All by default.
        quantize_features (`bool`, *optional*, defaults to `True`):
            Whether its head sees the codes of the patches (published), or the latents before they are quantised.
        pooling, num_pooled_rhythms:
            What its head makes of the patches, as in [`CMSSLEncoderConfig`].
        kwargs:
            Its head and labels: the fields of [`SignalClassificationConfig`].
    """

    model_type = "cmssl_tokenizer"
    _auto_class = "AutoConfig"

    channels: list[str] | tuple[str, ...] = ("ecg", "ppg")
    sampling_rate: int = 125
    patch_size: int = 125
    hidden_size: int = 128
    num_hidden_layers: int = 10
    num_attention_heads: int = 8
    intermediate_size: int = 512
    num_decoder_layers: int = 2
    num_decoder_attention_heads: int = 4
    decoder_mlp_size: int = 512
    codebook_size: int = 8192
    codebook_dim: int = 128
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.05
    reconstruction_objective: Literal["mse", "l1"] = "mse"
    channel_loss_weights: list[float | int] | tuple[float | int, ...] | None = None
    commitment_weight: float | int = 0.25
    ema_decay: float = 0.97
    use_code_projection: bool = True
    given_channels: list[str] | tuple[str, ...] | None = None
    quantize_features: bool = True
    pooling: Literal["mean", "max", "mean_std", "mean_std_max", "attention", "spectrum"] = "mean"
    num_pooled_rhythms: int = 8

    def __post_init__(self, **kwargs):
        self.channels = tuple(self.channels)
        if self.given_channels is not None:
            self.given_channels = tuple(self.given_channels)
        if self.channel_loss_weights is None:
            self.channel_loss_weights = (1.0,) * len(self.channels)
        self.channel_loss_weights = tuple(float(weight) for weight in self.channel_loss_weights)
        super().__post_init__(**kwargs)

    def validate_consistency(self):
        """Part of the `@strict` validation: the fields must fit each other."""
        _check_channels(self.channels)
        _check_sizes(
            self,
            *("sampling_rate", "patch_size", "hidden_size", "num_attention_heads", "num_decoder_attention_heads"),
            *("intermediate_size", "decoder_mlp_size", "codebook_size", "codebook_dim", "num_pooled_rhythms"),
        )
        if self.given_channels is not None:
            _check_channels(self.given_channels)
            if not set(self.given_channels) <= set(self.channels):
                raise ValueError(
                    f"`given_channels` must be among the tokenizer's {self.channels}, but is {self.given_channels}."
                )
        _check_layers(num_hidden_layers=self.num_hidden_layers, num_decoder_layers=self.num_decoder_layers)
        _check_heads(self.hidden_size, self.num_attention_heads)
        _check_heads(self.hidden_size, self.num_decoder_attention_heads)
        if len(self.channel_loss_weights or ()) != len(self.channels):
            raise ValueError(
                f"`channel_loss_weights` must hold one weight per channel {self.channels}, but is"
                f" {self.channel_loss_weights}."
            )
        if not 0 <= self.ema_decay <= 1:
            raise ValueError(f"`ema_decay` must lie between 0 and 1, but is {self.ema_decay}.")
        if not self.use_code_projection and self.codebook_dim != self.hidden_size:
            raise ValueError(
                f"Without code projection `codebook_dim` ({self.codebook_dim}) must equal `hidden_size`"
                f" ({self.hidden_size})."
            )

    def to_dict(self) -> dict[str, Any]:
        return _complete_auto_map(super().to_dict(), _TOKENIZER_AUTO_CLASSES)


@strict
class CMSSLEncoderConfig(SignalClassificationConfig):
    r"""
    Configuration of [`CMSSLEncoderModel`] and of the models with a head on it. The defaults are the published small size;
    [`CMSSLEncoderConfig.from_size`] gives the others.

    Args:
        channels (`tuple[str, ...]`, *optional*, defaults to `("ppg",)`):
            Signals that the encoder reads, in the order of the channel axis; one in all published models.
        sampling_rate (`int`, *optional*, defaults to 125):
            Rate of the input in Hz.
        patch_size (`int`, *optional*, defaults to 125):
            Samples per patch and channel.
        patch_embedding (`"linear"`, `"conv"` or `"residual"`, *optional*, defaults to `"linear"`):
            What the transformer is given of a patch: its samples (published), or what a stack of convolutions, one per
            prime factor of `patch_size`, makes of it and its neighbours. With few recordings convolutions learn much
            faster: they know a beat wherever in the patch it lies. `"residual"` is a deeper stack with batch norms, for
            labels that lie in the shape of beats; a transformer on it (`num_hidden_layers`) is not needed for those.
        position_embedding (`"sinusoidal"` or `"conv"`, *optional*, defaults to `"sinusoidal"`):
            Fixed absolute positions (published), or a convolution over patches, which sees where they lie relative to each
            other.
        hidden_size (`int`, *optional*, defaults to 256):
            Width of the transformer.
        num_hidden_layers (`int`, *optional*, defaults to 12):
            Number of layers.
        num_attention_heads (`int`, *optional*, defaults to 4):
            Heads of each layer.
        intermediate_size (`int`, *optional*, defaults to 1024):
            Width of the feed-forward blocks.
        codebook_size (`int`, *optional*, defaults to 8192):
            Number of codes that [`CMSSLEncoderForPreTraining`] chooses from.
        codes_per_patch (`int`, *optional*, defaults to 1):
            Codes that it names for each of its patches: how often the tokenizer's patches fit into one of the encoder's.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation function.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.1):
            Dropout after attention, after the activation and after the feed-forward block (published: 0.3).
        attention_probs_dropout_prob (`float`, *optional*, defaults to 0.1):
            Dropout of the attention weights (published: 0.3).
        drop_path_rate (`float`, *optional*, defaults to 0.0):
            Stochastic depth: probability with which the last layer is skipped for a window; it grows linearly with depth.
        layer_norm_eps (`float`, *optional*, defaults to 1e-5):
            Epsilon of the layer norms.
        initializer_range (`float`, *optional*, defaults to 0.03):
            Standard deviation of the initial weights.
        pooling (`"mean"`, `"max"`, `"mean_std"`, `"mean_std_max"`, `"attention"` or `"spectrum"`, *optional*, defaults to `"mean"`):
            What the head sees of the patches: their mean (published), maximum, mean and standard deviation, these with the
            maximum, a learnt weighted mean, or how strongly a few learnt projections of them vary at 0.08-0.70 Hz, which is meant for
            respiratory rates from windows of 30 s or longer.
        piece_seconds (`float`, *optional*):
            [`CMSSLEncoderForSequenceClassification`] encodes longer windows in pieces of this duration, such as the 10 s that
            encoders are pre-trained on, and pools over all pieces. By default each window is encoded as a whole.
        num_pooled_rhythms (`int`, *optional*, defaults to 8):
            Number of projections of `pooling="spectrum"`.
        interval_head (`bool`, *optional*, defaults to `False`):
            For ECGs: a second head that knows the window by the intervals between its R-peaks alone, found by a classical
            detector. The model answers with the mean of both heads.
        kwargs:
            Head and labels of [`CMSSLEncoderForSequenceClassification`]: the fields of [`SignalClassificationConfig`].
    """

    model_type = "cmssl_encoder"
    _auto_class = "AutoConfig"

    channels: list[str] | tuple[str, ...] = ("ppg",)
    sampling_rate: int = 125
    patch_size: int = 125
    patch_embedding: Literal["linear", "conv", "residual"] = "linear"
    position_embedding: Literal["sinusoidal", "conv"] = "sinusoidal"
    hidden_size: int = 256
    num_hidden_layers: int = 12
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    codebook_size: int = 8192
    codes_per_patch: int = 1
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    drop_path_rate: float | int = 0.0
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.03
    pooling: Literal["mean", "max", "mean_std", "mean_std_max", "attention", "spectrum"] = "mean"
    piece_seconds: float | int | None = None
    num_pooled_rhythms: int = 8
    interval_head: bool = False

    def __post_init__(self, **kwargs):
        self.channels = tuple(self.channels)
        super().__post_init__(**kwargs)

    @classmethod
    def from_size(cls, size: str, **kwargs) -> "CMSSLEncoderConfig":
        """Configuration of a published size: `"small"` (256), `"base"` (512) or `"large"` (1024); `kwargs` override."""
        if size not in ENCODER_SIZES:
            raise ValueError(f"Unknown encoder size {size!r}; the published ones are {sorted(ENCODER_SIZES)}.")
        return cls(**{**ENCODER_SIZES[size], **kwargs})

    def validate_consistency(self):
        """Part of the `@strict` validation: the fields must fit each other."""
        _check_channels(self.channels)
        _check_sizes(
            self,
            *("sampling_rate", "patch_size", "hidden_size", "num_attention_heads", "intermediate_size"),
            *("codebook_size", "codes_per_patch", "num_pooled_rhythms"),
        )
        _check_layers(num_hidden_layers=self.num_hidden_layers)
        _check_heads(self.hidden_size, self.num_attention_heads)
        if self.interval_head and self.channels != ("ecg",):
            raise ValueError(f"`interval_head` looks for R-peaks in an ECG, but the model reads {self.channels}.")
        if self.piece_seconds is not None and not (
            math.isfinite(self.piece_seconds) and (self.piece_samples or 0) >= self.patch_size
        ):
            raise ValueError(
                f"`piece_seconds` ({self.piece_seconds}) must hold at least one patch of {self.patch_size} samples."
            )

    @property
    def piece_samples(self) -> int | None:
        """Samples in a piece of `piece_seconds`, whole patches; `None` where windows are encoded as a whole."""
        if self.piece_seconds is None:
            return None
        return round(self.piece_seconds * self.sampling_rate / self.patch_size) * self.patch_size

    def to_dict(self) -> dict[str, Any]:
        return _complete_auto_map(super().to_dict(), _ENCODER_AUTO_CLASSES)


__all__ = ["ENCODER_SIZES", "CMSSLEncoderConfig", "CMSSLTokenizerConfig"]
