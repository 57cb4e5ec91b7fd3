"""Stage 1: a tokenizer from synchronous signals."""

from typing import Any

from transformers import set_seed

from ..data.windows_dataset import WindowsCollator, WindowsDataset
from ..models.cmssl.configuration_cmssl import CMSSLTokenizerConfig
from ..models.cmssl.feature_extraction_cmssl import CMSSLFeatureExtractor
from ..models.cmssl.modeling_cmssl_tokenizer import CMSSLTokenizerModel
from .arguments import DataArguments, TokenizerArguments, TokenizerTrainingArguments
from .provenance import describe_data, median_window_seconds
from .run_folder import RunFolder, model_identity, training_identity
from .stage_data import load_stage_data
from .tokenizer_trainer import TokenizerTrainer


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
    set_seed(training_arguments.seed)
    config = CMSSLTokenizerConfig(**{"channels": tokenizer_arguments.channels, **tokenizer_arguments.config_overrides})
    feature_extractor = CMSSLFeatureExtractor(
        channels=config.channels,
        sampling_rate=config.sampling_rate,
        patch_size=config.patch_size,
        do_band_pass=data_arguments.do_band_pass,
    )
    splits = load_stage_data(data_arguments, feature_extractor, training_arguments, ("train", "validation"))
    config.window_seconds = median_window_seconds(splits["train"], config.sampling_rate)
    augmentation = tokenizer_arguments.augmentation()
    run = RunFolder(
        training_arguments.output_dir,
        {
            "stage": "tokenizer",
            "data": describe_data(splits, data_arguments),
            "model": model_identity(config),
            "training": training_identity(training_arguments),
            "augmentation": vars(augmentation),
        },
    )
    with training_arguments.main_process_first(local=False, desc="opening the run's folder"):
        checkpoint = run.open()
    trainer = TokenizerTrainer(
        model=CMSSLTokenizerModel(config),
        args=training_arguments,
        data_collator=WindowsCollator(config.patch_size),
        train_dataset=WindowsDataset(
            splits["train"], ["input_values"], augmentation=augmentation, seed=training_arguments.seed
        ),
        eval_dataset=WindowsDataset(splits["validation"], ["input_values"]),
        processing_class=feature_extractor,
    )
    metrics = trainer.run(run, checkpoint)
    trainer.publish()
    return metrics
