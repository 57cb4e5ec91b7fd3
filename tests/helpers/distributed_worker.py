"""Run by each process of `test_distributed.py`: trains and validates the tiny trainers, and stores what this process ends with.

torchrun --nproc_per_node 2 tests/helpers/distributed_worker.py FOLDER
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from helpers.objectives import COMPARING, PARTS, objective_trainer
from helpers.tiny import encoder_config, resnet_config, tokenizer_config
from helpers.trainers import LENGTHS, STRETCH, encoder_trainer, finetuning_trainer, tokenizer_trainer


# The 24 windows of an epoch are no multiple of it, so that the last step has to be filled.
GLOBAL_BATCH_SIZE = 16
# 13 windows in batches of 2: the last batch of a process may be smaller, or none be left for it.
NUM_EVALUATED = 13
#: Objectives and their backbones.
PRETRAINED = {name: (name, None) for name in PARTS} | {f"{name} of resnet1d": (name, "resnet1d") for name in COMPARING}


def metrics_of(trainer):
    return {
        name: value
        for name, value in trainer.evaluate().items()
        if isinstance(value, (int, float)) and not name.endswith(("time", "per_second"))
    }


def losses_of(trainer):
    parts = ("loss", "reconstruction_loss", "commitment_loss")
    return [[entry[name] for name in parts if name in entry] for entry in trainer.state.log_history if "loss" in entry]


def make_trainers(folder, batch_size):
    options = {
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": 2,
        "load_best_model_at_end": False,
        "save_strategy": "no",
    }
    plain_sgd = {"optim": "sgd", "learning_rate": 0.1}
    labels = {"num_labels": 1, "problem_type": "regression", "label_mean": 70.0, "label_std": 10.0}
    lengths = (LENGTHS + LENGTHS)[:NUM_EVALUATED]
    return {
        "tokenizer": tokenizer_trainer(folder / "tokenizer", tokenizer_config(), **options),
        "encoder": encoder_trainer(
            folder / "encoder",
            encoder_config(),
            code_counts=np.arange(16),
            eval_samples=lengths,
            num_eval=NUM_EVALUATED,
            **options | plain_sgd,
        ),
        "head": finetuning_trainer(
            folder / "head", encoder_config(**labels), augmentation=STRETCH, **options | plain_sgd
        ),
        # Of windows that are equally long: padding would count for the statistics of batches.
        "head of resnet1d": finetuning_trainer(
            folder / "head of resnet1d", resnet_config(**labels), **options | plain_sgd | {"learning_rate": 0.01}
        ),
    }


def main(folder: Path, num_processes: int = 1, rank: int = 0) -> None:
    weights, results = {}, {}
    batch_size = GLOBAL_BATCH_SIZE // num_processes
    # Of weights that are the same for any number of processes, unlike those that they train. By trainers of their own: one that
    # has evaluated is not connected to the others when it trains.
    evaluating = make_trainers(folder / "evaluating", batch_size)
    for name, trainer in evaluating.items():
        results[name] = {"same weights": metrics_of(trainer)}
    results["head"]["predictions"] = evaluating["head"].predict(evaluating["head"].eval_dataset).predictions.tolist()
    for name, trainer in make_trainers(folder, batch_size).items():
        trainer.train()
        weights[name] = trainer.model.state_dict()
        results[name] |= {"losses": losses_of(trainer), "trained": metrics_of(trainer)}
    # Objectives contrast windows of all processes, and validate as a single one does.
    for name, (objective, backbone) in PRETRAINED.items():
        options = {
            "backbone": backbone,
            "num_eval": NUM_EVALUATED,
            "dropout": 0.0,
            "per_device_train_batch_size": batch_size,
            "per_device_eval_batch_size": 2,
            "save_strategy": "no",
            "load_best_model_at_end": False,
        }
        options |= {"optim": "sgd", "learning_rate": 0.05, "max_steps": 3, "eval_strategy": "no", "logging_steps": 1}
        evaluating_trainer = objective_trainer(objective, folder / name / "evaluating", **options)
        results[name] = {"same weights": metrics_of(evaluating_trainer)}
        trainer = objective_trainer(objective, folder / name, **options)
        trainer.train()
        weights[name] = trainer.model.state_dict()
        results[name] |= {"losses": losses_of(trainer), "trained": metrics_of(trainer)}
    torch.save(weights, folder / f"weights-{rank}.pt")
    (folder / f"results-{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    from accelerate import PartialState

    state = PartialState(cpu=True)
    main(Path(sys.argv[1]), state.num_processes, state.process_index)
    state.destroy_process_group()
