"""CM-SSL tokenizer with a head for labels: how far the tokens alone carry, without stage 2."""

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.output_capturing import capture_outputs

from .configuration_cmssl import CMSSLTokenizerConfig
from .modeling_cmssl_classification import CMSSLClassificationHead, SignalClassificationMixin
from .modeling_cmssl_codebook import CMSSLCodebook
from .modeling_cmssl_layers import mask_signals, patch_attention_mask, patch_signals
from .modeling_cmssl_tokenizer import CMSSLTokenizerEncoder, CMSSLTokenizerPreTrainedModel


class CMSSLMissingChannels(nn.Module):
    """One vector per channel, for windows without it."""

    def __init__(self, config: CMSSLTokenizerConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(len(config.channels), config.hidden_size))

    def forward(self, channel_mask: torch.Tensor) -> torch.Tensor:
        """`(batch, channels)`, 0 where a channel is missing, to the sum of the vectors of those `(batch, 1, hidden_size)`."""
        return (channel_mask.eq(0).to(self.weight.dtype) @ self.weight)[:, None]


class CMSSLTokenizerForSequenceClassification(SignalClassificationMixin, CMSSLTokenizerPreTrainedModel):
    """
    Encoder and codebook of a tokenizer with the head of stage 3 on its pooled patches. The codebook stays as it is, and there
    is no decoder.

    It reads `config.given_channels`; the slots of the other channels are empty, which a vector per channel tells the encoder,
    added to each patch, so that a missing signal is not taken for a flat one. These vectors are learnt and start at 0, where
    the features are those of the tokenizer given zeros.
    """

    _auto_class = "AutoModelForSequenceClassification"
    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]

    def __init__(self, config: CMSSLTokenizerConfig):
        super().__init__(config)
        self.encoder = CMSSLTokenizerEncoder(config)
        self.codebook = CMSSLCodebook(config)
        self.missing_channels = CMSSLMissingChannels(config)
        self.classifier = CMSSLClassificationHead(config, config.codebook_dim)
        self.post_init()

    def freeze_encoder(self) -> None:
        super().freeze_encoder()
        self.missing_channels.requires_grad_(False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CMSSLMissingChannels):
            init.zeros_(module.weight)

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        channel_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutput:
        r"""
        Args:
            input_values (`torch.FloatTensor` of shape `(batch, given channels, samples)`):
                Signals in the order of `config.given_channels`, all of `config.channels` by default; whole patches.
            attention_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*):
                1 for real samples, 0 for padding.
            channel_mask (`torch.Tensor` of shape `(batch, given channels)`, *optional*):
                0 where a window lacks a signal, whatever stands in its place.
            labels (`torch.Tensor`, *optional*):
                As in [`CMSSLEncoderForSequenceClassification`].

        Returns:
            `logits` of shape `(batch, num_labels)`; for regression these are the predictions in physical units.

        Raises:
            ValueError: if signals, masks or labels have another shape, or a regression is trained on labels that are far from
                standardised while `config.label_mean` is not set.
        """
        signals, channel_mask = self._in_their_slots(input_values.to(self.dtype), channel_mask)
        patches = patch_signals(
            mask_signals(signals, attention_mask), self.config.patch_size, len(self.config.channels)
        )
        real = None if attention_mask is None else patch_attention_mask(attention_mask, self.config.patch_size)
        features = self.encoder(patches, real, self.missing_channels(channel_mask), **kwargs)
        if self.config.quantize_features:
            vectors = self.codebook.lookup(self.codebook.nearest(features.detach()))
            # Straight-through estimator: the gradient of the vectors goes to the latents.
            features = features + (vectors - features).detach()
        # Entries of unit vectors are small; those that the head of an encoder sees are about 1.
        features = features * self.config.codebook_dim**0.5
        logits = self.classifier(features.to(self.dtype), real)
        return SequenceClassifierOutput(
            loss=None if labels is None else self._loss(logits.float(), labels), logits=self._to_physical_units(logits)
        )

    def _in_their_slots(
        self, input_values: torch.Tensor, channel_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Signals `(batch, channels, samples)` of all channels, zero where they are missing, and which are there `(batch,
        channels)`."""
        channels, given = self.config.channels, self.config.given_channels or self.config.channels
        if input_values.ndim != 3 or input_values.shape[1] != len(given):
            raise ValueError(
                f"`input_values` must have shape (batch, {len(given)}, samples), for {' and '.join(given)}, but has shape"
                f" {tuple(input_values.shape)}."
            )
        if channel_mask is None:
            channel_mask = input_values.new_ones(input_values.shape[:2])
        elif channel_mask.shape != input_values.shape[:2]:
            raise ValueError(
                f"`channel_mask` must have shape {tuple(input_values.shape[:2])}, but has shape {tuple(channel_mask.shape)}."
            )
        slots = [channels.index(channel) for channel in given]
        signals = input_values.new_zeros(len(input_values), len(channels), input_values.shape[-1])
        signals[:, slots] = input_values.masked_fill(channel_mask[..., None] == 0, 0.0)
        present = channel_mask.new_zeros(len(input_values), len(channels))
        present[:, slots] = channel_mask
        return signals, present


__all__ = ["CMSSLTokenizerForSequenceClassification"]
