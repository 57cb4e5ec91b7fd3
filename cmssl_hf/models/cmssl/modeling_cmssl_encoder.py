"""CM-SSL encoder: one signal to the codes of a tokenizer (stage 2) or to labels (stage 3)."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    MaskedLMOutput,
    SequenceClassifierOutput,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .configuration_cmssl import CMSSLEncoderConfig
from .hub_cmssl import HubModelMixin
from .modeling_cmssl_cross_entropy import chunked_cross_entropy, code_cross_entropy
from .modeling_cmssl_layers import (
    CMSSLAttention,
    CMSSLLayer,
    attention_mask_of_patches,
    mask_signals,
    patch_attention_mask,
    patch_signals,
    sinusoidal_positions,
)
from .modeling_cmssl_pieces import cut_into_pieces, join_pieces
from .modeling_cmssl_pooling import CMSSLPooling
from .modeling_cmssl_stem import CMSSLPositionalConvolution, CMSSLStem


class CMSSLEncoderPreTrainedModel(HubModelMixin, PreTrainedModel):
    """The abilities that transformers asks a model about."""

    config_class = CMSSLEncoderConfig
    base_model_prefix = "encoder"
    main_input_name = "input_values"
    input_modalities = "time"
    _input_embed_layer = "patch_projection"
    supports_gradient_checkpointing = True
    # Losses are means over the batch; `Trainer` must divide them itself when it accumulates gradients.
    accepts_loss_kwargs = False
    _no_split_modules = ["CMSSLLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": CMSSLLayer, "attentions": CMSSLAttention}


class CMSSLEncoderModel(CMSSLEncoderPreTrainedModel):
    """Encoder of a single signal, without a head."""

    _auto_class = "AutoModel"

    def __init__(self, config: CMSSLEncoderConfig):
        super().__init__(config)
        self.stem = self.positional_convolution = None
        patch_width = len(config.channels) * config.patch_size
        if config.patch_embedding == "conv":
            self.stem = CMSSLStem(config)
            patch_width = self.stem.output_size
        self.patch_projection = nn.Linear(patch_width, config.hidden_size)
        if config.position_embedding == "conv":
            self.positional_convolution = CMSSLPositionalConvolution(config)
        # Published stochastic depth grows linearly from the first layer to the last.
        last = max(config.num_hidden_layers - 1, 1)
        self.layers = nn.ModuleList(
            CMSSLLayer(config, config.num_attention_heads, config.drop_path_rate * index / last)
            for index in range(config.num_hidden_layers)
        )
        self.post_init()

    @capture_outputs
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            input_values (`torch.FloatTensor` of shape `(batch, channels, samples)`):
                Signals in the order of `config.channels` as [`CMSSLFeatureExtractor`] returns them; whole patches.
            attention_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*):
                1 for real samples, 0 for padding.

        Returns:
            `last_hidden_state` of shape `(batch, num_patches, hidden_size)` and `pooler_output` of shape
            `(batch, hidden_size)`, its mean over real patches. `output_attentions=True` needs `attn_implementation="eager"`:
            with any other, transformers warns once, and there are none.
        """
        signals = mask_signals(input_values.to(self.dtype), attention_mask)
        patches = patch_signals(signals, self.config.patch_size, len(self.config.channels))
        real = None if attention_mask is None else patch_attention_mask(attention_mask, self.config.patch_size)
        if self.stem is not None:
            patches = self.stem(signals, attention_mask)
        hidden_states = self.patch_projection(patches)
        if self.positional_convolution is not None:
            positions = self.positional_convolution(hidden_states, real)
        else:
            positions = sinusoidal_positions(patches.shape[1], hidden_states.shape[-1], hidden_states.device)
        hidden_states = hidden_states + positions.to(hidden_states.dtype)
        mask = attention_mask_of_patches(self.config, hidden_states, real)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, **kwargs)
        if real is None:
            pooled = hidden_states.mean(1)
        else:
            weights = real.to(hidden_states.dtype)[..., None]
            pooled = (hidden_states * weights).sum(1) / weights.sum(1).clamp(min=1)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled)


class CMSSLEncoderForPreTraining(CMSSLEncoderPreTrainedModel):
    """Encoder that names, for each patch of its signal, the code or codes that a tokenizer gave to it (stage 2)."""

    _auto_class = "AutoModelForPreTraining"

    def __init__(self, config: CMSSLEncoderConfig):
        super().__init__(config)
        self.encoder = CMSSLEncoderModel(config)
        self.code_head = nn.Linear(config.hidden_size, config.codes_per_patch * config.codebook_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        return_logits: bool = True,
        soft_targets: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MaskedLMOutput:
        r"""
        Args:
            input_values (`torch.FloatTensor` of shape `(batch, channels, samples)`):
                Signals in the order of `config.channels`; whole patches.
            attention_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*):
                1 for real samples, 0 for padding.
            labels (`torch.LongTensor` of shape `(batch, num_patches * codes_per_patch)`, *optional*):
                Codes of the frozen tokenizer in the order of time; -100 is ignored.
            return_logits (`bool`, *optional*, defaults to `True`):
                `False` computes the loss alone, without holding the logits of the whole batch.
            soft_targets (`torch.FloatTensor` of shape `(codebook_size, codebook_size)`, *optional*):
                The distribution over codes that the loss compares with for each right code; the code alone if left out.

        Returns:
            `logits` of shape `(batch, num_patches * codes_per_patch, codebook_size)`, and the cross-entropy as `loss` if labels
            are given.

        Raises:
            ValueError: if there is not one label for each code.
        """
        outputs = self.encoder(input_values, attention_mask, **kwargs)
        batch_size, num_patches, _ = outputs.last_hidden_state.shape
        expected = (batch_size, num_patches * self.config.codes_per_patch)
        if labels is not None and tuple(labels.shape) != expected:
            raise ValueError(f"`labels` must have shape {expected}, but has shape {tuple(labels.shape)}.")
        logits = loss = None
        if return_logits or labels is None:
            logits = self.code_head(outputs.last_hidden_state).view(*expected, self.config.codebook_size)
        if labels is not None and logits is not None:
            loss = code_cross_entropy(logits.float().flatten(0, 1), labels.flatten(), soft_targets)
        elif labels is not None:
            loss = chunked_cross_entropy(outputs.last_hidden_state, self.code_head, labels, soft_targets)
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class CMSSLClassificationHead(nn.Module):
    """Hidden states `(batch, num_patches, hidden_size)`, pooled over the real patches, to `(batch, num_labels)`."""

    def __init__(self, config: CMSSLEncoderConfig):
        super().__init__()
        self.pooling = CMSSLPooling(config)
        self.dense = None
        input_size = self.pooling.output_size
        if config.classifier_head == "mlp":
            self.dense = nn.Linear(input_size, config.hidden_size // 2)
            self.activation = ACT2FN["gelu"]
            input_size = config.hidden_size // 2
        self.out_proj = nn.Linear(input_size, config.num_labels)  # type: ignore[arg-type]  # no config leaves it `None`

    def forward(self, hidden_states: torch.Tensor, real_patches: torch.Tensor | None = None) -> torch.Tensor:
        features = self.pooling(hidden_states, real_patches)
        if self.dense is not None:
            features = self.activation(self.dense(features))
        return self.out_proj(features)


#: Root mean square of a batch of labels, 1 if they are standardised, above which they are taken for physical units.
_LARGEST_STANDARDIZED = 5.0


def _on_device(numbers: float | Sequence[float], like: torch.Tensor) -> torch.Tensor:
    """A few numbers as a tensor of the type and on the device of another; filled there, since a copy would have to wait until
    the device is done."""
    if isinstance(numbers, Sequence):
        return torch.stack([like.new_full((), number) for number in numbers])
    return like.new_full((), numbers)


def _refuse_raw_labels(labels: torch.Tensor) -> None:
    size = labels.square().mean().sqrt()
    if size.isnan():
        raise ValueError("`labels` hold NaN, from which nothing can be learnt: leave out the windows without a label.")
    if size > _LARGEST_STANDARDIZED:
        raise ValueError(
            f"A regression is learnt on standardised labels, but the root mean square of these is {size:.3g}, and the config says"
            " nothing of them: set `label_mean` and `label_std` in it to the mean and the standard deviation of the training"
            " labels (0 and 1 to train on labels as they are). The model then answers in the labels' unit."
        )


class CMSSLEncoderForSequenceClassification(CMSSLEncoderPreTrainedModel):
    """
    Encoder with a head on its pooled patches (stage 3): regression with one or several outputs, multi-class or
    multi-label classification, by `config.problem_type`.

    Regression is learnt on standardised labels; `config.label_mean` and `config.label_std` turn the outputs back, so that
    logits and labels are both in physical units (bpm, mmHg). Whoever trains with a `Trainer` of their own gives them when
    loading; a new head answers about 0 and would take thousands of steps to climb to 75 bpm:

    ```python
    AutoModelForSequenceClassification.from_pretrained(
        encoder, num_labels=1, problem_type="regression", label_mean=float(labels.mean()), label_std=float(labels.std())
    )
    ```
    """

    _auto_class = "AutoModelForSequenceClassification"

    def __init__(self, config: CMSSLEncoderConfig):
        super().__init__(config)
        self.encoder = CMSSLEncoderModel(config)
        self.classifier = CMSSLClassificationHead(config)
        self._encoder_frozen = False
        self.post_init()

    def freeze_encoder(self) -> None:
        """Linear probing: only the head is trained, and the encoder stays in evaluation mode, without dropout."""
        self._encoder_frozen = True
        self.encoder.requires_grad_(False)
        self.encoder.eval()

    def train(self, mode: bool = True) -> "CMSSLEncoderForSequenceClassification":
        super().train(mode)
        if self._encoder_frozen:
            self.encoder.eval()
        return self

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutput:
        r"""
        Args:
            input_values (`torch.FloatTensor` of shape `(batch, channels, samples)`):
                Signals in the order of `config.channels`; whole patches.
            attention_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*):
                1 for real samples, 0 for padding.
            labels (`torch.Tensor`, *optional*):
                Regression: `(batch,)` or `(batch, num_labels)` in physical units. Multi-class: class indices `(batch,)`.
                Multi-label: multi-hot `(batch, num_labels)`.

        Returns:
            `logits` of shape `(batch, num_labels)`; for regression these are the predictions in physical units. Where
            `config.piece_seconds` cuts windows, `hidden_states` and `attentions` are those of the pieces.

        Raises:
            ValueError: if labels have another shape, or a regression is trained on labels that are far from standardised while
                `config.label_mean` is not set.
        """
        piece_samples, used = self.config.piece_samples, None
        if piece_samples is not None and input_values.shape[-1] > piece_samples:
            input_values, attention_mask, used = cut_into_pieces(input_values, attention_mask, piece_samples)
        outputs = self.encoder(input_values, attention_mask, **kwargs)
        hidden_states = outputs.last_hidden_state
        real = None if attention_mask is None else patch_attention_mask(attention_mask, self.config.patch_size)
        if used is not None and real is not None:
            hidden_states, real = join_pieces(hidden_states, used), join_pieces(real, used)
        logits = self.classifier(hidden_states, real)
        loss = None if labels is None else self._loss(logits.float(), labels)
        return SequenceClassifierOutput(
            loss=loss,
            logits=self._to_physical_units(logits),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _problem_type(self, labels: torch.Tensor) -> str:
        """`config.problem_type`, or what transformers infers from the labels where it is not set."""
        if self.config.problem_type is not None:
            return self.config.problem_type
        if self.config.num_labels == 1:
            return "regression"
        return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        problem_type = self._problem_type(labels)
        if problem_type == "single_label_classification":
            if labels.numel() != len(logits):
                raise ValueError(f"`labels` must have shape ({len(logits)},), but has shape {tuple(labels.shape)}.")
            weights = self.config.class_weights
            weights = None if weights is None else _on_device(weights, logits)
            return nn.functional.cross_entropy(logits, labels.view(-1), weight=weights)
        if tuple(labels.shape) != tuple(logits.shape) and (logits.shape[1] > 1 or labels.numel() != len(logits)):
            raise ValueError(f"`labels` must have shape {tuple(logits.shape)}, but has shape {tuple(labels.shape)}.")
        labels = labels.to(logits.dtype).view_as(logits)
        if problem_type == "multi_label_classification":
            return nn.functional.binary_cross_entropy_with_logits(logits, labels)
        if self.training and self.config.label_mean is None:
            _refuse_raw_labels(labels)
        labels = (labels - self._label_mean(logits)) / self._label_std(logits)
        if self.config.regression_loss == "huber":
            # Divided by delta, so that the slope far from the label, and with it the useful learning rate, stays 1.
            delta = self.config.huber_delta
            return nn.functional.huber_loss(logits, labels, delta=delta) / delta
        return nn.functional.mse_loss(logits, labels)

    def _label_mean(self, like: torch.Tensor) -> torch.Tensor:
        return _on_device(0.0 if self.config.label_mean is None else self.config.label_mean, like)

    def _label_std(self, like: torch.Tensor) -> torch.Tensor:
        return _on_device(1.0 if self.config.label_std is None else self.config.label_std, like)

    def _to_physical_units(self, logits: torch.Tensor) -> torch.Tensor:
        if self.config.label_mean is None and self.config.label_std is None:
            return logits
        # 1 bpm at 150 bpm is already below the resolution of bfloat16.
        logits = logits.float()
        return logits * self._label_std(logits) + self._label_mean(logits)


__all__ = [
    "CMSSLEncoderForPreTraining",
    "CMSSLEncoderForSequenceClassification",
    "CMSSLEncoderModel",
    "CMSSLEncoderPreTrainedModel",
]
