"""The trainers of the three stages on tiny models: interruptions, accumulation, warm start, validation, frozen encoders."""

import copy
import itertools
import json

import numpy as np
import pytest
import torch
from datasets import ClassLabel, List, Value
from transformers import TrainerCallback

from cmssl_hf import CMSSLEncoderForSequenceClassification
from cmssl_hf.data.augmentation import Augmentation
from cmssl_hf.data.batches import WindowsDataset
from cmssl_hf.tasks import Task, get_task
from cmssl_hf.training.finetuning import FinetuningTrainer
from helpers.tiny import PATCH, encoder_config, tokenizer_config, waves, windows_dataset
from helpers.trainers import (
    LENGTHS,
    NUM_WINDOWS,
    STRETCH,
    TASK,
    coded,
    encoder_trainer,
    finetuning_trainer,
    run_trainer,
    tokenizer_trainer,
)


TRAINERS = {
    "tokenizer": tokenizer_trainer,
    "tokenizer, augmented": lambda folder, **o: tokenizer_trainer(
        folder, augmentation=Augmentation(125, noise=0.3), **o
    ),
    "encoder": encoder_trainer,
    "finetuning, augmented": lambda folder, **o: finetuning_trainer(folder, augmentation=STRETCH, **o),
}


def weights(trainer):
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def assert_same(first, second, **tolerance):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(
            second[name], tensor, **(tolerance or {"rtol": 0, "atol": 0}), msg=lambda m, n=name: f"{n}: {m}"
        )


def without_speed(metrics):
    return {name: value for name, value in metrics.items() if not name.endswith(("time", "per_second"))}


def history(trainer):
    return [without_speed(entry) for entry in trainer.state.log_history if "train_loss" not in entry]


# Checkpoints are written every two steps, an epoch has six, and the warm start ends at the fourth. An interruption at
# step n falls back to the checkpoint before it.
@pytest.mark.parametrize(
    "step",
    [
        pytest.param(3, id="in the warm start"),
        pytest.param(5, id="right after k-means"),
        pytest.param(7, id="right after an epoch"),
        pytest.param(9, id="within the second epoch"),
        pytest.param(13, id="in the last epoch"),
    ],
)
@pytest.mark.parametrize("make", TRAINERS.values(), ids=TRAINERS)
def test_interrupted_run_ends_with_the_same_weights(make, step, tmp_path, uninterrupted):
    expected = uninterrupted(make)
    run_trainer(make(tmp_path, load_best_model_at_end=False), tmp_path, interrupted_at=step)
    resumed = make(tmp_path, load_best_model_at_end=False)
    metrics = run_trainer(resumed, tmp_path)
    assert_same(expected["weights"], weights(resumed))
    assert without_speed(metrics) == without_speed(expected["metrics"])
    assert history(resumed) == expected["history"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """What a run gives that nothing interrupts; each is run once."""
    results = {}

    def train(make):
        if make not in results:
            folder = tmp_path_factory.mktemp("run")
            trainer = make(folder, load_best_model_at_end=False)
            metrics = run_trainer(trainer, folder)
            results[make] = {"weights": weights(trainer), "metrics": metrics, "history": history(trainer)}
        return results[make]

    return train


def test_run_interrupted_twice_ends_with_the_same_weights(tmp_path, uninterrupted):
    make = TRAINERS["finetuning, augmented"]
    for step in (3, 11):
        run_trainer(make(tmp_path, load_best_model_at_end=False), tmp_path, interrupted_at=step)
    resumed = make(tmp_path, load_best_model_at_end=False)
    run_trainer(resumed, tmp_path)
    assert_same(uninterrupted(make)["weights"], weights(resumed))


@pytest.mark.parametrize("make", TRAINERS.values(), ids=TRAINERS)
def test_finished_run_is_not_trained_further(make, tmp_path):
    first = make(tmp_path)
    metrics = run_trainer(first, tmp_path)
    files = sorted(path.name for path in tmp_path.iterdir())
    second = make(tmp_path)
    again = run_trainer(second, tmp_path)
    assert_same(weights(first), weights(second))
    assert without_speed(again) == pytest.approx(without_speed(metrics))
    assert sorted(path.name for path in tmp_path.iterdir()) == files


class WorseAndWorse(FinetuningTrainer):
    """A model whose validation error is given."""

    errors = [9.0, 5.0, 6.0, 6.5, 7.0, 7.5, 8.0]

    def _metrics(self, evaluation):
        return {"mae": self.errors[min(self.state.global_step // 2, 7) - 1]}


@pytest.mark.parametrize("interrupted_at", [None, 5, 7, 9])
def test_patience_survives_an_interruption(interrupted_at, tmp_path):
    def make():
        trainer = finetuning_trainer(tmp_path, early_stopping_patience=3)
        trainer.__class__ = WorseAndWorse
        trainer.compute_metrics = trainer._metrics
        return trainer

    if interrupted_at is not None:
        run_trainer(make(), tmp_path, interrupted_at=interrupted_at)
    trainer = make()
    run_trainer(trainer, tmp_path)
    # Best at step 4, then three evaluations (6, 8, 10) without a better one.
    assert trainer.state.global_step == 10
    assert trainer.state.best_global_step == 4


def test_run_that_stopped_early_is_not_trained_further(tmp_path):
    trainer = finetuning_trainer(tmp_path, early_stopping_patience=1, learning_rate=0.0)
    run_trainer(trainer, tmp_path)
    assert trainer.state.global_step == 4
    again = finetuning_trainer(tmp_path, early_stopping_patience=1, learning_rate=0.0)
    run_trainer(again, tmp_path)
    assert again.state.global_step == 4


class Snapshot(TrainerCallback):
    """Copies the weights after a step."""

    def __init__(self, trainer, step, copies):
        self.trainer, self.step, self.copies = trainer, step, copies

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.copies.update(weights(self.trainer))


ACCUMULATION = {
    "encoder": lambda folder, **o: encoder_trainer(folder, encoder_config(), **o),
    "finetuning": lambda folder, **o: finetuning_trainer(
        folder,
        encoder_config(num_labels=1, problem_type="regression", label_mean=70.0, label_std=10.0),
        augmentation=STRETCH,
        **o,
    ),
    "quantised": lambda folder, **o: tokenizer_trainer(
        folder, tokenizer_config(), warm_start_steps=0, revival_steps=2, revival_usage=0.9, kmeans_windows=20, **o
    ),
    "autoencoder": lambda folder, **o: tokenizer_trainer(
        folder, tokenizer_config(), warm_start_steps=5, kmeans_windows=0, **o
    ),
}


@pytest.mark.parametrize("make", ACCUMULATION.values(), ids=ACCUMULATION)
def test_accumulated_gradients_are_those_of_a_larger_batch(make, tmp_path):
    options = {
        "optim": "sgd", "learning_rate": 0.1, "max_steps": 6, "eval_strategy": "no", "save_strategy": "no",
        "load_best_model_at_end": False, "max_grad_norm": 0.5,
    }  # fmt: skip
    whole = make(tmp_path / "a", per_device_train_batch_size=8, **options)
    parts = make(tmp_path / "b", per_device_train_batch_size=4, gradient_accumulation_steps=2, **options)
    initial = weights(whole)
    after = {}
    for trainer in (whole, parts):
        trainer.add_callback(Snapshot(trainer, 5, after.setdefault(trainer, {})))
        trainer.train()
    assert any((tensor - initial[name]).abs().max() > 1e-3 for name, tensor in after[whole].items())
    assert_same(after[whole], after[parts], rtol=0, atol=2e-5)
    for logged, expected in zip(history(parts), history(whole), strict=True):
        # The gradients' norm is that of a sum in another order.
        assert logged == pytest.approx(expected, abs=1e-6, rel=1e-4)


CLASSES = [0] * 15 + [1] * 6 + [2] * 3
UNEQUAL_BATCHES = {
    "tokenizer": lambda folder, **o: tokenizer_trainer(
        folder, tokenizer_config(), num_samples=LENGTHS * 3, warm_start_steps=2, kmeans_windows=0, **o
    ),
    "encoder": lambda folder, **o: encoder_trainer(folder, encoder_config(), num_samples=LENGTHS * 3, **o),
    "soft targets": lambda folder, **o: encoder_trainer(
        folder, encoder_config(), num_samples=LENGTHS * 3, codebook=torch.eye(16), soft_target_temperature=1.0, **o
    ),
    "class weights": lambda folder, **o: finetuning_trainer(
        folder,
        encoder_config(num_labels=3, problem_type="single_label_classification", class_weights=[0.5, 2.0, 4.0]),
        task=Task("rhythm", "simulated", "rhythm", "ppg", "single_label_classification"),
        feature=ClassLabel(names=["a", "b", "c"]),
        train=CLASSES,
        evaluated=CLASSES[:7],
        **o,
    ),
}


@pytest.mark.parametrize("make", UNEQUAL_BATCHES.values(), ids=UNEQUAL_BATCHES)
def test_batches_that_hold_more_count_more_in_a_step(make, tmp_path):
    """Means over windows of several lengths, or over classes of several weights."""
    options = {
        "optim": "sgd", "learning_rate": 0.1, "max_steps": 4, "eval_strategy": "no", "save_strategy": "no",
        "load_best_model_at_end": False, "max_grad_norm": 0.5,
    }  # fmt: skip
    whole = make(tmp_path / "a", per_device_train_batch_size=8, **options)
    parts = make(tmp_path / "b", per_device_train_batch_size=2, gradient_accumulation_steps=4, **options)
    for trainer in (whole, parts):
        trainer.train()
    losses = [[entry["loss"] for entry in trainer.state.log_history if "loss" in entry] for trainer in (whole, parts)]
    assert losses[1] == pytest.approx(losses[0], rel=2e-6)
    assert_same(weights(whole), weights(parts), rtol=0, atol=2e-5)


def test_codebook_moves_once_per_step_whatever_it_is_accumulated_from(tmp_path):
    options = {
        "optim": "sgd", "learning_rate": 0.01, "max_steps": 6, "warm_start_steps": 2, "eval_strategy": "no",
        "save_strategy": "no", "load_best_model_at_end": False,
    }  # fmt: skip
    codebooks, losses = [], []
    for batch_size in (8, 4, 2):
        trainer = tokenizer_trainer(
            tmp_path / str(batch_size),
            tokenizer_config(),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=8 // batch_size,
            **options,
        )
        trainer.train()
        codebooks.append({name: buffer.clone() for name, buffer in trainer.model.codebook.named_buffers()})
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    for codebook, loss in zip(codebooks[1:], losses[1:]):
        assert_same(codebooks[0], codebook, rtol=0, atol=1e-5)
        assert loss == pytest.approx(losses[0], abs=1e-6)


def test_every_window_is_trained_on_once_per_epoch_in_changing_order(tmp_path):
    seen = []
    trainer = finetuning_trainer(
        tmp_path, train=[float(index) for index in range(NUM_WINDOWS)], max_steps=12, eval_strategy="no",
        save_strategy="no", load_best_model_at_end=False,
    )  # fmt: skip
    collate = trainer.data_collator
    trainer.data_collator = lambda batch: (seen.append(collate(batch)), seen[-1])[1]
    trainer.train()
    labels = torch.cat([batch["labels"] for batch in seen]).tolist()
    assert sorted(labels[:24]) == sorted(labels[24:]) == [float(index) for index in range(24)]
    assert labels[:24] != labels[24:]


def test_augmentation_differs_between_epochs(tmp_path):
    trainer = finetuning_trainer(
        tmp_path, train=[100.0] * NUM_WINDOWS, augmentation=STRETCH, max_steps=12, eval_strategy="no",
        save_strategy="no", load_best_model_at_end=False,
    )  # fmt: skip
    seen = []
    collate = trainer.data_collator
    trainer.data_collator = lambda batch: (seen.append(collate(batch)), seen[-1])[1]
    trainer.train()
    labels = torch.cat([batch["labels"] for batch in seen]).tolist()
    assert len(set(labels)) == 48


# Stage 1


class Recorder(TrainerCallback):
    def __init__(self, trainer):
        self.trainer, self.codebooks = trainer, {}

    def on_step_end(self, args, state, control, **kwargs):
        self.codebooks[state.global_step] = self.trainer.model.codebook.weight.clone()


def test_codebook_is_untouched_until_the_warm_start_ends(tmp_path):
    trainer = tokenizer_trainer(tmp_path)
    initial = trainer.model.codebook.weight.clone()
    trainer.add_callback(recorder := Recorder(trainer))
    trainer.train()
    for step in (1, 2, 3):
        assert torch.equal(recorder.codebooks[step], initial)
    for step in range(4, 14):
        assert not torch.equal(recorder.codebooks[step], recorder.codebooks[step + 1])
    assert not torch.equal(recorder.codebooks[4], initial)


def test_published_start_quantises_at_once_from_random_codes(tmp_path):
    trainer = tokenizer_trainer(tmp_path, warm_start_steps=0, kmeans_windows=0, max_steps=2)
    initial = trainer.model.codebook.weight.clone()
    trainer.add_callback(recorder := Recorder(trainer))
    trainer.train()
    used = (recorder.codebooks[1] != initial).any(-1)
    # Only codes that the first batch chose have moved, all of them still unit vectors.
    assert 0 < used.sum() < 16
    torch.testing.assert_close(recorder.codebooks[1].norm(dim=-1), torch.ones(16))


def test_k_means_without_warm_start_precedes_the_first_step(tmp_path):
    trainer = tokenizer_trainer(tmp_path, warm_start_steps=0, max_steps=2)
    initial = trainer.model.codebook.weight.clone()
    trainer.add_callback(recorder := Recorder(trainer))
    trainer.train()
    assert (recorder.codebooks[1] != initial).any(-1).all()


def test_best_checkpoint_never_comes_from_the_warm_start(tmp_path):
    # The autoencoder of the warm start is much better than anything that one quantised step at a learning rate of 0 can be.
    trainer = tokenizer_trainer(
        tmp_path, tokenizer_config(codebook_size=2), warm_start_steps=12, max_steps=16, save_total_limit=None
    )
    metrics = run_trainer(trainer, tmp_path)
    losses = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
    quantised = {step: loss for step, loss in losses.items() if step >= 12}
    assert min(losses, key=losses.get) < 12
    assert trainer.state.best_global_step == min(quantised, key=quantised.get)
    assert metrics["eval_loss"] == pytest.approx(min(quantised.values()))


def test_patience_does_not_run_out_in_the_warm_start(tmp_path):
    trainer = tokenizer_trainer(tmp_path, warm_start_steps=10, early_stopping_patience=1, learning_rate=0.0)
    trainer.train()
    # With a learning rate of 0 no evaluation is better than the one before: the first after the warm start is at step 10.
    assert trainer.state.global_step >= 12


@pytest.mark.parametrize(
    "options", [{"max_steps": 4}, {"max_steps": -1, "num_train_epochs": 1, "warm_start_steps": 6}]
)
def test_warm_start_that_never_ends_is_refused(options, tmp_path):
    with pytest.raises(ValueError, match=r"`warm_start_steps` .* nothing would be quantised"):
        tokenizer_trainer(tmp_path, **options).train()


@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_encoder_is_slower_once_the_codebook_is_in_use(factor, tmp_path):
    trainer = tokenizer_trainer(tmp_path, quantized_encoder_lr=factor, weight_decay=0.0)
    snapshots = []
    trainer.add_callback(_WatchWeights(trainer, snapshots, "encoder."))
    trainer.train()
    moved = [bool((after != before).any()) for before, after in itertools.pairwise(snapshots)]
    start = trainer.args.warm_start_steps
    assert all(moved[: start - 1])
    assert any(moved[start:]) == (factor > 0)


class _WatchWeights(TrainerCallback):
    """Notes the parameters of a part of the model after each step."""

    def __init__(self, trainer, snapshots, prefix):
        self.trainer, self.snapshots, self.prefix = trainer, snapshots, prefix

    def on_step_end(self, args, state, control, **kwargs):
        values = [value.flatten() for name, value in weights(self.trainer).items() if name.startswith(self.prefix)]
        self.snapshots.append(torch.cat(values).clone())


def test_codes_are_revived_in_training(tmp_path, caplog):
    config = tokenizer_config(codebook_size=64)
    with caplog.at_level("INFO", logger="cmssl_hf.training.codebook"):
        tokenizer_trainer(tmp_path, config, revival_steps=2, revival_usage=0.9).train()
    assert any("codes revived" in message for message in caplog.messages)


def test_validation_of_the_tokenizer(tmp_path):
    trainer = tokenizer_trainer(tmp_path, tokenizer_config(channel_loss_weights=(2.0, 0.5)), max_steps=6)
    trainer.train()
    metrics = trainer.evaluate()
    signals = np.stack(waves(7, 2, 100, seed=1))
    model = copy.deepcopy(trainer.model).eval()
    with torch.no_grad():
        output = model(torch.from_numpy(signals))
    made = output.reconstruction.numpy()
    for index, channel in enumerate(("ecg", "ppg")):
        error = made[:, index] - signals[:, index]
        assert metrics[f"eval_{channel}_l1"] == pytest.approx(np.abs(error).mean(), rel=1e-5)
        explained = 1 - (error**2).mean() / signals[:, index].var()
        assert metrics[f"eval_{channel}_explained_variance"] == pytest.approx(explained, abs=1e-5)
    codes = output.codes.numpy().ravel()
    assert metrics["eval_codes_in_use"] == len(np.unique(codes))
    share = np.bincount(codes) / len(codes)
    assert metrics["eval_perplexity"] == pytest.approx(np.exp(-(share[share > 0] * np.log(share[share > 0])).sum()))
    distance = ((model.codebook.weight[output.codes] - output.latents) ** 2).mean().item()
    assert metrics["eval_commitment_loss"] == pytest.approx(0.25 * distance, rel=1e-4)
    squared = ((made - signals) ** 2).mean((0, 2))
    assert metrics["eval_loss"] == pytest.approx(2 * squared[0] + 0.5 * squared[1] + 0.25 * distance, rel=1e-4)


def test_validation_leaves_the_codebook_alone(tmp_path):
    trainer = tokenizer_trainer(tmp_path, max_steps=6)
    trainer.train()
    before = weights(trainer)
    trainer.evaluate()
    assert_same(before, weights(trainer))


def test_warm_start_is_validated_without_the_quantiser(tmp_path):
    trainer = tokenizer_trainer(tmp_path)
    trainer.train()
    logged = {entry["step"]: entry for entry in trainer.state.log_history if "eval_loss" in entry}
    assert "eval_perplexity" not in logged[2]
    assert "eval_perplexity" in logged[4]


def test_parts_of_the_loss_are_logged_and_add_up(tmp_path):
    trainer = tokenizer_trainer(tmp_path, logging_steps=2)
    trainer.train()
    logged = {entry["step"]: entry for entry in trainer.state.log_history if "loss" in entry}
    assert logged[2]["commitment_loss"] == 0
    assert logged[10]["commitment_loss"] > 0
    for entry in logged.values():
        assert entry["loss"] == pytest.approx(entry["reconstruction_loss"] + entry["commitment_loss"], rel=1e-3)


# Stage 2


@pytest.mark.parametrize("eval_samples", [100, LENGTHS[:7]])
def test_validation_of_the_encoder(eval_samples, tmp_path):
    counts = np.arange(16)
    trainer = encoder_trainer(tmp_path, code_counts=counts, eval_samples=eval_samples, max_steps=4)
    trainer.train()
    metrics = trainer.evaluate()
    model = copy.deepcopy(trainer.model).eval()
    nll, ranks, baseline = [], [], []
    for row in coded(7, 1, eval_samples):
        values = np.array(row["input_values"], dtype=np.float32)
        length = values.shape[1]
        padded = torch.from_numpy(np.pad(values, ((0, 0), (0, -length % PATCH))))[None]
        mask = (torch.arange(padded.shape[-1]) < length).long()[None]
        with torch.no_grad():
            logits = model(padded, mask).logits[0].double()
        for code, scores in zip(row["codes"], logits):
            nll.append((scores.logsumexp(0) - scores[code]).item())
            ranks.append((scores > scores[code]).sum().item())
            baseline.append(-np.log((counts[code] + 1) / (counts + 1).sum()))
    assert metrics["eval_cross_entropy"] == pytest.approx(np.mean(nll), rel=1e-4)
    assert metrics["eval_token_frequency_cross_entropy"] == pytest.approx(np.mean(baseline), rel=1e-6)
    assert metrics["eval_top1_accuracy"] == pytest.approx(np.mean(np.array(ranks) == 0))
    assert metrics["eval_top5_accuracy"] == pytest.approx(np.mean(np.array(ranks) < 5))


def test_encoder_learns_codes_that_follow_from_the_signal(tmp_path):
    trainer = encoder_trainer(tmp_path, encoder_config(), max_steps=60, learning_rate=1e-2, eval_strategy="no",
                              save_strategy="no", load_best_model_at_end=False)  # fmt: skip

    def with_codes(number, seed):
        windows = waves(number, 1, 100, seed=seed)
        # The code of a patch is the sign of its first sample.
        codes = [[int(value > 0) for value in window[0, ::PATCH]] for window in windows]
        dataset = windows_dataset(windows).add_column("codes", codes).cast_column("codes", List(Value("int16")))
        return WindowsDataset(dataset, ["input_values", "codes"])

    trainer.train_dataset = with_codes(200, 0)
    trainer.train()
    metrics = trainer.evaluate(with_codes(50, 1))
    assert metrics["eval_top1_accuracy"] > 0.85


# Stage 3


TASKS_AND_LABELS = {
    "regression": (TASK, Value("float32"), 1, lambda rng: float(rng.normal(70, 10)), "eval_mae"),
    "two outputs": (
        get_task("simulated_bp"),
        List(Value("float32")),
        2,
        lambda rng: rng.normal([120, 80], 10).tolist(),
        "eval_mae_diastolic_pressure",
    ),
    "multi-class": (
        get_task("physionet2017"),
        ClassLabel(names=["N", "A", "O"]),
        3,
        lambda rng: int(rng.integers(0, 3)),
        "eval_kappa",
    ),
    "multi-label": (
        get_task("ptb_xl"),
        List(Value("float32")),
        4,
        lambda rng: (rng.random(4) < 0.5).astype(float).tolist(),
        "eval_auc_pr",
    ),
}


@pytest.mark.parametrize("num_samples", [100, LENGTHS * 3])
@pytest.mark.parametrize(
    ("task", "feature", "num_labels", "draw", "metric"), TASKS_AND_LABELS.values(), ids=TASKS_AND_LABELS
)
def test_every_kind_of_task_is_trained(task, feature, num_labels, draw, metric, num_samples, tmp_path):
    rng = np.random.default_rng(0)
    config = encoder_config(num_labels=num_labels, problem_type=task.problem_type)
    if task.problem_type == "regression":
        config.label_mean, config.label_std = [100.0] * num_labels, [10.0] * num_labels
    trainer = finetuning_trainer(
        tmp_path,
        config,
        task,
        feature,
        [draw(rng) for _ in range(NUM_WINDOWS)],
        [draw(rng) for _ in range(7)],
        num_samples=num_samples,
    )
    trainer.train()
    metrics = trainer.evaluate()
    assert np.isfinite(metrics["eval_loss"])
    assert metric in metrics
    assert trainer.state.best_global_step is not None
    predictions = trainer.predict(trainer.eval_dataset).predictions
    assert predictions.shape == (7, num_labels)


def test_best_multi_label_checkpoint_is_the_one_with_the_largest_auroc(tmp_path):
    task, feature, num_labels, draw, _ = TASKS_AND_LABELS["multi-label"]
    rng = np.random.default_rng(0)
    trainer = finetuning_trainer(
        tmp_path, encoder_config(num_labels=num_labels, problem_type=task.problem_type), task, feature,
        [draw(rng) for _ in range(NUM_WINDOWS)], [draw(rng) for _ in range(7)],
    )  # fmt: skip
    metrics = run_trainer(trainer, tmp_path)
    areas = [entry["eval_auroc"] for entry in trainer.state.log_history if "eval_auroc" in entry]
    assert max(areas) > min(areas)
    assert metrics["eval_auroc"] == pytest.approx(max(areas))


def test_regression_is_learnt_in_physical_units(tmp_path):
    trainer = finetuning_trainer(
        tmp_path, encoder_config(num_labels=1, problem_type="regression", label_mean=130.0, label_std=25.0),
        max_steps=150, learning_rate=5e-3, eval_strategy="no", save_strategy="no", load_best_model_at_end=False,
    )  # fmt: skip

    def with_levels(number, seed):
        rng = np.random.default_rng(seed)
        levels = rng.uniform(-1, 1, number)
        windows = [np.full((1, 100), level, dtype=np.float32) for level in levels]
        labels = (130 + 40 * levels).tolist()
        return WindowsDataset(windows_dataset(windows, Value("float32"), label=labels), ["input_values", "label"])

    trainer.train_dataset = with_levels(64, 0)
    trainer.train()
    assert trainer.evaluate(with_levels(32, 1))["eval_mae"] < 6


def test_frozen_encoder_does_not_change(tmp_path):
    trainer = finetuning_trainer(tmp_path, weight_decay=0.5)
    trainer.model.freeze_encoder()
    before = weights(trainer)
    trainer.train()
    after = weights(trainer)
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor) == name.startswith("encoder."), name


def test_frozen_encoder_has_no_dropout_in_training(tmp_path):
    trainer = finetuning_trainer(
        tmp_path, encoder_config(hidden_dropout_prob=0.9, num_labels=1, problem_type="regression")
    )
    trainer.model.freeze_encoder()
    outputs = []
    trainer.model.classifier.register_forward_pre_hook(
        lambda module, inputs: outputs.append((module.training, inputs[0].detach()))
    )
    batch = {"input_values": torch.from_numpy(np.stack(waves(4)))}
    trainer.model.train()
    for _ in range(2):
        trainer.model(**batch)
    (training, first), (_, second) = outputs
    assert training
    assert torch.equal(first, second)


def test_results_are_stored_with_the_run(tmp_path):
    trainer = finetuning_trainer(tmp_path)
    metrics = run_trainer(trainer, tmp_path)
    stored = json.loads((tmp_path / "run.json").read_text())
    assert stored["results"] == metrics
    reloaded = CMSSLEncoderForSequenceClassification.from_pretrained(tmp_path)
    assert_same(weights(trainer), dict(reloaded.state_dict()))


def test_workers_that_outlive_epochs_change_nothing(tmp_path):
    """Without dropout, which draws from a source of randomness that the start of workers moves on."""
    ends = {}
    for name, workers in (("none", {}), ("one", {"dataloader_num_workers": 1, "dataloader_persistent_workers": True})):
        config = encoder_config(num_labels=1, problem_type="regression", label_mean=70.0, label_std=10.0)
        trainer = finetuning_trainer(tmp_path / name, augmentation=STRETCH, config=config, **workers)
        run_trainer(trainer, tmp_path / name)
        ends[name] = weights(trainer)
    assert_same(ends["none"], ends["one"])
