"""Each objective learns what random weights do not know: the heart rate, read by a linear probe of the frozen encoder."""

import json

import pytest
import torch
from transformers import set_seed

from cmssl_hf import CMSSLEncoderModel, CMSSLFeatureExtractor, load_dataset
from cmssl_hf.data.features import extract_features
from cmssl_hf.training.command import chosen_objective
from cmssl_hf.training.engine.parsing import parse_arguments
from cmssl_hf.training.probes import probe_encoder


pytestmark = pytest.mark.long

PEOPLE = {"num_subjects": 60, "seconds_per_subject": 120.0}  # 12 windows each; 48 people train
SIZE = "hidden_size=64,num_hidden_layers=2,num_attention_heads=4,intermediate_size=128,patch_size=25"
DATA = "{num_subjects: 60, seconds_per_subject: 120}"
SETTINGS = [
    *("--dataset", "simulated", "--dataset_config", "pairs", "--dataset_options", DATA, "--config_overrides", SIZE),
    *("--max_steps", "1000", "--per_device_train_batch_size", "32", "--learning_rate", "1e-3"),
    *("--per_device_eval_batch_size", "32", "--eval_strategy", "steps", "--eval_steps", "500"),
    *("--save_strategy", "steps", "--save_steps", "500"),
    *("--use_cpu", "true", "--report_to", "none", "--disable_tqdm", "true"),
]
HEADS = ["--projection_hidden_size", "256", "--projection_size", "64"]
# So strong that shapes are lost, by which the windows of one person can be told from those of another, and rates are left.
CHANGED = ["--noise", "1", "--baseline_wander", "0.5", "--amplitude_jitter", "0.3", "--masked_share", "0.5"]
VIEWS = [*HEADS, "--views", "own", *CHANGED]
OBJECTIVES = {
    "simclr": VIEWS,
    "byol": [*VIEWS, "--teacher_momentum", "0.95"],
    "simsiam": [*VIEWS, "--predictor_hidden_size", "64"],
    "moco_v3": [*VIEWS, "--teacher_momentum", "0.95"],
    "tfc": VIEWS,
    "clip": [*HEADS, *CHANGED],
    "masked": [],
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_frozen_probe_beats_random_weights(objective, tmp_path, cache):
    stage = chosen_objective(["--objective", objective])
    flags = ["--objective", objective, "--output_dir", str(tmp_path), "--cache_dir", str(cache)]
    arguments = parse_arguments(stage.arguments, [*flags, *SETTINGS, *OBJECTIVES[objective]])
    results = stage.function(*arguments)
    folder, prefix = (tmp_path / "ppg", "eval_ppg_") if objective == "clip" else (tmp_path, "eval_")
    trained = CMSSLEncoderModel.from_pretrained(folder)
    channels = ("ecg", "ppg") if objective == "clip" else ("ppg",)
    rows = load_dataset("simulated", "pairs", cache_dir=str(cache), **PEOPLE)
    extractor = CMSSLFeatureExtractor(channels=channels, patch_size=25)
    train, validation = (extract_features(rows[split], extractor) for split in ("train", "validation"))
    scores = []
    for seed in range(3):
        set_seed(seed)
        random = CMSSLEncoderModel(trained.config)
        metrics = probe_encoder(random, train, validation, channels=channels, channel="ppg")
        scores.append(metrics["probe_heart_rate_r2"])
    reached = results[f"{prefix}probe_heart_rate_r2"]
    print(json.dumps({"objective": objective, "reached": reached, "random": scores}))
    assert torch.isfinite(torch.tensor(reached)) and reached > max(scores)
