"""LoRA: what is trained, what a run leaves, and that it is the same model however it is loaded."""

import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification, pipeline

from cmssl_hf import (
    CMSSLEncoderForPreTraining,
    CMSSLEncoderForSequenceClassification,
    CMSSLFeatureExtractor,
    CMSSLTokenizerForSequenceClassification,
)
from cmssl_hf.models.cpu_kernels import cpu_kernels
from cmssl_hf.models.resnet1d.configuration_resnet1d import ResNet1DConfig
from cmssl_hf.models.resnet1d.modeling_resnet1d import ResNet1DModel
from cmssl_hf.training.adapters import Adapter
from cmssl_hf.training.finetuning import FinetuningTrainer, TaskArguments
from helpers.pipelines import noisy_recording
from helpers.stages import run_finetuning
from helpers.tiny import encoder_config, tokenizer_config


RANK = 2
PEOPLE = {"num_subjects": 12, "seconds_per_subject": 20.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def encoder(folder):
    # Another seed than that of the runs, which would draw the same weights.
    torch.manual_seed(5)
    CMSSLEncoderForPreTraining(encoder_config(hidden_dropout_prob=0.1)).save_pretrained(folder / "encoder")
    CMSSLFeatureExtractor(patch_size=25).save_pretrained(folder / "encoder")
    return folder / "encoder"


def run(folder, output_dir, model, **options):
    data = {"dataset_options": PEOPLE}
    model_options = {"accept_unknown_provenance": True, "lora_rank": RANK} | options
    return run_finetuning(
        output_dir, folder / "cache", model, data=data, model_options=model_options, learning_rate=1e-2
    )


@pytest.fixture(scope="module")
def finished(folder, encoder):
    run(folder, folder / "run", encoder)
    return folder / "run"


def test_all_but_the_head_and_products_of_the_rank_stays_as_it_was(encoder, finished):
    before, after = load_file(encoder / "model.safetensors"), load_file(finished / "model.safetensors")
    changed = {name for name, weight in before.items() if name in after and not torch.equal(weight, after[name])}
    layers = ("attention.qkv_proj", "attention.o_proj", "fc1", "fc2")
    assert changed == {f"encoder.layers.{number}.{layer}.weight" for number in range(2) for layer in layers}
    for name in changed:
        singular_values = np.linalg.svd((after[name] - before[name]).double().numpy(), compute_uv=False)
        assert singular_values[RANK - 1] > 1e-4 and singular_values[RANK] < 1e-6
    assert {name.partition(".")[0] for name in after.keys() - before.keys()} == {"classifier"}


@pytest.mark.parametrize("rank", [1, 4])
def test_the_number_of_trained_weights_in_closed_form(rank):
    width, inner, layers = 16, 32, 2
    narrow = layers * rank * ((width + 3 * width) + (width + width) + 2 * (width + inner))
    config = encoder_config(num_labels=3, problem_type="single_label_classification", classifier_head="linear")
    model = CMSSLEncoderForSequenceClassification(config)
    Adapter(model, rank)
    trained = {name: weight.numel() for name, weight in model.named_parameters() if weight.requires_grad}
    assert sum(trained.values()) == narrow + 3 * (width + 1)
    model = CMSSLTokenizerForSequenceClassification(tokenizer_config(num_labels=1, classifier_head="linear"))
    Adapter(model, rank)
    trained = {name: weight.numel() for name, weight in model.named_parameters() if weight.requires_grad}
    # Vectors for the signals that are not there are new, too; the features are as wide as the codes.
    assert sum(trained.values()) == narrow // layers + 2 * width + (8 + 1)


def test_the_adapter_on_the_encoder_is_the_merged_model(encoder, finished):
    config = AutoConfig.from_pretrained(finished)
    merged = AutoModelForSequenceClassification.from_pretrained(finished).eval()
    by_transformers = AutoModelForSequenceClassification.from_pretrained(finished / "adapter", config=config).eval()
    base = AutoModelForSequenceClassification.from_pretrained(encoder, config=config)
    by_peft = PeftModel.from_pretrained(base, finished / "adapter").eval()
    signals = torch.randn(8, 1, 250, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = (merged(signals).logits - config.label_mean[0]) / config.label_std[0]
        for model in (by_transformers, by_peft):
            standardised = (model(input_values=signals).logits - config.label_mean[0]) / config.label_std[0]
            torch.testing.assert_close(standardised, expected, rtol=0, atol=1e-6)
        assert expected.std() > 1e-4


def test_a_pipeline_takes_the_run_as_any_other(finished):
    assert not any("lora" in name for name in load_file(finished / "model.safetensors"))
    ppg = noisy_recording(30)
    answer = pipeline("physiological-signal-regression", model=str(finished))(ppg, sampling_rate=125)
    assert np.isfinite(answer["value"]["heart_rate"]) and "interval" in answer


def test_what_a_run_records(encoder, finished, folder):
    assert json.loads((finished / "run.json").read_text())["identity"]["lora_rank"] == RANK
    assert "Adapters of rank 2 (LoRA) and the head were trained" in (finished / "README.md").read_text()
    (results,) = {name for name in json.loads((finished / "run.json").read_text())["results"] if "LoRA" in name}
    assert results == "encoder, LoRA of rank 2"
    with pytest.raises(FileExistsError, match=r"lora_rank \(2 there, 3 now\)"):
        run(folder, finished, encoder, lora_rank=3)


def test_an_interrupted_run_ends_as_if_nothing_had_happened(folder, encoder, finished, tmp_path, monkeypatch):
    def interrupted(trainer, *arguments, **options):
        if trainer.state.global_step == 5:
            raise KeyboardInterrupt
        return step(trainer, *arguments, **options)

    step = FinetuningTrainer.training_step
    monkeypatch.setattr(FinetuningTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path / "run", encoder)
    monkeypatch.undo()
    results = run(folder, tmp_path / "run", encoder)
    for file in ("model.safetensors", "adapter/adapter_model.safetensors", "predictions.csv"):
        assert (tmp_path / "run" / file).read_bytes() == (finished / file).read_bytes()
    assert run(folder, tmp_path / "run", encoder) == results


def test_faster_routes_on_a_cpu_take_the_adapters(folder):
    torch.manual_seed(0)
    model = CMSSLEncoderForSequenceClassification(encoder_config(num_labels=1)).eval()
    Adapter(model, RANK)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    signals = torch.randn(3, 1, 250)
    with torch.no_grad():
        expected = model(signals).logits
        with cpu_kernels(model):
            torch.testing.assert_close(model(signals).logits, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_rank": -1}, "`lora_rank` must be at least 1, or 0"),
        ({"freeze_encoder": True}, "`freeze_encoder` leaves as it is"),
        ({"random_weights": True}, "adapts a pre-trained model"),
        ({"model_name_or_path": None, "from_scratch": "small"}, "adapts a pre-trained model"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TaskArguments(**{"task": "simulated_hr", "model_name_or_path": "encoder", "lora_rank": 8} | options)


def test_batch_norms_are_refused(folder, tmp_path):
    model = CMSSLEncoderForPreTraining(encoder_config(patch_embedding="residual"))
    model.save_pretrained(tmp_path / "residual")
    CMSSLFeatureExtractor(patch_size=25).save_pretrained(tmp_path / "residual")
    with pytest.raises(ValueError, match="batch norms, as those of `patch_embedding=residual`, move with every batch"):
        run(folder, tmp_path / "run", tmp_path / "residual")


def test_a_model_of_convolutions_is_refused(folder, tmp_path):
    ResNet1DModel(ResNet1DConfig(base_filters=4, num_blocks=2)).save_pretrained(tmp_path / "resnet1d")
    CMSSLFeatureExtractor().save_pretrained(tmp_path / "resnet1d")
    with pytest.raises(ValueError, match="linear layers of transformers, but this resnet1d has none"):
        run(folder, tmp_path / "run", tmp_path / "resnet1d")
    assert not (tmp_path / "run").exists()
