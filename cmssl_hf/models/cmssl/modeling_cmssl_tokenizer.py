"""CM-SSL tokenizer (stage 1): synchronous ECG and PPG to one code per patch, and back."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_cmssl import CMSSLTokenizerConfig
from .hub_cmssl import HubModelMixin
from .modeling_cmssl_codebook import CMSSLCodebook
from .modeling_cmssl_layers import (
    CMSSLAttention,
    CMSSLLayer,
    attention_mask_of_patches,
    mask_signals,
    patch_attention_mask,
    patch_signals,
    sinusoidal_positions,
    unpatch_signals,
)


if TYPE_CHECKING:
    # By this line transformers finds out that the file belongs to a folder with remote code, whose tokenizer may get a head.
    from .modeling_cmssl_tokenizer_classification import CMSSLTokenizerForSequenceClassification  # noqa: F401


@dataclass
class CMSSLTokenizerOutput(ModelOutput):
    """
    Output of [`CMSSLTokenizerModel`].

    Args:
        loss (`torch.FloatTensor` of shape `()`):
            `reconstruction_loss + commitment_loss`.
        reconstruction_loss (`torch.FloatTensor` of shape `()`):
            Weighted sum over channels of the mean error over real samples.
        commitment_loss (`torch.FloatTensor` of shape `()`):
            `commitment_weight` times the mean squared difference between latents and codes; 0 without quantisation.
        reconstruction (`torch.FloatTensor` of shape `(batch, channels, samples)`):
            What the decoder makes of the codes.
        codes (`torch.LongTensor` of shape `(batch, num_patches)`):
            Index of each patch's code; -100 where a patch holds no real sample, so that codes serve as labels as they are.
        latents (`torch.FloatTensor` of shape `(batch, num_patches, codebook_dim)`):
            Unit vectors before quantisation.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*):
            Input of the encoder's first layer and output of each, `(batch, num_patches, hidden_size)`.
        attentions (`tuple(torch.FloatTensor)`, *optional*):
            Attention weights of the encoder's layers, `(batch, heads, num_patches, num_patches)`.
    """

    loss: torch.Tensor | None = None
    reconstruction_loss: torch.Tensor | None = None
    commitment_loss: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    codes: torch.Tensor | None = None
    latents: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class CMSSLTokenizerEncoder(nn.Module):
    """Patches to unit vectors in the space of the codebook."""

    def __init__(self, config: CMSSLTokenizerConfig):
        super().__init__()
        self.config = config
        self.patch_projection: nn.Module = nn.Linear(len(config.channels) * config.patch_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.layers = nn.ModuleList(
            CMSSLLayer(config, config.num_attention_heads) for _ in range(config.num_hidden_layers)
        )
        self.code_projection = (
            nn.Linear(config.hidden_size, config.codebook_dim) if config.use_code_projection else nn.Identity()
        )

    def hidden_states(
        self,
        patches: torch.Tensor,
        real: torch.Tensor | None,
        notes: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """`(batch, num_patches, channels * patch_size)` to `(batch, num_patches, hidden_size)`; `real` masks patches, and
        `notes (batch, 1, hidden_size)` are added to each."""
        hidden_states = self.activation(self.patch_projection(patches))
        if notes is not None:
            hidden_states = hidden_states + notes
        positions = sinusoidal_positions(patches.shape[1], hidden_states.shape[-1], hidden_states.device)
        hidden_states = hidden_states + positions.to(hidden_states.dtype)
        mask = attention_mask_of_patches(self.config, hidden_states, real)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, **kwargs)
        return hidden_states

    def forward(
        self,
        patches: torch.Tensor,
        real: torch.Tensor | None,
        notes: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        projected = self.code_projection(self.hidden_states(patches, real, notes, **kwargs))
        # Half precision cannot tell thousands of neighbours apart, so codes are always chosen in float32.
        return nn.functional.normalize(projected.float(), dim=-1)


class CMSSLTokenizerDecoder(nn.Module):
    """Vectors of the codebook's space to patches."""

    def __init__(self, config: CMSSLTokenizerConfig):
        super().__init__()
        self.config = config
        # The published code has one width for codes and hidden states; where they differ a projection joins them.
        self.code_projection = (
            nn.Identity()
            if config.codebook_dim == config.hidden_size
            else nn.Linear(config.codebook_dim, config.hidden_size)
        )
        self.layers = nn.ModuleList(
            CMSSLLayer(config, config.num_decoder_attention_heads) for _ in range(config.num_decoder_layers)
        )
        self.activation = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.decoder_mlp_size)
        self.fc2 = nn.Linear(config.decoder_mlp_size, config.decoder_mlp_size)
        self.fc3 = nn.Linear(config.decoder_mlp_size, len(config.channels) * config.patch_size)

    def forward(
        self, vectors: torch.Tensor, real: torch.Tensor | None, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        hidden_states = self.code_projection(vectors)
        mask = attention_mask_of_patches(self.config, hidden_states, real)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, **kwargs)
        hidden_states = self.activation(self.fc1(hidden_states))
        return self.fc3(self.activation(self.fc2(hidden_states)))


class CMSSLTokenizerPreTrainedModel(HubModelMixin, PreTrainedModel):
    """Weight initialisation and the abilities that transformers asks a model about."""

    encoder: CMSSLTokenizerEncoder

    config_class = CMSSLTokenizerConfig
    base_model_prefix = "tokenizer"
    main_input_name = "input_values"
    input_modalities = "time"
    supports_gradient_checkpointing = True
    # Losses are means over the batch; `Trainer` must divide them itself when it accumulates gradients.
    accepts_loss_kwargs = False
    _no_split_modules = ["CMSSLLayer"]
    # Codes and their moving averages lose their meaning in half precision.
    _keep_in_fp32_modules_strict = ["codebook"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": OutputRecorder(CMSSLLayer, layer_name="encoder"),
        "attentions": OutputRecorder(CMSSLAttention, index=1, layer_name="encoder"),
    }

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.patch_projection

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.encoder.patch_projection = value

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CMSSLCodebook):
            codes = nn.functional.normalize(torch.randn_like(module.weight), dim=-1)
            init.copy_(module.weight, codes)
            init.zeros_(module.cluster_size)
            # Of a file without the sums, which only further training needs, they follow from codes and sizes.
            sizes = torch.where(module.cluster_size > 0, module.cluster_size, 1.0)
            init.copy_(module.vector_sum, module.weight * sizes[:, None])


class CMSSLTokenizerModel(CMSSLTokenizerPreTrainedModel):
    """
    Joint tokenizer of synchronous signals: an encoder, a codebook of unit vectors, and a decoder.

    In training mode each forward pass also moves the codebook towards the batch, summed over all processes of
    `torch.distributed` (see [`CMSSLCodebook.update`]), unless `update_codebook=False` leaves that to the caller.
    """

    _auto_class = "AutoModel"
    _keys_to_ignore_on_load_missing = [r"^codebook\.vector_sum$"]

    def __init__(self, config: CMSSLTokenizerConfig):
        super().__init__(config)
        self.encoder = CMSSLTokenizerEncoder(config)
        self.codebook = CMSSLCodebook(config)
        self.decoder = CMSSLTokenizerDecoder(config)
        self.post_init()

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        quantize: bool = True,
        update_codebook: bool = True,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CMSSLTokenizerOutput:
        r"""
        Args:
            input_values (`torch.FloatTensor` of shape `(batch, channels, samples)`):
                Signals in the order of `config.channels` as [`CMSSLFeatureExtractor`] returns them; whole patches.
            attention_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*):
                1 for real samples, 0 for padding.
            quantize (`bool`, *optional*, defaults to `True`):
                `False` makes it a plain autoencoder that leaves the codebook alone: the warm start of stage 1.
            update_codebook (`bool`, *optional*, defaults to `True`):
                `False` leaves the codebook alone in training mode too, for those who accumulate gradients: the codebook then
                moves once per optimizer step, by the [`CMSSLCodebook.totals`] of all its batches.
        """
        signals, patches, real = self._patch(input_values, attention_mask)
        latents = self.encoder(patches, real, **kwargs)
        codes = self.codebook.nearest(latents.detach())
        if quantize:
            vectors = self.codebook.lookup(codes)
            commitment_loss = self.config.commitment_weight * self._masked_mean((vectors - latents) ** 2, real)
            if self.training and update_codebook:
                self.codebook.update(latents.detach(), codes, real)
            # Straight-through estimator: the gradient of the vectors goes to the latents.
            vectors = latents + (vectors - latents).detach()
        else:
            vectors = latents
            commitment_loss = latents.new_zeros(())
        reconstruction = unpatch_signals(self.decoder(vectors.to(patches.dtype), real, **kwargs), signals.shape[1])
        reconstruction_loss = self._reconstruction_loss(reconstruction, signals, attention_mask)
        if real is not None:
            codes = codes.masked_fill(~real, -100)
        return CMSSLTokenizerOutput(
            loss=reconstruction_loss + commitment_loss,
            reconstruction_loss=reconstruction_loss,
            commitment_loss=commitment_loss,
            reconstruction=reconstruction,
            codes=codes,
            latents=latents,
        )

    def encode(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Codes `(batch, num_patches)` of signals `(batch, channels, samples)`; -100 where a patch is all padding."""
        _, patches, real = self._patch(input_values, attention_mask)
        codes = self.codebook.nearest(self.encoder(patches, real))
        return codes if real is None else codes.masked_fill(~real, -100)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Signals `(batch, channels, samples)` of codes `(batch, num_patches)`; negative codes are taken as padding.

        Raises:
            ValueError: if codes have another shape or type, or are not in the codebook.
        """
        if codes.ndim != 2 or codes.shape[1] == 0 or codes.is_floating_point():
            raise ValueError(
                f"`codes` must be whole numbers of shape (batch, num_patches), but is {codes.dtype} of shape"
                f" {tuple(codes.shape)}."
            )
        if (codes >= self.config.codebook_size).any():
            raise ValueError(f"`codes` must lie below {self.config.codebook_size}, but reaches {int(codes.max())}.")
        real = codes >= 0
        vectors = self.codebook.lookup(codes.clamp(min=0)).to(self.dtype)
        return unpatch_signals(self.decoder(vectors, real), len(self.config.channels))

    def _patch(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Signals with padding set to zero, their patches, and which patches are real."""
        signals = mask_signals(input_values.to(self.dtype), attention_mask)
        patches = patch_signals(signals, self.config.patch_size, len(self.config.channels))
        real = None if attention_mask is None else patch_attention_mask(attention_mask, self.config.patch_size)
        return signals, patches, real

    def _reconstruction_loss(
        self, reconstruction: torch.Tensor, signals: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        difference = reconstruction.float() - signals.float()
        error = difference.abs() if self.config.reconstruction_objective == "l1" else difference**2
        # By numbers: a tensor of them would be a copy to the device, for which each step would wait.
        weighted = [weight * part for weight, part in zip(self.config.channel_loss_weights, error.unbind(1))]
        return self._masked_mean(torch.stack(weighted).sum(0), attention_mask)

    @staticmethod
    def _masked_mean(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Mean over the leading two dimensions where `mask (batch, length)` is set, and over any others."""
        if mask is None:
            return values.mean()
        values = values.flatten(2).mean(-1) if values.ndim > 2 else values
        mask = mask.to(values.dtype)
        return (values * mask).sum() / mask.sum().clamp(min=1)


__all__ = ["CMSSLTokenizerModel", "CMSSLTokenizerOutput", "CMSSLTokenizerPreTrainedModel"]
