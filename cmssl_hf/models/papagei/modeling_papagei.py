"""PaPaGei: a ResNet-1D that gives 10 s of PPG an embedding of 512 numbers.

The published files hold the experts of PaPaGei-S too, which guess two properties of the pulse in pre-training. They do not touch
the embedding, and are not here.
"""

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple

from ..cmssl.modeling_cmssl_pieces import cut_into_pieces
from ..resnet1d.modeling_resnet1d import ResNet1DForSequenceClassification, ResNet1DModel
from .configuration_papagei import PaPaGeiConfig


class PaPaGeiModel(ResNet1DModel):
    """PaPaGei without a head; `pooler_output` is the published embedding."""

    config_class = PaPaGeiConfig

    @can_return_tuple
    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            input_values (`torch.FloatTensor` of shape `(batch, 1, samples)`):
                PPG as [`PaPaGeiFeatureExtractor`] returns it. Samples beyond 10 s are further pieces of as much, the last one
                filled up with zeros.
            attention_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*):
                0 for padding. A piece that is nothing else does not count; zeros within a piece are part of the published
                input.

        Returns:
            `last_hidden_state` of shape `(batch, pieces, 512)`, the embedding of each piece, 0 for one that does not count, and
            `pooler_output` of shape `(batch, 512)`, their mean.
        """
        self._check_signals(input_values)
        pieces, masks, used = cut_into_pieces(input_values, attention_mask, self.config.patch_size)
        pieces = pieces.masked_fill(masks[:, None] == 0, 0.0)
        embedded = super().forward(pieces).pooler_output
        embeddings = embedded.new_zeros(*used.shape, embedded.shape[-1])
        embeddings[used] = embedded
        pooled = embeddings.sum(1) / used.sum(1, keepdim=True)
        return BaseModelOutputWithPooling(last_hidden_state=embeddings, pooler_output=pooled)


class PaPaGeiForSequenceClassification(ResNet1DForSequenceClassification):
    """PaPaGei with the head, the losses and the units of [`CMSSLEncoderForSequenceClassification`] on its embedding."""

    config_class = PaPaGeiConfig
    _encoder_class = PaPaGeiModel


__all__ = ["PaPaGeiForSequenceClassification", "PaPaGeiModel"]
