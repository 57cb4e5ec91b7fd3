"""Run by each process of `test_distributed.py`: trains and validates the tiny trainers, and stores what this process ends with.

torchrun --nproc_per_node 2 tests/distributed_worker.py FOLDER
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from test_trainers import LENGTHS, STRETCH, encoder_trainer, finetuning_trainer, tokenizer_trainer
from tiny import encoder_config, tokenizer_config


def metrics_of(trainer):
    return {name: value for name, value in trainer.evaluate().items() if isinstance(value, (int, float))}


def train_tokenizer(folder, batch_size):
    trainer = tokenizer_trainer(
        folder, tokenizer_config(), per_device_train_batch_size=batch_size, load_best_model_at_end=False
    )
    trainer.train()
    return trainer.model.state_dict(), metrics_of(trainer)


def train_head(folder, batch_size):
    trainer = finetuning_trainer(
        folder,
        encoder_config(num_labels=1, problem_type="regression", label_mean=70.0, label_std=10.0),
        augmentation=STRETCH,
        per_device_train_batch_size=batch_size,
        load_best_model_at_end=False,
        optim="sgd",
        learning_rate=0.1,
        save_strategy="no",
    )
    trainer.train()
    return trainer.model.state_dict(), metrics_of(trainer)


def validate_encoder(folder):
    """Validation of windows of different lengths whose number neither processes nor batches divide."""
    lengths = (LENGTHS + LENGTHS)[:13]
    trainer = encoder_trainer(
        folder,
        encoder_config(),
        eval_samples=lengths,
        num_eval=13,
        code_counts=np.arange(16),
        per_device_eval_batch_size=2,
    )
    return metrics_of(trainer)


def main(folder: Path, num_processes: int = 1, rank: int = 0) -> None:
    weights, results = {}, {}
    weights["tokenizer"], results["tokenizer"] = train_tokenizer(folder / "tokenizer", 4 // num_processes)
    weights["head"], results["head"] = train_head(folder / "head", 4 // num_processes)
    results["encoder"] = validate_encoder(folder / "encoder")
    torch.save(weights, folder / f"weights-{rank}.pt")
    (folder / f"results-{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    from accelerate import PartialState

    state = PartialState(cpu=True)
    main(Path(sys.argv[1]), state.num_processes, state.process_index)
    state.destroy_process_group()
