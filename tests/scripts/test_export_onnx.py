"""`scripts/export_onnx.py`: onnxruntime gives the outputs of torch at any batch size and length."""

import importlib.util
import json
import sys

import numpy as np
import pytest
import torch

from cmssl_hf import (
    CMSSLEncoderConfig,
    CMSSLEncoderForPreTraining,
    CMSSLEncoderForSequenceClassification,
    CMSSLEncoderModel,
    CMSSLFeatureExtractor,
    CMSSLTokenizerConfig,
    CMSSLTokenizerModel,
)
from helpers.checkout import ROOT


onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
pytest.importorskip("onnxscript", reason="needs the extra `onnx`")

SIZES = {
    "patch_size": 25,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "codebook_size": 16,
}


@pytest.fixture(scope="module")
def script():
    path = ROOT / "scripts" / "export_onnx.py"
    specification = importlib.util.spec_from_file_location("export_onnx", path)
    module = importlib.util.module_from_spec(specification)
    sys.modules["export_onnx"] = module
    specification.loader.exec_module(module)
    return module


def run_script(script, monkeypatch, model: str, output_dir: str, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", ["export_onnx.py", "--model", model, "--output_dir", output_dir, *options])
    script.main()


@pytest.mark.parametrize(
    ("model_class", "fields", "outputs"),
    [
        (CMSSLEncoderModel, {}, ["last_hidden_state", "pooler_output"]),
        (
            CMSSLEncoderModel,
            {"patch_embedding": "conv", "position_embedding": "conv"},
            ["last_hidden_state", "pooler_output"],
        ),
        (CMSSLEncoderForPreTraining, {}, ["logits"]),
        (
            CMSSLEncoderForSequenceClassification,
            {"num_labels": 2, "problem_type": "regression", "label_mean": [120.0, 70.0], "label_std": [20.0, 9.0]},
            ["logits"],
        ),
    ],
)
def test_onnxruntime_agrees_with_torch(script, monkeypatch, capsys, tmp_path, model_class, fields, outputs):
    torch.manual_seed(0)
    model = model_class(CMSSLEncoderConfig(**SIZES, **fields, initializer_range=0.2)).eval()
    model.save_pretrained(tmp_path / "model")
    CMSSLFeatureExtractor(patch_size=25).save_pretrained(tmp_path / "model")
    run_script(script, monkeypatch, str(tmp_path / "model"), str(tmp_path / "onnx"))
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["largest_relative_difference"] < 1e-4

    # As a user would: the exported folder alone, windows of different lengths, and none of the script's own comparison.
    extractor = CMSSLFeatureExtractor.from_pretrained(tmp_path / "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    assert [output.name for output in session.get_outputs()] == outputs
    generator = np.random.default_rng(0)
    for lengths in ([1250], [400, 600], [375, 130, 2000]):
        windows = [generator.normal(size=length) for length in lengths]
        features = extractor(ppg=windows, sampling_rate=125, return_tensors="np")
        answers = session.run(None, dict(features))
        with torch.no_grad():
            expected = model(**{name: torch.tensor(value) for name, value in features.items()})
        for name, answer in zip(outputs, answers):
            reference = expected[name].numpy()
            assert answer.shape == reference.shape
            assert np.abs(answer - reference).max() <= 1e-4 * np.abs(reference).max()


def test_what_cannot_be_exported(script, tmp_path):
    sizes = {**SIZES, "num_decoder_layers": 1, "codebook_dim": 8}
    CMSSLTokenizerModel(CMSSLTokenizerConfig(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a CMSSLTokenizerModel; these can be exported: CMSSLEncoderModel, "):
        script.load_model(str(tmp_path))
    CMSSLEncoderForSequenceClassification(CMSSLEncoderConfig(**SIZES, piece_seconds=10)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cuts windows into pieces of 10 s"):
        script.load_model(str(tmp_path))


def test_an_export_that_differs_fails(script, monkeypatch, tmp_path):
    model = CMSSLEncoderModel(CMSSLEncoderConfig(**SIZES))
    model.save_pretrained(tmp_path / "model")
    CMSSLFeatureExtractor(patch_size=25).save_pretrained(tmp_path / "model")
    with pytest.raises(SystemExit, match="onnxruntime differs from torch by"):
        run_script(script, monkeypatch, str(tmp_path / "model"), str(tmp_path / "onnx"), "--tolerance", "0")


@pytest.mark.parametrize(("bias", "passes"), [(0.0, True), (float("nan"), False)])
def test_outputs_of_zeros_pass_and_those_that_are_not_numbers_fail(
    script, monkeypatch, capsys, tmp_path, bias, passes
):
    model = CMSSLEncoderForSequenceClassification(CMSSLEncoderConfig(**SIZES, num_labels=2))
    torch.nn.init.zeros_(model.classifier.out_proj.weight)
    torch.nn.init.constant_(model.classifier.out_proj.bias, bias)
    model.save_pretrained(tmp_path / "model")
    CMSSLFeatureExtractor(patch_size=25).save_pretrained(tmp_path / "model")
    arguments = (script, monkeypatch, str(tmp_path / "model"), str(tmp_path / "onnx"))
    if passes:
        run_script(*arguments)
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["largest_relative_difference"] == 0
    else:
        with pytest.raises(SystemExit, match="onnxruntime differs from torch by nan"):
            run_script(*arguments)
