"""Models with random weights and recordings for pipelines."""

import numpy as np
import torch

from cmssl_hf import CMSSLEncoderForSequenceClassification, CMSSLFeatureExtractor
from helpers.tiny import encoder_config


PATCH = 25
REGRESSION = "physiological-signal-regression"
CLASSIFICATION = "physiological-signal-classification"
FEATURES = "physiological-signal-feature-extraction"


def save_model(folder, model_class=CMSSLEncoderForSequenceClassification, channels=("ppg",), **config) -> str:
    """A model with random weights, large enough that its answers differ, and its feature extractor."""
    torch.manual_seed(0)
    model = model_class(encoder_config(channels=channels, initializer_range=0.3, **config))
    model.save_pretrained(folder)
    CMSSLFeatureExtractor(channels=channels, patch_size=PATCH).save_pretrained(folder)
    return str(folder)


def noisy_recording(seconds: float, sampling_rate: float = 64.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * sampling_rate)) / sampling_rate
    return np.sin(2 * np.pi * 1.2 * times + 0.5 * np.sin(0.3 * times)) + 0.2 * rng.standard_normal(len(times))


def times_of(answer: dict) -> list[tuple[float, float]]:
    return [(window["start"], window["end"]) for window in answer["windows"]]
