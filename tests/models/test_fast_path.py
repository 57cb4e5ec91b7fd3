"""The fast path computes what the plain one and the published computation compute."""

import contextlib
import copy
import io
import pickle

import pytest
import torch
from published_model import PublishedStage2, PublishedTokenizer
from torch import nn

from cmssl_hf import (
    CMSSLEncoderForPreTraining,
    CMSSLEncoderForSequenceClassification,
    CMSSLTokenizerModel,
)
from cmssl_hf.models import cpu_kernels as kernels_module
from cmssl_hf.models.cmssl.convert_original_checkpoint import convert_encoder, convert_tokenizer
from cmssl_hf.models.cmssl.modeling_cmssl_cross_entropy import chunked_cross_entropy
from cmssl_hf.models.cpu_kernels import cpu_kernels
from helpers.tiny import encoder_config, tokenizer_config


NUM_STEPS = 20


def to_signals(x: torch.Tensor) -> torch.Tensor:
    """Published `(batch, patches, channels, samples)` to ours."""
    return x.transpose(1, 2).flatten(2)


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    return model.train()


def train_step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> float:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def optimizers(*models: nn.Module) -> list[torch.optim.Optimizer]:
    return [torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=1e-4, fused=True) for m in models]


@pytest.fixture
def use_cpu_kernels():
    """Puts a model on the faster routes until the test ends."""
    with contextlib.ExitStack() as stack:
        yield lambda model: stack.enter_context(cpu_kernels(model))


@pytest.fixture
def published_tokenizer() -> PublishedTokenizer:
    torch.manual_seed(0)
    # Few codes: among hundreds some latent lies between two of them so exactly that rounding decides, and the sides part.
    return PublishedTokenizer(layers=3, codes=32, dropout=0.0).train()


def saved(path, model: nn.Module):
    torch.save({"state_dict": dict(model.state_dict()), "hyper_parameters": model.hyper_parameters}, path)
    return path


def test_stage_1_follows_the_published_computation(published_tokenizer, tmp_path, use_cpu_kernels):
    model = without_dropout(convert_tokenizer(saved(tmp_path / "tokenizer.ckpt", published_tokenizer)))
    use_cpu_kernels(model)
    of_published, of_ours = optimizers(published_tokenizer, model)
    for _ in range(NUM_STEPS):
        x = torch.randn(4, 10, 2, 125)
        expected_codes, codes = published_tokenizer.eval().quantized(x)[2], model.eval().encode(to_signals(x))
        assert torch.equal(codes, expected_codes)
        expected = train_step(of_published, published_tokenizer.train()(x)["loss"])
        assert train_step(of_ours, model.train()(to_signals(x)).loss) == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(model.codebook.weight, published_tokenizer.quantizer.embedding.weight)


def test_stage_2_follows_the_published_computation(published_tokenizer, tmp_path, use_cpu_kernels):
    published = PublishedStage2(published_tokenizer, width=64, heads=4, layers=2, dropout=0.0).train()
    model = without_dropout(convert_encoder(saved(tmp_path / "encoder.ckpt", published)))
    tokenizer = convert_tokenizer(saved(tmp_path / "tokenizer.ckpt", published_tokenizer))
    use_cpu_kernels(model)
    use_cpu_kernels(tokenizer)
    of_published, of_ours = optimizers(published, model)
    for _ in range(NUM_STEPS):
        x = torch.randn(40, 10, 2, 125)
        with torch.no_grad():
            codes = tokenizer.encode(to_signals(x))
        loss = model(to_signals(x)[:, 1:], labels=codes, return_logits=False).loss
        expected = train_step(of_published, published(x))
        assert train_step(of_ours, loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["tokenizer", "encoder", "task model"])
def test_kernels_give_the_plain_losses_and_gradients(kind, masked, use_cpu_kernels):
    torch.manual_seed(0)
    inputs = {"input_values": torch.randn(6, 2 if kind == "tokenizer" else 1, 100)}
    if masked:
        lengths = torch.tensor([100, 25, 60, 75, 100, 0])
        inputs["attention_mask"] = (torch.arange(100) < lengths[:, None]).long()
    if kind == "tokenizer":
        plain = CMSSLTokenizerModel(tokenizer_config())
    elif kind == "encoder":
        plain = CMSSLEncoderForPreTraining(encoder_config())
        inputs["labels"] = torch.randint(16, (6, 4))
    else:
        plain = CMSSLEncoderForSequenceClassification(encoder_config(num_labels=1, problem_type="regression"))
        inputs["labels"] = torch.randn(6, 1)
    fast = copy.deepcopy(plain)
    use_cpu_kernels(fast)
    assert fast.state_dict().keys() == plain.state_dict().keys()
    outputs = [model.train()(**inputs) for model in (plain, fast)]
    for each in outputs:
        each.loss.backward()
    torch.testing.assert_close(outputs[1].loss, outputs[0].loss, rtol=1e-5, atol=0)
    for (name, expected), parameter in zip(plain.named_parameters(), fast.parameters()):
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.3, 0.5])
def test_dropout(p, dtype, use_cpu_kernels):
    model = CMSSLEncoderForPreTraining(encoder_config(hidden_dropout_prob=p)).train()
    use_cpu_kernels(model)
    dropout = model.encoder.layers[0].dropout
    ones = torch.ones(401, 1001, dtype=dtype, requires_grad=True)
    torch.manual_seed(0)
    dropped = dropout(ones)
    kept = dropped != 0
    assert kept.float().mean().item() == pytest.approx(1 - p, abs=4e-3)
    torch.testing.assert_close(dropped[kept].float(), torch.full((int(kept.sum()),), 1 / (1 - p)), rtol=5e-3, atol=0)
    # Neighbours and neighbouring rows are dropped independently.
    for other in (kept[:, 1:], kept[1:]):
        both = (kept[: len(other), : other.shape[1]] & other).float().mean().item()
        assert both == pytest.approx((1 - p) ** 2, abs=6e-3)
    dropped.sum().backward()
    assert torch.equal(ones.grad, dropped.detach())
    torch.manual_seed(0)
    assert torch.equal(dropout(ones), dropped)
    assert torch.equal(dropout.eval()(ones), ones)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_repeats_the_dropout(use_reentrant, use_cpu_kernels):
    settings = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}
    model = CMSSLEncoderForPreTraining(encoder_config(**settings)).train()
    use_cpu_kernels(model)
    x, labels = torch.randn(4, 1, 100), torch.randint(16, (4, 4))
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        torch.manual_seed(1)
        model.zero_grad()
        model(x, labels=labels).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, repeated in zip(*gradients):
        torch.testing.assert_close(repeated, plain)


def test_another_attention_is_kept(use_cpu_kernels):
    model = CMSSLEncoderForPreTraining(encoder_config(attn_implementation="eager"))
    use_cpu_kernels(model)
    outputs = model(torch.randn(2, 1, 100), output_attentions=True)
    assert outputs.attentions[0].shape == (2, 2, 4, 4)


def test_long_sequences(use_cpu_kernels):
    plain = CMSSLEncoderForPreTraining(encoder_config()).eval()
    fast = copy.deepcopy(plain)
    use_cpu_kernels(fast)
    x = torch.randn(2, 1, 100 * 25)
    with torch.no_grad():
        torch.testing.assert_close(fast(x).logits, plain(x).logits, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("num_windows", [3, 300])
def test_cross_entropy_in_parts(num_windows):
    torch.manual_seed(0)
    head = nn.Linear(16, 50)
    labels = torch.randint(50, (num_windows, 4))
    labels[::3, 1] = -100
    states = [torch.randn(num_windows, 4, 16).requires_grad_() for _ in range(2)]
    states[1].data.copy_(states[0].data)
    losses = (
        nn.functional.cross_entropy(head(states[0]).flatten(0, 1), labels.flatten()),
        chunked_cross_entropy(states[1], head, labels),
    )
    torch.testing.assert_close(losses[1], losses[0])
    gradients = [torch.autograd.grad(3 * loss, (state, *head.parameters())) for loss, state in zip(losses, states)]
    for expected, gradient in zip(*gradients):
        torch.testing.assert_close(gradient, expected)
    with torch.no_grad():
        torch.testing.assert_close(chunked_cross_entropy(states[1], head, labels), losses[0])


@pytest.mark.parametrize("codes_per_patch", [1, 2])
def test_loss_without_logits(codes_per_patch):
    model = CMSSLEncoderForPreTraining(encoder_config(codes_per_patch=codes_per_patch)).eval()
    x, labels = torch.randn(3, 1, 100), torch.randint(16, (3, 4 * codes_per_patch))
    labels[0, -1] = -100
    whole, alone = model(x, labels=labels), model(x, labels=labels, return_logits=False)
    assert alone.logits is None
    torch.testing.assert_close(alone.loss, whole.loss)


def test_codes_are_chosen_in_float32_under_autocast():
    torch.manual_seed(0)
    codebook = CMSSLTokenizerModel(tokenizer_config(codebook_size=4096)).codebook
    latents = nn.functional.normalize(torch.randn(2000, 8), dim=-1)
    with torch.autocast("cpu", torch.bfloat16):
        codes = codebook.nearest(latents)
    assert torch.equal(codes, (latents @ codebook.weight.t()).argmax(-1))


def kinds_of(model: nn.Module) -> list[type]:
    return [type(module) for module in model.modules()]


def test_kernels_are_taken_off_where_they_were_put_on():
    model = CMSSLTokenizerModel(tokenizer_config())
    plain = kinds_of(model)
    with cpu_kernels(model):
        assert sum(kind.__module__ == kernels_module.__name__ for kind in kinds_of(model)) > 10
        with cpu_kernels(model):
            inside = kinds_of(model)
        assert kinds_of(model) == inside
    assert kinds_of(model) == plain and model.config._attn_implementation == "sdpa"
    with pytest.raises(RuntimeError, match="stop"), cpu_kernels(model):
        raise RuntimeError("stop")
    assert kinds_of(model) == plain
    with cpu_kernels(model, "off"):
        assert kinds_of(model) == plain


@pytest.mark.parametrize("inside", [False, True])
def test_model_survives_pickling_and_torch_save(inside):
    model = CMSSLEncoderForPreTraining(encoder_config()).eval()
    x = torch.randn(2, 1, 100)
    with torch.no_grad():
        expected = model(x).logits
        with cpu_kernels(model):
            model(x)
            file = io.BytesIO()
            if inside:
                copies = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model)]
                torch.save(model, file)
        if not inside:
            copies = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model)]
            torch.save(model, file)
        file.seek(0)
        for each in (*copies, torch.load(file, weights_only=False)):
            torch.testing.assert_close(each(x).logits, expected, rtol=1e-4, atol=1e-6)


def test_without_the_operator_the_plain_products_are_taken(monkeypatch):
    monkeypatch.setattr(kernels_module, "linear_pointwise", None)  # whoever called it would fail
    monkeypatch.setattr(kernels_module, "has_linear_pointwise", lambda: False)
    plain = CMSSLTokenizerModel(tokenizer_config(codebook_size=256)).eval()
    x = torch.randn(2, 2, 100)
    with torch.no_grad():
        expected = plain(x).reconstruction
        with cpu_kernels(plain):
            assert nn.Linear in kinds_of(plain)
            torch.testing.assert_close(plain(x).reconstruction, expected, rtol=1e-4, atol=1e-6)
