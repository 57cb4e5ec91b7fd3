"""Encoders by name: what is refused, which are of one architecture, and what their pre-training cost, against closed forms."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from cmssl_hf import CMSSLEncoderModel, CMSSLTokenizerModel
from cmssl_hf.evaluation.encoders import backbone_of, pretraining_cost, read_encoders
from cmssl_hf.evaluation.plan import BenchmarkPlan
from cmssl_hf.evaluation.summary import Cell, CellPredictions, pairs, tables_of
from helpers.tiny import encoder_config, tokenizer_config


def folder(path: Path, config) -> str:
    config.save_pretrained(path)
    return str(path)


@pytest.fixture
def encoders(tmp_path):
    return {
        "a": folder(tmp_path / "a", encoder_config()),
        "b": folder(tmp_path / "b", encoder_config(codebook_size=64)),
        "larger": folder(tmp_path / "larger", encoder_config(num_hidden_layers=3)),
        "ecg": folder(tmp_path / "ecg", encoder_config(channels=("ecg",))),
    }


def test_names_are_of_the_signal_that_a_model_reads_and_folders_are_seeds(encoders):
    read = read_encoders(
        [f"joint={encoders['a']},{encoders['b']}", f"joint={encoders['ecg']}", f"x={encoders['larger']}"]
    )
    assert read == {
        "ppg": {"joint": [encoders["a"], encoders["b"]], "x": [encoders["larger"]]},
        "ecg": {"joint": [encoders["ecg"]]},
    }
    assert read_encoders([]) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["{a}"], "takes NAME=FOLDER or NAME=FOLDER,FOLDER, but got"),
        (["x={a},"], "takes NAME=FOLDER"),
        (["scratch={a}"], "cannot be called 'scratch'"),
        (["x/y={a}"], "cannot be called 'x/y'"),
        (["x={a}", "x={b}"], "Two encoders of ppg are called x: seeds go into one"),
        (["x={a},{larger}"], "The folders of x are seeds of one pre-training, but differ"),
        (["x={a},{ecg}"], "The folders of x are seeds of one pre-training, but differ"),
        (["x=/nowhere"], "There is no folder /nowhere"),
    ],
)
def test_slips_are_named(options, message, encoders):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_encoders([option.format(**encoders) for option in options])


def test_a_model_of_another_kind_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="holds a bert, but a benchmark compares models of this package"):
        read_encoders([f"x={tmp_path}"])


def test_backbones_are_the_same_whatever_is_learnt_on_them():
    key = backbone_of(encoder_config())["key"]
    assert backbone_of(encoder_config(codebook_size=64, label_mean=3.0, hidden_dropout_prob=0.5))["key"] == key
    for other in ({"num_hidden_layers": 3}, {"num_attention_heads": 4}, {"patch_size": 50}):
        assert backbone_of(encoder_config(**other))["key"] != key


def run_record(stage, config, num_windows, builds_on=None, **training):
    training = {"max_steps": -1, "num_train_epochs": 3.0, "global_batch_size": 8} | training
    data = {"splits": {"train": {"num_windows": num_windows}}}
    identity = {"stage": stage, "model": json.loads(config.to_json_string()), "training": training, "data": data}
    return {"identity": identity, "builds_on": builds_on}


def test_what_pretraining_cost_is_in_its_record():
    def size(model):
        return sum(weight.numel() for weight in model.parameters())

    tokenizer = run_record("tokenizer", tokenizer_config(), 20, num_train_epochs=2.0)
    tokens = run_record("encoder", encoder_config(), 20, builds_on=tokenizer, max_steps=10)
    found = pretraining_cost(tokens)
    # Two epochs of three batches, and ten batches, of eight windows each.
    assert (found["steps"], found["windows"]) == (2 * 3 + 10, 8 * (2 * 3 + 10))
    of_tokenizer, of_encoder = size(CMSSLTokenizerModel(tokenizer_config())), size(CMSSLEncoderModel(encoder_config()))
    assert found["compute"] == 8 * 6 * of_tokenizer + 8 * 10 * of_encoder
    # Two views with gradients; and two without, which cost a third.
    simclr, byol = (
        pretraining_cost(run_record(name, encoder_config(), 20, max_steps=10)) for name in ("simclr", "byol")
    )
    assert simclr["compute"] == 2 * 80 * of_encoder
    assert math.isclose(byol["compute"], (2 + 2 / 3) * 80 * of_encoder)
    assert pretraining_cost(None) is None
    assert pretraining_cost({"identity": {"data": {}}}) is None


def cells(**keys):
    found = {}
    for row, key in keys.items():
        details = [{}] if key is None else [{"backbone": {"key": key, "parameters": 1, "model_type": "x"}}]
        found[Cell("bidmc_hr", "paper", 1.0, row)] = CellPredictions(np.arange(2), {0: np.zeros((2, 1))}, 1, details)
    return found


def test_random_weights_decide_which_backbone_is_the_same():
    found = cells(a_full="other", classical=None, scratch="ours", z_full="ours")
    tables = {cell.row: table for cell, table in tables_of(found).items()}
    assert tables == {
        "a_full": "as_published",
        **dict.fromkeys(("classical", "scratch", "z_full"), "same_backbone"),
    }
    alone = tables_of(cells(a_full="one", b_full="two"))
    assert [*alone.values()] == ["same_backbone", "as_published"]


def test_a_plan_names_its_comparisons():
    found = cells(a_full="other", b_full="other", scratch="ours", z_full="ours")
    plan = BenchmarkPlan({}, comparisons=[["a_full", "z_full"], ["a_full", "missing_full"]])
    assert [(first.row, second.row) for first, second in pairs(tables_of(found), plan)] == [("a_full", "z_full")]
    default = [(first.row, second.row) for first, second in pairs(tables_of(found), BenchmarkPlan({}))]
    assert default == [("z_full", "scratch"), ("a_full", "b_full")]
