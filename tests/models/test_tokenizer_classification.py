"""The tokenizer with a head: slots, masks, quantised features, and what stays as it is in training."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, pipeline

from cmssl_hf import CMSSLFeatureExtractor, CMSSLTokenizerForSequenceClassification, CMSSLTokenizerModel
from helpers.pipelines import FEATURES, REGRESSION, noisy_recording
from helpers.tiny import PATCH, tokenizer_config


REGRESSION_OF_RATES = {"num_labels": 1, "problem_type": "regression", "label_mean": 70.0, "label_std": 10.0}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tokenizer")
    CMSSLTokenizerModel(tokenizer_config(initializer_range=0.3)).save_pretrained(folder)
    CMSSLFeatureExtractor(channels=("ecg", "ppg"), patch_size=PATCH).save_pretrained(folder)
    return str(folder)


def with_head(tokenizer, **fields):
    torch.manual_seed(1)
    fields = REGRESSION_OF_RATES | {"given_channels": ("ppg",)} | fields
    return CMSSLTokenizerForSequenceClassification.from_pretrained(tokenizer, **fields).eval()


def head_of(model, features):
    """Standardised answers of the head to `features (batch, num_patches, codebook_dim)`, written out."""
    pooled = features.mean(1) * features.shape[-1] ** 0.5
    head = model.classifier
    hidden = torch.nn.functional.gelu(pooled @ head.dense.weight.T + head.dense.bias)
    return 70 + 10 * (hidden @ head.out_proj.weight.T + head.out_proj.bias)


@pytest.mark.parametrize(("channel", "slot"), [("ecg", 0), ("ppg", 1)])
@pytest.mark.parametrize("quantize", [True, False])
def test_a_signal_is_in_its_own_slot_and_the_other_one_is_empty(tokenizer, channel, slot, quantize):
    model = with_head(tokenizer, given_channels=(channel,), quantize_features=quantize)
    signal = torch.randn(3, 1, 4 * PATCH)
    both = torch.zeros(3, 2, 4 * PATCH)
    both[:, slot] = signal[:, 0]
    stage_1 = CMSSLTokenizerModel.from_pretrained(tokenizer).eval()
    with torch.no_grad():
        output = stage_1(both)
        features = stage_1.codebook.weight[output.codes] if quantize else output.latents
        torch.testing.assert_close(model(signal).logits, head_of(model, features), rtol=1e-5, atol=1e-4)


def test_padding_does_not_change_the_answer(tokenizer):
    model = with_head(tokenizer)
    signal, mask = torch.randn(2, 1, 6 * PATCH), torch.ones(2, 6 * PATCH)
    mask[:, 4 * PATCH :] = 0
    with torch.no_grad():
        torch.testing.assert_close(
            model(signal, attention_mask=mask).logits, model(signal[..., : 4 * PATCH]).logits, rtol=1e-5, atol=1e-4
        )


def test_a_missing_signal_is_not_taken_for_a_flat_one(tokenizer):
    """What stands in the place of a missing signal does not matter, and that it is missing does, once that is learnt."""
    model = with_head(tokenizer, given_channels=None, quantize_features=False)
    signals = torch.randn(2, 2, 4 * PATCH)
    flat = signals.clone()
    flat[:, 0] = 0
    lacking = torch.tensor([[0, 1], [0, 1]])
    with torch.no_grad():
        missing = model(signals, channel_mask=lacking).logits
        torch.testing.assert_close(missing, model(flat).logits)
        model.missing_channels.weight.normal_()
        assert (model(signals, channel_mask=lacking).logits - model(flat).logits).abs().min() > 1e-3
        torch.testing.assert_close(model(flat).logits, missing)
        # A channel that a model is never given is missing in the same way.
        model.config.given_channels = ("ppg",)
        alone = model(signals[:, 1:]).logits
        model.config.given_channels = None
        torch.testing.assert_close(alone, model(signals, channel_mask=lacking).logits)


@pytest.mark.parametrize("quantize", [True, False])
def test_training_moves_the_encoder_and_not_the_codebook(tokenizer, quantize):
    model = with_head(tokenizer, quantize_features=quantize).train()
    codebook = {name: buffer.clone() for name, buffer in model.codebook.named_buffers()}
    model(torch.randn(4, 1, 4 * PATCH), labels=torch.tensor([60.0, 70.0, 80.0, 90.0])).loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    assert model.encoder.patch_projection.weight.grad.abs().max() > 0
    # The slot of the ECG is empty, and only its vector can say so.
    assert model.missing_channels.weight.grad[0].abs().max() > 0
    assert model.missing_channels.weight.grad[1].abs().max() == 0
    for name, buffer in model.codebook.named_buffers():
        torch.testing.assert_close(buffer, codebook[name], rtol=0, atol=0)


def test_a_frozen_tokenizer_trains_its_head_only(tokenizer):
    model = with_head(tokenizer)
    model.freeze_encoder()
    trained = {name.partition(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"classifier"}
    assert not model.train().encoder.training


def test_the_loss_is_on_standardised_labels(tokenizer):
    model = with_head(tokenizer)
    labels = torch.tensor([65.0, 90.0])
    output = model(torch.randn(2, 1, 4 * PATCH), labels=labels)
    expected = (((output.logits[:, 0] - labels) / 10) ** 2).mean()
    torch.testing.assert_close(output.loss, expected)


def test_saving_and_loading(tokenizer, tmp_path):
    model = with_head(tokenizer)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(loaded) is CMSSLTokenizerForSequenceClassification
    assert loaded.config.given_channels == ("ppg",)
    signal = torch.randn(2, 1, 4 * PATCH)
    with torch.no_grad():
        torch.testing.assert_close(loaded(signal).logits, model(signal).logits, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_values": torch.zeros(2, 2, 100)}, r"must have shape \(batch, 1, samples\), for ppg, but has .*2, 2"),
        ({"input_values": torch.zeros(2, 1, 110)}, "whole number of patches"),
        (
            {"input_values": torch.zeros(2, 1, 100), "channel_mask": torch.ones(2, 2)},
            r"`channel_mask` must have .*2, 1",
        ),
    ],
)
def test_inputs_of_another_shape_are_refused(tokenizer, inputs, message):
    with pytest.raises(ValueError, match=message):
        with_head(tokenizer)(**inputs)


def test_channels_that_a_tokenizer_lacks_are_refused():
    with pytest.raises(Exception, match=r"`given_channels` must be among the tokenizer's \('ppg',\)"):
        tokenizer_config(channels=("ppg",), given_channels=("ecg",))


def test_pipelines(tokenizer, tmp_path):
    with_head(tokenizer, id2label={0: "heart_rate"}, label_unit="bpm").save_pretrained(tmp_path)
    CMSSLFeatureExtractor(channels=("ppg",), patch_size=PATCH).save_pretrained(tmp_path)
    answer = pipeline(REGRESSION, model=str(tmp_path))(noisy_recording(20), sampling_rate=64)
    assert answer["unit"] == "bpm"
    assert np.isfinite(answer["value"]["heart_rate"]) and len(answer["windows"]) == 2
    with pytest.raises(ValueError, match="is a tokenizer"):
        pipeline(FEATURES, model=str(tmp_path))
