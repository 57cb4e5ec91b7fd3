"""A stage reads a release or a prepared folder, with the same result."""

import json
from dataclasses import replace

import numpy as np
import pytest
import wfdb
from datasets import Dataset
from transformers import TrainingArguments

from cmssl_hf import CMSSLFeatureExtractor
from cmssl_hf.data.features import without_issues
from cmssl_hf.data.loading import load_dataset_builder
from cmssl_hf.data.prepared.writing import Preparation
from cmssl_hf.training.arguments import DataArguments
from cmssl_hf.training.data import describe_data, load_stage_data
from cmssl_hf.training.engine.provenance import subjects_seen
from helpers.releases import write_wfdb_record


OPTIONS = {"num_subjects": 10, "seconds_per_subject": 40}


@pytest.fixture
def prepared_dir(tmp_path):
    builder = load_dataset_builder("simulated", "pairs", cache_dir=tmp_path / "cache", **OPTIONS)
    preparation = Preparation(builder, CMSSLFeatureExtractor(channels=("ecg", "ppg")), tmp_path / "prepared")
    plan = preparation.make_plan(preparation.estimate())
    list(preparation.run(plan))
    preparation.finish(plan)
    return tmp_path / "prepared"


def test_prepared_folder_gives_what_the_release_gives(prepared_dir, tmp_path):
    training_arguments = TrainingArguments(output_dir=str(tmp_path / "run"), report_to="none")
    extractor = CMSSLFeatureExtractor(channels=("ecg", "ppg"))
    splits = ("train", "validation", "test")
    released = DataArguments(
        dataset="simulated", dataset_config="pairs", dataset_options=OPTIONS, cache_dir=str(tmp_path / "cache")
    )
    prepared = DataArguments(prepared_dir=str(prepared_dir), cache_dir=str(tmp_path / "cache"))
    assert (prepared.dataset, prepared.dataset_config) == ("simulated", "pairs")
    assert prepared.dataset_options["num_subjects"] == 10
    from_release = load_stage_data(released, extractor, training_arguments, splits)
    from_folder = load_stage_data(prepared, extractor, training_arguments, splits)
    for split in splits:
        keys = ["subject_id", "record_id", "start_time"]
        assert [tuple(row[key] for key in keys) for row in from_folder[split]] == [
            tuple(row[key] for key in keys) for row in from_release[split]
        ]
        np.testing.assert_array_equal(
            np.array(from_folder[split]["input_values"]), np.array(from_release[split]["input_values"])
        )


def test_prepared_folder_of_other_channels_is_refused(prepared_dir, tmp_path):
    arguments = DataArguments(prepared_dir=str(prepared_dir), cache_dir=str(tmp_path / "cache"))
    training_arguments = TrainingArguments(output_dir=str(tmp_path / "run"), report_to="none")
    with pytest.raises(
        ValueError, match=r"was prepared with channels=\('ecg', 'ppg'\), but the model reads channels="
    ):
        load_stage_data(arguments, CMSSLFeatureExtractor(channels=("ppg",)), training_arguments, ("train",))


def test_a_prepared_folder_is_asked_for_what_it_holds_and_for_nothing_else(prepared_dir):
    same = DataArguments(
        prepared_dir=str(prepared_dir), dataset="simulated", dataset_config="pairs", dataset_options=OPTIONS
    )
    assert same.dataset_options == DataArguments(prepared_dir=str(prepared_dir)).dataset_options
    for options, message in (
        ({"dataset": "bidmc"}, "prepared with dataset 'simulated', but 'bidmc' is asked for"),
        ({"dataset_config": "hr"}, "prepared with dataset_config 'pairs', but 'hr' is asked for"),
        (
            {"dataset_options": {"num_subjects": 4}},
            "prepared with dataset_options: num_subjects 10, but 4 is asked for",
        ),
        ({"dataset_options": "nothing=1"}, "prepared with dataset_options: nothing None, but 1 is asked for"),
    ):
        with pytest.raises(ValueError, match=message):
            DataArguments(prepared_dir=str(prepared_dir), **options)
    with pytest.raises(ValueError, match="`data_dir` does nothing where `prepared_dir` is given"):
        DataArguments(prepared_dir=str(prepared_dir), data_dir="release").check_for_pretraining()


def test_windows_that_were_rejected_are_spoken_of(prepared_dir, tmp_path, caplog):
    manifest = json.loads((prepared_dir / "manifest.json").read_text())
    manifest["splits"]["train"]["windows"]["rejected"] = 3
    (prepared_dir / "manifest.json").write_text(json.dumps(manifest))
    arguments = DataArguments(prepared_dir=str(prepared_dir), cache_dir=str(tmp_path / "cache"), num_proc=2)
    training_arguments = TrainingArguments(output_dir=str(tmp_path / "run"), report_to="none")
    load_stage_data(arguments, CMSSLFeatureExtractor(channels=("ecg", "ppg")), training_arguments, ("train",))
    assert "train: 3 windows of simulated could not be used and were left out of" in caplog.text


def test_quality_that_is_not_known_is_refused():
    rows = Dataset.from_dict({"input_values": [[[0.0]]]})
    with pytest.raises(ValueError, match="no column `quality_issues`"):
        without_issues(rows, ["ppg_flat"])


def test_folder_without_preparation_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no prepared dataset"):
        DataArguments(prepared_dir=str(tmp_path))


@pytest.fixture
def two_datasets(tmp_path):
    """Arguments of a simulated dataset with a folder of WFDB records beside it."""
    folder = tmp_path / "wfdb"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(10):
        wfdb.wrsamp(
            f"r{number}",
            fs=125,
            units=["mV", "NU"],
            sig_name=["II", "PLETH"],
            p_signal=generator.standard_normal((125 * 30, 2)).cumsum(0),
            fmt=["16", "16"],
            write_dir=str(folder),
        )
    return DataArguments(
        dataset="simulated",
        dataset_config="pairs",
        dataset_options=OPTIONS,
        additional_data=[f"wfdb_pairs={folder}"],
        cache_dir=str(tmp_path / "cache"),
    )


def test_additional_data_join_split_by_split(two_datasets, tmp_path):
    training_arguments = TrainingArguments(output_dir=str(tmp_path / "run"), report_to="none")
    splits = ("train", "validation")
    dataset = load_stage_data(two_datasets, CMSSLFeatureExtractor(channels=("ecg", "ppg")), training_arguments, splits)
    # 8 of 10 people of each, 4 windows of 10 s in 40 s and 3 in 30 s.
    assert dataset["train"]["dataset"][:] == ["simulated"] * 32 + ["wfdb_pairs"] * 24
    assert dataset["validation"]["dataset"][:] == ["simulated"] * 4 + ["wfdb_pairs"] * 3
    description = describe_data(dataset, two_datasets)
    assert len(description["splits"]["train"]["subjects"]) == 8
    (additional,) = description["additional"]
    assert additional["splits"]["train"]["num_windows"] == 24
    seen = subjects_seen({"identity": {"data": description}})
    assert len(seen) == 18
    assert {dataset for dataset, _ in seen} == {"simulated", "wfdb_pairs"}
    assert ("wfdb_pairs", additional["splits"]["validation"]["subjects"][0]) in seen


def test_no_other_signal_is_asked_for_than_the_model_reads(tmp_path):
    for number in range(10):
        write_wfdb_record(
            tmp_path / "wfdb", f"r{number}", {"PLETH": None} if number % 2 else {"II": None, "PLETH": None}
        )
    arguments = DataArguments(dataset="wfdb_pairs", data_dir=str(tmp_path / "wfdb"), cache_dir=str(tmp_path / "cache"))
    training_arguments = TrainingArguments(output_dir=str(tmp_path / "run"), report_to="none")
    for channels, people in ((("ppg",), 8), (("ecg", "ppg"), 3)):
        dataset = load_stage_data(arguments, CMSSLFeatureExtractor(channels=channels), training_arguments, ("train",))
        assert len(dataset["train"].unique("subject_id")) == people
    asked = replace(arguments, dataset_options={"channels": ["ecg", "ppg"]})
    dataset = load_stage_data(asked, CMSSLFeatureExtractor(channels=("ppg",)), training_arguments, ("train",))
    assert len(dataset["train"].unique("subject_id")) == 3


def test_additional_data_need_a_name_and_a_folder():
    with pytest.raises(ValueError, match="takes `name=folder`, but got 'wfdb_pairs'"):
        DataArguments(dataset="simulated", additional_data=["wfdb_pairs"])
