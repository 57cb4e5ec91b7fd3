"""What the head sees: poolings over real patches only, with values known in closed form; windows of several lengths."""

import numpy as np
import pytest
import torch

from cmssl_hf import CMSSLEncoderForSequenceClassification
from cmssl_hf.models.cmssl.modeling_cmssl_pooling import CMSSLPooling, spectrum_frequencies
from helpers.tiny import PATCH, encoder_config


POOLINGS = ("mean", "max", "mean_std", "mean_std_max", "attention", "spectrum")
REAL = (5, 9, 3)


def hidden_and_mask(num_patches=9, size=16):
    torch.manual_seed(0)
    hidden = torch.randn(len(REAL), num_patches, size)
    return hidden, torch.arange(num_patches) < torch.tensor(REAL)[:, None]


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", lambda rows: rows.mean(0)),
        ("max", lambda rows: rows.max(0)),
        ("mean_std", lambda rows: np.concatenate([rows.mean(0), rows.std(0)])),
        ("mean_std_max", lambda rows: np.concatenate([rows.mean(0), rows.std(0), rows.max(0)])),
    ],
)
def test_values_over_real_patches(pooling, expected):
    hidden, mask = hidden_and_mask()
    pooled = CMSSLPooling(encoder_config(pooling=pooling))(hidden, mask)
    for row, number, values in zip(hidden.numpy(), REAL, pooled.numpy()):
        np.testing.assert_allclose(values, expected(row[:number]), atol=1e-4)


@pytest.mark.parametrize("pooling", ["max", "mean_std_max"])
def test_padding_alone_has_no_maximum(pooling):
    hidden, mask = hidden_and_mask()
    mask[0] = False
    pooled = CMSSLPooling(encoder_config(pooling=pooling))(hidden, mask)
    assert pooled[0].abs().max() <= 1e-2 < pooled[1].abs().max()


def test_attention_is_a_weighted_mean_of_real_patches():
    hidden, mask = hidden_and_mask()
    module = CMSSLPooling(encoder_config(pooling="attention"))
    pooled = module(hidden, mask).detach().numpy()
    query = module.query.weight.detach().numpy()[0]
    for row, number, values in zip(hidden.numpy(), REAL, pooled):
        weights = np.exp(row[:number] @ query)
        np.testing.assert_allclose(values, weights @ row[:number] / weights.sum(), atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_does_not_matter(pooling):
    hidden, mask = hidden_and_mask()
    module = CMSSLPooling(encoder_config(pooling=pooling)).eval()
    changed = torch.where(mask[..., None], hidden, 100.0)
    torch.testing.assert_close(module(hidden, mask), module(changed, mask))
    torch.testing.assert_close(module(hidden[:1, :5], None), module(hidden[:1], mask[:1]), atol=1e-4, rtol=1e-4)
    assert module(hidden, mask).shape == (3, module.output_size)


@pytest.mark.parametrize("seconds", [20, 32, 60])
@pytest.mark.parametrize("frequency", [0.15, 0.25, 0.5])
def test_spectrum_peaks_at_the_rhythm_whatever_the_length(frequency, seconds):
    config = encoder_config(pooling="spectrum", num_pooled_rhythms=2)
    module = CMSSLPooling(config)
    times = torch.arange(int(seconds * 125 / PATCH)) * PATCH / 125
    hidden = torch.sin(2 * np.pi * frequency * times)[None, :, None].expand(1, -1, 16) + 3.0
    shares = module(hidden, None).detach().numpy().reshape(2, -1)
    assert shares.shape[1] == len(spectrum_frequencies())
    # A window of T seconds separates frequencies that are 1/T apart.
    found = np.array(spectrum_frequencies())[shares.argmax(1)]
    np.testing.assert_allclose(found, frequency, atol=0.25 / seconds + 0.005)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_windows_of_10_30_and_60_seconds_in_one_batch(pooling):
    """Each gets what it gets alone, and gradients are finite."""
    torch.manual_seed(0)
    model = CMSSLEncoderForSequenceClassification(
        encoder_config(pooling=pooling, num_labels=1, problem_type="regression")
    ).eval()
    lengths = [1250, 3750, 7500]
    values = torch.zeros(3, 1, 7500)
    mask = torch.zeros(3, 7500, dtype=torch.long)
    for row, length in enumerate(lengths):
        values[row, :, :length] = torch.randn(length)
        mask[row, :length] = 1
    outputs = model(input_values=values, attention_mask=mask, labels=torch.tensor([60.0, 15.0, 20.0]))
    for row, length in enumerate(lengths):
        alone = model(input_values=values[row : row + 1, :, :length]).logits
        torch.testing.assert_close(outputs.logits[row : row + 1], alone, atol=1e-3, rtol=1e-3)
    outputs.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_long_windows_in_pieces_are_the_pieces_encoded_one_by_one():
    """10 s pieces of 27 s and 13 s: the mean over patches is the mean over the patches of all pieces."""
    torch.manual_seed(0)
    model = CMSSLEncoderForSequenceClassification(encoder_config(piece_seconds=10, classifier_head="linear")).eval()
    lengths = [27 * 125, 13 * 125]
    values, mask = torch.zeros(2, 1, lengths[0]), torch.zeros(2, lengths[0], dtype=torch.long)
    for row, length in enumerate(lengths):
        values[row, :, :length] = torch.randn(length)
        mask[row, :length] = 1
    found = model(input_values=values, attention_mask=mask).logits
    for row, length in enumerate(lengths):
        pieces = values[row : row + 1, :, :length].split(1250, dim=-1)
        hidden = torch.cat([model.encoder(piece).last_hidden_state for piece in pieces], dim=1)
        torch.testing.assert_close(found[row], model.classifier.out_proj(hidden.mean(1))[0], atol=1e-5, rtol=1e-4)


def test_pieces_do_not_change_windows_that_are_one_piece():
    torch.manual_seed(0)
    model = CMSSLEncoderForSequenceClassification(encoder_config()).eval()
    values = torch.randn(2, 1, 1250)
    expected = model(input_values=values).logits
    model.config.piece_seconds = 10
    torch.testing.assert_close(model(input_values=values).logits, expected)


def test_pieces_shorter_than_a_patch_are_refused():
    with pytest.raises(Exception, match=r"`piece_seconds` \(0\.01\) must hold at least one patch of 25 samples"):
        encoder_config(piece_seconds=0.01)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_poolings_survive_saving(pooling, tmp_path):
    model = CMSSLEncoderForSequenceClassification(encoder_config(pooling=pooling)).eval()
    model.save_pretrained(tmp_path)
    loaded = CMSSLEncoderForSequenceClassification.from_pretrained(tmp_path).eval()
    values = torch.randn(2, 1, 20 * PATCH)
    torch.testing.assert_close(model(input_values=values).logits, loaded(input_values=values).logits)


@pytest.mark.parametrize("delta", [0.1, 1.0])
def test_huber_loss_in_closed_form(delta):
    model = CMSSLEncoderForSequenceClassification(
        encoder_config(
            num_labels=1,
            problem_type="regression",
            regression_loss="huber",
            huber_delta=delta,
            label_mean=100.0,
            label_std=20.0,
        )
    ).eval()
    values = torch.randn(4, 1, 10 * PATCH)
    labels = torch.tensor([60.0, 99.0, 101.0, 180.0])
    outputs = model(input_values=values, labels=labels)
    error = np.abs(outputs.logits[:, 0].detach().numpy() - labels.numpy()) / 20
    expected = np.where(error < delta, error**2 / (2 * delta), error - delta / 2).mean()
    assert outputs.loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_delta_that_is_not_positive_is_refused():
    with pytest.raises(Exception, match="`huber_delta` must be positive, but is 0"):
        encoder_config(huber_delta=0)
