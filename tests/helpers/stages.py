"""The three stages as functions that train tiny models on simulated people."""

from cmssl_hf.training.arguments import DataArguments
from cmssl_hf.training.encoder import EncoderArguments, EncoderTrainingArguments, pretrain_encoder
from cmssl_hf.training.finetuning import FinetuningArguments, TaskArguments, finetune
from cmssl_hf.training.tokenizer import TokenizerArguments, TokenizerTrainingArguments, pretrain_tokenizer
from helpers.tiny import TINY_TOKENIZER


PEOPLE = {"num_subjects": 20, "seconds_per_subject": 60.0}  # 16 / 2 / 2 people with 6 windows each
TINY_ENCODER = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


def training(kind, folder, **options):
    defaults = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "per_device_train_batch_size": 16,
        "max_steps": 8,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "learning_rate": 3e-3,
    }
    if kind is TokenizerTrainingArguments:
        defaults |= {"warm_start_steps": 4, "kmeans_windows": 64}
    return kind(**defaults | options)


def run_tokenizer(folder, cache, channels=("ecg", "ppg"), **options):
    model = TokenizerArguments(channels=list(channels), config_overrides=TINY_TOKENIZER)
    data = DataArguments(
        dataset="simulated", dataset_config="pairs", cache_dir=str(cache), dataset_options=dict(PEOPLE)
    )
    return pretrain_tokenizer(model, data, training(TokenizerTrainingArguments, folder, **options))


def run_encoder(
    folder, cache, tokenizer, channel="ppg", dataset_config="pairs", overrides=None, model_options=None, **options
):
    overrides = TINY_ENCODER | (overrides or {})
    model = EncoderArguments(
        tokenizer=str(tokenizer), channel=channel, config_overrides=overrides, **model_options or {}
    )
    data = DataArguments(
        dataset="simulated", dataset_config=dataset_config, cache_dir=str(cache), dataset_options=dict(PEOPLE)
    )
    return pretrain_encoder(model, data, training(EncoderTrainingArguments, folder, **options))


def run_finetuning(folder, cache, model, task="simulated_hr", data=None, model_options=None, **options):
    scratch = {"config_overrides": TINY_ENCODER} if str(model) == "small" else {}
    arguments = TaskArguments(task=task, model_name_or_path=str(model), **scratch | (model_options or {}))
    data = DataArguments(**{"cache_dir": str(cache), "dataset_options": dict(PEOPLE)} | (data or {}))
    return finetune(arguments, data, training(FinetuningArguments, folder, **options))
