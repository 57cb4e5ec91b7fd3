"""Parameter groups: every trainable parameter once, with the rates and decays of the published recipe."""

import pytest
import torch

from cmssl_hf import CMSSLEncoderForPreTraining, CMSSLEncoderForSequenceClassification, CMSSLTokenizerModel
from cmssl_hf.training.engine.arguments import StageArguments
from cmssl_hf.training.engine.optimization import parameter_groups
from cmssl_hf.training.engine.trainer import StageTrainer
from helpers.tiny import encoder_config, tokenizer_config


MODELS = {
    "tokenizer": lambda: CMSSLTokenizerModel(tokenizer_config(num_hidden_layers=3)),
    "pretraining": lambda: CMSSLEncoderForPreTraining(encoder_config(num_hidden_layers=3)),
    "classification": lambda: CMSSLEncoderForSequenceClassification(encoder_config(num_hidden_layers=3)),
    "convolutional": lambda: CMSSLEncoderForPreTraining(
        encoder_config(num_hidden_layers=3, patch_embedding="conv", position_embedding="conv")
    ),
}


def groups_by_name(model, **options):
    decayed = [name for name, parameter in model.named_parameters() if parameter.ndim > 1]
    groups = parameter_groups(model, decayed=decayed, learning_rate=1.0, weight_decay=0.1, **options)
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    found = {}
    for group in groups:
        for parameter in group["params"]:
            assert name_of[parameter] not in found
            found[name_of[parameter]] = group
    return found


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_every_parameter_is_in_one_group(make):
    model = make()
    assert set(groups_by_name(model)) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_groups_stay_within_a_part_of_the_model(make):
    for name, group in groups_by_name(make()).items():
        assert group["part"] == name.split(".")[0]


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_no_decay_for_biases_and_norms(make, tmp_path):
    model = make()
    arguments = StageArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", eval_strategy="no", save_strategy="no",
        load_best_model_at_end=False, weight_decay=0.1,
    )  # fmt: skip
    optimizer = StageTrainer(model=model, args=arguments).create_optimizer()
    dimensions = {}
    for group in optimizer.param_groups:
        dimensions.setdefault(group["weight_decay"], set()).update(parameter.ndim for parameter in group["params"])
    assert dimensions == {0.1: {parameter.ndim for parameter in model.parameters()} - {1}, 0.0: {1}}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (
            "tokenizer",
            {
                "encoder.patch_projection.weight": 0.125,
                "encoder.layers.0.fc1.weight": 0.25,
                "encoder.layers.1.fc1.bias": 0.5,
                "encoder.layers.2.attention.qkv_proj.weight": 1.0,
                "encoder.code_projection.weight": 1.0,
                "decoder.layers.0.fc1.weight": 1.0,
                "decoder.fc3.weight": 1.0,
            },
        ),
        (
            "pretraining",
            {
                "encoder.patch_projection.bias": 0.125,
                "encoder.layers.0.output_layer_norm.weight": 0.25,
                "encoder.layers.2.fc2.weight": 1.0,
                "code_head.weight": 1.0,
            },
        ),
        ("classification", {"encoder.layers.1.fc2.weight": 0.5, "classifier.out_proj.weight": 1.0}),
        (
            "convolutional",
            {
                "encoder.stem.layers.0.conv.weight": 0.125,
                "encoder.stem.layer_norm.bias": 0.125,
                "encoder.patch_projection.weight": 0.125,
                "encoder.positional_convolution.conv.weight": 0.125,
                "encoder.layers.0.fc1.weight": 0.25,
                "code_head.weight": 1.0,
            },
        ),
    ],
)
def test_layers_learn_slower_the_lower_they_are(kind, expected):
    groups = groups_by_name(MODELS[kind](), layerwise_lr_decay=0.5)
    assert {name: groups[name]["lr"] for name in expected} == expected


def test_head_has_its_own_rate():
    groups = groups_by_name(MODELS["classification"](), head_learning_rate=5.0, layerwise_lr_decay=0.5)
    for name, group in groups.items():
        assert (group["lr"] == 5.0) == name.startswith("classifier.")


def test_frozen_parameters_are_in_no_group():
    model = MODELS["classification"]()
    model.freeze_encoder()
    assert all(name.startswith("classifier.") for name in groups_by_name(model))


def test_codebook_is_no_parameter():
    model = MODELS["tokenizer"]()
    assert not any("codebook" in name for name, _ in model.named_parameters())
    assert {"weight", "cluster_size", "vector_sum"} == {name for name, _ in model.codebook.named_buffers()}
    assert all(isinstance(buffer, torch.Tensor) and not buffer.requires_grad for buffer in model.codebook.buffers())
