"""The encoder with a convolutional stem and convolutional positions, beside the published patches and positions."""

import numpy as np
import pytest
import torch

from cmssl_hf import CMSSLEncoderForPreTraining, CMSSLEncoderForSequenceClassification, CMSSLEncoderModel
from cmssl_hf.models.cmssl.modeling_cmssl_stem import (
    CMSSLNormOverTime,
    CMSSLPositionalConvolution,
    CMSSLStem,
    stem_strides,
)
from helpers.tiny import encoder_config


VARIANTS = [
    {"patch_embedding": "conv"},
    {"position_embedding": "conv"},
    {"patch_embedding": "conv", "position_embedding": "conv"},
    {"patch_embedding": "residual", "position_embedding": "conv", "num_hidden_layers": 1},
]


def config(**fields):
    # A spread of weights as after training, so that outputs differ visibly between inputs.
    return encoder_config(**{"patch_size": 20, "initializer_range": 0.2, **fields})


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def padded_batch():
    """Three windows of 6, 4 and 3.5 patches, padded to 6, with noise where the padding is."""
    attention_mask = torch.ones(3, 120, dtype=torch.long)
    attention_mask[1, 80:] = 0
    attention_mask[2, 70:] = 0
    return {"input_values": torch.randn(3, 1, 120), "attention_mask": attention_mask}


@pytest.mark.parametrize(
    ("patch_size", "strides"), [(125, [5, 5, 5]), (50, [5, 5, 2]), (20, [5, 2, 2]), (37, [37]), (1, [1])]
)
def test_strides_multiply_to_the_patch(patch_size, strides):
    assert stem_strides(patch_size) == strides


@pytest.mark.parametrize("kind", ["conv", "residual"])
@pytest.mark.parametrize("patch_size", [1, 7, 20, 25, 37, 50, 125])
def test_one_vector_per_patch(patch_size, kind):
    model = CMSSLEncoderModel(config(patch_size=patch_size, patch_embedding=kind, channels=("ecg", "ppg")))
    for num_patches in (1, 2, 9):
        outputs = model.eval()(torch.randn(2, 2, num_patches * patch_size))
        assert outputs.last_hidden_state.shape == (2, num_patches, 16)


def test_each_patch_sees_its_neighbourhood_and_no_more(monkeypatch):
    monkeypatch.setattr(CMSSLNormOverTime, "forward", lambda self, hidden_states, real: hidden_states)
    stem = CMSSLStem(config(patch_embedding="conv"))
    signals = torch.randn(1, 1, 200, requires_grad=True)
    stem(signals, None)[0, 5, 0].backward()
    seen = signals.grad[0, 0].nonzero()[:, 0]
    # Kernels reach one stride beyond: 5 samples in the first layer, 2 of its outputs (10) in the next, 2 of those (20) in the last.
    assert (seen.min().item(), seen.max().item()) == (100 - 35, 119 + 35)


def test_norm_over_time_is_that_of_the_real_samples_alone():
    norm = CMSSLNormOverTime(6, eps=1e-5)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    hidden = 3 * torch.randn(2, 6, 10) + 1
    normed = norm(hidden, torch.arange(10) < torch.tensor([[10], [7]]))
    for row, length in enumerate((10, 7)):
        real = hidden[row, :, :length].detach().numpy()
        expected = (real - real.mean(1, keepdims=True)) / np.sqrt(real.var(1, keepdims=True) + 1e-5)
        expected = expected * norm.weight.detach().numpy()[:, None] + norm.bias.detach().numpy()[:, None]
        np.testing.assert_allclose(normed[row, :, :length].detach().numpy(), expected, atol=1e-5)
    torch.testing.assert_close(norm(hidden[1:, :, :7], None)[0], normed[1, :, :7])


@pytest.mark.parametrize("padding_value", [0.0, float("nan")])
@pytest.mark.parametrize("fields", VARIANTS)
def test_padding_changes_nothing(fields, padding_value, padded_batch):
    padded_batch["input_values"][padded_batch["attention_mask"][:, None] == 0] = padding_value
    model = CMSSLEncoderForSequenceClassification(config(num_labels=3, **fields)).eval()
    padded = model(**padded_batch)
    for window in (1, 2):
        alone = {name: value[window : window + 1, ..., :80] for name, value in padded_batch.items()}
        torch.testing.assert_close(padded.logits[window], model(**alone).logits[0])
    without_mask = model(padded_batch["input_values"][1:2, :, :80])
    torch.testing.assert_close(padded.logits[1], without_mask.logits[0])


@pytest.mark.parametrize("fields", VARIANTS)
def test_a_window_of_padding_alone_harms_no_other(fields, padded_batch):
    model = CMSSLEncoderForPreTraining(config(**fields))
    expected = model.eval()(**padded_batch).logits
    padded_batch["attention_mask"][1] = 0
    labels = torch.full((3, 6), -100)
    labels[0] = 1
    outputs = model(**padded_batch, labels=labels)
    torch.testing.assert_close(outputs.logits[[0, 2]], expected[[0, 2]])
    outputs.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("fields", VARIANTS)
def test_gradient_checkpointing_gives_the_same_gradients(fields, padded_batch):
    model = CMSSLEncoderForPreTraining(config(**fields)).train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(**padded_batch, labels=torch.arange(18).view(3, 6) % 16).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients):
        torch.testing.assert_close(plain, checkpointed)


@pytest.mark.parametrize("fields", VARIANTS)
def test_compiles_and_exports_with_any_batch_and_length(fields, padded_batch):
    model = CMSSLEncoderForSequenceClassification(config(**fields)).eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(**padded_batch).logits, model(**padded_batch).logits)
    batch = torch.export.Dim("batch", min=1, max=64)
    samples = 20 * torch.export.Dim("num_patches", min=2, max=64)
    shapes = {"input_values": {0: batch, 2: samples}, "attention_mask": {0: batch, 1: samples}}
    exported = torch.export.export(model, (), padded_batch, dynamic_shapes=shapes).module()
    for size, num_patches in ((1, 2), (5, 9)):
        mask = torch.ones(size, num_patches * 20, dtype=torch.long)
        mask[0, 20:] = 0
        inputs = {"input_values": torch.randn(size, 1, num_patches * 20), "attention_mask": mask}
        torch.testing.assert_close(exported(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("fields", VARIANTS)
def test_half_precision(fields, dtype, padded_batch):
    model = CMSSLEncoderModel(config(**fields)).eval()
    expected = model(**padded_batch).pooler_output
    difference = (model.to(dtype)(**padded_batch).pooler_output.float() - expected).abs().max()
    assert difference < (0.02 if dtype == torch.float16 else 0.2)


def test_convolutional_positions_move_with_the_signal():
    """What a patch is given depends on how far its neighbours are, and not on where in the window it lies."""
    positions = CMSSLPositionalConvolution(config())
    hidden = torch.zeros(2, 80, 16)
    hidden[0, 20:30] = torch.randn(10, 16)
    hidden[1, 40:50] = hidden[0, 20:30]
    outputs = positions(hidden, None)
    torch.testing.assert_close(outputs[0, :55], outputs[1, 20:75])
    assert not torch.allclose(outputs[0, 20:30], outputs[0, 21:31], atol=1e-3)


@pytest.mark.parametrize("fields", VARIANTS)
def test_saving_changes_nothing(fields, tmp_path, padded_batch):
    model = CMSSLEncoderForSequenceClassification(config(**fields)).eval()
    model.save_pretrained(tmp_path)
    loaded = CMSSLEncoderForSequenceClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(**padded_batch).logits, model(**padded_batch).logits)


def test_published_parameters_keep_their_names():
    names = {name for name, _ in CMSSLEncoderModel(config()).named_parameters()}
    assert {name.split(".")[0] for name in names} == {"patch_projection", "layers"}
