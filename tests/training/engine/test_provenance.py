"""Who a model has seen, through all the runs it builds on."""

import json

import pytest
from datasets import Dataset, DatasetDict

from cmssl_hf.training.arguments import DataArguments
from cmssl_hf.training.data import describe_data
from cmssl_hf.training.engine.provenance import (
    UnreachableError,
    refuse_seen_test_subjects,
    run_of_model,
    subjects_seen,
)


def data(dataset="bidmc", **subjects):
    return {"dataset": dataset, "splits": {split: {"subjects": members} for split, members in subjects.items()}}


def a_run(described, builds_on=None):
    return {"identity": {"stage": "x", "data": described}, "builds_on": builds_on}


TOKENIZER = a_run(data(train=["a", "b"], validation=["c"]))
ENCODER = a_run(data("pulsedb", train=["d"], validation=["e"]), builds_on=TOKENIZER)


@pytest.fixture
def encoder_folder(tmp_path):
    folder = tmp_path / "encoder"
    (folder / "checkpoint-10").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(ENCODER))
    return folder


def test_everyone_in_training_and_validation_of_the_whole_chain_was_seen():
    assert subjects_seen(ENCODER) == {("pulsedb", "d"), ("pulsedb", "e"), *(("bidmc", name) for name in "abc")}
    assert subjects_seen(None) == set()


@pytest.mark.parametrize("seen", ["a", "c"])
@pytest.mark.parametrize("subfolder", ["", "checkpoint-10"])
def test_subjects_that_the_tokenizer_has_seen_are_not_tested_on(encoder_folder, seen, subfolder):
    with pytest.raises(ValueError, match=rf"was pre-trained on 1 of the test subjects of bidmc \({seen}\)"):
        refuse_seen_test_subjects(encoder_folder / subfolder, data(train=["x"], test=["y", seen]))


@pytest.mark.parametrize(
    "described", [data(train=["a"], test=["y"]), data("ppg_dalia", train=["x"], test=["a"]), data(test=["d"])]
)
def test_others_may_be_tested_on(encoder_folder, described):
    refuse_seen_test_subjects(encoder_folder, described)


def test_published_sizes_have_seen_nobody():
    refuse_seen_test_subjects("small", data(test=["a"]))


def stage(name, described, builds_on=None, **identity):
    return {"identity": {"stage": name, "data": described, **identity}, "builds_on": builds_on}


PEOPLE = data(train=["b"], validation=["c"])
STAGE_1 = stage("tokenizer", PEOPLE)
STAGE_2 = stage("encoder", PEOPLE, STAGE_1, tokenizer="abc")
UNKNOWN = {
    "no run.json": None,
    "no data": {"identity": {}},
    "no subjects": stage("tokenizer", {"dataset": "bidmc", "splits": {"train": {}}}),
    "a tokenizer without run.json": stage("encoder", PEOPLE, tokenizer="abc"),
    "an encoder without run.json": stage("finetuning", PEOPLE, initialisation="0123456789abcdef"),
    "a tokenizer of its encoder without run.json": stage(
        "finetuning", PEOPLE, stage("encoder", PEOPLE, tokenizer="abc"), initialisation="0123456789abcdef"
    ),
}
KNOWN = {
    "stage 1": STAGE_1,
    "stage 2": STAGE_2,
    "stage 3": stage("finetuning", PEOPLE, STAGE_2, initialisation="0123456789abcdef"),
    "a size": stage("finetuning", PEOPLE, initialisation="small"),
    "an architecture": stage("finetuning", PEOPLE, initialisation="random weights"),
}


@pytest.mark.parametrize("run", UNKNOWN.values(), ids=UNKNOWN)
def test_what_is_not_known_is_no_permission(run, tmp_path):
    if run is not None:
        (tmp_path / "run.json").write_text(json.dumps(run))
    with pytest.raises(ValueError, match=r"is not known .* give `--accept_unknown_provenance true`"):
        refuse_seen_test_subjects(tmp_path, data(test=["a"]))
    refuse_seen_test_subjects(tmp_path, data(test=["a"]), accept_unknown=True)


@pytest.mark.parametrize("run", KNOWN.values(), ids=KNOWN)
def test_what_is_known_needs_no_permission(run, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(run))
    refuse_seen_test_subjects(tmp_path, data(test=["a"]))


def test_subjects_that_are_known_are_refused_whatever_is_accepted(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(UNKNOWN["a tokenizer without run.json"]))
    with pytest.raises(ValueError, match=r"was pre-trained on 1 of the test subjects of bidmc \(b\)"):
        refuse_seen_test_subjects(tmp_path, data(test=["b"]), accept_unknown=True)


@pytest.fixture
def cached_model(tmp_path, monkeypatch):
    """A snapshot of a Hub model in the cache, while the Hub cannot be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = tmp_path / "models--someone--encoder"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    return snapshot


def test_hub_that_is_not_reached_is_no_permission(cached_model):
    for name in ("someone/encoder", "someone/else"):
        with pytest.raises(ValueError, match=r"is not in the cache and the Hub not reached\).* may be test subjects"):
            refuse_seen_test_subjects(name, data(test=["a"]))
        with pytest.raises(UnreachableError):
            run_of_model(name)
        refuse_seen_test_subjects(name, data(test=["a"]), accept_unknown=True)


def test_record_in_the_cache_is_read_without_the_hub(cached_model):
    (cached_model / "run.json").write_text(json.dumps(STAGE_2))
    refuse_seen_test_subjects("someone/encoder", data(test=["a"]))
    with pytest.raises(ValueError, match="was pre-trained on 1 of the test subjects"):
        refuse_seen_test_subjects("someone/encoder", data(test=["b"]))


@pytest.mark.parametrize("content", ["{", "[]", '{"identity": 1}'])
def test_damaged_record_of_a_hub_model_is_named(content, cached_model):
    (cached_model / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json is damaged: "):
        refuse_seen_test_subjects("someone/encoder", data(test=["a"]), accept_unknown=True)


def test_description_of_data():
    rows = {
        "train": Dataset.from_dict({"subject_id": ["b", "a", "b"]}),
        "test": Dataset.from_dict({"subject_id": ["c"]}),
    }
    described = describe_data(
        DatasetDict(rows), DataArguments(dataset="simulated", dataset_config="hr", dataset_options="num_subjects=3")
    )
    assert (described["dataset"], described["config"], described["options"]) == (
        "simulated",
        "hr",
        {"num_subjects": 3},
    )
    assert described["splits"]["train"]["subjects"] == ["a", "b"]
    assert described["splits"]["train"]["num_windows"] == 3
    assert described["splits"]["train"]["fingerprint"] != described["splits"]["test"]["fingerprint"]
