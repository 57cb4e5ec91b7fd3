"""Stage 2: an encoder of one signal that names the codes of a frozen tokenizer."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import DatasetDict
from torch import nn
from transformers import AutoConfig, EvalPrediction, set_seed

from ..data.batches import WindowsCollator, WindowsDataset
from ..data.codes import add_codes, count_codes, model_fingerprint, with_augmented_copies
from ..models.cmssl.configuration_cmssl import CMSSLEncoderConfig, CMSSLTokenizerConfig
from ..models.cmssl.feature_extraction_cmssl import CMSSLFeatureExtractor
from ..models.cmssl.modeling_cmssl_encoder import CMSSLEncoderForPreTraining
from ..models.cmssl.modeling_cmssl_tokenizer import CMSSLTokenizerModel
from ..models.cmssl.signal_processing_cmssl import PASS_BANDS
from .arguments import DataArguments
from .data import describe_data, load_stage_data, median_window_seconds
from .engine.arguments import StageArguments
from .engine.provenance import is_fully_known, known_run_of_model
from .engine.run_folder import check_model_name
from .engine.trainer import StageTrainer
from .model_card import write_model_card
from .pretraining import PretrainingArguments
from .probes import probe_encoder
from .stage import Stage, register_objective


logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class EncoderArguments(PretrainingArguments):
    """The encoder of stage 2 and the tokenizer it learns from.

    What changes all signals together (playing speed, gain, polarity) changes the tokens too, so it is done in copies of the
    data that are tokenised once; what only hides the encoder's own signal (noise, drift, masks) is drawn anew at each step.
    """

    tokenizer: str = field(metadata={"help": "Folder or Hub id of the tokenizer of stage 1."})
    augmented_copies: int = field(
        default=0,
        metadata={
            "help": "Copies of the training windows with `time_stretch`, `amplitude_jitter` and `polarity_flip`, tokenised anew."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        changes_tokens = self.time_stretch > 1 or self.amplitude_jitter > 0 or self.polarity_flip > 0
        if changes_tokens != (self.augmented_copies > 0):
            raise ValueError(
                "`time_stretch`, `amplitude_jitter` and `polarity_flip` change the tokens and are done in `augmented_copies`: give"
                " both or neither."
            )


@dataclass
class EncoderTrainingArguments(StageArguments):
    """Training of stage 2."""

    soft_target_temperature: float = field(
        default=0.0,
        metadata={
            "help": "Train towards codes like the right one, by softmax(cosine / temperature); 0: the right one only (published)."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.soft_target_temperature >= 0:
            raise ValueError(f"`soft_target_temperature` must be at least 0, but is {self.soft_target_temperature}.")


def soft_targets(codebook: torch.Tensor, temperature: float) -> torch.Tensor:
    """For each code a distribution over the codes near it, `softmax(cosine / temperature)`: `(codebook_size, codebook_size)`.

    With thousands of codes many stand for almost the same signal, and which of them the tokenizer chose cannot be told from the
    other signal. Hard targets teach the encoder to remember it.

    Args:
        codebook: unit vectors `(codebook_size, codebook_dim)`.
        temperature: of the distributions; near 0 each becomes its code alone.
    """
    return (codebook @ codebook.t() / temperature).softmax(-1)


class EncoderTrainer(StageTrainer):
    """Stage 2: cross-entropy against the frozen tokenizer's codes.

    Args:
        code_counts: how often each code occurs in the training set `(codebook_size,)`. Validation compares the
            cross-entropy with that of always predicting these frequencies.
        dataset_channels: channels of the datasets' `input_values`; with them the best model is probed for what the windows
            tell, see `encoder_probes`.
        codebook: the tokenizer's codes `(codebook_size, codebook_dim)`; with them and a `soft_target_temperature` the encoder
            is trained towards codes like the right one too. Validation knows right and wrong only.
    """

    args: EncoderTrainingArguments
    model: CMSSLEncoderForPreTraining

    def __init__(
        self,
        *args,
        code_counts: np.ndarray,
        dataset_channels: Sequence[str] = (),
        codebook: torch.Tensor | None = None,
        **kwargs,
    ):
        super().__init__(*args, compute_metrics=self._metrics, **kwargs)
        self.dataset_channels = dataset_channels
        temperature = self.args.soft_target_temperature
        self._soft_targets = None
        if codebook is not None and temperature > 0:
            self._soft_targets = soft_targets(codebook.detach().to(self.args.device), temperature)
        # One more of each: a code that is new in validation would otherwise be infinitely surprising.
        self._log_frequencies = np.log((code_counts + 1) / (code_counts + 1).sum())

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch=None
    ):
        soft = self._soft_targets if model.training else None
        outputs = model(**inputs, return_logits=return_outputs, soft_targets=soft)
        if model.training:
            outputs.loss = outputs.loss * self.shares(inputs)[0]
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def loss_terms(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return (inputs["labels"] >= 0).sum()[None]

    def predict_batch(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self.on_device(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        labels = inputs["labels"]
        log_probabilities = outputs.logits.float().log_softmax(-1)
        of_label = log_probabilities.gather(-1, labels.clamp(min=0)[..., None])
        # The number of codes that are more likely than the right one, in place of the whole distribution.
        rank = (log_probabilities > of_label).sum(-1)
        return loss.detach(), (-of_label[..., 0], rank), labels

    def _metrics(self, evaluation: EvalPrediction) -> dict[str, float]:
        negative_log_likelihood, rank = evaluation.predictions
        labels = evaluation.label_ids
        real = labels >= 0
        return {
            "cross_entropy": float(negative_log_likelihood[real].mean()),
            "token_frequency_cross_entropy": float(-self._log_frequencies[labels[real]].mean()),
            "top1_accuracy": float((rank[real] < 1).mean()),
            "top5_accuracy": float((rank[real] < 5).mean()),
        }

    def report(self, folder: Path) -> dict[str, float]:
        if not self.dataset_channels:
            return {}
        encoder = self.accelerator.unwrap_model(self.model).encoder
        metrics = probe_encoder(
            encoder,
            self.train_dataset.dataset,
            self.eval_dataset.dataset,
            channels=self.dataset_channels,
            channel=encoder.config.channels[0],
        )
        return {f"eval_{name}": value for name, value in metrics.items()}


def pretrain_encoder(
    encoder_arguments: EncoderArguments,
    data_arguments: DataArguments,
    training_arguments: EncoderTrainingArguments,
) -> dict[str, Any]:
    """Trains an encoder on the training split, against codes that the tokenizer gives once; test subjects are not touched.

    The run's folder receives the best model with its feature extractor and model card, checkpoints, logs and `run.json`.

    Returns:
        Validation metrics of the best checkpoint: see `EncoderTrainer`.

    Raises:
        ValueError: if the encoder does not fit the tokenizer or the data lack a signal.
    """
    set_seed(training_arguments.seed)
    data_arguments.check_for_pretraining()
    tokenizer = _load_tokenizer(encoder_arguments.tokenizer)
    tokenizer.to(training_arguments.device)  # type: ignore[arg-type]  # typed as if it were no method
    config = _encoder_config(encoder_arguments, tokenizer)
    channel = encoder_arguments.channel
    # Tokenizer and encoder read the same windows: those with all the signals that either needs.
    channels = tuple(name for name in PASS_BANDS if name in {*tokenizer.config.channels, channel})
    tokenizer_extractor = CMSSLFeatureExtractor.from_pretrained(encoder_arguments.tokenizer)
    data_arguments.check_band_pass(tokenizer_extractor, f"the tokenizer {encoder_arguments.tokenizer}")
    settings = {name: getattr(tokenizer_extractor, name) for name in ("do_band_pass", "pass_bands", "do_standardize")}
    settings |= {"sampling_rate": config.sampling_rate, "patch_size": config.patch_size}
    splits = load_stage_data(
        data_arguments,
        CMSSLFeatureExtractor(channels=channels, **settings),
        training_arguments,
        ("train", "validation"),
    )
    config.window_seconds = median_window_seconds(splits["train"], config.sampling_rate)
    augmentation = encoder_arguments.augmentation(config.sampling_rate)
    # Noise, drift, movement and masks hide what the encoder reads; the tokenizer reads the whole signal.
    hiding = replace(augmentation, time_stretch=1.0, amplitude_jitter=0.0, polarity_flip=0.0)
    together = replace(augmentation, noise=0.0, baseline_wander=0.0, motion=0.0, masked_share=0.0)
    with training_arguments.main_process_first(desc="tokenising"):
        seen = dict(splits)
        if encoder_arguments.augmented_copies:
            seen["train"] = with_augmented_copies(
                splits["train"],
                together,
                num_copies=encoder_arguments.augmented_copies,
                seed=training_arguments.seed,
            )
        coded = DatasetDict(
            {split: add_codes(rows, tokenizer, dataset_channels=channels) for split, rows in seen.items()}
        )
    tokenizer_run = known_run_of_model(encoder_arguments.tokenizer)
    if not is_fully_known(tokenizer_run):
        logger.warning(
            "No `run.json` tells whom the tokenizer %s was trained on, so that nothing is known of the encoder either: its"
            " fine-tuning will have to be told `--accept_unknown_provenance true`.",
            encoder_arguments.tokenizer,
        )
    run, checkpoint = ENCODER.open_run(
        training_arguments,
        config,
        describe_data(splits, data_arguments),
        builds_on=tokenizer_run,
        tokenizer=model_fingerprint(tokenizer),
        augmentation={**vars(augmentation), "copies": encoder_arguments.augmented_copies},
    )
    columns = ["input_values", "codes"]
    trainer = EncoderTrainer(
        model=CMSSLEncoderForPreTraining(config),
        args=training_arguments,
        data_collator=WindowsCollator(
            config.patch_size,
            label_column="codes",
            codes_per_patch=config.codes_per_patch,
        ),
        train_dataset=WindowsDataset(
            coded["train"], columns, augmentation=hiding, seed=training_arguments.seed, channel=channels.index(channel)
        ),
        eval_dataset=WindowsDataset(coded["validation"], columns, channel=channels.index(channel)),
        processing_class=CMSSLFeatureExtractor(channels=(channel,), **settings),
        code_counts=count_codes(coded["train"], config.codebook_size),
        dataset_channels=channels,
        codebook=tokenizer.codebook.weight,
    )
    metrics = trainer.run(run, checkpoint)
    trainer.publish(write_model_card)
    return metrics


def _load_tokenizer(name: str) -> CMSSLTokenizerModel:
    check_model_name(name)
    config = AutoConfig.from_pretrained(name)
    if not isinstance(config, CMSSLTokenizerConfig):
        raise ValueError(f"`tokenizer` {name} holds a {config.model_type}, not a tokenizer of stage 1.")
    return CMSSLTokenizerModel.from_pretrained(name, config=config)


def _encoder_config(arguments: EncoderArguments, tokenizer: CMSSLTokenizerModel) -> CMSSLEncoderConfig:
    inherited = {name: getattr(tokenizer.config, name) for name in ("sampling_rate", "codebook_size")}
    for name, value in inherited.items():
        wanted = arguments.config_overrides.get(name, value)
        if wanted != value:
            raise ValueError(
                f"The encoder's `{name}` must be that of its tokenizer ({value}), since it predicts one of the tokenizer's"
                f" codes for each of its patches; but it is {wanted}."
            )
    patch_size = arguments.config_overrides.get("patch_size", tokenizer.config.patch_size)
    codes_per_patch, rest = divmod(patch_size, tokenizer.config.patch_size)
    if rest or arguments.config_overrides.get("codes_per_patch", codes_per_patch) != codes_per_patch:
        raise ValueError(
            f"The encoder's `patch_size` ({patch_size}) must hold a whole number of its tokenizer's patches"
            f" ({tokenizer.config.patch_size}), which is its `codes_per_patch`."
        )
    fields = {"channels": (arguments.channel,), "patch_size": patch_size, "codes_per_patch": codes_per_patch}
    return CMSSLEncoderConfig.from_size(
        arguments.encoder_size or "small", **{**fields, **inherited, **arguments.config_overrides}
    )


ENCODER = register_objective(
    "tokens",
    Stage(
        name="encoder",
        label="stage 2",
        learns="code prediction",
        title="encoder of {signals} (CM-SSL, stage 2)",
        method=(
            "A transformer that reads one signal and was pre-trained, without labels, to name the code that a frozen tokenizer"
            " gave to each patch (cross-modality self-supervised learning, CM-SSL, stage 2). It is made to be fine-tuned, or to"
            " extract features."
        ),
        usage="""
from transformers import pipeline

name = ""
extract = pipeline("physiological-signal-feature-extraction", model=name, trust_remote_code=True)

# {arrays}: a 1-d array of any length, here at 125 Hz
features = extract({{{items}, "sampling_rate": 125}})["value"]  # ({hidden_size},)
""",
        results_note="The cross-entropy stands beside that of always predicting the codes' frequencies in the training data.",
        arguments=(EncoderArguments, DataArguments, EncoderTrainingArguments),
        function=pretrain_encoder,
    ),
)
