"""Trainings that cannot go well: they stop, or warn, and say what is wrong."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cmssl_hf.data.batches import WindowsDataset
from cmssl_hf.tasks import get_task
from cmssl_hf.training.codebook import usage_perplexity
from cmssl_hf.training.engine import trainer as stage_trainer
from cmssl_hf.training.engine.checkpoints import last_whole_checkpoint
from cmssl_hf.training.engine.divergence import DivergedError, DivergenceCallback
from cmssl_hf.training.engine.run_folder import RunFolder
from cmssl_hf.training.labels import describe_labels
from helpers.tiny import encoder_config
from helpers.trainers import (
    BATCH_SIZE,
    NUM_WINDOWS,
    encoder_trainer,
    finetuning_trainer,
    run_trainer,
    tokenizer_trainer,
)


MAKERS = {
    # k-means would meet the spoilt window first.
    "tokenizer": lambda folder, **options: tokenizer_trainer(folder, kmeans_windows=0, **options),
    "encoder": encoder_trainer,
    "finetuning": finetuning_trainer,
}


def spoil_window(trainer, row, value):
    """Replaces one training window by a constant, which no feature extractor would let pass."""

    def spoil(rows, indices):
        windows = [
            np.full_like(window, value).tolist() if index == row else window
            for index, window in zip(indices, rows["input_values"])
        ]
        return {"input_values": windows}

    windows = trainer.train_dataset
    spoilt = windows.dataset.map(spoil, with_indices=True, batched=True)
    columns = [name for name in ("input_values", "codes", "label") if name in spoilt.column_names]
    trainer.train_dataset = WindowsDataset(spoilt, columns, windows.augmentation, windows.seed)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_loss_that_is_not_a_number_stops_and_names_the_records(make, accumulation, tmp_path):
    trainer = make(
        tmp_path, per_device_train_batch_size=BATCH_SIZE // accumulation, gradient_accumulation_steps=accumulation
    )
    spoil_window(trainer, 17, np.nan)
    with pytest.raises(
        DivergedError, match=r"the loss is nan\. The records of the batch are in .*diverged_step_\d\.csv"
    ):
        run_to_the_end(trainer, tmp_path)
    (file,) = tmp_path.glob("diverged_step_*.csv")
    records = pd.read_csv(file)
    assert list(records.columns) == ["subject_id", "record_id", "start_time"]
    assert len(records) == BATCH_SIZE // accumulation
    assert "r17" in set(records["record_id"])
    # The optimizer has not seen it.
    assert all(torch.isfinite(weights).all() for weights in trainer.model.parameters())


def run_to_the_end(trainer, folder):
    run_folder = RunFolder(folder, {"stage": "test"})
    return trainer.run(run_folder, run_folder.open())


@pytest.fixture(params=["at once", "a batch later"])
def checked(request, monkeypatch):
    """When losses are looked at: on a CPU, and as it is done with an accelerator."""
    if request.param != "at once":
        monkeypatch.setattr(stage_trainer, "DivergenceCallback", lambda delay: DivergenceCallback(delay=1))


def test_records_are_those_of_the_batch_after_an_interruption(checked, tmp_path):
    run_trainer(finetuning_trainer(tmp_path), tmp_path, interrupted_at=9)
    seen = []
    trainer = finetuning_trainer(tmp_path, train=[float(60 + row) for row in range(NUM_WINDOWS)])
    compute_loss = trainer.compute_loss

    def last_is_infinite(model, inputs, *args, **kwargs):
        loss = compute_loss(model, inputs, *args, **kwargs)
        if model.training:
            seen.append(inputs["labels"].tolist())
            if len(seen) == 3:
                return loss * torch.inf
        return loss

    trainer.compute_loss = last_is_infinite
    with pytest.raises(DivergedError, match="after step 10: the loss is inf"):
        run_to_the_end(trainer, tmp_path)
    records = pd.read_csv(tmp_path / "diverged_step_10.csv")["record_id"]
    assert [float(60 + int(record[1:])) for record in records] == seen[2]
    assert Path(last_whole_checkpoint(tmp_path)).name == "checkpoint-10"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_loss_of_the_batch_before_a_checkpoint_is_checked_first(checked, number, tmp_path):
    """Whichever of the three batches between two checkpoints it is, and whether another one follows or not."""
    trainer = encoder_trainer(tmp_path, max_steps=3, save_steps=3, eval_steps=3)
    compute_loss, seen = trainer.compute_loss, []

    def one_is_infinite(*args, **kwargs):
        loss = compute_loss(*args, **kwargs)
        seen.append(loss)
        # Finite weights all the same.
        return loss + torch.inf if len(seen) == number + 1 else loss

    trainer.compute_loss = one_is_infinite
    with pytest.raises(DivergedError, match=f"after step {number}: the loss is inf"):
        run_to_the_end(trainer, tmp_path)
    assert not [*tmp_path.glob("checkpoint-*")]


def losses_of(trainer, losses):
    """Makes the training see these values in place of its losses, batch by batch."""
    given = iter(losses)
    compute_loss = trainer.compute_loss

    def replaced(model, inputs, *args, **kwargs):
        loss = compute_loss(model, inputs, *args, **kwargs)
        return loss * 0 + next(given) if model.training else loss

    trainer.compute_loss = replaced


def test_one_outlier_does_not_end_a_nearly_converged_training(checked, tmp_path):
    trainer = finetuning_trainer(tmp_path)
    losses_of(trainer, [1e-5] * 5 + [3e5] + [1e-5] * 3 + [2e2, 3e2] + [1e-5] * 3)
    run_to_the_end(trainer, tmp_path)
    assert trainer.state.global_step == 14


def test_nearly_converged_training_may_rise_to_what_an_untrained_model_has(checked, tmp_path):
    trainer = finetuning_trainer(tmp_path)
    losses_of(trainer, [1e-6] + [2.0] * 13)
    run_to_the_end(trainer, tmp_path)


@pytest.mark.parametrize("first", [1e-6, 1.0])
def test_loss_that_explodes_for_three_batches_stops(checked, first, tmp_path):
    trainer = finetuning_trainer(tmp_path)
    losses_of(trainer, [first] * 5 + [101.0] * 9)
    with pytest.raises(
        DivergedError, match=r"after step 7: .*more than 100 times the first one and that of an untrained"
    ):
        run_to_the_end(trainer, tmp_path)


def test_exploding_loss_stops(tmp_path):
    trainer = finetuning_trainer(
        tmp_path, learning_rate=300.0, lr_scheduler_type="constant", optim="sgd", max_grad_norm=0
    )
    with pytest.raises(DivergedError, match=r"more than 100 times the first one|is inf|is nan"):
        run_to_the_end(trainer, tmp_path)


def test_weights_that_are_not_finite_are_never_stored(tmp_path):
    trainer = encoder_trainer(tmp_path)
    optimizer_step = trainer.create_optimizer().step
    calls = []

    def step(*args, **kwargs):
        optimizer_step(*args, **kwargs)
        calls.append(1)
        if len(calls) == 4:
            next(trainer.model.parameters()).data[0] = np.nan

    trainer.optimizer.step = step
    with pytest.raises(DivergedError, match=r"1 weights are not finite, such as|the loss is nan"):
        run_to_the_end(trainer, tmp_path)
    assert last_whole_checkpoint(tmp_path).endswith("checkpoint-2")


def test_collapsing_codebook_is_warned_of_early_and_once(tmp_path, caplog):
    trainer = tokenizer_trainer(tmp_path, warm_start_steps=0, kmeans_windows=0, perplexity_floor=0.9)
    with caplog.at_level(logging.WARNING, logger="cmssl_hf"):
        trainer.train()
    (warning,) = [record.getMessage() for record in caplog.records if "codebook collapses" in record.getMessage()]
    assert warning.startswith("The codebook collapses: at step 1 the tokens are spread over about ")
    assert "of 16 codes (perplexity)" in warning


def test_codebook_that_is_used_is_not_warned_of(tmp_path, caplog):
    trainer = tokenizer_trainer(tmp_path)
    with caplog.at_level(logging.WARNING, logger="cmssl_hf"):
        trainer.train()
    assert "collapses" not in caplog.text


def test_usage_perplexity(tmp_path):
    codebook = tokenizer_trainer(tmp_path).model.codebook
    codebook.cluster_size.zero_()
    codebook.cluster_size[:4] = 0.3
    assert usage_perplexity(codebook) == pytest.approx(4)


@pytest.mark.parametrize(
    ("task", "factor", "warned"),
    [
        ("simulated_hr", 1, False),
        ("simulated_hr", 1 / 60, True),
        ("simulated_rr", 1 / 60, True),
        ("simulated_bp", 0.133, True),
    ],
)
def test_labels_in_another_unit_are_warned_of(task, factor, warned, caplog):
    task = get_task(task)
    labels = np.random.default_rng(0).normal({"bpm": 75, "breaths/min": 15, "mmHg": 100}[task.unit], 3, (50, 2))
    labels = labels[:, : len(task.label_names)] * factor
    with caplog.at_level(logging.WARNING, logger="cmssl_hf"):
        describe_labels(encoder_config(), task, task.label_names, labels)
    assert ("Are the labels in another unit?" in caplog.text) == warned
