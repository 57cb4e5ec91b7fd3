"""A stage reads a release or a prepared folder, with the same result."""

import numpy as np
import pytest
from transformers import TrainingArguments

from cmssl_hf import CMSSLFeatureExtractor
from cmssl_hf.data.loading import load_dataset_builder
from cmssl_hf.data.preparation import Preparation
from cmssl_hf.training.arguments import DataArguments
from cmssl_hf.training.stage_data import load_stage_data


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


def test_folder_without_preparation_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no prepared dataset"):
        DataArguments(prepared_dir=str(tmp_path))
