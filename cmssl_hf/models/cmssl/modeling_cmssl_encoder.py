"""CM-SSL encoder: one signal to the codes of a tokenizer (stage 2) or to labels (stage 3)."""

import torch
from torch import nn
from transformers import PreTrainedModel
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
from .modeling_cmssl_classification import CMSSLClassificationHead, SignalClassificationMixin
from .modeling_cmssl_cross_entropy import chunked_cross_entropy, code_cross_entropy
from .modeling_cmssl_intervals import CMSSLIntervalHead
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
from .modeling_cmssl_residual_stem import CMSSLResidualStem
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
        if config.patch_embedding != "linear":
            self.stem = CMSSLStem(config) if config.patch_embedding == "conv" else CMSSLResidualStem(config)
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


class CMSSLEncoderForSequenceClassification(SignalClassificationMixin, CMSSLEncoderPreTrainedModel):
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
        self.interval_head = CMSSLIntervalHead(config, self.classifier.output_size) if config.interval_head else None
        self.post_init()

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
            `logits` of shape `(batch, num_labels)`; for regression these are the predictions in physical units. With
            `config.interval_head` they are the mean of what both heads say, and the loss is the mean of theirs. Where
            `config.piece_seconds` cuts windows, `hidden_states` and `attentions` are those of the pieces.

        Raises:
            ValueError: if labels have another shape, or a regression is trained on labels that are far from standardised while
                `config.label_mean` is not set.
        """
        whole = (input_values, attention_mask)
        piece_samples, used = self.config.piece_samples, None
        if piece_samples is not None and input_values.shape[-1] > piece_samples:
            input_values, attention_mask, used = cut_into_pieces(input_values, attention_mask, piece_samples)
        outputs = self.encoder(input_values, attention_mask, **kwargs)
        hidden_states = outputs.last_hidden_state
        real = None if attention_mask is None else patch_attention_mask(attention_mask, self.config.patch_size)
        if used is not None and real is not None:
            hidden_states, real = join_pieces(hidden_states, used), join_pieces(real, used)
        heads = [self.classifier(hidden_states, real)]
        if self.interval_head is not None:
            heads.append(self.interval_head(*whole))
        # Each head learns by itself: trained on their mean, the one that remembers leaves the other nothing to learn.
        losses = [] if labels is None else [self._loss(logits.float(), labels) for logits in heads]
        logits = torch.stack(heads).mean(0)
        return SequenceClassifierOutput(
            loss=torch.stack(losses).mean() if losses else None,
            logits=self._to_physical_units(logits),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


__all__ = [
    "CMSSLEncoderForPreTraining",
    "CMSSLEncoderForSequenceClassification",
    "CMSSLEncoderModel",
    "CMSSLEncoderPreTrainedModel",
]
