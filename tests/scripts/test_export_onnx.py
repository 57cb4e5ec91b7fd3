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
        (
            CMSSLEncoderForSequenceClassification,
            {"num_labels": 4, "patch_embedding": "residual", "pooling": "mean_std_max"},
            ["logits"],
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


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_model_with_intervals_agrees_in_eight_bits_too(script, monkeypatch, capsys, tmp_path):
    torch.manual_seed(0)
    fields = {"patch_embedding": "residual", "pooling": "mean_std_max", "interval_head": True, "num_labels": 4}
    config = CMSSLEncoderConfig(**SIZES, **fields, channels=("ecg",), initializer_range=0.2)
    model = CMSSLEncoderForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "model")
    CMSSLFeatureExtractor(channels=("ecg",), patch_size=25).save_pretrained(tmp_path / "model")
    run_script(script, monkeypatch, str(tmp_path / "model"), str(tmp_path / "onnx"), "--int8")
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["largest_relative_difference"] < 1e-4 < report["int8_largest_relative_difference"] < 0.2
    extractor = CMSSLFeatureExtractor.from_pretrained(tmp_path / "onnx")
    ecg = np.exp(-0.5 * ((np.arange(3750)[:, None] / 125 - np.arange(0.4, 30, 0.8)) / 0.015) ** 2).sum(1)
    inputs = extractor(ecg=[ecg, ecg[:1500]], sampling_rate=125, return_tensors="np")
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    with torch.no_grad():
        expected = model(**{name: torch.tensor(value) for name, value in inputs.items()}).logits.numpy()
    np.testing.assert_allclose(session.run(None, dict(inputs))[0], expected, atol=1e-4)


def test_a_tokenizer_gives_its_codes_and_eight_bits_nearly_all_of_them(script, monkeypatch, capsys, tmp_path):
    torch.manual_seed(0)
    sizes = {**SIZES, "num_decoder_layers": 1, "codebook_dim": 8, "initializer_range": 0.2}
    tokenizer = CMSSLTokenizerModel(CMSSLTokenizerConfig(**sizes, channels=("ecg", "ppg"))).eval()
    tokenizer.codebook.set_codes(torch.randn(16, 8), torch.ones(16))
    tokenizer.save_pretrained(tmp_path / "model")
    CMSSLFeatureExtractor(channels=("ecg", "ppg"), patch_size=25).save_pretrained(tmp_path / "model")
    run_script(script, monkeypatch, str(tmp_path / "model"), str(tmp_path / "onnx"), "--int8")
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["largest_relative_difference"] < 1e-4 < report["int8_largest_relative_difference"] < 0.1

    extractor = CMSSLFeatureExtractor.from_pretrained(tmp_path / "onnx")
    generator = np.random.default_rng(0)
    shares = []
    for lengths in ([1250], [400, 600], [375, 130, 2000, 14000]):
        windows = {name: [generator.normal(size=length) for length in lengths] for name in ("ecg", "ppg")}
        features = extractor(**windows, sampling_rate=125, return_tensors="np")
        with torch.no_grad():
            expected = tokenizer.encode(**{name: torch.tensor(value) for name, value in features.items()}).numpy()
        for name in ("model", "model_int8"):
            session = onnxruntime.InferenceSession(tmp_path / "onnx" / f"{name}.onnx")
            (codes,) = session.run(["codes"], dict(features))
            np.testing.assert_array_equal(codes == -100, expected == -100)
            shares.append((codes == expected)[expected >= 0].mean())
    assert len(np.unique(expected)) > 8
    assert shares[::2] == [1.0, 1.0, 1.0] and min(shares[1::2]) > 0.9


def test_eight_bits_are_smaller_and_nearly_the_same(script, monkeypatch, tmp_path):
    torch.manual_seed(0)
    sizes = {**SIZES, "hidden_size": 128, "intermediate_size": 512}
    labels = {"num_labels": 1, "problem_type": "regression", "label_mean": [70.0], "label_std": [10.0]}
    model = CMSSLEncoderForSequenceClassification(CMSSLEncoderConfig(**sizes, **labels, initializer_range=0.05)).eval()
    model.save_pretrained(tmp_path / "model")
    CMSSLFeatureExtractor(patch_size=25).save_pretrained(tmp_path / "model")
    run_script(script, monkeypatch, str(tmp_path / "model"), str(tmp_path / "onnx"), "--int8")
    whole, quantized = (tmp_path / "onnx" / f"{name}.onnx" for name in ("model", "model_int8"))
    assert quantized.stat().st_size < 0.5 * whole.stat().st_size
    windows = np.random.default_rng(0).standard_normal((32, 1250))
    inputs = dict(CMSSLFeatureExtractor(patch_size=25)(ppg=windows, sampling_rate=125, return_tensors="np"))
    rates = onnxruntime.InferenceSession(quantized).run(None, inputs)[0]
    with torch.no_grad():
        expected = model(**{name: torch.tensor(value) for name, value in inputs.items()}).logits.numpy()
    # A quarter of what these windows, which random weights hardly tell apart, differ by.
    assert 0 < np.std(rates - expected) < 0.25 * np.std(expected)


def test_what_cannot_be_exported(script, tmp_path):
    CMSSLEncoderModel(CMSSLEncoderConfig(**SIZES)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["OtherModel"]}))
    with pytest.raises(
        ValueError, match="holds a OtherModel; these can be exported: CMSSLTokenizerModel, CMSSLEncoderModel, "
    ):
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
