"""`compile_layers` compiles the layers, and the losses stay what they are."""

import pytest
import torch
from torch import nn

from cmssl_hf.models.cmssl.modeling_cmssl_layers import CMSSLLayer
from cmssl_hf.training.encoder import EncoderTrainingArguments
from cmssl_hf.training.engine.run_folder import training_identity
from helpers.tiny import encoder_config
from helpers.trainers import encoder_trainer, training_arguments


def losses(folder, **options):
    trainer = encoder_trainer(
        folder,
        encoder_config(),
        max_steps=20,
        save_strategy="no",
        eval_strategy="no",
        load_best_model_at_end=False,
        **options,
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], trainer.model


def test_compiled_layers_train_as_others_do(tmp_path, monkeypatch):
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    compile_module = nn.Module.compile
    # The default one would call a compiler of C++ for a minute.
    monkeypatch.setattr(nn.Module, "compile", lambda self: compile_module(self, backend=backend))
    expected, _ = losses(tmp_path / "plain")
    assert not graphs
    compiled, model = losses(tmp_path / "compiled", compile_layers=True)
    assert len(compiled) == 20
    assert compiled == pytest.approx(expected, rel=1e-5)
    assert graphs
    # Layers are alike: one graph serves all of them.
    assert len(graphs) <= 2 * sum(isinstance(module, CMSSLLayer) for module in model.modules())
    assert not any("_orig_mod" in name for name in model.state_dict())
    torch._dynamo.reset()


def test_compiling_does_not_make_another_run(tmp_path):
    plain, compiled = (
        training_identity(training_arguments(EncoderTrainingArguments, tmp_path, compile_layers=each))
        for each in (False, True)
    )
    assert plain == compiled
