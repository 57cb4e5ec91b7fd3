"""What the three stages make of their arguments, without training: each ends where it would open its run's folder."""

import json

import pytest
import torch

from cmssl_hf import CMSSLEncoderForPreTraining, CMSSLFeatureExtractor, CMSSLTokenizerModel
from cmssl_hf.training import encoder, finetuning, pretraining, stage
from cmssl_hf.training.arguments import DataArguments
from cmssl_hf.training.encoder import EncoderArguments, EncoderTrainingArguments, pretrain_encoder
from cmssl_hf.training.finetuning import FinetuningArguments, TaskArguments, finetune
from cmssl_hf.training.tokenizer import TokenizerArguments, TokenizerTrainingArguments, pretrain_tokenizer
from helpers.tiny import TINY_TOKENIZER, encoder_config, tokenizer_config


PEOPLE = {"num_subjects": 10, "seconds_per_subject": 20.0}
RATE = 64
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
AUGMENTED = {"masked_share": 0.3, "baseline_wander": 0.2}


class Opened(Exception):
    """The identity of the run that a stage would open."""


@pytest.fixture
def identity_of(monkeypatch):
    """Runs a stage as far as its run's folder and returns the identity that it would write."""

    def refuse(path, identity, **provenance):
        raise Opened(identity)

    monkeypatch.setattr(stage, "RunFolder", refuse)

    def identity_of(run, *arguments):
        with pytest.raises(Opened) as opened:
            run(*arguments)
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
        start = {"model_name_or_path": models["encoder"], "accept_unknown_provenance": True}
        model = TaskArguments(**{"task": "simulated_hr", **start} | (model or {}))
        kinds = finetune, FinetuningArguments
    if stage != "finetuning" and "prepared_dir" not in data:
        data = {"dataset": "simulated", "dataset_config": "pairs"} | data
    return kinds[0], model, DataArguments(**data), training(kinds[1], folder, **options)


@pytest.mark.parametrize("stage", ["tokenizer", "encoder", "finetuning"])
def test_augmentation_knows_the_rate_of_the_model(stage, folder, models, identity_of):
    identity = identity_of(*stage_arguments(stage, folder, models, model=AUGMENTED))
    assert identity["augmentation"]["sampling_rate"] == RATE
    assert json.dumps(identity["augmentation"])


@pytest.mark.parametrize("stage", ["encoder", "finetuning"])
def test_another_filter_than_that_of_the_model_is_refused(stage, folder, models):
    run, *arguments = stage_arguments(stage, folder, models, data={"do_band_pass": True})
    with pytest.raises(
        ValueError, match=r"`do_band_pass` is True, but the .* was trained on signals with do_band_pass=False"
    ):
        run(*arguments)


@pytest.mark.parametrize("stage", ["encoder", "finetuning"])
@pytest.mark.parametrize("do_band_pass", [None, False])
def test_a_later_stage_filters_as_its_model_did(stage, do_band_pass, folder, models, monkeypatch):
    """And so does a flag that says the same."""
    seen = []

    def load(arguments, feature_extractor, *rest):
        seen.append(feature_extractor.do_band_pass)
        raise Opened

    monkeypatch.setattr({"encoder": encoder, "finetuning": finetuning}[stage], "load_stage_data", load)
    run, *arguments = stage_arguments(stage, folder, models, data={"do_band_pass": do_band_pass})
    with pytest.raises(Opened):
        run(*arguments)
    assert seen == [False]


@pytest.mark.parametrize(("do_band_pass", "expected"), [(None, True), (True, True), (False, False)])
@pytest.mark.parametrize("stage", ["tokenizer", "finetuning"])
def test_a_new_model_is_filtered_as_asked(stage, do_band_pass, expected, folder, models, monkeypatch):
    seen = []

    def load(arguments, feature_extractor, *rest):
        seen.append(feature_extractor.do_band_pass)
        raise Opened

    monkeypatch.setattr({"tokenizer": pretraining, "finetuning": finetuning}[stage], "load_stage_data", load)
    scratch = {"from_scratch": "small", "model_name_or_path": None} if stage == "finetuning" else {}
    run, *arguments = stage_arguments(stage, folder, models, model=scratch, data={"do_band_pass": do_band_pass})
    with pytest.raises(Opened):
        run(*arguments)
    assert seen == [expected]


@pytest.mark.parametrize("former", [False, True])
def test_a_random_start_is_the_same_run_under_its_former_name(former, folder, models, identity_of):
    start = {"model_name_or_path": "small"} if former else {"from_scratch": "small", "model_name_or_path": None}
    model = {**start, "config_overrides": TINY}
    assert identity_of(*stage_arguments("finetuning", folder, models, model=model))["initialisation"] == "small"


def test_random_weights_are_named_as_such(folder, models, identity_of):
    model = {"random_weights": True, "config_overrides": {"num_hidden_layers": 1}}
    identity = identity_of(*stage_arguments("finetuning", folder, models, model=model))
    assert identity["initialisation"] == "random weights"
    assert identity["model"]["num_hidden_layers"] == 1


@pytest.mark.parametrize(
    ("stage", "options", "message"),
    [
        ("finetuning", {"data": {"additional_data": ["bidmc=folder"]}}, "`additional_data` are for pre-training"),
        ("finetuning", {"model": {"balance_classes": 1.0}}, "`balance_classes` weights classes, but simulated_hr"),
        (
            "finetuning",
            {"metric_for_best_model": "rmse"},
            "best checkpoint of simulated_hr is that with the smallest mae",
        ),
        (
            "finetuning",
            {"model": {"freeze_encoder": True}, "layerwise_lr_decay": 0.9},
            "`layerwise_lr_decay` does nothing with `freeze_encoder`",
        ),
        (
            "finetuning",
            {"model": {"config_overrides": {"num_attention_heads": 4}}},
            r"num_attention_heads=4, but .*encoder has num_attention_heads=2, which fine-tuning cannot change",
        ),
        (
            "finetuning",
            {"model": {"config_overrides": {"sampling_rate": 125}}},
            "has sampling_rate=64, which fine-tuning",
        ),
        (
            "finetuning",
            {"model": {"random_weights": True, "config_overrides": {"patch_size": 16}}},
            "has patch_size=32, which fine-tuning cannot change",
        ),
        ("tokenizer", {"data": {"dataset": None}}, "Which data"),
        ("encoder", {"data": {"dataset": None}}, "Which data"),
        ("tokenizer", {"model": {"noise": -0.1}}, "`noise` must be at least 0, but is -0.1"),
        (
            "tokenizer",
            {"model": {"channels": ["ppg"]}, "data": {"exclude_issues": ["ecg_flat"]}},
            "`exclude_issues` names ecg_flat, but only ppg is read",
        ),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(stage, options, message, folder, models):
    run, *arguments = stage_arguments(stage, folder, models, **options)
    with pytest.raises(ValueError, match=message):
        run(*arguments)
    assert not (folder / "run").exists()


def test_values_that_the_model_has_anyway_are_accepted(folder, models, identity_of):
    same = {"channels": ["ppg"], "sampling_rate": RATE, "num_attention_heads": 2, "hidden_dropout_prob": 0.2}
    identity = identity_of(*stage_arguments("finetuning", folder, models, model={"config_overrides": same}))
    assert identity["model"]["hidden_dropout_prob"] == 0.2
