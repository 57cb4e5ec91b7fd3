"""Each objective learns what random weights do not know: the heart rate, read by a linear probe of the frozen encoder."""

import json

import pytest
import torch
from datasets import concatenate_datasets
from transformers import set_seed

from cmssl_hf import CMSSLEncoderModel, CMSSLFeatureExtractor, load_dataset
from cmssl_hf.data.features import extract_features
from cmssl_hf.training.command import chosen_objective
from cmssl_hf.training.engine.parsing import parse_arguments
from cmssl_hf.training.probes import probe_encoder


pytestmark = pytest.mark.long

# Many people, of whom little is seen: with few of them the probe would be a matter of chance.
PEOPLE = {"num_subjects": 200, "seconds_per_subject": 30.0}  # 3 windows each; 160 people train
DATA = "{num_subjects: 200, seconds_per_subject: 30}"
PATCH = 50
SIZE = (
    f"hidden_size=64,num_hidden_layers=2,num_attention_heads=4,intermediate_size=128,patch_size={PATCH},"
    "patch_embedding=conv,position_embedding=conv"
)
SETTINGS = [
    *("--dataset", "simulated", "--dataset_config", "pairs", "--dataset_options", DATA, "--config_overrides", SIZE),
    *(
        "--max_steps",
        "120",
        "--per_device_train_batch_size",
        "48",
        "--learning_rate",
        "1e-3",
        "--weight_decay",
        "0.05",
    ),
    *("--per_device_eval_batch_size", "30", "--eval_strategy", "steps", "--eval_steps", "120"),
    *("--save_strategy", "steps", "--save_steps", "120"),
    *("--use_cpu", "true", "--report_to", "none", "--disable_tqdm", "true"),
]
HEADS = ["--projection_hidden_size", "256", "--projection_size", "64"]
# A teacher that keeps 0.996 of its weights hardly moves in so few steps.
QUICK_TEACHER = ["--teacher_momentum", "0.95"]
OBJECTIVES = {
    "simclr": HEADS,
    "byol": [*HEADS, *QUICK_TEACHER],
    "simsiam": [*HEADS, "--predictor_hidden_size", "64"],
    "moco_v3": [*HEADS, *QUICK_TEACHER],
    "tfc": HEADS,
    "clip": HEADS,
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
    stage.function(*arguments)
    trained = CMSSLEncoderModel.from_pretrained(tmp_path / "ppg" if objective == "clip" else tmp_path)
    # The heart rate is that of the R-peaks: that of pulse peaks is wrong in too many windows to judge anything.
    channels = ("ecg", "ppg")
    rows = load_dataset("simulated", "pairs", cache_dir=str(cache), **PEOPLE)
    extractor = CMSSLFeatureExtractor(channels=channels, patch_size=PATCH)
    parts = {split: extract_features(rows[split], extractor) for split in ("train", "validation", "test")}
    # 40 people in all: of the 20 who validate, a few decide.
    others = concatenate_datasets([parts["validation"], parts["test"]])

    def probed(encoder):
        metrics = probe_encoder(encoder, parts["train"], others, channels=channels, channel="ppg")
        return metrics["probe_heart_rate_r2"]

    scores = []
    for seed in range(3):
        set_seed(seed)
        scores.append(probed(CMSSLEncoderModel(trained.config)))
    reached = probed(trained)
    print(json.dumps({"objective": objective, "reached": reached, "random": scores}))
    assert torch.isfinite(torch.tensor(reached)) and reached > max(scores)
