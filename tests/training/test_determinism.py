"""The same seed twice: bit-equal weights, codebook, metrics and predictions, from data that were prepared twice."""

import json
import re

import pytest

from cmssl_hf.training.engine.run_folder import read_run
from helpers.killable import without_times
from helpers.stages import run_encoder, run_finetuning, run_tokenizer


STAGES = ["tokenizer", "encoder", "finetuning"]
# What draws random numbers: dropout, augmentation, the order of the windows, and in stage 1 k-means.
DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}


def run_all(folder, seed=42):
    cache = folder / "cache"
    run_tokenizer(folder / "tokenizer", cache, seed=seed)
    run_encoder(folder / "encoder", cache, folder / "tokenizer", overrides=DROPOUT, seed=seed)
    augmentation = {"time_stretch": 1.2, "amplitude_jitter": 0.1, "noise": 0.1}
    run_finetuning(folder / "finetuning", cache, folder / "encoder", model_options=augmentation, seed=seed)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The three stages twice with one seed and once with another."""
    return [run_all(tmp_path_factory.mktemp("run"), seed) for seed in (42, 42, 43)]


def results_of(folder):
    return without_times(json.loads((folder / "eval_results.json").read_text()))


@pytest.mark.parametrize("stage", STAGES)
def test_same_seed_gives_the_same_bits(runs, stage):
    first, second = (folder / stage for folder in runs[:2])
    # The codebook is among the weights of the tokenizer.
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    assert len(results_of(first)) >= 3
    assert results_of(first) == results_of(second)
    states = [json.loads((folder / "trainer_state.json").read_text()) for folder in (first, second)]
    assert len(states[0]["log_history"]) >= 6
    histories = [[without_times(entry) for entry in state["log_history"]] for state in states]
    assert histories[0] == histories[1]
    if stage == "finetuning":
        assert (first / "predictions.csv").read_bytes() == (second / "predictions.csv").read_bytes()
        assert read_run(first)["results"] == read_run(second)["results"]


@pytest.mark.parametrize("stage", STAGES)
def test_other_seed_gives_others(runs, stage):
    first, _, other = (folder / stage for folder in runs)
    assert (first / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()
    assert results_of(first) != results_of(other)


@pytest.mark.parametrize("stage", STAGES)
def test_run_records_what_it_came_from(runs, stage):
    first, second, other = (read_run(folder / stage) for folder in runs)
    identity, environment = first["identity"], first["environment"]
    assert identity == second["identity"]
    assert (identity["training"]["seed"], other["identity"]["training"]["seed"]) == (42, 43)
    config = json.loads((runs[0] / stage / "config.json").read_text())
    # What the model's errors are is known when it has been trained.
    described = identity["model"].keys() & config.keys() - {"calibration"}
    assert {"hidden_size", "num_hidden_layers", "channels"} <= described
    assert {name: identity["model"][name] for name in described} == {name: config[name] for name in described}
    for split in ("train", "validation"):
        described = identity["data"]["splits"][split]
        assert re.fullmatch("[0-9a-f]{16}", described["fingerprint"])
        assert described["num_windows"] > 0
        assert described["subjects"]
    fingerprints = [identity["data"]["splits"][split]["fingerprint"] for split in identity["data"]["splits"]]
    assert len(set(fingerprints)) == len(fingerprints)
    assert {"python", "torch", "transformers", "datasets", "numpy", "commit"} <= environment.keys()
    # Somebody may commit meanwhile.
    assert environment | {"commit": None} == second["environment"] | {"commit": None}
