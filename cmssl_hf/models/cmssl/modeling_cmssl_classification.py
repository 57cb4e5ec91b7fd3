"""What models with a head for labels share: the head, the losses, and labels in physical units."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.activations import ACT2FN

from .configuration_cmssl_classification import SignalClassificationConfig
from .modeling_cmssl_pooling import CMSSLPooling


# What the mixin is for.
if TYPE_CHECKING:
    from transformers import PreTrainedModel
else:
    PreTrainedModel = object


class SignalClassificationHead(nn.Module):
    """Features `(batch, input_size)` to `(batch, num_labels)`.

    Args:
        config: of the model; `classifier_head` and `hidden_size`.
        input_size: width of the features; `config.hidden_size` if left out.
    """

    def __init__(self, config: Any, input_size: int | None = None):
        super().__init__()
        self.dense = None
        input_size = config.hidden_size if input_size is None else input_size
        if config.classifier_head == "mlp":
            self.dense = nn.Linear(input_size, config.hidden_size // 2)
            self.activation = ACT2FN["gelu"]
            input_size = config.hidden_size // 2
        self.out_proj = nn.Linear(input_size, config.num_labels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if self.dense is not None:
            features = self.activation(self.dense(features))
        return self.out_proj(features)


class CMSSLClassificationHead(SignalClassificationHead):
    """Hidden states `(batch, num_patches, input_size)`, pooled over the real patches, to `(batch, num_labels)`."""

    def __init__(self, config: Any, input_size: int | None = None):
        pooling = CMSSLPooling(config, input_size)
        super().__init__(config, pooling.output_size)
        self.pooling = pooling

    def forward(self, hidden_states: torch.Tensor, real_patches: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(self.pooling(hidden_states, real_patches))


#: Root mean square of a batch of labels, 1 if they are standardised, above which they are taken for physical units.
_LARGEST_STANDARDIZED = 5.0


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


class SignalClassificationMixin(PreTrainedModel):
    """For models with an `encoder` and a `classifier`: the loss by `config.problem_type`, and linear probing.

    Regression is learnt on standardised labels; `config.label_mean` and `config.label_std` turn the outputs back, so that
    logits and labels are both in physical units (bpm, mmHg).
    """

    config: SignalClassificationConfig
    encoder: Any
    _encoder_frozen = False

    def freeze_encoder(self) -> None:
        """Linear probing: only the head is trained, and the encoder stays in evaluation mode, without dropout."""
        self._encoder_frozen = True
        self.encoder.requires_grad_(False)
        self.encoder.eval()

    def train(self, mode: bool = True):
        super().train(mode)
        if self._encoder_frozen:
            self.encoder.eval()
        return self

    def _problem_type(self, labels: torch.Tensor) -> str:
        """`config.problem_type`, or what transformers infers from the labels where it is not set."""
        if self.config.problem_type is not None:
            return self.config.problem_type
        if self.config.num_labels == 1:
            return "regression"
        return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """
        Args:
            logits: what the head says `(batch, num_labels)`, float32; for regression still standardised.
            labels: as in `forward`.
        """
        problem_type = self._problem_type(labels)
        if problem_type == "single_label_classification":
            if labels.numel() != len(logits):
                raise ValueError(f"`labels` must have shape ({len(logits)},), but has shape {tuple(labels.shape)}.")
            weights = None if self.config.class_weights is None else logits.new_tensor(self.config.class_weights)
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
        return like.new_tensor(0.0 if self.config.label_mean is None else self.config.label_mean)

    def _label_std(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_tensor(1.0 if self.config.label_std is None else self.config.label_std)

    def _to_physical_units(self, logits: torch.Tensor) -> torch.Tensor:
        if self.config.label_mean is None and self.config.label_std is None:
            return logits
        # 1 bpm at 150 bpm is already below the resolution of bfloat16.
        logits = logits.float()
        return logits * self._label_std(logits) + self._label_mean(logits)


__all__ = ["CMSSLClassificationHead", "SignalClassificationHead", "SignalClassificationMixin"]
