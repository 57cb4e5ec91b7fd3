"""How near the trainers with the base presets come to the same steps on one batch that stays on the device, for `gpu.py`."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from datasets import Dataset, List, Value
from transformers import TrainerCallback
from window_files import write_windows

from cmssl_hf import CMSSLEncoderConfig, CMSSLEncoderForPreTraining, CMSSLTokenizerModel
from cmssl_hf.data.batches import WindowsCollator, WindowsDataset
from cmssl_hf.models.cpu_kernels import cpu_kernels
from cmssl_hf.training.arguments import DataArguments
from cmssl_hf.training.encoder import EncoderArguments, EncoderTrainer, EncoderTrainingArguments
from cmssl_hf.training.engine.parsing import parse_arguments
from cmssl_hf.training.tokenizer import TokenizerArguments, TokenizerTrainer, TokenizerTrainingArguments


_CONFIGS = Path(__file__).parents[1] / "configs"
_KINDS = {
    "tokenizer": (TokenizerArguments, TokenizerTrainingArguments),
    "encoder": (EncoderArguments, EncoderTrainingArguments),
}
_SAMPLES, _CODEBOOK_SIZE, _CODE_SAMPLES = 1250, 8192, 25


def trainer_speed(stage: str, device: str, small: bool, num_steps: int) -> dict[str, Any]:
    """Windows/s of a trainer as its base preset is shipped, augmentation included, and of its steps alone.

    Args:
        stage: `"tokenizer"` or `"encoder"`.
        device: `"cuda"` or `"cpu"`.
        small: few windows of a small model: does it run?
        num_steps: that are timed, after as many as a third of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        model_arguments, training = _arguments(stage, Path(folder), device, small, num_steps)
        dataset = _dataset(Path(folder), stage, 64 if small else 20 * training.per_device_train_batch_size)
        trainer = _trainer(stage, model_arguments, training, dataset)
        timer = _Timer(num_steps, device)
        trainer.add_callback(timer)
        trainer.train()
        batch_size = training.per_device_train_batch_size
        fed = batch_size * num_steps / timer.seconds
        alone = batch_size / _seconds_per_step(trainer, dataset, device, 1 if small else 20)
    return {"stage": stage, "batch": batch_size, "windows_per_second": fed, "steps_alone": alone, "share": fed / alone}


def _arguments(stage: str, folder: Path, device: str, small: bool, num_steps: int):
    model_kind, training_kind = _KINDS[stage]
    flags = {
        "max_steps": num_steps + num_steps // 3,
        "output_dir": str(folder / "run"),
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "early_stopping_patience": None,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": device == "cpu",
    }
    flags |= {"warm_start_steps": 0, "kmeans_windows": 0} if stage == "tokenizer" else {"tokenizer": "none"}
    if small:
        flags |= {"per_device_train_batch_size": 4, "dataloader_num_workers": 0}
        flags |= {"dataloader_persistent_workers": False, "dataloader_prefetch_factor": None}
    preset = _CONFIGS / f"pretrain_{stage}_base.yaml"
    merged = folder / "flags.yaml"
    merged.write_text(yaml.safe_dump(flags))
    model_arguments, _, training = parse_arguments(
        (model_kind, DataArguments, training_kind), [str(preset), str(merged)]
    )
    return model_arguments, training


def _dataset(folder: Path, stage: str, num_windows: int) -> Dataset:
    write_windows(folder / "windows.arrow", num_windows)
    dataset = Dataset.from_file(str(folder / "windows.arrow"))
    if stage == "tokenizer":
        return dataset
    codes = np.random.default_rng(0).integers(0, _CODEBOOK_SIZE, (num_windows, _SAMPLES // _CODE_SAMPLES))
    return dataset.add_column("codes", list(codes)).cast_column("codes", List(Value("int16")))


def _trainer(stage, model_arguments, training, dataset):
    augmentation = model_arguments.augmentation(125)
    if stage == "tokenizer":
        config = model_arguments.config()
        return TokenizerTrainer(
            model=CMSSLTokenizerModel(config),
            args=training,
            data_collator=WindowsCollator(config.patch_size),
            train_dataset=WindowsDataset(dataset, ["input_values"], augmentation),
        )
    codes_per_patch = model_arguments.config_overrides["patch_size"] // _CODE_SAMPLES
    config = CMSSLEncoderConfig.from_size(
        model_arguments.encoder_size,
        channels=("ppg",),
        codebook_size=_CODEBOOK_SIZE,
        codes_per_patch=codes_per_patch,
        **model_arguments.config_overrides,
    )
    codebook = torch.nn.functional.normalize(torch.randn(_CODEBOOK_SIZE, 128), dim=-1)
    return EncoderTrainer(
        model=CMSSLEncoderForPreTraining(config),
        args=training,
        data_collator=WindowsCollator(config.patch_size, label_column="codes", codes_per_patch=codes_per_patch),
        train_dataset=WindowsDataset(dataset, ["input_values", "codes"], augmentation, channel=1),
        code_counts=np.ones(_CODEBOOK_SIZE),
        codebook=codebook,
    )


def _seconds_per_step(trainer, dataset, device: str, num_steps: int) -> float:
    """Of the trainer's own loss and optimizer on one batch that stays where the model is."""
    rows = range(trainer.args.per_device_train_batch_size)
    batch = trainer.data_collator(trainer.train_dataset.__getitems__([row % len(dataset) for row in rows]))
    batch = trainer.train_dataset.augmented({name: each.to(trainer.args.device) for name, each in batch.items()})
    model, optimizer = trainer.model.train(), trainer.create_optimizer()

    def step() -> None:
        with trainer.compute_loss_context_manager(), trainer.accelerator.autocast():
            loss = trainer.compute_loss(model, dict(batch))
        trainer.accelerator.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if isinstance(trainer, TokenizerTrainer):
            ((latents, codes),) = trainer.chosen
            model.codebook.update(latents, codes.clamp(min=0), codes >= 0)
            trainer.chosen.clear()

    with cpu_kernels(model):
        if isinstance(trainer, TokenizerTrainer):
            trainer.chosen.clear()
        for _ in range(3 if num_steps > 1 else 1):
            step()
        _wait(device)
        start = time.perf_counter()
        for _ in range(num_steps):
            step()
        _wait(device)
    return (time.perf_counter() - start) / num_steps


class _Timer(TrainerCallback):
    """Times the last `num_steps` steps."""

    def __init__(self, num_steps: int, device: str):
        self.num_steps, self.device, self.seconds = num_steps, device, float("nan")

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == state.max_steps - self.num_steps:
            _wait(self.device)
            self.seconds = -time.perf_counter()

    def on_train_end(self, args, state, control, **kwargs):
        _wait(self.device)
        self.seconds += time.perf_counter()


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
