"""What the three stages make of their arguments, without training: each ends where it would open its run's folder."""

import json

import pytest
import torch
from tiny import encoder_config, tokenizer_config

from cmssl_hf import (
    CMSSLEncoderForPreTraining,
    CMSSLFeatureExtractor,
    CMSSLTokenizerModel,
)
from cmssl_hf.training import encoder, finetuning, tokenizer
from cmssl_hf.training.arguments import DataArguments
from cmssl_hf.training.encoder import EncoderArguments, EncoderTrainingArguments, pretrain_encoder
from cmssl_hf.training.finetuning import FinetuningArguments, TaskArguments, finetune
from cmssl_hf.training.tokenizer import TokenizerArguments, TokenizerTrainingArguments, pretrain_tokenizer


PEOPLE = {"num_subjects": 10, "seconds_per_subject": 20.0}
RATE = 64
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TINY_TOKENIZER = {
    **TINY,
    "num_decoder_layers": 1,
    "num_decoder_attention_heads": 2,
    "decoder_mlp_size": 32,
    "codebook_size": 16,
    "codebook_dim": 8,
}
AUGMENTED = {"masked_share": 0.3, "baseline_wander": 0.2}


class Opened(Exception):
    """The identity of the run that a stage would open."""


@pytest.fixture
def identity_of(monkeypatch):
    """Runs a stage as far as its run's folder and returns the identity that it would write."""

    def refuse(path, identity, **provenance):
        raise Opened(identity)

    for stage in (tokenizer, encoder, finetuning):
        monkeypatch.setattr(stage, "RunFolder", refuse)

    def identity_of(stage, *arguments):
        with pytest.raises(Opened) as opened:
            stage(*arguments)
        return opened.value.args[0]

    return identity_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("settings")


@pytest.fixture(scope="module")
def models(folder):
    """A tokenizer and an encoder of PPG at 64 Hz that read unfiltered signals."""
    torch.manual_seed(0)
    extractor = {"sampling_rate": RATE, "patch_size": 32, "do_band_pass": False}
    CMSSLTokenizerModel(tokenizer_config(sampling_rate=RATE, patch_size=32)).save_pretrained(folder / "tokenizer")
    CMSSLFeatureExtractor(channels=("ecg", "ppg"), **extractor).save_pretrained(folder / "tokenizer")
    CMSSLEncoderForPreTraining(encoder_config(sampling_rate=RATE, patch_size=32)).save_pretrained(folder / "encoder")
    CMSSLFeatureExtractor(**extractor).save_pretrained(folder / "encoder")
    return {"tokenizer": str(folder / "tokenizer"), "encoder": str(folder / "encoder")}


def training(kind, folder, **options):
    return kind(**{"output_dir": str(folder / "run"), "use_cpu": True, "report_to": "none", "max_steps": 2} | options)


def stage_arguments(stage, folder, models, model=None, data=None, **options):
    """The stage and its arguments, which tests override."""
    data = {"cache_dir": str(folder / "cache"), "dataset_options": PEOPLE} | (data or {})
    if stage == "tokenizer":
        overrides = {**TINY_TOKENIZER, "sampling_rate": RATE, "patch_size": 32}
        model = TokenizerArguments(**{"config_overrides": overrides} | (model or {}))
        kinds = pretrain_tokenizer, TokenizerTrainingArguments
    elif stage == "encoder":
        model = EncoderArguments(**{"tokenizer": models["tokenizer"], "config_overrides": TINY} | (model or {}))
        kinds = pretrain_encoder, EncoderTrainingArguments
    else:
        model = TaskArguments(**{"task": "simulated_hr", "model_name_or_path": models["encoder"]} | (model or {}))
        kinds = finetune, FinetuningArguments
    if stage != "finetuning" and "prepared_dir" not in data:
        data = {"dataset": "simulated", "dataset_config": "pairs"} | data
    return kinds[0], model, DataArguments(**data), training(kinds[1], folder, **options)


@pytest.mark.parametrize("stage", ["tokenizer", "encoder", "finetuning"])
def test_augmentation_knows_the_rate_of_the_model(stage, folder, models, identity_of):
    identity = identity_of(*stage_arguments(stage, folder, models, model=AUGMENTED))
    assert identity["augmentation"]["sampling_rate"] == RATE
    assert json.dumps(identity["augmentation"])
