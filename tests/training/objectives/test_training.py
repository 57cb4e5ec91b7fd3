"""Training with each objective on tiny models: interruptions, accumulated gradients, teachers, collapse, and what is stored."""

import copy
import json
import logging

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from cmssl_hf import CMSSLEncoderModel, CMSSLFeatureExtractor
from cmssl_hf.training.objectives.teacher import momentum_at
from helpers.objectives import COMPARING, PARTS, objective_trainer
from helpers.tiny import PATCH
from helpers.trainers import run_trainer


TEACHERS = ["byol", "moco_v3"]
SHORT = {"max_steps": 5, "load_best_model_at_end": False}


def make(name, folder, **options):
    trainer = objective_trainer(name, folder, **SHORT | options)
    trainer.processing_class = CMSSLFeatureExtractor(channels=trainer.model.config.channels, patch_size=PATCH)
    # The waves have no beats to probe for.
    trainer.report = lambda folder: {}
    return trainer


def weights(trainer):
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def history(trainer):
    times = ("time", "per_second")
    return [
        {name: value for name, value in entry.items() if not name.endswith(times)}
        for entry in trainer.state.log_history
        if "train_loss" not in entry
    ]


#: With its dropout and its statistics of batches.
OF_RESNET = ("simclr", "byol")


@pytest.mark.parametrize(
    ("name", "backbone"),
    [(name, None) for name in PARTS]
    + [pytest.param(name, "resnet1d", marks=() if name in OF_RESNET else pytest.mark.long) for name in COMPARING],
)
def test_interrupted_run_ends_with_the_same_weights(name, backbone, tmp_path):
    whole = make(name, tmp_path / "whole", backbone=backbone)
    run_trainer(whole, tmp_path / "whole")
    # Steps 2 and 4 are saved, and an epoch has three.
    run_trainer(make(name, tmp_path / "run", backbone=backbone), tmp_path / "run", interrupted_at=3)
    resumed = make(name, tmp_path / "run", backbone=backbone)
    run_trainer(resumed, tmp_path / "run")
    assert_same(weights(whole), weights(resumed))
    assert history(whole) == history(resumed)
    assert all("projection_std" in entry for entry in history(whole) if "loss" in entry and name != "masked")


@pytest.mark.parametrize("name", ["moco_v3", "clip", "masked"])
def test_what_is_stored_is_the_encoder_alone_and_a_finished_run_is_restored(name, tmp_path):
    trainer = make(name, tmp_path, max_steps=2)
    run_trainer(trainer, tmp_path)
    parts = {"ecg": "encoders.ecg.", "ppg": "encoders.ppg."} if name == "clip" else {"": "encoder."}
    for part, prefix in parts.items():
        stored = CMSSLEncoderModel.from_pretrained(tmp_path / part).state_dict()
        trained = {
            key.removeprefix(prefix): tensor
            for key, tensor in trainer.model.state_dict().items()
            if key.startswith(prefix)
        }
        assert_same(trained, stored)
        assert json.loads((tmp_path / part / "config.json").read_text())["architectures"] == ["CMSSLEncoderModel"]
        assert (tmp_path / part / "preprocessor_config.json").exists()
    again = make(name, tmp_path, max_steps=2)
    run_trainer(again, tmp_path)
    for first, second in zip(trainer.encoders().values(), again.encoders().values()):
        assert_same(first.state_dict(), second.state_dict())


class Teachers(TrainerCallback):
    """Copies teacher and student when a step of the optimizer begins and ends."""

    def __init__(self):
        self.before, self.after = [], []

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.before.append(copy.deepcopy(model.teacher.state_dict()))

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.after.append(copy.deepcopy(model.state_dict()))


@pytest.mark.parametrize("name", TEACHERS)
@pytest.mark.parametrize("accumulation", [1, 3])
def test_teacher_moves_once_per_step_of_the_optimizer(name, accumulation, tmp_path):
    trainer = objective_trainer(
        name,
        tmp_path,
        model_options={"teacher_momentum": 0.9},
        gradient_accumulation_steps=accumulation,
        per_device_train_batch_size=4,
        max_steps=3,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
    )
    parameters = {key for key, _ in trainer.model.teacher.named_parameters()}
    seen = Teachers()
    trainer.add_callback(seen)
    trainer.train()
    assert len(seen.after) == 3
    for step, (before, after) in enumerate(zip(seen.before, seen.after)):
        # 1 - 0.1 * (cos(pi * step / 3) + 1) / 2 for steps 0, 1 and 2.
        momentum = [0.9, 0.925, 0.975][step]
        assert momentum == pytest.approx(momentum_at(step, 3, 0.9))
        for key in parameters:
            expected = momentum * before[key] + (1 - momentum) * after[key]
            torch.testing.assert_close(after[f"teacher.{key}"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", TEACHERS)
def test_teacher_begins_as_the_student_learns_nothing_itself_and_has_no_dropout(name, tmp_path):
    trainer = objective_trainer(name, tmp_path)
    model = trainer.model.train()
    for part in model.teacher:
        assert_same(getattr(model, part).state_dict(), model.teacher[part].state_dict())
    assert not any(parameter.requires_grad for parameter in model.teacher.parameters())
    assert model.encoder.training and not model.teacher["encoder"].training and model.teacher["projector"].training
    in_optimizer = {id(p) for group in trainer.create_optimizer().param_groups for p in group["params"]}
    assert not in_optimizer & {id(parameter) for parameter in model.teacher.parameters()}
    assert {id(p) for p in model.parameters() if p.requires_grad} == in_optimizer


@pytest.mark.parametrize("name", TEACHERS)
def test_teacher_of_resnet_has_statistics_of_its_own_and_no_dropout(name, tmp_path):
    trainer = objective_trainer(name, tmp_path, dropout=0.5, backbone="resnet1d")
    teacher = trainer.model.train().teacher["encoder"]
    norms = [module for module in teacher.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    dropouts = [module for module in teacher.modules() if isinstance(module, torch.nn.Dropout)]
    assert len(norms) == 11 and all(norm.training for norm in norms)
    assert len(dropouts) == 5 and not any(dropout.training for dropout in dropouts)
    inputs = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        outputs = [teacher(**inputs).pooler_output for _ in range(2)]
    assert torch.equal(*outputs)
    # Its first norm has seen the batch twice, with a momentum of 0.1.
    of_stem = teacher.stem.conv(inputs["input_values"]).mean((0, 2))
    torch.testing.assert_close(teacher.stem.norm.running_mean, 0.19 * of_stem, rtol=1e-4, atol=1e-6)
    trainer.model.eval()
    assert not any(norm.training for norm in norms)


@pytest.mark.parametrize("name", COMPARING)
def test_collapse_is_measured_and_told(name, tmp_path, caplog):
    trainer = make(name, tmp_path)
    with torch.no_grad():
        for key, parameter in trainer.model.named_parameters():
            # Nothing of the window is left in any encoder's output.
            if "encoder" in key and key.endswith("patch_projection.weight"):
                parameter.zero_()
    with caplog.at_level(logging.WARNING):
        metrics = trainer.evaluate()
    assert metrics["eval_projection_std"] < 1e-3
    assert metrics["eval_effective_rank"] == pytest.approx(1, abs=0.01)
    assert "The projections have collapsed" in caplog.text


def test_random_weights_are_no_collapse(tmp_path, caplog):
    metrics = make("simclr", tmp_path).evaluate()
    assert metrics["eval_effective_rank"] > 1.1 and "collapsed" not in caplog.text


def test_hidden_samples_of_accumulated_batches_count_the_same(tmp_path):
    """The step of two batches is that of one batch with the windows of both, however many samples each hides."""
    lengths = [100, 50, 75, 130, 25, 100, 125, 50] * 3
    ended = []
    for batch_size, accumulation in ((8, 1), (4, 2)):
        trainer = objective_trainer(
            "masked",
            tmp_path / str(accumulation),
            dropout=0.0,
            num_samples=lengths,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            warmup_steps=0,
            optim="sgd",
            learning_rate=0.5,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
        )
        trainer.train()
        ended.append(weights(trainer))
    for name, tensor in ended[0].items():
        torch.testing.assert_close(ended[1][name], tensor, rtol=0, atol=1e-5)


def test_masked_loss_is_the_error_in_hidden_samples_alone(tmp_path):
    trainer = objective_trainer("masked", tmp_path)
    model = trainer.model.eval()
    inputs = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        told = model.samples_head(
            model.encoder(inputs["input_values"] * ~inputs["hidden"][:, None]).last_hidden_state
        ).numpy()
        loss = model(**inputs).loss.item()
    hidden, windows = inputs["hidden"].numpy(), inputs["input_values"][:, 0].numpy()
    assert 0.2 < hidden.mean() < 0.8
    errors = (told.reshape(windows.shape) - windows)[hidden]
    assert loss == pytest.approx(np.mean(errors**2), rel=1e-5)
