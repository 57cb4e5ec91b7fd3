"""What is taken from other libraries though they do not document it is still there, and is taken in the places that say why."""

import ast
import inspect
import pickle
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import Trainer

from cmssl_hf import CMSSLEncoderConfig, CMSSLEncoderModel
from cmssl_hf.private_access import attention_of, fingerprint_of, has_linear_pointwise, linear_pointwise, selected_rows
from cmssl_hf.training.engine.trainer_hooks import HookedTrainer
from helpers.checkout import ROOT


PACKAGE = ROOT / "cmssl_hf"

#: Parameters of what is overridden or called, by which the libraries call it or are called.
SIGNATURES = {
    (Trainer, "_save_checkpoint"): ["self", "model", "trial"],
    (Trainer, "_get_output_dir"): ["self", "trial"],
    (Trainer, "_push_from_checkpoint"): ["self", "checkpoint_folder"],
    (Trainer, "_load_best_model"): ["self"],
    (Trainer, "_get_train_sampler"): ["self", "train_dataset"],
    (Trainer, "_determine_best_metric"): ["self", "metrics", "trial"],
    (Trainer, "_prepare_inputs"): ["self", "inputs"],
    (Trainer, "_load_scaler"): ["self", "checkpoint"],
    (Trainer, "_load_from_checkpoint"): ["self", "resume_from_checkpoint", "model"],
    (Trainer, "save_model"): ["self", "output_dir", "_internal_call"],
    (datasets.ArrowBasedBuilder, "_prepare_split"): [
        *("self", "split_generator", "file_format", "num_proc", "max_shard_size"),
    ],
}

#: Modules that may use names with an underscore of other libraries, and which.
ALLOWED = {
    "private_access.py": {"_fingerprint", "_indices", "_attn_implementation", "_linear_pointwise"},
    "training/engine/trainer_hooks.py": {
        *("_save_checkpoint", "_get_output_dir", "_push_from_checkpoint", "_load_best_model"),
        *("_get_train_sampler", "_determine_best_metric", "_prepare_inputs", "_load_from_checkpoint", "_load_scaler"),
    },
    # A split can be refused before it enters the cache, after all processes have counted, nowhere else.
    "building/dataset_builder.py": {"_prepare_split"},
    # The models that travel without this package; transformers' own models do the same.
    "models/cmssl/modeling_cmssl_layers.py": {"_attn_implementation"},
    # argparse has no public list of the arguments of a parser.
    "training/engine/parsing.py": {"_actions"},
}

#: What the libraries' documentation tells to use or to write.
DOCUMENTED = {"_exit", "_info", "_split_generators", "_generate_tables", "_init_weights", "_sanitize_parameters"}


@pytest.mark.parametrize(("owner", "name"), SIGNATURES, ids=lambda part: getattr(part, "__name__", part))
def test_hooks_are_called_as_they_were(owner, name):
    assert list(inspect.signature(getattr(owner, name)).parameters) == SIGNATURES[owner, name]


def test_each_hook_of_the_trainer_has_a_public_name():
    own = {name for name in vars(HookedTrainer) if name.startswith("_") and not name.startswith("__")}
    assert own and all(hasattr(Trainer, name) for name in own)
    assert {name for owner, name in SIGNATURES if owner is Trainer} >= own


def test_datasets_tell_fingerprints_and_selected_rows():
    rows = Dataset.from_dict({"x": list(range(6))})
    assert selected_rows(rows) is None
    assert selected_rows(rows.select([4, 1])).tolist() == [4, 1]
    again = rows.map(lambda row: {"y": row["x"]}, new_fingerprint="mine")
    assert fingerprint_of(again) == "mine" != fingerprint_of(rows)


def test_attention_of_a_model():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = CMSSLEncoderModel(CMSSLEncoderConfig(**sizes))
    assert attention_of(model) == "sdpa"
    model.set_attn_implementation("eager")
    assert attention_of(model) == "eager"


@pytest.mark.skipif(not has_linear_pointwise(), reason="torch lacks the operator here; plain products are taken")
def test_linear_pointwise_is_a_linear_layer():
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((5, 4), (3, 4), 3))
    result = linear_pointwise(*map(torch.from_numpy, (x, weight, bias)))
    np.testing.assert_allclose(result.numpy(), x @ weight.T + bias, rtol=1e-5, atol=1e-6)


def test_pickle_still_has_the_unpickler_in_python():
    assert pickle.BYTEARRAY8[0] in pickle._Unpickler.dispatch


def _private_names(path: Path) -> set[str]:
    """Names with one underscore that a module takes from objects other than its own: attributes of anything but `self` and `cls`,
    and what the classes of `SIGNATURES` have too."""
    names = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = {part for part in tree.body if isinstance(part, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if not is_own or _is_of_a_library(node.attr):
                names.add(node.attr)
        elif isinstance(node, ast.FunctionDef) and node not in functions and _is_of_a_library(node.name):
            names.add(node.name)
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def _is_of_a_library(name: str) -> bool:
    return any(hasattr(owner, name) for owner, _ in SIGNATURES)


def test_private_names_are_used_where_it_is_said_why():
    found = {path.relative_to(PACKAGE).as_posix(): _private_names(path) for path in PACKAGE.rglob("*.py")}
    assert found["private_access.py"] == ALLOWED["private_access.py"]
    unexplained = {file: names - ALLOWED.get(file, set()) - DOCUMENTED for file, names in found.items()}
    assert {file: names for file, names in unexplained.items() if names} == {}
