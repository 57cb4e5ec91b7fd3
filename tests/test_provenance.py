"""Who a model has seen, through all the runs it builds on."""

import json

import pytest
from datasets import Dataset, DatasetDict

from cmssl_hf.training.arguments import DataArguments
from cmssl_hf.training.data import describe_data
from cmssl_hf.training.engine.provenance import refuse_seen_test_subjects, subjects_seen


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


def test_models_of_unknown_origin_and_sizes_are_accepted(tmp_path):
    refuse_seen_test_subjects(tmp_path, data(test=["a"]))
    refuse_seen_test_subjects("small", data(test=["a"]))


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
