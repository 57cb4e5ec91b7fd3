"""The stage that tests of several processes and of a GPU launch: a tiny tokenizer of simulated people."""

from cmssl_hf.training.arguments import DataArguments
from cmssl_hf.training.engine.parsing import parse_arguments
from cmssl_hf.training.tokenizer import TokenizerArguments, TokenizerTrainingArguments
from helpers.checkout import ROOT
from helpers.tiny import NO_DROPOUT, TINY_TOKENIZER


STAGE = (
    ROOT / "scripts" / "pretrain_tokenizer.py",
    ROOT / "scripts" / "configs" / "pretrain_tokenizer_small-data.yaml",
)
_TINY = ",".join(f"{name}={value}" for name, value in (TINY_TOKENIZER | NO_DROPOUT).items())


def flags(output_dir, cache_dir, batch_size, **options):
    values = {
        "dataset": "simulated",
        "dataset_config": "pairs",
        "dataset_options": "num_subjects=10,seconds_per_subject=60",
        "config_overrides": _TINY,
        "time_stretch": 1.0,
        "amplitude_jitter": 0.0,
        "noise": 0.0,
        "output_dir": output_dir,
        "cache_dir": cache_dir,
        "per_device_train_batch_size": batch_size,
        "warm_start_steps": 4,
        "kmeans_windows": 40,
        "max_steps": 30,
        "eval_steps": 5,
        "save_steps": 5,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
    } | options
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]


def arguments(stage_flags):
    kinds = (TokenizerArguments, DataArguments, TokenizerTrainingArguments)
    return parse_arguments(kinds, [str(STAGE[1]), *stage_flags])
