"""The three stages on `transformers.Trainer`, one file each: `tokenizer`, `encoder`, `finetuning` (what it is told: `finetuning_arguments`)."""

from .. import naming_the_extra


with naming_the_extra():
    from . import objectives  # noqa: F401 (registers them)
    from .arguments import AugmentationArguments, DataArguments
    from .encoder import EncoderArguments, EncoderTrainingArguments, pretrain_encoder
    from .finetuning import FinetuningArguments, TaskArguments, finetune
    from .model_card import write_model_card
    from .stage import Stage, register_objective
    from .tokenizer import TokenizerArguments, TokenizerTrainingArguments, pretrain_tokenizer


__all__ = [
    "AugmentationArguments",
    "DataArguments",
    "EncoderArguments",
    "EncoderTrainingArguments",
    "FinetuningArguments",
    "Stage",
    "TaskArguments",
    "TokenizerArguments",
    "TokenizerTrainingArguments",
    "finetune",
    "pretrain_encoder",
    "pretrain_tokenizer",
    "register_objective",
    "write_model_card",
]
