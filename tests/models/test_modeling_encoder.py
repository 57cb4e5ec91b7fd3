"""The encoder, its pre-training head and its task head."""

import math
import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer, TrainingArguments
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging as transformers_logging

from cmssl_hf import (
    CMSSLEncoderConfig,
    CMSSLEncoderForPreTraining,
    CMSSLEncoderForSequenceClassification,
    CMSSLEncoderModel,
    CMSSLFeatureExtractor,
)
from cmssl_hf.models.cmssl.modeling_cmssl_layers import (
    CMSSLDropPath,
    patch_attention_mask,
    patch_signals,
    sinusoidal_positions,
    unpatch_signals,
)


PATCH_SIZE = 20

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")


def small_config(**kwargs) -> CMSSLEncoderConfig:
    sizes = {
        "patch_size": PATCH_SIZE,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "codebook_size": 12,
    }
    # A spread of weights as after training, so that outputs differ visibly between inputs.
    return CMSSLEncoderConfig(**{**sizes, "initializer_range": 0.2, **kwargs})


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def padded_batch():
    """Three windows of 6, 4 and 3.5 patches, padded to 6, with noise where the padding is."""
    input_values = torch.randn(3, 1, 6 * PATCH_SIZE)
    attention_mask = torch.ones(3, 6 * PATCH_SIZE, dtype=torch.long)
    attention_mask[1, 4 * PATCH_SIZE :] = 0
    attention_mask[2, 3 * PATCH_SIZE + PATCH_SIZE // 2 :] = 0
    return {"input_values": input_values, "attention_mask": attention_mask}


ALL_MODELS = [CMSSLEncoderModel, CMSSLEncoderForPreTraining, CMSSLEncoderForSequenceClassification]


# --- patches and positions


def test_patches_are_flattened_channel_major():
    signals = torch.arange(12.0).view(1, 2, 6)
    patches = patch_signals(signals, 3, 2)
    assert patches.tolist() == [[[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]]]
    assert torch.equal(unpatch_signals(patches, 2), signals)


def test_a_patch_is_real_if_any_sample_is():
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 0, 1, 0, 0, 0]])
    assert patch_attention_mask(mask, 2).tolist() == [[True, True, False], [False, True, False]]


@pytest.mark.parametrize("hidden_size", [8, 7])
def test_positions_follow_their_definition(hidden_size):
    positions = sinusoidal_positions(50, hidden_size, torch.device("cpu"))
    for position in (0, 1, 49):
        for dimension in range(hidden_size):
            angle = position / 10000 ** ((dimension - dimension % 2) / hidden_size)
            expected = math.cos(angle) if dimension % 2 else math.sin(angle)
            assert positions[position, dimension].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 100), r"must have shape \(batch, 1, samples\), but has shape \(2, 100\)"),
        ((2, 2, 100), r"must have shape \(batch, 1, samples\), but has shape \(2, 2, 100\)"),
        ((2, 1, 110), "whole number of patches of 20 samples, but has 110 samples"),
        ((2, 1, 0), "whole number of patches of 20 samples, but has 0 samples"),
    ],
)
def test_inputs_of_the_wrong_shape(shape, message):
    with pytest.raises(ValueError, match=message):
        CMSSLEncoderModel(small_config())(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(2, 5), (1, 100), (2, 1), (2, 1, 100)])
def test_attention_mask_of_the_wrong_shape(shape):
    with pytest.raises(ValueError, match=r"`attention_mask` must have shape \(2, 100\), but has shape"):
        CMSSLEncoderModel(small_config())(torch.zeros(2, 1, 100), attention_mask=torch.ones(shape))


# --- outputs


def test_shapes_and_pooling(padded_batch):
    model = CMSSLEncoderModel(small_config()).eval()
    outputs = model(**padded_batch)
    assert outputs.last_hidden_state.shape == (3, 6, 32)
    assert outputs.pooler_output.shape == (3, 32)
    for window, num_patches in enumerate((6, 4, 4)):
        expected = outputs.last_hidden_state[window, :num_patches].mean(0)
        torch.testing.assert_close(outputs.pooler_output[window], expected)
    without_mask = model(padded_batch["input_values"])
    torch.testing.assert_close(without_mask.pooler_output, without_mask.last_hidden_state.mean(1))


@pytest.mark.parametrize("padding_value", [0.0, float("nan")])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_changes_nothing(padded_batch, attention, padding_value):
    padded_batch["input_values"][padded_batch["attention_mask"][:, None] == 0] = padding_value
    model = CMSSLEncoderForSequenceClassification(small_config(num_labels=3)).eval()
    model.set_attn_implementation(attention)
    padded = model(**padded_batch)
    for window, length in ((1, 4 * PATCH_SIZE), (2, 4 * PATCH_SIZE)):
        alone = {name: value[window : window + 1, ..., :length] for name, value in padded_batch.items()}
        torch.testing.assert_close(padded.logits[window], model(**alone).logits[0])


def test_a_window_of_padding_alone_harms_no_other(padded_batch):
    model = CMSSLEncoderForPreTraining(small_config())
    expected = model.eval()(**padded_batch).logits
    padded_batch["attention_mask"][1] = 0
    labels = torch.full((3, 6), -100)
    labels[0] = 1
    outputs = model(**padded_batch, labels=labels)
    torch.testing.assert_close(outputs.logits[[0, 2]], expected[[0, 2]])
    outputs.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("model_class", ALL_MODELS)
def test_sdpa_and_eager_agree(model_class, padded_batch):
    model = model_class(small_config()).eval()
    outputs = {}
    for attention in ("sdpa", "eager"):
        model.set_attn_implementation(attention)
        outputs[attention] = model(**padded_batch, output_hidden_states=True)
    for sdpa, eager in zip(outputs["sdpa"].hidden_states, outputs["eager"].hidden_states):
        torch.testing.assert_close(sdpa[0], eager[0])
        torch.testing.assert_close(sdpa[1, :4], eager[1, :4])
    torch.testing.assert_close(outputs["sdpa"][0][0], outputs["eager"][0][0])


def test_attentions_are_distributions_over_real_patches(padded_batch):
    model = CMSSLEncoderModel(small_config()).eval()
    model.set_attn_implementation("eager")
    attentions = model(**padded_batch, output_attentions=True).attentions
    assert len(attentions) == 2
    for weights in attentions:
        assert weights.shape == (3, 4, 6, 6)
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4, 6))
        assert weights[1, :, :, 4:].max() == 0


@pytest.mark.parametrize("model_class", ALL_MODELS)
def test_attentions_that_sdpa_does_not_have_are_warned_of(model_class, padded_batch):
    model = model_class(small_config()).eval()
    model.set_attn_implementation("sdpa")
    transformers_logging.warning_once.cache_clear()
    with CaptureLogger(transformers_logging.get_logger("transformers.integrations.sdpa_attention")) as log:
        outputs = model(**padded_batch, output_attentions=True, output_hidden_states=True)
    assert "does not support `output_attentions=True`. Please set your attention to `eager`" in log.out
    assert not outputs.attentions
    assert [state.shape for state in outputs.hidden_states] == [(3, 6, 32)] * 3


def test_gradient_checkpointing_gives_the_same_gradients(padded_batch):
    dropout_off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = CMSSLEncoderForPreTraining(small_config(**dropout_off)).train()
    labels = torch.arange(18).view(3, 6) % 12
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(**padded_batch, labels=labels).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients):
        torch.testing.assert_close(plain, checkpointed)


@pytest.mark.parametrize(
    ("model_class", "backend"),
    [
        (CMSSLEncoderModel, "aot_eager"),
        (CMSSLEncoderForPreTraining, "aot_eager"),
        pytest.param(CMSSLEncoderForSequenceClassification, "inductor", marks=needs_compiler),
    ],
)
def test_compiles_into_one_graph(model_class, backend, padded_batch):
    model = model_class(small_config()).eval()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch.no_grad():
        torch.testing.assert_close(compiled(**padded_batch)[0], model(**padded_batch)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_class", ALL_MODELS)
def test_exports_with_any_batch_and_length(model_class, padded_batch):
    model = model_class(small_config()).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    samples = PATCH_SIZE * torch.export.Dim("num_patches", min=2, max=64)
    shapes = {"input_values": {0: batch, 2: samples}, "attention_mask": {0: batch, 1: samples}}
    exported = torch.export.export(model, (), padded_batch, dynamic_shapes=shapes)
    for size, num_patches in ((1, 2), (5, 9)):
        inputs = {
            "input_values": torch.randn(size, 1, num_patches * PATCH_SIZE),
            "attention_mask": torch.ones(size, num_patches * PATCH_SIZE, dtype=torch.long),
        }
        inputs["attention_mask"][0, PATCH_SIZE:] = 0
        torch.testing.assert_close(exported.module()(**inputs)[0], model(**inputs)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("model_class", ALL_MODELS)
def test_half_precision(model_class, dtype, padded_batch, tmp_path):
    model = model_class(small_config()).eval()
    model.save_pretrained(tmp_path)
    half = model_class.from_pretrained(tmp_path, dtype=dtype).eval()
    assert {parameter.dtype for parameter in half.parameters()} == {dtype}
    # Signals come as float32 from the feature extractor, whatever the model's precision.
    difference = (half(**padded_batch)[0].float() - model(**padded_batch)[0]).abs().max()
    assert difference < (0.02 if dtype == torch.float16 else 0.2)


def test_stochastic_depth():
    layer = CMSSLDropPath(0.25)
    branch = torch.ones(4000, 3, 2)
    assert layer.eval()(branch) is branch
    dropped = layer.train()(branch)
    per_window = dropped.flatten(1)
    assert (per_window == per_window[:, :1]).all()
    assert sorted(dropped.unique().tolist()) == [0.0, pytest.approx(1 / 0.75)]
    # Three standard deviations of a mean of 4000 such values.
    assert dropped.mean().item() == pytest.approx(1.0, abs=3 * math.sqrt(1 / 3 / 4000))
    depths = CMSSLEncoderModel(small_config(num_hidden_layers=5, drop_path_rate=0.2)).layers
    assert [layer.drop_path.drop_probability for layer in depths] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


# --- stage 2


def test_pretraining_loss_is_the_cross_entropy_of_real_patches(padded_batch):
    model = CMSSLEncoderForPreTraining(small_config()).eval()
    labels = torch.arange(18).view(3, 6) % 12
    labels[1, 4:] = labels[2, 4:] = -100
    outputs = model(**padded_batch, labels=labels)
    assert outputs.logits.shape == (3, 6, 12)
    probabilities = outputs.logits.exp() / outputs.logits.exp().sum(-1, keepdim=True)
    negative_logs = [
        -probabilities[window, patch, labels[window, patch]].log()
        for window, num_patches in enumerate((6, 4, 4))
        for patch in range(num_patches)
    ]
    assert outputs.loss.item() == pytest.approx(torch.stack(negative_logs).mean().item(), rel=1e-5)


# --- stage 3


def task_model(**kwargs) -> CMSSLEncoderForSequenceClassification:
    return CMSSLEncoderForSequenceClassification(small_config(**kwargs)).eval()


@pytest.mark.parametrize("head", ["mlp", "linear"])
def test_heads_follow_their_definition(head, padded_batch):
    model = task_model(classifier_head=head, num_labels=3)
    features = model.encoder(**padded_batch).pooler_output
    state = model.classifier.state_dict()
    if head == "mlp":
        assert state["dense.weight"].shape == (16, 32)
        features = F.gelu(features @ state["dense.weight"].T + state["dense.bias"])
    expected = features @ state["out_proj.weight"].T + state["out_proj.bias"]
    torch.testing.assert_close(model(**padded_batch).logits, expected)


@pytest.mark.parametrize("regression_loss", ["mse", "huber"])
def test_regression_answers_in_physical_units(regression_loss, padded_batch):
    mean, deviation = [120.0, 70.0], [20.0, 8.0]
    standardised_model = task_model(num_labels=2, problem_type="regression")
    model = task_model(
        num_labels=2,
        problem_type="regression",
        regression_loss=regression_loss,
        label_mean=mean,
        label_std=deviation,
        label_unit="mmHg",
    )
    model.load_state_dict(standardised_model.state_dict())
    labels = torch.tensor([[110.0, 60.0], [150.0, 90.0], [95.0, 71.5]])
    standardised = standardised_model(**padded_batch).logits
    outputs = model(**padded_batch, labels=labels)
    torch.testing.assert_close(outputs.logits, standardised * torch.tensor(deviation) + torch.tensor(mean))
    error = standardised - (labels - torch.tensor(mean)) / torch.tensor(deviation)
    loss = error**2 if regression_loss == "mse" else torch.where(error.abs() < 1, error**2 / 2, error.abs() - 0.5)
    torch.testing.assert_close(outputs.loss, loss.mean())


def test_regression_with_one_label_takes_flat_labels(padded_batch):
    model = task_model(num_labels=1, problem_type="regression", label_mean=80.0, label_std=15.0)
    labels = torch.tensor([75.0, 60.0, 110.0])
    outputs = model(**padded_batch, labels=labels)
    assert outputs.logits.shape == (3, 1)
    torch.testing.assert_close(outputs.loss, (((outputs.logits[:, 0] - labels) / 15.0) ** 2).mean())


def test_physical_units_survive_saving_and_half_precision(padded_batch, tmp_path):
    model = task_model(num_labels=1, problem_type="regression", label_mean=[150.0], label_std=[0.5])
    model.save_pretrained(tmp_path)
    loaded = CMSSLEncoderForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(**padded_batch).logits, model(**padded_batch).logits)
    half = CMSSLEncoderForSequenceClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    logits = half(**padded_batch).logits
    # bfloat16 knows only multiples of 1 near 150.
    assert logits.dtype == torch.float32
    assert (logits - model(**padded_batch).logits).abs().max() < 0.25


def test_multi_class_loss(padded_batch):
    model = task_model(num_labels=4, problem_type="single_label_classification")
    labels = torch.tensor([3, 0, 2])
    outputs = model(**padded_batch, labels=labels)
    expected = (outputs.logits.logsumexp(-1) - outputs.logits[range(3), labels]).mean()
    torch.testing.assert_close(outputs.loss, expected)


def test_multi_label_loss(padded_batch):
    model = task_model(num_labels=4, problem_type="multi_label_classification")
    labels = torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]])
    outputs = model(**padded_batch, labels=labels)
    probability = 1 / (1 + (-outputs.logits).exp())
    expected = -(labels * probability.log() + (1 - labels) * (1 - probability).log()).mean()
    torch.testing.assert_close(outputs.loss, expected)


@pytest.mark.parametrize(
    ("num_labels", "labels", "problem_type"),
    [
        (1, torch.tensor([1.0, 2.0, 3.0]), "regression"),
        (4, torch.tensor([3, 0, 2]), "single_label_classification"),
        (4, torch.eye(4)[:3], "multi_label_classification"),
    ],
)
def test_problem_type_is_inferred_as_in_transformers(num_labels, labels, problem_type, padded_batch):
    inferred = task_model(num_labels=num_labels)
    named = task_model(num_labels=num_labels, problem_type=problem_type)
    named.load_state_dict(inferred.state_dict())
    assert inferred.config.problem_type is None
    losses = [model(**padded_batch, labels=labels).loss for model in (inferred, named)]
    torch.testing.assert_close(losses[0], losses[1])


@pytest.mark.parametrize("fields", [{"problem_type": "regression"}, {}])
def test_raw_labels_are_not_learnt_in_silence(fields, padded_batch):
    """A head that starts at 0 would not get to 75 bpm in any usual training."""
    model = task_model(num_labels=1, **fields).train()
    labels = torch.tensor([75.0, 60.0, 92.0])
    with pytest.raises(ValueError, match=r"root mean square of these is 76.8.*: set `label_mean` and `label_std`"):
        model(**padded_batch, labels=labels)
    with pytest.raises(ValueError, match="`labels` hold NaN"):
        model(**padded_batch, labels=torch.tensor([75.0, torch.nan, 92.0]))
    model(**padded_batch, labels=(labels - 75) / 16).loss.backward()
    assert model.eval()(**padded_batch, labels=labels).loss > 0
    for described in ({"label_mean": 75.0, "label_std": 16.0}, {"label_mean": 0.0, "label_std": 1.0}):
        task_model(num_labels=1, **fields, **described).train()(**padded_batch, labels=labels).loss.backward()


def test_a_trainer_of_ones_own_learns_in_physical_units(tmp_path):
    """The plain `Trainer` and collator of transformers, on the number of waves per minute."""
    torch.manual_seed(0)
    rates = np.random.default_rng(0).uniform(45, 120, 160)
    times = np.arange(500) / 125
    extractor = CMSSLFeatureExtractor(do_band_pass=False)
    waves = [np.sin(2 * np.pi * rate / 60 * times + rate) for rate in rates]
    features = extractor(waves, sampling_rate=125)["input_values"]
    rows = [{"input_values": window, "label": rate} for window, rate in zip(features, rates)]
    CMSSLEncoderModel(small_config(patch_size=125)).save_pretrained(tmp_path / "encoder")

    def error(**fields) -> float:
        model = AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "encoder", num_labels=1, problem_type="regression", **fields
        )
        arguments = TrainingArguments(
            output_dir=str(tmp_path / "run"),
            num_train_epochs=10,
            learning_rate=3e-3,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(model, arguments, data_collator=DataCollatorWithPadding(extractor), train_dataset=rows)
        trainer.train()
        return float(np.abs(trainer.predict(rows).predictions[:, 0] - rates).mean())

    constant = np.abs(rates - rates.mean()).mean()
    assert error(label_mean=float(rates.mean()), label_std=float(rates.std())) < constant / 2
    with pytest.raises(ValueError, match="set `label_mean` and `label_std`"):
        error()


@pytest.mark.parametrize(
    ("fields", "labels", "expected"),
    [
        ({"num_labels": 2, "problem_type": "regression"}, torch.ones(2, 3), r"\(3, 2\), but has shape \(2, 3\)"),
        ({"num_labels": 1, "problem_type": "regression"}, torch.ones(2), r"\(3, 1\), but has shape \(2,\)"),
        ({"num_labels": 4}, torch.ones(3), r"\(3, 4\), but has shape \(3,\)"),
        ({"num_labels": 4}, torch.ones(3, 4, dtype=torch.long), r"\(3,\), but has shape \(3, 4\)"),
    ],
)
def test_labels_of_another_shape(fields, labels, expected, padded_batch):
    with pytest.raises(ValueError, match=f"`labels` must have shape {expected}"):
        task_model(**fields)(**padded_batch, labels=labels)


def test_freeze_encoder(padded_batch):
    model = task_model(num_labels=1, problem_type="regression")
    model.freeze_encoder()
    model.train()
    # Dropout would make two passes differ, and gradients would move the encoder.
    first, second = model(**padded_batch), model(**padded_batch, labels=torch.ones(3))
    torch.testing.assert_close(first.logits, second.logits)
    second.loss.backward()
    assert not model.encoder.training
    assert model.classifier.training
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    assert all(parameter.grad is not None for parameter in model.classifier.parameters())
    assert {name.split(".")[0] for name, each in model.named_parameters() if each.requires_grad} == {"classifier"}


def test_pretrained_encoder_goes_into_the_task_model(padded_batch, tmp_path):
    pretrained = CMSSLEncoderForPreTraining(small_config()).eval()
    pretrained.save_pretrained(tmp_path)
    model, report = CMSSLEncoderForSequenceClassification.from_pretrained(
        tmp_path, num_labels=5, output_loading_info=True
    )
    assert {name.split(".")[0] for name in report["missing_keys"]} == {"classifier"}
    assert {name.split(".")[0] for name in report["unexpected_keys"]} == {"code_head"}
    bare = CMSSLEncoderModel.from_pretrained(tmp_path)
    expected = pretrained.encoder(**padded_batch).pooler_output
    torch.testing.assert_close(model.encoder(**padded_batch).pooler_output, expected)
    torch.testing.assert_close(bare(**padded_batch).pooler_output, expected)
