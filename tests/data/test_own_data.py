"""Somebody's own `datasets.Dataset`, from raw windows to a trained model: with the trainer and the collator of transformers, and
with the batches of this package."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

from cmssl_hf import CMSSLEncoderForSequenceClassification, CMSSLFeatureExtractor
from cmssl_hf.data.augmentation import Augmentation
from cmssl_hf.data.batches import WindowsCollator, WindowsDataset
from cmssl_hf.data.features import extract_features
from helpers.tiny import PATCH, encoder_config


LABELS = [60.0, 75.0, 90.0, 105.0]


@pytest.fixture
def extractor():
    return CMSSLFeatureExtractor(patch_size=PATCH)


@pytest.fixture
def rows(extractor):
    """Pulses of 4 and 4.4 s at 100 Hz, of known rates."""
    seconds = [4.0, 4.4, 4.0, 4.4]
    signals = [
        np.sin(2 * np.pi * label / 60 * np.arange(round(100 * length)) / 100) for label, length in zip(LABELS, seconds)
    ]
    own = Dataset.from_dict(
        {
            "signal": signals,
            "sampling_rate": [100] * 4,
            "label": LABELS,
            "subject_id": ["a", "a", "b", "b"],
            "record_id": ["r0", "r1", "r2", "r3"],
        }
    )
    return extract_features(own, extractor)


@pytest.fixture
def model():
    torch.manual_seed(0)
    labels = {"num_labels": 1, "problem_type": "regression", "label_mean": 82.5, "label_std": 16.8}
    return CMSSLEncoderForSequenceClassification(encoder_config(**labels))


def arguments(folder, **options):
    return TrainingArguments(output_dir=str(folder), max_steps=2, use_cpu=True, report_to="none", **options)


def test_both_collators_make_the_same_batch(rows, extractor):
    plain = DataCollatorWithPadding(extractor)(rows.select_columns(["input_values", "label"]).to_list())
    windows = WindowsDataset(rows, ["input_values", "label"])
    ours = WindowsCollator(PATCH, label_column="label")(windows.__getitems__([0, 1, 2, 3]))
    # 500 samples at 125 Hz are padded to the 22 patches of the others.
    assert plain["input_values"].shape == (4, 1, 550)
    assert plain["attention_mask"].sum(1).tolist() == [500, 550, 500, 550]
    for name in ("input_values", "attention_mask", "labels"):
        np.testing.assert_array_equal(plain[name], ours[name], err_msg=name)
    assert plain["labels"].tolist() == LABELS


def test_a_plain_trainer_learns_from_own_data(rows, extractor, model, tmp_path):
    before = model.classifier.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    trainer = Trainer(
        model=model,
        args=arguments(tmp_path),
        train_dataset=rows,
        data_collator=DataCollatorWithPadding(extractor),
    )
    assert np.isfinite(trainer.train().training_loss)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in model.classifier.state_dict().items())


def test_a_plain_trainer_takes_the_batches_of_this_package(rows, model, tmp_path):
    trainer = Trainer(
        model=model,
        args=arguments(tmp_path, remove_unused_columns=False),
        train_dataset=WindowsDataset(rows, ["input_values", "label"], augmentation=Augmentation(125, noise=0.1)),
        data_collator=WindowsCollator(PATCH, label_column="label"),
    )
    assert np.isfinite(trainer.train().training_loss)
