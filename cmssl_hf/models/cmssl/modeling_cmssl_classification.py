"""What models with a head for labels share: the head, the losses, and labels in physical units."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.activations import ACT2FN

from .configuration_cmssl_classification import SignalClassificationConfig
from .modeling_cmssl_histogram import CMSSLFrequencyHead, histogram_loss, histogram_median, label_values
from .modeling_cmssl_pooling import CMSSLPooling


# What the mixin is for.
if TYPE_CHECKING:
    from transformers import PreTrainedModel
else:
    PreTrainedModel = object


class SignalClassificationHead(nn.Module):
    """Features `(batch, input_size)` to `(batch, num_labels)`, or to the logits of distributions, `(batch, num_labels *
    num_label_bins)`, with `config.regression_loss="histogram"`.

    Args:
        config: of the model; `classifier_head` and `hidden_size`.
        input_size: width of the features; `config.hidden_size` if left out.
    """

    def __init__(self, config: Any, input_size: int | None = None):
        super().__init__()
        self.dense = None
        self.output_size = config.num_labels * (config.num_label_bins if config.predicts_histogram else 1)
        if config.classifier_head == "frequency":
            self.out_proj: nn.Module = CMSSLFrequencyHead(config)
            return
        input_size = config.hidden_size if input_size is None else input_size
        if config.classifier_head == "mlp":
            self.dense = nn.Linear(input_size, config.hidden_size // 2)
            self.activation = ACT2FN["gelu"]
            input_size = config.hidden_size // 2
        self.out_proj = nn.Linear(input_size, self.output_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if self.dense is not None:
            features = self.activation(self.dense(features))
        return self.out_proj(features)


class CMSSLClassificationHead(SignalClassificationHead):
    """The same of hidden states `(batch, num_patches, input_size)`, pooled over the real patches."""

    def __init__(self, config: Any, input_size: int | None = None):
        pooling = CMSSLPooling(config, input_size)
        super().__init__(config, pooling.output_size)
        self.pooling = pooling

    def forward(self, hidden_states: torch.Tensor, real_patches: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(self.pooling(hidden_states, real_patches))


#: Root mean square of a batch of labels, 1 if they are standardised, above which they are taken for physical units.
_LARGEST_STANDARDIZED = 5.0


def _on_device(numbers: float | Sequence[float], like: torch.Tensor) -> torch.Tensor:
    """A few numbers as a tensor of the type and on the device of another; filled there, since a copy would have to wait until
    the device is done."""
    if isinstance(numbers, Sequence):
        return torch.stack([like.new_full((), number) for number in numbers])
    return like.new_full((), numbers)


def _refuse_missing_labels(labels: torch.Tensor) -> None:
    if labels.isnan().any():
        raise ValueError("`labels` hold NaN, from which nothing can be learnt: leave out the windows without a label.")


def _refuse_raw_labels(labels: torch.Tensor) -> None:
    size = labels.square().mean().sqrt()
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
            logits: what the head says, float32; for regression still standardised, or the logits of distributions.
            labels: as in `forward`.
        """
        problem_type = self._problem_type(labels)
        if problem_type == "single_label_classification":
            if labels.numel() != len(logits):
                raise ValueError(f"`labels` must have shape ({len(logits)},), but has shape {tuple(labels.shape)}.")
            weights = None if self.config.class_weights is None else _on_device(self.config.class_weights, logits)
            return nn.functional.cross_entropy(logits, labels.view(-1), weight=weights)
        num_labels: int = self.config.num_labels  # type: ignore[assignment]  # no config leaves it `None`
        expected = (len(logits), num_labels)
        if tuple(labels.shape) != expected and (expected[1] > 1 or labels.numel() != len(logits)):
            raise ValueError(f"`labels` must have shape {expected}, but has shape {tuple(labels.shape)}.")
        labels = labels.to(logits.dtype).view(expected)
        if problem_type == "multi_label_classification":
            return nn.functional.binary_cross_entropy_with_logits(logits, labels)
        # With statistics of the labels they have been looked at, and a GPU need not be asked in each step.
        if self.training and self.config.label_mean is None:
            _refuse_missing_labels(labels)
        if self.config.predicts_histogram:
            values = label_values(self.config, logits)
            return histogram_loss(logits.unflatten(1, (-1, len(values))), labels, values)
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
        if self.config.predicts_histogram:
            values = label_values(self.config, logits)
            return histogram_median(logits.unflatten(1, (-1, len(values))), values)
        if self.config.label_mean is None and self.config.label_std is None:
            return logits
        # 1 bpm at 150 bpm is already below the resolution of bfloat16.
        logits = logits.float()
        return logits * self._label_std(logits) + self._label_mean(logits)


__all__ = ["CMSSLClassificationHead", "SignalClassificationHead", "SignalClassificationMixin"]
