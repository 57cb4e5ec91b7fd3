"""A folder of recordings of one signal goes through all three stages, without a task or a builder of its own."""

import json

import numpy as np
import pandas as pd
import pytest

from cmssl_hf.data.loading import load_dataset
from cmssl_hf.training.arguments import DataArguments
from cmssl_hf.training.command import command, report
from cmssl_hf.training.encoder import EncoderArguments, EncoderTrainingArguments, pretrain_encoder
from cmssl_hf.training.finetuning import FINETUNING, FinetuningArguments, TaskArguments, finetune
from cmssl_hf.training.own_labels import task_of_labels
from cmssl_hf.training.tokenizer import TokenizerArguments, TokenizerTrainingArguments, pretrain_tokenizer
from helpers.stages import TINY_ENCODER, training
from helpers.tiny import TINY_TOKENIZER


PEOPLE = 12
SYSTOLIC = 100.0 + 4 * np.arange(PEOPLE)
RHYTHM = ["AF", "SR", "SR"] * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine")
    times = np.arange(20 * 50) / 50
    for person in range(PEOPLE):
        ppg = np.sin(2 * np.pi * (1 + 0.05 * person) * times) + 0.3 * np.sin(9 * times)
        pd.DataFrame({"time": times, "ppg": ppg}).to_csv(folder / f"r{person}.csv", index=False)
    table = {
        "file_name": [f"r{person}.csv" for person in range(PEOPLE)],
        "subject_id": [f"person {person}" for person in range(PEOPLE)],
        "systolic": SYSTOLIC,
        "diastolic": SYSTOLIC / 2,
        "rhythm": RHYTHM,
    }
    pd.DataFrame(table).to_csv(folder / "metadata.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def data_of(folder, cache, **options):
    return DataArguments(dataset="signalfolder", data_dir=str(folder), cache_dir=str(cache), **options)


@pytest.fixture(scope="module")
def encoder(folder, cache, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    pretrain_tokenizer(
        TokenizerArguments(channels=["ppg"], config_overrides=TINY_TOKENIZER),
        data_of(folder, cache),
        training(TokenizerTrainingArguments, runs / "tokenizer", max_steps=4, warm_start_steps=2),
    )
    pretrain_encoder(
        EncoderArguments(tokenizer=str(runs / "tokenizer"), channel="ppg", config_overrides=TINY_ENCODER),
        data_of(folder, cache),
        training(EncoderTrainingArguments, runs / "encoder", max_steps=2),
    )
    return runs / "encoder"


def test_a_folder_of_one_signal_goes_through_all_stages(folder, cache, encoder, tmp_path):
    arguments = training(FinetuningArguments, tmp_path / "run", max_steps=2)
    model = TaskArguments(label=["systolic"], model_name_or_path=str(encoder))
    results = finetune(model, data_of(folder, cache), arguments)
    splits = load_dataset(
        "signalfolder", data_dir=folder, cache_dir=cache, channels=["ppg"], label=["systolic"]
    )  # fmt: skip
    people = {split: {int(subject.split()[1]) for subject in rows["subject_id"]} for split, rows in splits.items()}
    train, test = (SYSTOLIC[sorted(people[split])] for split in ("train", "test"))
    # Two windows of each person, so that the means over people are those over windows.
    assert results["constant"]["mae"] == pytest.approx(np.abs(test - train.mean()).mean())
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert {(subject, label) for subject, label in zip(predictions["subject_id"], predictions["label"])} == {
        (f"person {person}", SYSTOLIC[person]) for person in people["test"]
    }
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["id2label"] == {"0": "systolic"}
    assert config["label_mean"] == [pytest.approx(train.mean())]
    card = (tmp_path / "run" / "README.md").read_text()
    assert "Systolic from PPG" in card or "systolic from PPG" in card
    assert "systolic, test subjects" in report([model, data_of(folder, cache), arguments], results)


def test_a_folder_and_a_label_are_enough(folder, cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    training_options = ["--max_steps", "2", "--per_device_train_batch_size", "8", "--report_to", "none"]
    options = ["--label", "systolic", "--cache_dir", str(cache), *training_options]
    said = command(FINETUNING, [str(folder), *options], presets="finetune")
    assert "systolic, test subjects" in said and "ppg-encoder" in said
    run = json.loads((tmp_path / "runs" / "own_labels" / "run.json").read_text())
    assert run["identity"]["task"]["dataset"] == "signalfolder"
    config = json.loads((tmp_path / "runs" / "own_labels" / "config.json").read_text())
    assert config["patch_embedding"] == "conv" and config["id2label"] == {"0": "systolic"}
    with pytest.raises(SystemExit, match="One folder of recordings is read"):
        command(FINETUNING, [str(folder), str(tmp_path), "--label", "systolic"], presets="finetune")


def test_classes_are_learnt_from_random_weights(folder, cache, tmp_path):
    results = finetune(
        TaskArguments(label=["rhythm"], from_scratch="small", config_overrides=TINY_ENCODER),
        data_of(folder, cache),
        training(FinetuningArguments, tmp_path / "run", max_steps=2, per_device_train_batch_size=8),
    )
    assert set(next(iter(results.values()))) >= {"f1_macro", "accuracy"}
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["id2label"] == {"0": "AF", "1": "SR"}


def test_the_task_is_what_the_columns_say(folder, cache):
    task, data = task_of_labels(["systolic", "diastolic"], data_of(folder, cache), model=None, channels=None)
    assert (task.problem_type, task.label_names, task.channel) == ("regression", ("systolic", "diastolic"), "ppg")
    assert data.dataset_options == {"channels": ["ppg"], "label": ["systolic", "diastolic"]}


@pytest.mark.parametrize(
    ("dataset", "options", "channels", "message"),
    [
        ("simulated", {}, ["ppg"], "simulated has no option 'label'"),
        ("signalfolder", {"channels": ["ecg"]}, ["ppg"], "The model reads ppg, but `dataset_options` ask for"),
        ("signalfolder", {"channels": ["ecg", "ppg"]}, None, "hold ecg and ppg, but one signal is read"),
        ("signalfolder", {"label": "rhythm"}, ["ppg"], "`dataset_options` and `label` both say"),
    ],
)
def test_what_cannot_be_learnt_is_said(folder, cache, dataset, options, channels, message):
    data = DataArguments(
        dataset=dataset,
        data_dir=None if dataset == "simulated" else str(folder),
        cache_dir=str(cache),
        dataset_options=options,
    )
    with pytest.raises(ValueError, match=message):
        task_of_labels(["systolic"], data, model=None, channels=channels)
