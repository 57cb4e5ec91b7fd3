"""HeartLang: a transformer over the heartbeats of an ECG, each with the lead and the second that it was taken from."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from ..cmssl.hub_cmssl import HubModelMixin
from ..cmssl.modeling_cmssl_classification import SignalClassificationHead, SignalClassificationMixin
from .configuration_heartlang import HeartLangConfig


class HeartLangAttention(nn.Module):
    """Multi-head self-attention over the class token and all beats; padding takes part, as in the published code."""

    def __init__(self, config: HeartLangConfig):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout = config.hidden_dropout_prob
        width = config.num_attention_heads * config.head_dim
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * width, bias=False)
        self.o_proj = nn.Linear(width, config.hidden_size)
        self.output_dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            self.qkv_proj(self.norm(hidden_states))
            .unflatten(-1, (3, self.num_heads, -1))
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
        attended = nn.functional.scaled_dot_product_attention(
            query, key, value, dropout_p=self.dropout if self.training else 0.0
        )
        return self.output_dropout(self.o_proj(attended.transpose(1, 2).flatten(2)))


class HeartLangLayer(GradientCheckpointingLayer):
    """Pre-norm transformer layer."""

    def __init__(self, config: HeartLangConfig):
        super().__init__()
        self.attention = HeartLangAttention(config)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = hidden_states + self.attention(hidden_states)
        output = nn.functional.gelu(self.fc1(self.feed_forward_norm(hidden_states)))
        return hidden_states + self.dropout(self.fc2(self.dropout(output)))


class HeartLangPreTrainedModel(HubModelMixin, PreTrainedModel):
    """Weight initialisation and the abilities that transformers asks a model about."""

    config_class = HeartLangConfig
    base_model_prefix = "encoder"
    main_input_name = "input_values"
    input_modalities = "time"
    _input_embed_layer = "patch_projection"
    supports_gradient_checkpointing = True
    # Losses are means over the batch; `Trainer` must divide them itself when it accumulates gradients.
    accepts_loss_kwargs = False
    _no_split_modules = ["HeartLangLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, HeartLangModel):
            for parameter in (module.class_token, module.position_embeddings):
                init.normal_(parameter, std=self.config.initializer_range)


class HeartLangModel(HeartLangPreTrainedModel):
    """HeartLang without a head; `pooler_output` is the class token."""

    def __init__(self, config: HeartLangConfig):
        super().__init__(config)
        width = config.hidden_size
        # Across beats, not within them: each sees its two neighbours in the sentence, and the last one the first.
        self.patch_projection = nn.Conv1d(config.patch_size, width, 3, padding=1, padding_mode="circular", bias=False)
        self.lead_embeddings = nn.Embedding(config.num_leads, width)
        self.time_embeddings = nn.Embedding(config.num_times, width)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embeddings = nn.Parameter(torch.zeros(1, config.max_beats + 1, width))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList(HeartLangLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.post_init()

    @can_return_tuple
    def forward(
        self, input_values: torch.Tensor, *, lead_ids: torch.Tensor, time_ids: torch.Tensor, **kwargs
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            input_values (`torch.FloatTensor` of shape `(batch, beats, patch_size)`):
                Beats in mV as [`HeartLangFeatureExtractor`] cuts them: `max_beats` of them for each piece of 10 s, zeros where
                there are fewer.
            lead_ids (`torch.LongTensor` of shape `(batch, beats)`):
                The lead of each beat, 0 for padding. By keyword, since no number tells a lead from a second.
            time_ids (`torch.LongTensor` of shape `(batch, beats)`):
                The second of each beat within its piece, counted from 1; 0 for padding.

        Returns:
            `last_hidden_state` of shape `(batch, pieces * (max_beats + 1), hidden_size)`, the class token of each piece before
            its beats, and `pooler_output` of shape `(batch, hidden_size)`, the mean of the class tokens of those pieces that
            have beats.

        Raises:
            ValueError: if shapes do not fit each other, or ids are out of range.
        """
        self._check_inputs(input_values, lead_ids, time_ids)
        batch_size, max_beats = len(input_values), self.config.max_beats
        beats, leads, times = (
            tensor.unflatten(1, (-1, max_beats)).flatten(0, 1) for tensor in (input_values, lead_ids, time_ids)
        )
        hidden_states = self.patch_projection(beats.to(self.dtype).transpose(1, 2)).transpose(1, 2)
        hidden_states = hidden_states + self.lead_embeddings(leads) + self.time_embeddings(times)
        class_tokens = self.class_token.expand(len(hidden_states), -1, -1)
        hidden_states = torch.cat((class_tokens, hidden_states), 1) + self.position_embeddings
        hidden_states = self.dropout(hidden_states)
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        hidden_states = self.norm(hidden_states)
        counted = leads.ne(0).any(1).view(batch_size, -1).to(hidden_states.dtype)
        # Of a window without any beat there is nothing but its padding.
        counted = counted + counted.sum(1, keepdim=True).eq(0)
        class_tokens = hidden_states[:, 0].view(batch_size, -1, self.config.hidden_size)
        pooled = (class_tokens * counted[..., None]).sum(1) / counted.sum(1, keepdim=True)
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states.reshape(batch_size, -1, self.config.hidden_size), pooler_output=pooled
        )

    def _check_inputs(self, input_values: torch.Tensor, lead_ids: torch.Tensor, time_ids: torch.Tensor) -> None:
        config = self.config
        if (
            input_values.ndim != 3
            or input_values.shape[2] != config.patch_size
            or input_values.shape[1] == 0
            or input_values.shape[1] % config.max_beats
        ):
            raise ValueError(
                f"`input_values` must hold beats, in the shape (batch, a multiple of {config.max_beats}, {config.patch_size}), as"
                f" `HeartLangFeatureExtractor` cuts them from an ECG, but has shape {tuple(input_values.shape)}."
            )
        for name, ids, number in (("lead_ids", lead_ids, config.num_leads), ("time_ids", time_ids, config.num_times)):
            if ids.shape != input_values.shape[:2]:
                raise ValueError(
                    f"`{name}` must have shape {tuple(input_values.shape[:2])}, but has shape {tuple(ids.shape)}."
                )
            if not torch.compiler.is_compiling() and not (int(ids.min()) >= 0 and int(ids.max()) < number):
                raise ValueError(
                    f"`{name}` must lie between 0 and {number - 1}, but lie between {int(ids.min())} and {int(ids.max())}."
                )


class HeartLangForSequenceClassification(SignalClassificationMixin, HeartLangPreTrainedModel):
    """HeartLang with the head, the losses and the units of [`CMSSLEncoderForSequenceClassification`] on its class token."""

    def __init__(self, config: HeartLangConfig):
        super().__init__(config)
        self.encoder = HeartLangModel(config)
        self.classifier = SignalClassificationHead(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        *,
        lead_ids: torch.Tensor,
        time_ids: torch.Tensor,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> SequenceClassifierOutput:
        r"""
        Args:
            input_values, lead_ids, time_ids:
                As for [`HeartLangModel`].
            labels (`torch.Tensor`, *optional*):
                As in [`CMSSLEncoderForSequenceClassification`].

        Returns:
            `logits` of shape `(batch, num_labels)`; for regression these are the predictions in physical units.

        Raises:
            ValueError: if inputs or labels have another shape, or a regression is trained on labels that are far from
                standardised while `config.label_mean` is not set.
        """
        pooled = self.encoder(input_values, lead_ids=lead_ids, time_ids=time_ids).pooler_output
        logits = self.classifier(pooled)
        loss = None if labels is None else self._loss(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=self._to_physical_units(logits))


__all__ = ["HeartLangForSequenceClassification", "HeartLangModel", "HeartLangPreTrainedModel"]
