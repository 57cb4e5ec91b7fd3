"""The routes that models take on an accelerator compute what the plain ones do, and never wait for the device."""

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cmssl_hf import CMSSLEncoderForPreTraining, CMSSLEncoderForSequenceClassification, CMSSLTokenizerModel
from cmssl_hf.models.cmssl import modeling_cmssl_codebook, modeling_cmssl_cross_entropy
from cmssl_hf.models.cmssl.modeling_cmssl_attention import LONGEST_SEQUENCE, PRODUCTS, fitting_attention
from cmssl_hf.models.cmssl.modeling_cmssl_cross_entropy import chunked_cross_entropy
from helpers.tiny import encoder_config, tokenizer_config


HEAD = {"num_labels": 1, "problem_type": "regression", "label_mean": 70.0, "label_std": 10.0}
MODELS = {
    "tokenizer": lambda: CMSSLTokenizerModel(tokenizer_config(channel_loss_weights=(1.0, 2.0))),
    "encoder": lambda: CMSSLEncoderForPreTraining(encoder_config(drop_path_rate=0.1)),
    "task model": lambda: CMSSLEncoderForSequenceClassification(encoder_config(**HEAD)),
    "classes": lambda: CMSSLEncoderForSequenceClassification(
        encoder_config(num_labels=3, problem_type="single_label_classification", class_weights=[1.0, 2.0, 0.5])
    ),
}


def batch(kind, seed=0, masked=True):
    generator = torch.Generator().manual_seed(seed)
    inputs = {"input_values": torch.randn(6, 2 if kind == "tokenizer" else 1, 100, generator=generator)}
    if masked:
        lengths = torch.tensor([100, 25, 60, 75, 100, 0])
        inputs["attention_mask"] = (torch.arange(100) < lengths[:, None]).long()
    if kind == "encoder":
        inputs |= {"labels": torch.randint(16, (6, 4), generator=generator), "return_logits": False}
        if masked:
            # Patches of padding alone have no code.
            inputs["labels"][torch.arange(4) * 25 >= lengths[:, None]] = -100
    elif kind == "task model":
        inputs["labels"] = 70 + 10 * torch.randn(6, 1, generator=generator)
    elif kind == "classes":
        inputs["labels"] = torch.randint(3, (6,), generator=generator)
    return inputs


@pytest.mark.parametrize(
    ("name", "num_patches", "device", "taken"),
    [
        ("sdpa", 10, "cuda", PRODUCTS),
        ("sdpa", LONGEST_SEQUENCE, "cuda", PRODUCTS),
        ("sdpa", LONGEST_SEQUENCE + 1, "cuda", "sdpa"),
        ("sdpa", 10, "cpu", "sdpa"),
        ("eager", 10, "cuda", "eager"),
        ("flash_attention_2", 10, "cuda", "flash_attention_2"),
    ],
)
def test_few_patches_on_an_accelerator_take_products(name, num_patches, device, taken):
    assert fitting_attention(name, num_patches, torch.device(device)) == taken


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["tokenizer", "encoder", "task model"])
def test_products_train_as_the_fused_attention_does(kind, masked):
    torch.manual_seed(0)
    plain = MODELS[kind]().train()
    for module in plain.modules():
        if hasattr(module, "drop_probability"):
            module.drop_probability = 0.0
    products = copy.deepcopy(plain)
    products.set_attn_implementation(PRODUCTS)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.05) for model in (plain, products)]
    for step in range(20):
        losses = []
        for model, optimizer in zip((plain, products), optimizers):
            optimizer.zero_grad()
            losses.append(model(**batch(kind, step, masked)).loss)
            losses[-1].backward()
            optimizer.step()
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
    for (name, expected), parameter in zip(plain.named_parameters(), products.parameters()):
        torch.testing.assert_close(parameter, expected, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_in_half_precision_are_right_within_its_rounding(dtype):
    torch.manual_seed(0)
    model = MODELS["encoder"]().eval()
    inputs = batch("encoder") | {"return_logits": True}
    with torch.no_grad():
        expected = model(**inputs)
        model.set_attn_implementation(PRODUCTS)
        with torch.autocast("cpu", dtype):
            outputs = model(**inputs)
    assert outputs.logits.isfinite().all()
    # Two layers, each of which rounds what it adds to normalised states of about 1.
    tolerance = 8 * torch.finfo(dtype).eps
    real = inputs["attention_mask"].unflatten(-1, (-1, 25)).any(-1)
    torch.testing.assert_close(outputs.logits[real].float(), expected.logits[real], rtol=0, atol=tolerance)
    torch.testing.assert_close(outputs.loss, expected.loss, rtol=tolerance, atol=0)


def test_products_drop_weights_in_training_only():
    torch.manual_seed(0)
    model = CMSSLEncoderForPreTraining(encoder_config(attention_probs_dropout_prob=0.5))
    model.set_attn_implementation(PRODUCTS)
    x = batch("encoder", masked=False)["input_values"]
    with torch.no_grad():
        assert torch.equal(model.eval()(x).logits, model(x).logits)
        assert not torch.allclose(model.train()(x).logits, model(x).logits)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_a_step_never_asks_the_device_for_a_number(monkeypatch, kind, masked):
    """Tensors of the device "meta" have none: whatever would wait for a number, a length or a condition fails."""
    # It does not know this device.
    monkeypatch.setattr(torch, "autocast", lambda *_, **options: contextlib.nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    with torch.device("meta"):
        model = MODELS[kind]().train()
    inputs = {
        name: each.to("meta") if torch.is_tensor(each) else each for name, each in batch(kind, 0, masked).items()
    }
    model(**inputs).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


class Copies(TorchDispatchMode):
    """Counts conversions of tensors of a shape, and copies of numbers to a device."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.conversions, self.numbers = shape, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.conversions += function is torch.ops.aten._to_copy.default and args[0].shape == self.shape
        self.numbers += function is torch.ops.aten.lift_fresh.default
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("kind", MODELS)
def test_a_step_copies_no_numbers_to_the_device(kind):
    model, inputs = MODELS[kind]().train(), batch(kind)
    with Copies(None) as copies:
        model(**inputs).loss.backward()
    assert copies.numbers == 0


def test_the_weight_of_the_head_is_cast_once_per_step(monkeypatch):
    monkeypatch.setattr(modeling_cmssl_cross_entropy, "_BYTES_ON_CPU", 4 * 50 * 2)  # two patches
    head, states, labels = nn.Linear(16, 50), torch.randn(3, 4, 16, requires_grad=True), torch.randint(50, (3, 4))
    with torch.autocast("cpu", torch.bfloat16), Copies(head.weight.shape) as copies:
        loss = chunked_cross_entropy(states, head, labels)
    in_forward = copies.conversions
    loss.backward()
    assert in_forward == 1
    assert head.weight.grad.dtype == states.grad.dtype == torch.float32


@pytest.mark.parametrize("patches_per_part", [1, 5, 12, 100])
@pytest.mark.parametrize("autocast", [False, True])
def test_parts_of_any_size_give_the_cross_entropy_of_the_whole(monkeypatch, patches_per_part, autocast):
    monkeypatch.setattr(modeling_cmssl_cross_entropy, "_BYTES_ON_CPU", 4 * 50 * patches_per_part)
    torch.manual_seed(0)
    head, labels = nn.Linear(16, 50), torch.randint(50, (3, 4))
    labels[0, 1] = -100
    states = [torch.randn(3, 4, 16).requires_grad_() for _ in range(2)]
    states[1].data.copy_(states[0].data)
    expected = nn.functional.cross_entropy(head(states[0]).flatten(0, 1), labels.flatten())
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = chunked_cross_entropy(states[1], head, labels)
    tolerance = {"rtol": 0, "atol": 4 * torch.finfo(torch.bfloat16).eps} if autocast else {}
    torch.testing.assert_close(loss, expected, **tolerance)
    gradients = [
        torch.autograd.grad(each, (state, *head.parameters())) for each, state in zip((expected, loss), states)
    ]
    for plain, in_parts in zip(*gradients):
        torch.testing.assert_close(in_parts, plain, **tolerance)


@pytest.mark.parametrize("latents_per_part", [1, 7, 1000])
def test_parts_of_any_size_give_the_nearest_codes(monkeypatch, latents_per_part):
    torch.manual_seed(0)
    codebook = CMSSLTokenizerModel(tokenizer_config(codebook_size=64)).codebook
    monkeypatch.setattr(modeling_cmssl_codebook, "_BYTES_ON_CPU", 4 * 64 * latents_per_part)
    latents = nn.functional.normalize(torch.randn(5, 9, 8), dim=-1)
    assert torch.equal(codebook.nearest(latents), (latents @ codebook.weight.t()).argmax(-1))
