"""The joint tokenizer and its codebook."""

import shutil

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

from cmssl_hf import CMSSLTokenizerConfig, CMSSLTokenizerModel
from cmssl_hf.models.cmssl.modeling_cmssl_codebook import CMSSLCodebook
from helpers.tiny import tokenizer_config


PATCH_SIZE = 20

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")


def small_config(**kwargs) -> CMSSLTokenizerConfig:
    sizes = {
        "patch_size": PATCH_SIZE,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "num_decoder_layers": 1,
        "num_decoder_attention_heads": 2,
        "decoder_mlp_size": 24,
        "codebook_size": 16,
        "codebook_dim": 8,
    }
    # A spread of weights as after training, so that inputs get different codes.
    return CMSSLTokenizerConfig(**{**sizes, "initializer_range": 0.2, **kwargs})


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def model():
    return CMSSLTokenizerModel(small_config()).eval()


@pytest.fixture
def padded_batch():
    """Three windows of 6, 4 and 3.5 patches, padded to 6, with noise where the padding is."""
    input_values = torch.randn(3, 2, 6 * PATCH_SIZE)
    attention_mask = torch.ones(3, 6 * PATCH_SIZE, dtype=torch.long)
    attention_mask[1, 4 * PATCH_SIZE :] = 0
    attention_mask[2, 3 * PATCH_SIZE + PATCH_SIZE // 2 :] = 0
    return {"input_values": input_values, "attention_mask": attention_mask}


# --- outputs


def test_shapes_and_relations(model, padded_batch):
    outputs = model(**padded_batch, output_hidden_states=True)
    assert outputs.reconstruction.shape == (3, 2, 6 * PATCH_SIZE)
    assert outputs.codes.shape == (3, 6)
    assert outputs.latents.shape == (3, 6, 8)
    assert len(outputs.hidden_states) == 3
    torch.testing.assert_close(outputs.latents.norm(dim=-1), torch.ones(3, 6))
    torch.testing.assert_close(outputs.loss, outputs.reconstruction_loss + outputs.commitment_loss)
    assert (outputs.codes == -100).tolist() == [[False] * 6, [False] * 4 + [True] * 2, [False] * 4 + [True] * 2]


def test_encode_and_decode_are_the_two_halves_of_forward(model, padded_batch):
    outputs = model(**padded_batch)
    codes = model.encode(**padded_batch)
    assert codes.tolist() == outputs.codes.tolist()
    decoded = model.decode(codes)
    for window, num_patches in enumerate((6, 4, 4)):
        samples = num_patches * PATCH_SIZE
        torch.testing.assert_close(decoded[window, :, :samples], outputs.reconstruction[window, :, :samples])


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.tensor([[1, 16]]), "`codes` must lie below 16, but reaches 16"),
        (torch.tensor([1, 2]), r"whole numbers of shape \(batch, num_patches\), but is torch.int64 of shape \(2,\)"),
        (torch.tensor([[1.0, 2.0]]), "but is torch.float32"),
        (torch.zeros(1, 0, dtype=torch.long), r"of shape \(1, 0\)"),
    ],
)
def test_codes_that_cannot_be_decoded(codes, message, model):
    with pytest.raises(ValueError, match=message):
        model.decode(codes)


def test_codes_are_the_nearest_rows(model, padded_batch):
    outputs = model(input_values=padded_batch["input_values"])
    distances = (outputs.latents[:, :, None] - model.codebook.weight).norm(dim=-1)
    assert outputs.codes.tolist() == distances.argmin(-1).tolist()
    assert len(outputs.codes.unique()) > 1


@pytest.mark.parametrize("objective", ["mse", "l1"])
def test_losses_follow_their_definition(objective, padded_batch):
    config = small_config(reconstruction_objective=objective, channel_loss_weights=(1.0, 3.0), commitment_weight=0.5)
    model = CMSSLTokenizerModel(config).eval()
    with torch.no_grad():
        outputs = model(**padded_batch)
    signals = padded_batch["input_values"].numpy()
    mask = padded_batch["attention_mask"].numpy().astype(bool)
    difference = outputs.reconstruction.numpy() - signals
    error = np.abs(difference) if objective == "l1" else difference**2
    per_channel = [error[:, channel][mask].mean() for channel in range(2)]
    assert outputs.reconstruction_loss.item() == pytest.approx(per_channel[0] + 3 * per_channel[1], rel=1e-5)
    real = outputs.codes.numpy() >= 0
    codes = model.codebook.weight.numpy()[outputs.codes.numpy()[real]]
    commitment = ((outputs.latents.numpy()[real] - codes) ** 2).mean()
    assert outputs.commitment_loss.item() == pytest.approx(0.5 * commitment, rel=1e-5)


def test_losses_without_padding_are_plain_means(model, padded_batch):
    with torch.no_grad():
        outputs = model(padded_batch["input_values"])
    expected = ((outputs.reconstruction - padded_batch["input_values"]) ** 2).mean((0, 2)).sum()
    torch.testing.assert_close(outputs.reconstruction_loss, expected)
    ones = torch.ones_like(padded_batch["attention_mask"])
    torch.testing.assert_close(model(padded_batch["input_values"], ones).loss, outputs.loss)


@pytest.mark.parametrize("padding_value", [0.0, float("nan")])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_changes_nothing(model, padded_batch, attention, padding_value):
    padded = padded_batch["attention_mask"][:, None].expand(-1, 2, -1) == 0
    padded_batch["input_values"][padded] = padding_value
    model.set_attn_implementation(attention)
    outputs = model(**padded_batch)
    assert outputs.loss.isfinite()
    for window in (1, 2):
        alone = model(
            **{name: value[window : window + 1, ..., : 4 * PATCH_SIZE] for name, value in padded_batch.items()}
        )
        assert outputs.codes[window, :4].tolist() == alone.codes[0].tolist()
        torch.testing.assert_close(outputs.latents[window, :4], alone.latents[0])
        torch.testing.assert_close(outputs.reconstruction[window, :, : 4 * PATCH_SIZE], alone.reconstruction[0])


def test_sdpa_and_eager_agree(model, padded_batch):
    latents = []
    for attention in ("sdpa", "eager"):
        model.set_attn_implementation(attention)
        latents.append(model(**padded_batch).latents)
    torch.testing.assert_close(latents[0][0], latents[1][0])
    torch.testing.assert_close(latents[0][1, :4], latents[1][1, :4])


def test_gradients_pass_straight_through_the_quantiser(model, padded_batch):
    """The latents get the gradient that the decoder sends to the codes, and that of the commitment."""
    signals = padded_batch["input_values"]
    outputs = model(signals)
    outputs.latents.retain_grad()
    outputs.loss.backward()
    codes = model.codebook.lookup(outputs.codes).requires_grad_()
    patches = model.decoder(codes, None)
    reconstruction = patches.unflatten(-1, (2, PATCH_SIZE)).transpose(1, 2).flatten(2)
    ((reconstruction - signals) ** 2).mean((0, 2)).sum().backward()
    commitment = 0.25 * 2 * (outputs.latents - codes).detach() / codes.numel()
    torch.testing.assert_close(outputs.latents.grad, codes.grad + commitment)


def test_without_quantisation_it_is_an_autoencoder(model, padded_batch):
    model.train()
    codebook = {name: buffer.clone() for name, buffer in model.codebook.named_buffers()}
    outputs = model(**padded_batch, quantize=False)
    assert outputs.commitment_loss.item() == 0
    torch.testing.assert_close(outputs.loss, outputs.reconstruction_loss)
    for name, buffer in model.codebook.named_buffers():
        assert torch.equal(buffer, codebook[name])
    model.eval()
    outputs = model(padded_batch["input_values"], quantize=False)
    patches = model.decoder(outputs.latents, None)
    expected = patches.unflatten(-1, (2, PATCH_SIZE)).transpose(1, 2).flatten(2)
    torch.testing.assert_close(outputs.reconstruction, expected)


def test_gradient_checkpointing_gives_the_same_gradients(padded_batch):
    config = small_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = CMSSLTokenizerModel(config).train()
    codebook = {name: buffer.clone() for name, buffer in model.codebook.named_buffers()}
    gradients, updated = [], []
    for checkpointing in (False, True):
        model.codebook.load_state_dict(codebook)
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(**padded_batch).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
        updated.append(model.codebook.vector_sum.clone())
    for plain, checkpointed in zip(*gradients):
        torch.testing.assert_close(plain, checkpointed)
    # Recomputing the forward pass must not move the codebook twice.
    assert torch.equal(updated[0], updated[1])


@pytest.mark.parametrize(
    ("training", "backend"), [(True, "aot_eager"), pytest.param(False, "inductor", marks=needs_compiler)]
)
def test_compiles_into_one_graph(training, backend, padded_batch):
    config = small_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = CMSSLTokenizerModel(config).train(training)
    codebook = {name: buffer.clone() for name, buffer in model.codebook.named_buffers()}
    with torch.no_grad():
        expected = model(**padded_batch)
        moved = model.codebook.weight.clone()
        model.codebook.load_state_dict(codebook)
        outputs = torch.compile(model, fullgraph=True, backend=backend)(**padded_batch)
    assert outputs.codes.tolist() == expected.codes.tolist()
    torch.testing.assert_close(outputs.loss, expected.loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.codebook.weight, moved)


def test_exports_with_any_batch_and_length(model, padded_batch):
    batch = torch.export.Dim("batch", min=1, max=64)
    samples = PATCH_SIZE * torch.export.Dim("num_patches", min=2, max=64)
    shapes = {"input_values": {0: batch, 2: samples}, "attention_mask": {0: batch, 1: samples}}
    exported = torch.export.export(model, (), padded_batch, dynamic_shapes=shapes).module()
    for size, num_patches in ((1, 2), (5, 9)):
        inputs = {
            "input_values": torch.randn(size, 2, num_patches * PATCH_SIZE),
            "attention_mask": torch.ones(size, num_patches * PATCH_SIZE, dtype=torch.long),
        }
        expected = model(**inputs)
        assert exported(**inputs).codes.tolist() == expected.codes.tolist()
        torch.testing.assert_close(exported(**inputs).reconstruction, expected.reconstruction)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_the_codebook_in_float32(model, dtype, padded_batch, tmp_path):
    model.save_pretrained(tmp_path)
    half = CMSSLTokenizerModel.from_pretrained(tmp_path, dtype=dtype).eval()
    assert {parameter.dtype for parameter in half.parameters()} == {dtype}
    assert {buffer.dtype for buffer in half.codebook.buffers()} == {torch.float32}
    assert torch.equal(half.codebook.weight, model.codebook.weight)
    outputs = half(**padded_batch)
    assert (outputs.latents - model(**padded_batch).latents).abs().max() < (0.02 if dtype == torch.float16 else 0.2)
    assert half.decode(outputs.codes).isfinite().all()
    half.train()(**padded_batch).loss.backward()
    assert {buffer.dtype for buffer in half.codebook.buffers()} == {torch.float32}


# --- codebook


def codebook_with(codes, sizes, decay) -> CMSSLCodebook:
    codebook = CMSSLCodebook(small_config(codebook_size=len(codes), codebook_dim=codes.shape[1], ema_decay=decay))
    codebook.set_codes(torch.tensor(codes), torch.tensor(sizes))
    return codebook


@pytest.mark.parametrize("masked", [False, True])
def test_codebook_follows_moving_averages(masked):
    """Against the published rule in numpy: sums and sizes decay towards those of the batch, rows are their ratio."""
    generator = np.random.default_rng(0)
    decay, codes = 0.9, generator.normal(size=(6, 4)).astype(np.float32)
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    sizes = generator.uniform(0.5, 2, size=6).astype(np.float32)
    codebook = codebook_with(codes, sizes, decay)
    sums = codes * sizes[:, None]
    for _ in range(3):
        latents = generator.normal(size=(5, 7, 4)).astype(np.float32)
        latents /= np.linalg.norm(latents, axis=-1, keepdims=True)
        real = generator.random((5, 7)) < 0.7 if masked else np.ones((5, 7), dtype=bool)
        chosen = (latents @ codes.T).argmax(-1)
        codebook.update(torch.tensor(latents), torch.tensor(chosen), torch.tensor(real) if masked else None)
        batch_sums, batch_sizes = np.zeros_like(sums), np.zeros_like(sizes)
        np.add.at(batch_sums, chosen[real], latents[real])
        np.add.at(batch_sizes, chosen[real], 1)
        sums = decay * sums + (1 - decay) * batch_sums
        sizes = decay * sizes + (1 - decay) * batch_sizes
        smoothed = (sizes + 1e-5) / (sizes.sum() + 6e-5) * sizes.sum()
        codes = sums / smoothed[:, None]
        codes /= np.linalg.norm(codes, axis=1, keepdims=True)
        np.testing.assert_allclose(codebook.vector_sum, sums, atol=1e-6)
        np.testing.assert_allclose(codebook.cluster_size, sizes, atol=1e-6)
        np.testing.assert_allclose(codebook.weight, codes, atol=1e-5)


def test_unused_codes_keep_their_direction():
    codebook = codebook_with(np.eye(3, dtype=np.float32), np.zeros(3, dtype=np.float32), 0.5)
    for _ in range(200):
        codebook.update(torch.tensor([[0.6, 0.8, 0.0]]), torch.tensor([0]))
    expected = [[0.6, 0.8, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    torch.testing.assert_close(codebook.weight, torch.tensor(expected))
    torch.testing.assert_close(codebook.cluster_size, torch.tensor([1.0, 0.0, 0.0]))


def test_set_codes_normalises_and_keeps_the_average_consistent():
    codebook = codebook_with(
        np.array([[3.0, 4.0], [0.0, 2.0]], dtype=np.float32), np.array([2.0, 5.0], dtype=np.float32), 0.9
    )
    torch.testing.assert_close(codebook.weight, torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    torch.testing.assert_close(codebook.vector_sum, torch.tensor([[1.2, 1.6], [0.0, 5.0]]))


def test_processes_share_their_counts(monkeypatch):
    """With two processes that see the same batch, the codebook moves as with that batch twice."""
    codes, sizes = np.eye(3, dtype=np.float32), np.ones(3, dtype=np.float32)
    latents = torch.nn.functional.normalize(torch.randn(10, 3), dim=-1)
    alone, shared = codebook_with(codes, sizes, 0.9), codebook_with(codes, sizes, 0.9)
    alone.update(latents.repeat(2, 1), alone.nearest(latents.repeat(2, 1)))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.mul_(2))
    shared.update(latents, shared.nearest(latents))
    for name, buffer in alone.named_buffers():
        torch.testing.assert_close(shared.get_buffer(name), buffer)


def test_only_training_moves_the_codebook(model, padded_batch):
    before = model.codebook.weight.clone()
    model(**padded_batch)
    assert torch.equal(model.codebook.weight, before)
    model.train()(**padded_batch)
    assert not torch.equal(model.codebook.weight, before)
    torch.testing.assert_close(model.codebook.weight.norm(dim=-1), torch.ones(16))


def test_padding_does_not_move_the_codebook(padded_batch):
    config = small_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = CMSSLTokenizerModel(config).train()
    model(**padded_batch)
    # 6 + 4 + 4 patches hold real samples.
    assert model.codebook.cluster_size.sum().item() == pytest.approx((1 - config.ema_decay) * 14, rel=1e-4)


def test_no_optimizer_sees_the_codebook(model):
    assert not any(name.startswith("codebook") for name, _ in model.named_parameters())
    assert {name for name in model.state_dict() if name.startswith("codebook.")} == {
        "codebook.weight",
        "codebook.cluster_size",
        "codebook.vector_sum",
    }


def test_codes_start_as_different_unit_vectors():
    """Also when the model is first made on the meta device, as `from_pretrained` does."""
    with torch.device("meta"):
        model = CMSSLTokenizerModel(small_config())
    model.to_empty(device="cpu")
    for buffer in model.codebook.buffers():
        buffer.fill_(float("nan"))
    model.init_weights()
    for initialised in (model, CMSSLTokenizerModel(small_config())):
        codebook = initialised.codebook
        torch.testing.assert_close(codebook.weight.norm(dim=-1), torch.ones(16))
        assert len(codebook.weight.unique(dim=0)) == 16
        assert torch.equal(codebook.vector_sum, codebook.weight)
        assert torch.equal(codebook.cluster_size, torch.zeros(16))


def test_everything_survives_saving(model, padded_batch, tmp_path):
    model.train()(**padded_batch)
    model.eval().save_pretrained(tmp_path)
    loaded, report = CMSSLTokenizerModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    torch.testing.assert_close(loaded(**padded_batch).reconstruction, model(**padded_batch).reconstruction)


def test_published_stage2_flaw_needs_equal_widths():
    with pytest.raises(
        StrictDataclassClassValidationError, match=r"`codebook_dim` \(8\) must equal `hidden_size` \(32\)"
    ):
        small_config(use_code_projection=False)
    model = CMSSLTokenizerModel(small_config(use_code_projection=False, codebook_dim=32)).eval()
    signals = torch.randn(2, 2, 5 * PATCH_SIZE)
    outputs = model(signals, output_hidden_states=True)
    expected = torch.nn.functional.normalize(outputs.hidden_states[-1], dim=-1)
    torch.testing.assert_close(outputs.latents, expected)


def test_sums_that_are_not_stored_follow_from_codes_and_sizes(tmp_path, capfd):
    model = CMSSLTokenizerModel(tokenizer_config())
    with torch.no_grad():
        model.codebook.set_codes(
            torch.randn_like(model.codebook.weight), torch.rand_like(model.codebook.cluster_size) + 0.5
        )
    stored = {name: value for name, value in model.state_dict().items() if name != "codebook.vector_sum"}
    model.save_pretrained(tmp_path, state_dict=stored)
    loaded = CMSSLTokenizerModel.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.codebook.vector_sum, model.codebook.vector_sum)
    torch.testing.assert_close(loaded.codebook.weight, model.codebook.weight, rtol=0, atol=0)
    assert "MISSING" not in "".join(capfd.readouterr())
