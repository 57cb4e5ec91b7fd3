"""The trainers of the three stages with tiny models and windows, without files."""

import numpy as np
import pytest
import torch
from datasets import List, Value
from transformers import AutoModelForSequenceClassification, TrainerCallback

from cmssl_hf import CMSSLEncoderForPreTraining, CMSSLTokenizerModel
from cmssl_hf.data.augmentation import Augmentation
from cmssl_hf.data.batches import WindowsCollator, WindowsDataset
from cmssl_hf.tasks import get_task
from cmssl_hf.training.encoder import EncoderTrainer, EncoderTrainingArguments
from cmssl_hf.training.engine.run_folder import RunFolder
from cmssl_hf.training.finetuning import FinetuningArguments, FinetuningTrainer
from cmssl_hf.training.tokenizer import TokenizerTrainer, TokenizerTrainingArguments
from helpers.tiny import PATCH, encoder_config, tokenizer_config, waves, windows_dataset


NUM_WINDOWS, BATCH_SIZE = 24, 4  # six steps per epoch
LENGTHS = [100, 75, 130, 100, 50, 25, 125, 90]
TASK = get_task("simulated_hr")


def training_arguments(kind, folder, **options):
    defaults = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "per_device_train_batch_size": BATCH_SIZE,
        "per_device_eval_batch_size": 5,
        "max_steps": 14,
        "learning_rate": 3e-3,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "logging_steps": 1,
        "seed": 7,
    }
    if kind is TokenizerTrainingArguments:
        defaults |= {"warm_start_steps": 4, "kmeans_windows": 20}
        if options.get("kmeans_windows") != 0:
            defaults["kmeans_iterations"] = 3
    return kind(**defaults | options)


def tokenizer_trainer(folder, config=None, augmentation=None, num_samples=100, **options):
    torch.manual_seed(0)
    config = config or tokenizer_config(hidden_dropout_prob=0.1)
    num_channels = len(config.channels)
    return TokenizerTrainer(
        model=CMSSLTokenizerModel(config),
        args=training_arguments(TokenizerTrainingArguments, folder, **options),
        data_collator=WindowsCollator(PATCH),
        train_dataset=WindowsDataset(
            windows_dataset(waves(NUM_WINDOWS, num_channels, num_samples)), ["input_values"], augmentation, seed=7
        ),
        eval_dataset=WindowsDataset(windows_dataset(waves(7, num_channels, 100, seed=1)), ["input_values"]),
    )


def coded(number, seed, num_samples=100):
    windows = waves(number, 1, num_samples, seed=seed)
    rng = np.random.default_rng(seed)
    codes = [rng.integers(0, 16, -(-window.shape[1] // PATCH)).tolist() for window in windows]
    dataset = windows_dataset(windows)
    return dataset.add_column("codes", codes).cast_column("codes", List(Value("int16")))


def encoder_trainer(
    folder, config=None, code_counts=None, num_samples=100, eval_samples=100, num_eval=7, codebook=None, **options
):
    torch.manual_seed(0)
    columns = ["input_values", "codes"]
    return EncoderTrainer(
        model=CMSSLEncoderForPreTraining(config or encoder_config(hidden_dropout_prob=0.1)),
        args=training_arguments(EncoderTrainingArguments, folder, **options),
        data_collator=WindowsCollator(PATCH, label_column="codes"),
        train_dataset=WindowsDataset(coded(NUM_WINDOWS, 0, num_samples), columns),
        eval_dataset=WindowsDataset(coded(num_eval, 1, eval_samples), columns),
        code_counts=np.ones(16) if code_counts is None else code_counts,
        codebook=codebook,
    )


def labelled(number, seed, feature, label, num_samples=100):
    return windows_dataset(waves(number, 1, num_samples, seed=seed), feature, label=label)


def finetuning_trainer(
    folder,
    config=None,
    task=TASK,
    feature=None,
    train=None,
    evaluated=None,
    augmentation=None,
    num_samples=100,
    **options,
):
    torch.manual_seed(0)
    feature = feature or Value("float32")
    config = config or encoder_config(
        hidden_dropout_prob=0.1, num_labels=1, problem_type="regression", label_mean=70.0, label_std=10.0
    )
    rng = np.random.default_rng(3)
    train = rng.normal(70, 10, NUM_WINDOWS).tolist() if train is None else train
    evaluated = rng.normal(70, 10, 7).tolist() if evaluated is None else evaluated
    columns = ["input_values", "label"]
    options = {"metric_for_best_model": f"eval_{task.metric_for_best_model}"} | options
    arguments = training_arguments(FinetuningArguments, folder, **options)
    arguments.greater_is_better = task.greater_is_better
    return FinetuningTrainer(
        model=AutoModelForSequenceClassification.from_config(config),
        args=arguments,
        data_collator=WindowsCollator(PATCH, label_column="label"),
        train_dataset=WindowsDataset(
            labelled(NUM_WINDOWS, 0, feature, train, num_samples), columns, augmentation, seed=7
        ),
        eval_dataset=WindowsDataset(labelled(7, 1, feature, evaluated), columns),
        task=task,
    )


STRETCH = Augmentation(125, time_stretch=1.5, scales_labels=True, amplitude_jitter=0.2, noise=0.1)


class Interruption(TrainerCallback):
    """Ends the training after a step, before what is due at it is evaluated and saved."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def run_trainer(trainer, folder, interrupted_at=None):
    """Runs a stage as the stages do, from the last checkpoint in `folder`; returns its metrics, `None` if interrupted."""
    run_folder = RunFolder(folder, {"stage": "test"})
    checkpoint = run_folder.open()
    if interrupted_at is None:
        return trainer.run(run_folder, checkpoint)
    trainer.add_callback(Interruption(interrupted_at))
    with pytest.raises(KeyboardInterrupt):
        trainer.run(run_folder, checkpoint)
    return None
