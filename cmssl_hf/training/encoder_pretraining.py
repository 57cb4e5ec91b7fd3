"""Stage 2: an encoder of one signal that names the codes of a frozen tokenizer."""

from dataclasses import replace
from typing import Any

from datasets import DatasetDict
from transformers import AutoConfig, set_seed

from ..data.augmentation import Augmentation
from ..data.augmented_copies import with_augmented_copies
from ..data.codes import add_codes, count_codes, model_fingerprint
from ..data.windows_dataset import WindowsCollator, WindowsDataset
from ..models.cmssl.configuration_cmssl import CMSSLEncoderConfig, CMSSLTokenizerConfig
from ..models.cmssl.feature_extraction_cmssl import CMSSLFeatureExtractor
from ..models.cmssl.modeling_cmssl_encoder import CMSSLEncoderForPreTraining
from ..models.cmssl.modeling_cmssl_tokenizer import CMSSLTokenizerModel
from ..models.cmssl.signal_processing_cmssl import PASS_BANDS
from .arguments import DataArguments, EncoderArguments, EncoderTrainingArguments
from .encoder_trainer import EncoderTrainer
from .provenance import describe_data, median_window_seconds, run_of_model
from .run_folder import RunFolder, check_model_name, model_identity, training_identity
from .stage_data import load_stage_data


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
    tokenizer = _load_tokenizer(encoder_arguments.tokenizer).to(training_arguments.device)
    config = _encoder_config(encoder_arguments, tokenizer)
    channel = encoder_arguments.channel
    # Tokenizer and encoder read the same windows: those with all the signals that either needs.
    channels = tuple(name for name in PASS_BANDS if name in {*tokenizer.config.channels, channel})
    tokenizer_extractor = CMSSLFeatureExtractor.from_pretrained(encoder_arguments.tokenizer)
    settings = {name: getattr(tokenizer_extractor, name) for name in ("do_band_pass", "pass_bands", "do_standardize")}
    settings |= {"sampling_rate": config.sampling_rate, "patch_size": config.patch_size}
    splits = load_stage_data(
        data_arguments,
        CMSSLFeatureExtractor(channels=channels, **settings),
        training_arguments,
        ("train", "validation"),
    )
    config.window_seconds = median_window_seconds(splits["train"], config.sampling_rate)
    augmentation = encoder_arguments.augmentation()
    # Noise, drift and masks hide what the encoder reads; the tokenizer reads the whole signal.
    hiding = Augmentation(
        **{name: getattr(augmentation, name) for name in ("noise", "baseline_wander", "masked_share")}
    )
    together = replace(augmentation, noise=0.0, baseline_wander=0.0, masked_share=0.0)
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
    run = RunFolder(
        training_arguments.output_dir,
        {
            "stage": "encoder",
            "data": describe_data(splits, data_arguments),
            "model": model_identity(config),
            "training": training_identity(training_arguments),
            "tokenizer": model_fingerprint(tokenizer),
            "augmentation": {**vars(augmentation), "copies": encoder_arguments.augmented_copies},
        },
        provenance={"builds_on": run_of_model(encoder_arguments.tokenizer)},
    )
    with training_arguments.main_process_first(local=False, desc="opening the run's folder"):
        checkpoint = run.open()
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
    trainer.publish()
    return metrics


def _load_tokenizer(name: str) -> CMSSLTokenizerModel:
    check_model_name(name)
    config = AutoConfig.from_pretrained(name)
    if not isinstance(config, CMSSLTokenizerConfig):
        raise ValueError(f"`tokenizer` {name} holds a {config.model_type}, not a tokenizer of stage 1.")
    return CMSSLTokenizerModel.from_pretrained(name, config=config)


def _encoder_config(arguments: EncoderArguments, tokenizer: CMSSLTokenizerModel) -> CMSSLEncoderConfig:
    inherited = {name: getattr(tokenizer.config, name) for name in ("sampling_rate", "codebook_size")}
    channels = tuple(arguments.config_overrides.get("channels", (arguments.channel,)))
    if channels != (arguments.channel,):
        raise ValueError(
            f"The encoder reads {arguments.channel}, but `config_overrides` ask for {' and '.join(channels)}."
        )
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
        arguments.encoder_size, **{**fields, **inherited, **arguments.config_overrides}
    )
