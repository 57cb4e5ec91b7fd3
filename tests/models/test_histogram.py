"""Distributions over labels: the loss and the answer against closed forms, and a head that knows a rate wherever it lies."""

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from scipy.stats import norm

from cmssl_hf import CMSSLEncoderForSequenceClassification
from cmssl_hf.models.cmssl.configuration_cmssl_classification import spectrum_frequencies
from cmssl_hf.models.cmssl.modeling_cmssl_histogram import CMSSLFrequencyHead, histogram_loss, histogram_median
from helpers.tiny import PATCH, encoder_config


VALUES = torch.linspace(20, 220, 101)


def test_loss_is_the_cross_entropy_with_a_normal_distribution():
    logits = torch.randn(3, 1, 101, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[60.0], [77.3], [219.0]])
    right = norm.pdf(VALUES.numpy(), labels.numpy(), 2.0)
    right /= right.sum(1, keepdims=True)
    expected = -(right * torch.log_softmax(logits[:, 0], -1).numpy()).sum(1).mean()
    assert histogram_loss(logits, labels, VALUES).item() == pytest.approx(expected, abs=1e-4)


def test_labels_beyond_the_ends_count_as_the_ends():
    logits = torch.randn(1, 1, 101, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        histogram_loss(logits, torch.tensor([[900.0]]), VALUES),
        histogram_loss(logits, torch.tensor([[220.0]]), VALUES),
    )


@pytest.mark.parametrize("centre", [40.0, 77.0, 150.5])
def test_answer_is_the_median(centre):
    """Of a skewed distribution, whose median a sum of many thin intervals finds too."""
    density = norm.pdf(VALUES.numpy(), centre, 6) + 0.4 * norm.pdf(VALUES.numpy(), centre + 25, 6)
    fine = np.repeat(density / density.sum() / 1000, 1000).cumsum()
    expected = 19 + 202 * np.searchsorted(fine, 0.5) / len(fine)
    found = histogram_median(torch.tensor(np.log(density), dtype=torch.float32), VALUES)
    assert found.item() == pytest.approx(expected, abs=0.02)


def test_certain_answers_at_the_ends():
    logits = torch.full((2, 101), -50.0)
    logits[0, 0] = logits[1, -1] = 50.0
    np.testing.assert_allclose(histogram_median(logits, VALUES), [20, 220], atol=1e-3)


def test_a_rate_is_known_wherever_it_lies():
    """What moves along the frequencies moves the answer by as much."""
    head = CMSSLFrequencyHead(encoder_config(num_pooled_rhythms=2))
    power = torch.zeros(2, 2, len(spectrum_frequencies()))
    power[0, :, 20] = power[1, :, 31] = 3.0
    first, second = head(power.flatten(1)).detach()
    torch.testing.assert_close(first[12:29], second[23:40])


def test_a_model_learns_and_answers_in_the_unit_of_its_labels():
    torch.manual_seed(0)
    config = encoder_config(
        num_labels=1, problem_type="regression", regression_loss="histogram", label_range=(30, 200), pooling="mean_std"
    )
    model = CMSSLEncoderForSequenceClassification(config)
    inputs = torch.randn(8, len(config.channels), 4 * PATCH)
    labels = torch.tensor([50.0, 60, 70, 80, 90, 120, 150, 180])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(250):
        optimizer.zero_grad()
        model(inputs, labels=labels).loss.backward()
        optimizer.step()
    answers = model.eval()(inputs).logits
    assert answers.shape == (8, 1)
    assert (answers[:, 0] - labels).abs().max() < 10


def test_labels_that_are_missing_are_refused():
    config = encoder_config(
        problem_type="regression", num_labels=1, regression_loss="histogram", label_range=(30, 200)
    )
    model = CMSSLEncoderForSequenceClassification(config).train()
    with pytest.raises(ValueError, match="hold NaN"):
        model(torch.randn(2, len(config.channels), PATCH), labels=torch.tensor([60.0, float("nan")]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"regression_loss": "histogram"}, "needs `label_range`"),
        ({"regression_loss": "histogram", "label_range": (200, 30)}, "needs `label_range`"),
        ({"regression_loss": "histogram", "label_range": (0, 1), "num_label_bins": 1}, "at least two"),
        ({"classifier_head": "frequency"}, 'needs `pooling="spectrum"`'),
    ],
)
def test_settings_that_cannot_be(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        encoder_config(**fields)


def test_the_frequency_head_answers_in_breaths_per_minute():
    config = encoder_config(
        num_labels=1,
        problem_type="regression",
        pooling="spectrum",
        classifier_head="frequency",
        regression_loss="histogram",
    )
    assert config.label_range == pytest.approx((4.8, 42.0)) and config.num_label_bins == 63
    model = CMSSLEncoderForSequenceClassification(config).eval()
    assert model.config.num_label_bins == 63
    answers = model(torch.randn(2, len(config.channels), 40 * PATCH)).logits
    assert answers.shape == (2, 1) and ((answers > 4) & (answers < 43)).all()
