"""The encoders that a benchmark compares: their names, what they are built like, and what their pre-training cost."""

import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from ..models.cmssl.configuration_cmssl import CMSSLTokenizerConfig
from ..models.cmssl.configuration_cmssl_classification import SignalClassificationConfig
from ..training.engine.provenance import known_run_of_model
from ..training.engine.run_folder import check_model_name


#: Names that rows of random weights have.
_TAKEN = ("random", "scratch")
#: Passes through the encoder per training window, by the stage in its `run.json`; one that is not named has 1. Those without
#: gradients count a third: a backward pass costs two forward passes.
_PASSES = {"simclr": 2, "simsiam": 2, "byol": 2 + 2 / 3, "moco_v3": 2 + 2 / 3, "tfc": 4}
#: Fields of a config that the shapes of weights do not show, but decide what is computed.
_NOT_IN_SHAPES = ("sampling_rate", "patch_size", "num_attention_heads", "hidden_act")


def read_encoders(options: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Encoders by the signal they read and by name, from `NAME=FOLDER` or `NAME=FOLDER,FOLDER`; several folders are seeds of
    pre-training. One name may stand for an encoder of each signal; a tokenizer is listed at each signal that it reads.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if an option is no such assignment, a name cannot be one or is given twice for a signal, a folder holds
            another kind of model, or the folders of a name are of different architectures.
    """
    encoders: dict[str, dict[str, list[str]]] = {}
    for option in options:
        name, separator, folders = option.partition("=")
        sources = folders.split(",")
        if not separator or not all(sources):
            raise ValueError(f"`--encoder` takes NAME=FOLDER or NAME=FOLDER,FOLDER, but got {option!r}.")
        if not re.fullmatch(r"\w[\w.+-]*", name) or name in _TAKEN:
            raise ValueError(
                f"An encoder cannot be called {name!r}: names are of letters, digits, `_`, `.`, `+` and `-`, and random weights"
                f" have {' and '.join(_TAKEN)} already."
            )
        configs = [config_of(source) for source in sources]
        if len({(tuple(config.channels), backbone_of(config)["key"]) for config in configs}) > 1:
            raise ValueError(
                f"The folders of {name} are seeds of one pre-training, but differ in signal or architecture: {folders}. Give"
                " them a name each."
            )
        for channel in configs[0].channels:
            if name in encoders.setdefault(channel, {}):
                raise ValueError(
                    f"Two encoders of {channel} are called {name}: seeds go into one, as NAME=FOLDER,FOLDER."
                )
            encoders[channel][name] = sources
    return encoders


def config_of(source: str) -> SignalClassificationConfig:
    """The config of a model that can be a row.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it is of another kind.
    """
    check_model_name(source)
    config = AutoConfig.from_pretrained(source)
    if not isinstance(config, SignalClassificationConfig):
        raise ValueError(f"{source} holds a {config.model_type}, but a benchmark compares models of this package.")
    if len(config.channels) > 1 and not isinstance(config, CMSSLTokenizerConfig):
        raise ValueError(f"{source} reads {' and '.join(config.channels)} at once, but a task offers one of them.")
    return config


def backbone_of(config: PreTrainedConfig) -> dict[str, Any]:
    """What a network is built like: `model_type`, its number of `parameters` without heads, and a `key` that is the same for
    the same architecture, whatever the weights."""
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    shapes = [(name, tuple(weight.shape)) for name, weight in model.named_parameters()]
    fields = [getattr(config, name, None) for name in _NOT_IN_SHAPES]
    key = hashlib.sha256(json.dumps([config.model_type, fields, shapes]).encode()).hexdigest()[:16]
    return {"model_type": config.model_type, "parameters": model.num_parameters(), "key": key}


@functools.lru_cache
def describe_encoder(source: str) -> dict[str, Any]:
    """What a report says of the folder of an encoder: backbone and pre-training."""
    return {"backbone": backbone_of(config_of(source)), "pretraining": pretraining_cost(known_run_of_model(source))}


def pretraining_cost(run: Mapping[str, Any] | None) -> dict[str, float] | None:
    """What a run and those that it builds on cost at most: less where early stopping ended them.

    Args:
        run: content of a `run.json`.

    Returns:
        `steps` of the optimizer, `windows` that were drawn, repetitions included, and `compute`: windows x passes x parameters.
        A transformer multiplies each parameter once per patch, so that it compares models of one backbone. `None` if it is
        not recorded.
    """
    total = {"steps": 0.0, "windows": 0.0, "compute": 0.0}
    if run is None:
        return None
    while run is not None:
        identity = run["identity"]
        if not {"training", "data", "model"} <= identity.keys():
            return None
        training, data = identity["training"], identity["data"]
        steps = training["max_steps"]
        if steps <= 0:
            windows = sum(part["splits"]["train"]["num_windows"] for part in (data, *data.get("additional", [])))
            steps = math.ceil(training["num_train_epochs"] * math.ceil(windows / training["global_batch_size"]))
        windows = steps * training["global_batch_size"]
        parameters = backbone_of(AutoConfig.for_model(**identity["model"]))["parameters"]
        total["steps"] += steps
        total["windows"] += windows
        total["compute"] += windows * parameters * _PASSES.get(identity["stage"], 1)
        run = run.get("builds_on")
    return total
