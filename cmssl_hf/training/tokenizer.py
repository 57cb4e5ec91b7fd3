"""Stage 1: a tokenizer of synchronous signals. Arguments, trainer, and the stage from data to card."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import EvalPrediction, TrainerCallback

from ..models.cmssl.configuration_cmssl import CMSSLTokenizerConfig
from ..models.cmssl.modeling_cmssl_layers import patch_attention_mask
from ..models.cmssl.modeling_cmssl_tokenizer import CMSSLTokenizerModel
from .arguments import DataArguments, NewModelArguments, parse_config_overrides
from .codebook import CodebookCollapseCallback, initialize_codebook, revive_codes
from .engine.arguments import StageArguments, refuse_idle
from .engine.trainer import StageTrainer
from .pretraining import pretrain_by_loss
from .reconstruction import codebook_metrics, reconstruction_metrics, reconstruction_report, reconstruction_statistics
from .stage import Stage, register_stage


@dataclass(kw_only=True)
class TokenizerArguments(NewModelArguments):
    """The tokenizer of stage 1."""

    channels: list[str] = field(
        default_factory=lambda: ["ecg", "ppg"], metadata={"help": "Signals that are tokenised together."}
    )
    config_overrides: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "Fields of `CMSSLTokenizerConfig`, e.g. `codebook_size=1024,num_hidden_layers=4`."},
    )

    def __post_init__(self):
        self.config_overrides = parse_config_overrides(self.config_overrides, CMSSLTokenizerConfig)
        if list(self.config_overrides.get("channels", self.channels)) != list(self.channels):
            raise ValueError(
                f"`config_overrides` ask for the channels {self.config_overrides['channels']}, but `channels` are"
                f" {self.channels}: give them as `channels`."
            )

    def config(self) -> CMSSLTokenizerConfig:
        return CMSSLTokenizerConfig(**{"channels": self.channels, **self.config_overrides})


@dataclass
class TokenizerTrainingArguments(StageArguments):
    """Training of stage 1."""

    warm_start_steps: int = field(
        default=200,
        metadata={
            "help": "Steps as a plain autoencoder before k-means sets the codebook; 0 starts quantised (published)."
        },
    )
    quantized_encoder_lr: float = field(
        default=0.1,
        metadata={
            "help": "Factor for the encoder's learning rate once the codebook is in use: an encoder that moves faster than its"
            " codes leaves most of them behind; 1 is published."
        },
    )
    kmeans_windows: int = field(
        default=4096,
        metadata={"help": "Training windows for k-means; 0 leaves the codebook at random (published default)."},
    )
    kmeans_iterations: int = field(default=10, metadata={"help": "Iterations of k-means."})
    revival_steps: int = field(
        default=0,
        metadata={
            "help": "Every so many steps codes that are hardly used move onto latents of the batch; 0: never (published)."
        },
    )
    revival_usage: float = field(
        default=0.03, metadata={"help": "A code used less than this share of the mean is hardly used."}
    )
    perplexity_floor: float = field(
        default=0.01,
        metadata={"help": "Warn when the perplexity of the codes in use is below this share of the codebook."},
    )

    def __post_init__(self):
        super().__post_init__()
        refuse_idle(self, "kmeans_iterations", "`kmeans_windows`", self.kmeans_windows > 0)
        refuse_idle(self, "revival_usage", "`revival_steps`", self.revival_steps > 0)


#: Figure of stage 1 in the run's folder.
RECONSTRUCTIONS_FILE = "reconstructions.png"


class TokenizerTrainer(StageTrainer):
    """Stage 1: an autoencoder for `warm_start_steps`, then k-means, then training with the quantiser.

    Validation reports each channel's L1 and explained variance, commitment, perplexity and codes in use. During the warm
    start it is done without the quantiser, and no checkpoint of it can become the best one.
    """

    args: TokenizerTrainingArguments
    model: CMSSLTokenizerModel

    def __init__(self, *args, **kwargs):
        super().__init__(*args, compute_metrics=self._metrics, **kwargs)
        #: Latents `(windows, num_patches, codebook_dim)` and codes `(windows, num_patches)` of each batch of the step.
        self.chosen: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.add_callback(_CodebookUpdate(self))
        self.add_callback(_CodebookInitialization(self))
        self.add_callback(_CodebookRevival(self))
        self.add_callback(
            CodebookCollapseCallback(self.model.codebook, self.args.perplexity_floor, self.args.warm_start_steps)
        )

    @property
    def quantizes(self) -> bool:
        """Whether the codebook is in use: always, but for the warm start of a training that is under way."""
        return not self.is_in_train or self.state.global_step >= self.args.warm_start_steps

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch=None
    ):
        outputs = model(**inputs, quantize=self.quantizes, update_codebook=False)
        if model.training:
            if self.quantizes:
                self.chosen.append((outputs.latents.detach(), outputs.codes))
            outputs.reconstruction_loss, outputs.commitment_loss = (
                share * part
                for share, part in zip(self.shares(inputs), (outputs.reconstruction_loss, outputs.commitment_loss))
            )
            outputs.loss = outputs.reconstruction_loss + outputs.commitment_loss
            self.note_loss_part("reconstruction_loss", outputs.reconstruction_loss)
            self.note_loss_part("commitment_loss", outputs.commitment_loss)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def loss_terms(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        # The reconstruction's samples, and the patches that are quantised.
        values, mask = inputs["input_values"], inputs.get("attention_mask")
        if mask is None:
            mask = values.new_ones(len(values), values.shape[-1])
        return torch.stack([mask.sum(), patch_attention_mask(mask, self.model.config.patch_size).sum()])

    def predict_batch(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self.on_device(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        statistics = reconstruction_statistics(
            outputs.reconstruction.float(), inputs["input_values"], inputs.get("attention_mask")
        )
        commitment = outputs.commitment_loss.expand(len(statistics))
        return loss.detach(), (statistics, commitment), outputs.codes

    def _metrics(self, evaluation: EvalPrediction) -> dict[str, float]:
        statistics, commitment = evaluation.predictions
        config = self.model.config
        metrics = reconstruction_metrics(statistics, config.channels)
        if self.quantizes:
            metrics["commitment_loss"] = float(commitment.mean())
            metrics.update(codebook_metrics(evaluation.label_ids, config.codebook_size))
        return metrics

    def report(self, folder: Path) -> dict[str, float]:
        model = self.accelerator.unwrap_model(self.model)
        metrics = reconstruction_report(model, self.eval_dataset, folder / RECONSTRUCTIONS_FILE)
        return {f"eval_{name}": value for name, value in metrics.items()}

    def is_best(self, metrics: dict[str, float], trial: Any) -> bool:
        # Without the quantiser the loss is lower than any that follows.
        return super().is_best(metrics, trial) if self.quantizes else False


class _CodebookUpdate(TrainerCallback):
    """Moves the codebook once per optimizer step, by what all its batches chose: were it moved at each forward pass,
    accumulated gradients would not be those of a larger batch."""

    def __init__(self, trainer: TokenizerTrainer):
        self.trainer = trainer

    def on_step_begin(self, args, state, control, **kwargs):
        self.trainer.chosen.clear()

    def on_optimizer_step(self, args, state, control, **kwargs):
        if self.trainer.chosen:
            codebook = self.trainer.model.codebook
            first, *others = (
                codebook.totals(latents, codes.clamp(min=0), codes >= 0) for latents, codes in self.trainer.chosen
            )
            codebook.follow(sum(others, start=first))


class _CodebookInitialization(TrainerCallback):
    """Sets the codebook by k-means when the warm start ends, before anything is evaluated or saved, and slows the encoder."""

    def __init__(self, trainer: TokenizerTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        if state.max_steps <= args.warm_start_steps:
            raise ValueError(
                f"`warm_start_steps` ({args.warm_start_steps}) must be fewer than the steps of the training"
                f" ({state.max_steps}): nothing would be quantised."
            )
        if state.global_step == 0:
            self._end_warm_start(args, state, **kwargs)

    def on_step_end(self, args, state, control, **kwargs):
        self._end_warm_start(args, state, **kwargs)

    def _end_warm_start(self, args, state, *, optimizer, lr_scheduler, **kwargs):
        if state.global_step != args.warm_start_steps:
            return
        # Checkpoints hold the state of the scheduler, the changed rates included.
        scheduler = getattr(lr_scheduler, "scheduler", lr_scheduler)
        for index, group in enumerate(optimizer.param_groups):
            if group["part"] == "encoder":
                scheduler.base_lrs[index] *= args.quantized_encoder_lr
                group["lr"] *= args.quantized_encoder_lr
        if args.kmeans_windows == 0:
            return
        initialize_codebook(
            self.trainer.accelerator.unwrap_model(self.trainer.model),
            self.trainer.train_dataset,
            self.trainer.accelerator,
            num_windows=args.kmeans_windows,
            num_iterations=args.kmeans_iterations,
            seed=args.seed,
            windows_per_step=args.train_batch_size * args.world_size * args.gradient_accumulation_steps,
        )


class _CodebookRevival(TrainerCallback):
    """Revives unused codes every `revival_steps` steps; not in the last fifth of the training, in which codes settle."""

    def __init__(self, trainer: TokenizerTrainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        step = state.global_step
        if (
            not args.revival_steps
            or step % args.revival_steps
            or not args.warm_start_steps < step < 0.8 * state.max_steps
        ):
            return
        revive_codes(
            self.trainer.accelerator.unwrap_model(self.trainer.model).codebook,
            [latents[codes >= 0] for latents, codes in self.trainer.chosen],
            self.trainer.accelerator,
            usage=args.revival_usage,
            seed=args.seed + step,
        )


def pretrain_tokenizer(
    tokenizer_arguments: TokenizerArguments,
    data_arguments: DataArguments,
    training_arguments: TokenizerTrainingArguments,
) -> dict[str, Any]:
    """Trains a tokenizer on the training split and validates it on the validation split; test subjects are not touched.

    The run's folder receives the best model with its feature extractor and model card, checkpoints, logs and `run.json`. A run that was
    interrupted continues when it is started again with the same arguments.

    Returns:
        Validation metrics of the best checkpoint: see `TokenizerTrainer`.
    """
    return pretrain_by_loss(
        TOKENIZER,
        CMSSLTokenizerModel,
        tokenizer_arguments,
        data_arguments,
        training_arguments,
        trainer_class=TokenizerTrainer,
    )


TOKENIZER = register_stage(
    Stage(
        name="tokenizer",
        label="stage 1",
        learns="reconstruction",
        title="tokenizer of {signals} (CM-SSL, stage 1)",
        method=(
            "A vector-quantised autoencoder that gives one code of a joint vocabulary to each patch of synchronous signals. It is"
            " the first stage of cross-modality self-supervised learning (CM-SSL): encoders of one signal then learn to name its"
            " codes."
        ),
        usage="""
from transformers import AutoFeatureExtractor, AutoModel

name = ""
feature_extractor = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=True)
tokenizer = AutoModel.from_pretrained(name, trust_remote_code=True)

# {arrays}: synchronous 1-d arrays, here at 125 Hz
inputs = feature_extractor({arguments}, sampling_rate=125, return_tensors="pt")
codes = tokenizer.encode(**inputs)  # (batch, patches)
signals = tokenizer.decode(codes)  # (batch, channels, samples)
""",
        results_note=(
            "Explained variance is of what the codes alone let the decoder reconstruct. Perplexity is that of the codes'"
            " frequencies: how many codes are in use as if evenly."
        ),
        arguments=(TokenizerArguments, DataArguments, TokenizerTrainingArguments),
        function=pretrain_tokenizer,
    )
)
