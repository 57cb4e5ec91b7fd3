"""Converted checkpoints compute what the published models compute."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from published_model import PublishedFinetuned, PublishedStage2, PublishedTokenizer
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification

import cmssl_hf  # noqa: F401  (registers the models)
from cmssl_hf.models.cmssl.convert_original_checkpoint import (
    ConversionArguments,
    checkpoint_kind,
    convert,
    convert_encoder,
    convert_finetuned,
    convert_frozen_tokenizer,
    convert_tokenizer,
)


USED_CHANNELS = {"joint": [0, 1], "ppg": [1], "ecg": [0]}
CHANNEL_NAMES = ("ecg", "ppg")


@pytest.fixture(scope="session")
def reference_outputs() -> Path:
    """Folder with published checkpoints and what the published code computes from them."""
    folder = os.environ.get("CMSSL_REFERENCE_OUTPUTS")
    if folder is None and "CMSSL_TEST_DATA" in os.environ:
        folder = Path(os.environ["CMSSL_TEST_DATA"]).parent / "reference_outputs"
    if folder is None or not Path(folder).is_dir():
        pytest.skip("the published checkpoints are not here (CMSSL_REFERENCE_OUTPUTS)")
    return Path(folder)


def relative_error(actual: torch.Tensor, expected) -> float:
    """Largest difference relative to the largest expected value."""
    expected = torch.as_tensor(expected)
    assert actual.shape == expected.shape
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def to_signals(x) -> torch.Tensor:
    """Published `(batch, patches, channels, samples)` to our `(batch, channels, samples)`."""
    return torch.as_tensor(x).transpose(1, 2).flatten(2)


def to_patches(signals: torch.Tensor, patches: int) -> torch.Tensor:
    return signals.unflatten(2, (patches, -1)).transpose(1, 2)


def converted(checkpoint, output_dir, **arguments) -> None:
    convert(ConversionArguments(checkpoint=str(checkpoint), output_dir=str(output_dir), **arguments))


def save_lightning(model: torch.nn.Module, path: Path) -> Path:
    torch.save({"state_dict": dict(model.state_dict()), "hyper_parameters": model.hyper_parameters, "epoch": 3}, path)
    return path


# --- against the outputs of the published code


@pytest.mark.parametrize("variant", USED_CHANNELS)
def test_published_tokenizer(reference_outputs, variant, tmp_path):
    converted(reference_outputs / f"tokenizer_{variant}_tiny.ckpt", tmp_path)
    model = AutoModel.from_pretrained(tmp_path)
    expected = np.load(reference_outputs / f"tokenizer_{variant}_tiny_io.npz")
    assert model.config.channels == tuple(CHANNEL_NAMES[index] for index in USED_CHANNELS[variant])
    with torch.no_grad():
        outputs = model(to_signals(expected["x"][:, :, USED_CHANNELS[variant]]))
    assert relative_error(to_patches(outputs.reconstruction, 10), expected["reconstruction"]) < 1e-5
    assert relative_error(outputs.commitment_loss, expected["quantizer_loss"]) < 1e-5
    assert relative_error(outputs.loss, expected["total_loss"]) < 1e-5
    assert outputs.codes.flatten().tolist() == expected["indices"].tolist()


def test_published_training_steps(reference_outputs, tmp_path):
    """Five plain SGD steps: losses, then codebook and its moving averages. The file repeats the total loss under the
    name of the quantiser's, so the latter is compared in evaluation mode only."""
    converted(reference_outputs / "tokenizer_joint_tiny_train_start.ckpt", tmp_path)
    dropout_off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = AutoModel.from_pretrained(tmp_path, **dropout_off).train()
    expected = np.load(reference_outputs / "tokenizer_joint_tiny_train.npz")
    optimizer = torch.optim.SGD(model.parameters(), lr=float(expected["lr"]))
    losses = []
    for x in expected["x"]:
        loss = model(to_signals(x)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, expected["total_loss"], rtol=1e-4)
    assert relative_error(model.codebook.weight, expected["codebook"]) < 1e-4
    assert relative_error(model.codebook.cluster_size, expected["cluster_size"]) < 1e-4
    assert relative_error(model.codebook.vector_sum, expected["embed_avg"]) < 1e-4
    assert relative_error(model.encoder.patch_projection.weight.detach(), expected["te_linear_weight"]) < 1e-4


def test_published_encoder(reference_outputs, tmp_path):
    converted(reference_outputs / "encoder_ppg_tiny.ckpt", tmp_path)
    model = AutoModelForPreTraining.from_pretrained(tmp_path)
    expected = np.load(reference_outputs / "encoder_ppg_tiny_io.npz")
    assert model.config.channels == ("ppg",)
    signals = to_signals(expected["x"][:, :, [1]])
    with torch.no_grad():
        features = model.encoder(signals).last_hidden_state
        logits = model(signals).logits
    assert relative_error(features, expected["features"]) < 1e-5
    assert relative_error(logits, expected["logits"]) < 1e-5


def test_published_stage2_targets_only_by_a_named_option(reference_outputs, tmp_path):
    expected = np.load(reference_outputs / "encoder_ppg_tiny_io.npz")
    signals, targets = to_signals(expected["x"]), expected["reference_targets_without_proj"].tolist()
    converted(
        reference_outputs / "encoder_ppg_tiny.ckpt",
        tmp_path / "encoder",
        tokenizer_output_dir=str(tmp_path / "frozen"),
    )
    converted(reference_outputs / "tokenizer_joint_tiny.ckpt", tmp_path / "tokenizer")
    frozen = AutoModel.from_pretrained(tmp_path / "frozen")
    flawed = AutoModel.from_pretrained(tmp_path / "tokenizer", use_code_projection=False)
    sound = AutoModel.from_pretrained(tmp_path / "tokenizer")
    with torch.no_grad():
        assert frozen.encode(signals).flatten().tolist() == targets
        assert flawed.encode(signals).flatten().tolist() == targets
        assert sound.encode(signals).flatten().tolist() != targets


def test_published_finetuned_model(reference_outputs, tmp_path):
    checkpoint = reference_outputs / "finetuned_ppg_tiny.pth"
    converted(checkpoint, tmp_path / "heads", num_attention_heads=4, channel="ppg")
    converted(checkpoint, tmp_path / "encoder", encoder_checkpoint=str(reference_outputs / "encoder_ppg_tiny.ckpt"))
    expected = np.load(reference_outputs / "finetuned_ppg_tiny_io.npz")
    for folder in ("heads", "encoder"):
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / folder)
        with torch.no_grad():
            logits = model(torch.tensor(expected["x"]).flatten(1)[:, None]).logits
        assert relative_error(logits, expected["outputs"]) < 1e-5


# --- against the published architecture in plain torch


def tiny_tokenizer(used_channels=(0, 1)) -> PublishedTokenizer:
    torch.manual_seed(0)
    tokenizer = PublishedTokenizer(
        used_channels=used_channels,
        patch_size=25,
        width=16,
        heads=4,
        layers=3,
        decoder_heads=2,
        decoder_layers=1,
        codes=32,
        dropout=0.0,
        channel_weights=(1.0, 3.0),
    )
    # As after some training: no two of them can be taken for each other.
    state = tokenizer.quantizer.embedding
    state.cluster_size.uniform_()
    state.embed_avg.mul_(0.5 + torch.rand(32, 1))
    return tokenizer.eval()


def tiny_finetuned(outputs=3) -> PublishedFinetuned:
    return PublishedFinetuned(width=24, heads=3, layers=2, patch_size=25, outputs=outputs)


@pytest.fixture
def published_tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def published_stage2(published_tokenizer):
    published = PublishedStage2(published_tokenizer, width=24, heads=3, layers=2).eval()
    published.hyper_parameters["stochastic_depth_prob"] = 0.2
    return published


def test_positions_are_those_of_vaswani_et_al(published_tokenizer):
    expected = torch.tensor(
        [
            [(math.cos if d % 2 else math.sin)(position / 10000 ** ((d - d % 2) / 16)) for d in range(16)]
            for position in range(20)
        ]
    )
    torch.testing.assert_close(published_tokenizer.pe.pe[0, :20], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2])
def test_tokenizer_matches_plain_torch(channels, tmp_path):
    published = tiny_tokenizer(used_channels=(0, 1) if channels == 2 else (1,))
    model = convert_tokenizer(save_lightning(published, tmp_path / "tokenizer.ckpt"))
    x = torch.randn(4, 6, channels, 25)
    with torch.no_grad():
        expected, outputs = published(x), model(to_signals(x))
    assert relative_error(to_patches(outputs.reconstruction, 6), expected["reconstruction"]) < 1e-5
    assert relative_error(outputs.commitment_loss, expected["quantizer_loss"]) < 1e-5
    assert relative_error(outputs.loss, expected["loss"]) < 1e-5
    assert outputs.codes.tolist() == expected["indices"].tolist()


def test_training_steps_match_plain_torch(published_tokenizer, tmp_path):
    model = convert_tokenizer(save_lightning(published_tokenizer, tmp_path / "tokenizer.ckpt")).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    published_tokenizer.train()
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.01) for each in (model, published_tokenizer)]
    for _ in range(3):
        x = torch.randn(8, 6, 2, 25)
        losses = [model(to_signals(x)).loss, published_tokenizer(x)["loss"]]
        for loss, optimizer in zip(losses, optimizers):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
    state = published_tokenizer.quantizer.embedding
    assert relative_error(model.codebook.weight, state.weight) < 1e-5
    assert relative_error(model.codebook.cluster_size, state.cluster_size) < 1e-5
    assert relative_error(model.codebook.vector_sum, state.embed_avg) < 1e-5


def test_encoder_and_targets_match_plain_torch(published_stage2, tmp_path):
    checkpoint = save_lightning(published_stage2, tmp_path / "encoder.ckpt")
    model, frozen = convert_encoder(checkpoint), convert_frozen_tokenizer(checkpoint)
    x = torch.randn(4, 6, 2, 25)
    with torch.no_grad():
        features = published_stage2.encoder(x[:, :, 1])
        logits = published_stage2.prediction_head(features)
        outputs = model(to_signals(x)[:, 1:], output_hidden_states=True)
        codes = frozen.encode(to_signals(x))
        # The published stage 2 left out the projection that stage 1 had trained.
        latents = torch.nn.functional.normalize(published_stage2.tokenizer.hidden_states(x), dim=-1)
        targets = published_stage2.tokenizer.quantizer(latents)[2]
    assert relative_error(outputs.hidden_states[-1], features) < 1e-5
    assert relative_error(outputs.logits, logits) < 1e-5
    assert codes.tolist() == targets.tolist()


def test_finetuned_model_matches_plain_torch(tmp_path):
    torch.manual_seed(0)
    published = tiny_finetuned().eval()
    torch.save(published.state_dict(), tmp_path / "finetuned.pth")
    x = torch.randn(4, 6, 25)
    standardised = convert_finetuned(tmp_path / "finetuned.pth", num_attention_heads=3, channel="ecg")
    physical = convert_finetuned(
        tmp_path / "finetuned.pth",
        num_attention_heads=3,
        channel="ecg",
        problem_type="regression",
        label_mean=[120.0, 70.0, 15.0],
        label_std=[20.0, 10.0, 3.0],
    )
    with torch.no_grad():
        expected = published(x)
        outputs = standardised(x.flatten(1)[:, None]).logits
        in_units = physical(x.flatten(1)[:, None]).logits
    assert standardised.config.channels == ("ecg",)
    assert relative_error(outputs, expected) < 1e-5
    mean, deviation = torch.tensor([120.0, 70.0, 15.0]), torch.tensor([20.0, 10.0, 3.0])
    assert relative_error(in_units, expected * deviation + mean) < 1e-5


# --- what is written


def test_tokenizer_carries_the_published_settings(published_tokenizer, tmp_path):
    converted(save_lightning(published_tokenizer, tmp_path / "tokenizer.ckpt"), tmp_path / "tokenizer")
    config = AutoModel.from_pretrained(tmp_path / "tokenizer").config
    assert config.channels == ("ecg", "ppg")
    assert config.reconstruction_objective == "l1"
    assert config.channel_loss_weights == (1.0, 3.0)
    assert config.commitment_weight == 0.25
    assert config.ema_decay == 0.99
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.1
    feature_extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "tokenizer")
    assert feature_extractor.channels == ("ecg", "ppg")
    assert (feature_extractor.sampling_rate, feature_extractor.patch_size) == (125, 25)


def test_encoder_carries_the_published_settings(published_stage2, tmp_path):
    checkpoint = save_lightning(published_stage2, tmp_path / "encoder.ckpt")
    converted(checkpoint, tmp_path / "encoder", tokenizer_output_dir=str(tmp_path / "frozen"))
    config = AutoModelForPreTraining.from_pretrained(tmp_path / "encoder").config
    assert config.channels == ("ppg",)
    assert config.num_attention_heads == 3
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.3
    assert config.drop_path_rate == 0.2
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "encoder").channels == ("ppg",)
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "frozen").channels == ("ecg", "ppg")
    _, report = AutoModel.from_pretrained(tmp_path / "frozen", output_loading_info=True)
    assert report["missing_keys"]
    assert all(name.startswith("decoder.") for name in report["missing_keys"])


def test_finetuned_labels_and_units(tmp_path):
    torch.save(tiny_finetuned(outputs=2).state_dict(), tmp_path / "finetuned.pth")
    converted(
        tmp_path / "finetuned.pth",
        tmp_path / "model",
        num_attention_heads=3,
        problem_type="regression",
        labels=["sbp", "dbp"],
        label_mean=[120.0, 70.0],
        label_std=[20.0, 10.0],
        label_unit="mmHg",
    )
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").config
    assert config.id2label == {0: "sbp", 1: "dbp"}
    assert config.label2id == {"sbp": 0, "dbp": 1}
    assert (config.problem_type, config.label_unit) == ("regression", "mmHg")
    assert config.channels == ("ppg",)


def test_command_line(tmp_path):
    torch.save(tiny_finetuned().state_dict(), tmp_path / "finetuned.pth")
    command = [sys.executable, "-m", "cmssl_hf.models.cmssl.convert_original_checkpoint"]
    command += ["--checkpoint", str(tmp_path / "finetuned.pth"), "--output_dir", str(tmp_path / "model")]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("error: ")
    options = ["--num_attention_heads", "3", "--channel", "ecg", "--labels", "normal", "af", "other"]
    subprocess.run([*command, *options], check=True, capture_output=True)
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").config
    assert (config.channels, config.num_attention_heads) == (("ecg",), 3)
    assert config.id2label == {0: "normal", 1: "af", 2: "other"}


# --- files that are not what they should be


def test_missing_and_unexpected_keys_are_listed(published_tokenizer, published_stage2, tmp_path):
    for published, renamed, load in (
        (published_tokenizer, "je.encoder.layers.2.linear1.bias", convert_tokenizer),
        (published_stage2, "encoder.layers.1.norm1.weight", convert_encoder),
        (published_stage2, "tokenizer.quantizer.embedding.weight", convert_frozen_tokenizer),
    ):
        state = dict(published.state_dict())
        state["surplus.weight"] = state.pop(renamed)
        path = tmp_path / "damaged.ckpt"
        torch.save({"state_dict": state, "hyper_parameters": published.hyper_parameters}, path)
        with pytest.raises(ValueError, match=rf"Missing keys: {renamed}\. Unexpected keys: surplus\.weight\."):
            load(path)


def test_damaged_finetuned_model(tmp_path):
    state = dict(tiny_finetuned().state_dict())
    state["head.4.weight"] = state.pop("head.2.weight")
    torch.save(state, tmp_path / "damaged.pth")
    with pytest.raises(ValueError, match=r"Missing keys: head\.2\.weight\. Unexpected keys: head\.4\.weight\."):
        convert_finetuned(tmp_path / "damaged.pth", num_attention_heads=3)


def test_finetuned_model_needs_its_heads(tmp_path):
    torch.save(tiny_finetuned().state_dict(), tmp_path / "finetuned.pth")
    with pytest.raises(ValueError, match="number of attention heads"):
        convert_finetuned(tmp_path / "finetuned.pth")


def test_unknown_checkpoint(tmp_path):
    torch.save({"bert.embeddings.weight": torch.zeros(2, 2)}, tmp_path / "bert.pth")
    with pytest.raises(ValueError, match=r"Missing keys: .*Unexpected keys: bert\.embeddings\.weight\."):
        checkpoint_kind(tmp_path / "bert.pth")


def test_wrong_sizes_are_listed(published_tokenizer, tmp_path):
    state = dict(published_tokenizer.state_dict())
    state["proj.bias"] = torch.zeros(7)
    torch.save(
        {"state_dict": state, "hyper_parameters": published_tokenizer.hyper_parameters}, tmp_path / "sizes.ckpt"
    )
    with pytest.raises(ValueError, match=r"proj\.bias \(7,\) instead of \(16,\)"):
        convert_tokenizer(tmp_path / "sizes.ckpt")


def test_other_positions_are_refused(published_tokenizer, tmp_path):
    published_tokenizer.pe.pe.add_(0.1)
    with pytest.raises(ValueError, match=r"other positions than the published ones: pe\.pe"):
        convert_tokenizer(save_lightning(published_tokenizer, tmp_path / "positions.ckpt"))


def test_missing_hyper_parameters_are_listed(published_tokenizer, tmp_path):
    del published_tokenizer.hyper_parameters["D_embed"]
    with pytest.raises(ValueError, match="lacks the hyper-parameter `D_embed`"):
        convert_tokenizer(save_lightning(published_tokenizer, tmp_path / "hyper.ckpt"))
    torch.save({"state_dict": dict(published_tokenizer.state_dict())}, tmp_path / "bare.ckpt")
    with pytest.raises(ValueError, match="holds no `hyper_parameters`"):
        convert_tokenizer(tmp_path / "bare.ckpt")


def test_files_that_are_no_checkpoints(published_tokenizer, tmp_path):
    whole = save_lightning(published_tokenizer, tmp_path / "whole.ckpt").read_bytes()
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    (tmp_path / "empty.ckpt").write_bytes(b"")
    (tmp_path / "truncated.ckpt").write_bytes(whole[: len(whole) // 2])
    torch.save([1, 2, 3], tmp_path / "list.ckpt")
    torch.save({"state_dict": torch.zeros(3)}, tmp_path / "tensor.ckpt")
    for name, message in {
        "text.ckpt": "is not a PyTorch checkpoint, or is damaged",
        "empty.ckpt": "is not a PyTorch checkpoint, or is damaged",
        "truncated.ckpt": "is not a PyTorch checkpoint, or is damaged",
        "list.ckpt": "holds a list, not a dictionary",
        "tensor.ckpt": "its `state_dict` is a Tensor",
    }.items():
        with pytest.raises(ValueError, match=message):
            checkpoint_kind(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        checkpoint_kind(tmp_path / "absent.ckpt")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": {"te.linear.weight": Payload()}}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="is not a PyTorch checkpoint, or is damaged"):
        checkpoint_kind(tmp_path / "evil.ckpt")
    assert not (tmp_path / "ran").exists()
