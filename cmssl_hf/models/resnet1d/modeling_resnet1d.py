"""ResNet-1D (Hong et al. 2019, https://github.com/hsd1503/resnet1d), the encoder of PaPaGei and of the published SimCLR, BYOL,
SimSiam and TF-C on ECG and PPG: a pre-activation residual network over time, with the padding of its release."""

import math

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from ..cmssl.hub_cmssl import HubModelMixin
from ..cmssl.modeling_cmssl_classification import SignalClassificationHead, SignalClassificationMixin
from ..cmssl.modeling_cmssl_layers import mask_signals
from .configuration_resnet1d import ResNet1DConfig


class ResNet1DConvolution(nn.Conv1d):
    """A convolution with `ceil(length / stride)` outputs: zeros on both sides, the odd one on the right."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        (kernel_size,), (stride,) = self.kernel_size, self.stride
        length = hidden_states.shape[-1]
        total = max(0, (math.ceil(length / stride) - 1) * stride + kernel_size - length)
        return super().forward(nn.functional.pad(hidden_states, (total // 2, total - total // 2)))


class ResNet1DBlock(GradientCheckpointingLayer):
    """Norm, ReLU, dropout and convolution, twice, beside the identity; the first block begins with its convolution.

    Args:
        config: of the model.
        index: of the block, from 0: odd ones halve the time, every fourth doubles the width.
    """

    def __init__(self, config: ResNet1DConfig, index: int):
        super().__init__()
        in_channels = config.base_filters * 2 ** (max(index - 1, 0) // 4)
        out_channels = config.base_filters * 2 ** (index // 4)
        self.halves_time = index % 2 == 1
        self.new_channels = out_channels - in_channels
        stride = 2 if self.halves_time else 1
        # The published code has a first norm here too, which it does not use.
        self.norm1 = nn.BatchNorm1d(in_channels) if index > 0 else None
        self.conv1 = ResNet1DConvolution(in_channels, out_channels, config.kernel_size, stride)
        self.norm2 = nn.BatchNorm1d(out_channels)
        self.conv2 = ResNet1DConvolution(out_channels, out_channels, config.kernel_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        identity = hidden_states
        if self.norm1 is not None:
            hidden_states = self.dropout(self.norm1(hidden_states).relu())
        hidden_states = self.conv1(hidden_states)
        hidden_states = self.conv2(self.dropout(self.norm2(hidden_states).relu()))
        if self.halves_time:
            # Zeros take part in the maximum, unlike those with which `max_pool1d` pads.
            identity = nn.functional.max_pool1d(nn.functional.pad(identity, (0, identity.shape[-1] % 2)), 2)
        if self.new_channels:
            before = self.new_channels // 2
            identity = nn.functional.pad(identity, (0, 0, before, self.new_channels - before))
        return hidden_states + identity


class ResNet1DStem(nn.Module):
    """The first convolution, with norm and ReLU."""

    def __init__(self, config: ResNet1DConfig):
        super().__init__()
        self.conv = ResNet1DConvolution(len(config.channels), config.base_filters, config.kernel_size)
        self.norm = nn.BatchNorm1d(config.base_filters)

    def forward(self, signals: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(signals)).relu()


class ResNet1DPreTrainedModel(HubModelMixin, PreTrainedModel):
    """Weight initialisation and the abilities that transformers asks a model about."""

    config_class = ResNet1DConfig
    base_model_prefix = "encoder"
    main_input_name = "input_values"
    input_modalities = "time"
    _input_embed_layer = "stem"
    supports_gradient_checkpointing = True
    # Losses are means over the batch; `Trainer` must divide them itself when it accumulates gradients.
    accepts_loss_kwargs = False
    _no_split_modules = ["ResNet1DBlock"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # As torch draws them, which the published code leaves as they are.
        if isinstance(module, (nn.Conv1d, nn.Linear)):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            bound = 1 / math.sqrt(module.weight[0].numel())
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)


class ResNet1DModel(ResNet1DPreTrainedModel):
    """ResNet-1D without a head."""

    def __init__(self, config: ResNet1DConfig):
        super().__init__(config)
        self.stem = ResNet1DStem(config)
        self.layers = nn.ModuleList(ResNet1DBlock(config, index) for index in range(config.num_blocks))
        self.norm = nn.BatchNorm1d(config.trunk_size)
        self.dense = None if config.embedding_size is None else nn.Linear(config.trunk_size, config.embedding_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            input_values (`torch.FloatTensor` of shape `(batch, channels, samples)`):
                Signals in the order of `config.channels`.
            attention_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*):
                1 for real samples, 0 for padding, which becomes zeros and does not count for the mean over time. The
                convolutions next to it see the zeros.

        Returns:
            `last_hidden_state` of shape `(batch, steps, trunk_size)`, a step for every `2 ** (num_blocks // 2)` samples, and
            `pooler_output` of shape `(batch, hidden_size)`: its mean over time, through `dense` where there is one.
        """
        self._check_signals(input_values)
        hidden_states = self.stem(mask_signals(input_values.to(self.dtype), attention_mask))
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        hidden_states = self.norm(hidden_states).relu().transpose(1, 2)
        pooled = self._mean_over_time(hidden_states, attention_mask)
        if self.dense is not None:
            pooled = self.dense(pooled)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled)

    def _check_signals(self, input_values: torch.Tensor) -> None:
        channels = self.config.channels
        if input_values.ndim != 3 or input_values.shape[1] != len(channels) or input_values.shape[2] == 0:
            raise ValueError(
                f"`input_values` must have shape (batch, {len(channels)}, samples), for {' and '.join(channels)}, but has shape"
                f" {tuple(input_values.shape)}."
            )

    def _mean_over_time(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        if attention_mask is None:
            return hidden_states.mean(1)
        real = attention_mask.ne(0).to(hidden_states.dtype)
        for _ in range(self.config.num_blocks // 2):
            real = nn.functional.max_pool1d(real, 2, ceil_mode=True)
        return (hidden_states * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1)


class ResNet1DForSequenceClassification(SignalClassificationMixin, ResNet1DPreTrainedModel):
    """ResNet-1D with the head, the losses and the units of [`CMSSLEncoderForSequenceClassification`] on its `pooler_output`."""

    _encoder_class: type[ResNet1DModel] = ResNet1DModel

    def __init__(self, config: ResNet1DConfig):
        super().__init__(config)
        self.encoder = self._encoder_class(config)
        self.classifier = SignalClassificationHead(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> SequenceClassifierOutput:
        r"""
        Args:
            input_values, attention_mask:
                As for the model without a head.
            labels (`torch.Tensor`, *optional*):
                As in [`CMSSLEncoderForSequenceClassification`].

        Returns:
            `logits` of shape `(batch, num_labels)`; for regression these are the predictions in physical units.

        Raises:
            ValueError: if labels have another shape, or a regression is trained on labels that are far from standardised while
                `config.label_mean` is not set.
        """
        logits = self.classifier(self.encoder(input_values, attention_mask).pooler_output)
        loss = None if labels is None else self._loss(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=self._to_physical_units(logits))


__all__ = ["ResNet1DForSequenceClassification", "ResNet1DModel", "ResNet1DPreTrainedModel"]
