"""PaPaGei and the ResNet-1D: parity with an independent build, the published input, and what is refused."""

import argparse

import numpy as np
import pytest
import torch
from scipy import signal as scipy_signal
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForSequenceClassification, pipeline

from cmssl_hf import CMSSLFeatureExtractor
from cmssl_hf.models.cmssl.convert_original_checkpoint import checkpoint_kind
from cmssl_hf.models.papagei.configuration_papagei import PaPaGeiConfig
from cmssl_hf.models.papagei.convert_papagei_checkpoint import ConversionArguments, convert, convert_papagei
from cmssl_hf.models.papagei.feature_extraction_papagei import PaPaGeiFeatureExtractor
from cmssl_hf.models.papagei.modeling_papagei import PaPaGeiForSequenceClassification, PaPaGeiModel
from cmssl_hf.models.resnet1d.configuration_resnet1d import ResNet1DConfig
from cmssl_hf.models.resnet1d.modeling_resnet1d import ResNet1DForSequenceClassification, ResNet1DModel
from helpers.pipelines import FEATURES, REGRESSION, noisy_recording
from helpers.published_papagei import published_file, published_papagei


TINY = {"base_filters": 4, "num_blocks": 5, "embedding_size": 6}
PUBLISHED_TINY = {"base": 4, "num_blocks": 5, "embedding_size": 6}


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("papagei")
    torch.save(published_file(published_papagei(False, **PUBLISHED_TINY)), folder / "papagei_p.pt")
    convert(ConversionArguments(str(folder / "papagei_p.pt"), str(folder / "model")))
    return str(folder / "model")


@pytest.mark.parametrize(
    ("experts", "number"), [(True, 5_785_612), pytest.param(False, 4_993_024, marks=pytest.mark.long)]
)
def test_published_files(experts, number, tmp_path):
    """`papagei_s.pt` has experts; `papagei_p.pt` and `papagei_s_svri.pt` have none. Parameters were counted by others."""
    theirs = published_papagei(experts)
    assert sum(parameter.numel() for parameter in theirs.parameters()) == number
    torch.save(published_file(theirs), tmp_path / "papagei.pt")
    ours = convert_papagei(tmp_path / "papagei.pt")
    # All but the norm of 32 channels that the published code has and does not use.
    assert sum(parameter.numel() for parameter in ours.parameters()) == 4_993_024 - 2 * 32
    assert ours.config.to_diff_dict() == PaPaGeiConfig().to_diff_dict()
    signal = torch.randn(2, 1, 1250)
    with torch.no_grad():
        embedding, _ = theirs(signal)
        torch.testing.assert_close(ours(signal).pooler_output, embedding, rtol=1e-5, atol=1e-5)
    assert embedding.shape == (2, 512) and embedding.std() > 0.01


def test_lengths_of_the_published_fine_tuning():
    """16 blocks and 48 channels: 1250 samples become 5 steps of 384 numbers, and 4.43 million parameters are trained."""
    model = ResNet1DModel(ResNet1DConfig(embedding_size=None)).eval()
    with torch.no_grad():
        output = model(torch.randn(1, 1, 1250))
    assert output.last_hidden_state.shape == (1, 5, 384)
    torch.testing.assert_close(output.pooler_output, output.last_hidden_state.mean(1))
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2) == 4.43


@pytest.mark.parametrize("samples", [1, 2, 7, 64, 101])
def test_any_length(samples):
    theirs = published_papagei(False, **PUBLISHED_TINY)
    ours = ResNet1DModel(ResNet1DConfig(**TINY)).eval()
    names = {"first_block_conv.conv": "stem.conv", "first_block_bn": "stem.norm", "final_bn": "norm"}
    renamed = {}
    for name, tensor in theirs.state_dict().items():
        for published, own in {**names, "basicblock_list": "layers", ".conv1.conv": ".conv1", ".conv2.conv": ".conv2",
                               ".bn1": ".norm1", ".bn2": ".norm2"}.items():  # fmt: skip
            name = name.replace(published, own)
        if not name.startswith("layers.0.norm1"):
            renamed[name] = tensor
    ours.load_state_dict(renamed)
    signal = torch.randn(2, 1, samples)
    with torch.no_grad():
        torch.testing.assert_close(ours(signal).pooler_output, theirs(signal)[0], rtol=1e-5, atol=1e-5)


def test_dropout_is_on_in_training_and_norms_of_a_frozen_encoder_stand_still():
    model = ResNet1DForSequenceClassification(ResNet1DConfig(**TINY, num_labels=1))
    signal = torch.randn(4, 1, 100)
    model.train()
    assert not torch.equal(model(signal).logits, model(signal).logits)
    model.freeze_encoder()
    model.train()
    before = {name: buffer.clone() for name, buffer in model.encoder.named_buffers()}
    torch.testing.assert_close(model(signal).logits, model(signal).logits, rtol=0, atol=0)
    for name, buffer in model.encoder.named_buffers():
        torch.testing.assert_close(buffer, before[name], rtol=0, atol=0)


def test_every_weight_is_trained():
    model = ResNet1DForSequenceClassification(ResNet1DConfig(**TINY, num_labels=1))
    model(torch.randn(4, 1, 100), labels=torch.randn(4)).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_padding_does_not_count_for_the_mean_over_time():
    torch.manual_seed(0)
    model = ResNet1DModel(ResNet1DConfig(**TINY)).eval()
    signal, mask = torch.randn(2, 1, 64), torch.ones(2, 64)
    mask[:, 40:] = 0
    with torch.no_grad():
        output = model(signal, mask)
        zeros = model(signal * mask[:, None])
    # Two blocks halve the time: 10 of the 16 steps hold real samples.
    expected = model.dense(zeros.last_hidden_state[:, :10].mean(1))
    torch.testing.assert_close(output.pooler_output, expected)


def test_longer_windows_are_encoded_in_pieces_and_padding_pieces_do_not_count(tiny_folder):
    model = AutoModel.from_pretrained(tiny_folder).eval()
    signal = torch.randn(2, 1, 2500)
    mask = torch.ones(2, 2500)
    mask[1, 1250:] = 0
    with torch.no_grad():
        first, second = model(signal[..., :1250]).pooler_output, model(signal[..., 1250:]).pooler_output
        pooled = model(signal, mask).pooler_output
    torch.testing.assert_close(pooled[0], (first[0] + second[0]) / 2)
    torch.testing.assert_close(pooled[1], first[1])


def pypg_way(ppg, rate):
    """The published preparation with other routines of scipy: coefficients in place of sections."""
    b, a = scipy_signal.cheby2(4, 20, [0.5, 12], "bandpass", fs=rate)
    filtered = scipy_signal.filtfilt(b, a, ppg)
    if rate >= 75:
        width = round(rate * 0.05)
        filtered = scipy_signal.filtfilt(np.ones(width) / width, 1, filtered)
    return (filtered - filtered.mean()) / filtered.std()


@pytest.mark.parametrize("rate", [125.0, 64.0])
def test_the_published_input(rate):
    ppg = noisy_recording(10, rate) + 5
    features = PaPaGeiFeatureExtractor()(ppg, sampling_rate=rate, return_tensors="np")
    assert features["input_values"].shape == (1, 1, 1250) and features["attention_mask"].all()
    expected = pypg_way(ppg, rate)
    if rate != 125:
        expected = scipy_signal.resample_poly(expected, 125, 64, padtype="line")
    np.testing.assert_allclose(features["input_values"][0, 0], expected, atol=1e-4)


def test_shorter_windows_end_in_zeros_and_longer_ones_are_whole_pieces():
    extractor = PaPaGeiFeatureExtractor()
    short = extractor(noisy_recording(8, 125), sampling_rate=125)["input_values"][0, 0]
    assert len(short) == 1250 and (short[1000:] == 0).all() and short[:1000].std() == pytest.approx(1, rel=1e-3)
    batch = extractor([noisy_recording(12, 125), noisy_recording(8, 125)], sampling_rate=125, return_tensors="np")
    assert batch["input_values"].shape == (2, 1, 2500)
    # Zeros within a piece are the published input, and those of a whole piece are padding.
    assert batch["attention_mask"].sum(1).tolist() == [2500, 1250]
    with pytest.raises(ValueError, match=r"lasts 0\.5 s, but at least"):
        extractor(noisy_recording(0.5), sampling_rate=64)


def test_saving_and_loading(tiny_folder, tmp_path):
    assert type(AutoModel.from_pretrained(tiny_folder)) is PaPaGeiModel
    extractor = AutoFeatureExtractor.from_pretrained(tiny_folder)
    assert type(extractor) is PaPaGeiFeatureExtractor and extractor.pass_bands["ppg"] == [0.5, 12.0]
    model = AutoModelForSequenceClassification.from_pretrained(
        tiny_folder, num_labels=1, problem_type="regression", label_mean=70.0, label_std=10.0
    ).eval()
    assert type(model) is PaPaGeiForSequenceClassification
    inputs = extractor(noisy_recording(10), sampling_rate=64, return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs, labels=torch.tensor([75.0]))
        torch.testing.assert_close(output.loss, ((output.logits[0, 0] - 75) / 10) ** 2)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, output.logits, rtol=0, atol=0)


def test_pipelines(tiny_folder, tmp_path):
    signal = noisy_recording(25)
    answer = pipeline(FEATURES, model=tiny_folder)(signal, sampling_rate=64)
    assert [window["value"].shape for window in answer["windows"]] == [(6,)] * 3
    extractor = AutoFeatureExtractor.from_pretrained(tiny_folder)
    inputs = extractor(signal[: 64 * 10], sampling_rate=64, return_tensors="pt")
    with torch.no_grad():
        expected = AutoModel.from_pretrained(tiny_folder).eval()(**inputs).pooler_output[0]
    np.testing.assert_allclose(answer["windows"][0]["value"], expected, atol=1e-5)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_folder, num_labels=1, problem_type="regression")
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    answer = pipeline(REGRESSION, model=str(tmp_path))(signal, sampling_rate=64, window_seconds=8)
    assert len(answer["windows"]) == 4 and np.isfinite(answer["value"]["LABEL_0"])


def test_another_signal_is_refused():
    with pytest.raises(ValueError, match="reads ppg, but ppg is missing, but was given ecg"):
        PaPaGeiFeatureExtractor()(ecg=np.random.randn(1250), sampling_rate=125)
    with pytest.raises(ValueError, match=r"PaPaGei reads ppg alone, .* HeartLang reads ECG"):
        PaPaGeiFeatureExtractor(channels=("ecg",))
    with pytest.raises(Exception, match=r"PaPaGei reads ppg alone, .* HeartLang reads ECG"):
        PaPaGeiConfig(channels=("ecg",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"te.linear.weight": 0},
            r"no checkpoint of PaPaGei\. It is a CM-SSL tokenizer: .*convert_original_checkpoint",
        ),
        ({"spa_embed.embed.weight": 0}, r"It is HeartLang's encoder: .*convert_heartlang_checkpoint"),
        ({"layer": 0}, r"is no checkpoint of PaPaGei\.$"),
        ([1], "it holds a list, not a dictionary"),
        ({"args": argparse.Namespace(lr=1)}, "is not a PyTorch checkpoint, or is damaged: .*argparse.Namespace"),
    ],
)
def test_other_files_are_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(ValueError, match=r"(?s)" + message):
        convert_papagei(tmp_path / "file.pt")


def test_damaged_checkpoints_are_refused(tmp_path):
    state_dict = published_file(published_papagei(True, **PUBLISHED_TINY))
    torch.save({**state_dict, "module.extra": torch.zeros(1)}, tmp_path / "more.pt")
    with pytest.raises(ValueError, match=r"Missing keys: none\. Unexpected keys: extra\."):
        convert_papagei(tmp_path / "more.pt")
    torch.save({**state_dict, "module.final_bn.weight": torch.zeros(3)}, tmp_path / "sizes.pt")
    with pytest.raises(ValueError, match=r"unexpected sizes: final_bn.weight \(3,\) instead of \(8,\)"):
        convert_papagei(tmp_path / "sizes.pt")


def test_the_converter_of_cm_ssl_names_the_right_one(tmp_path):
    torch.save(published_file(published_papagei(False, **PUBLISHED_TINY)), tmp_path / "papagei_p.pt")
    with pytest.raises(ValueError, match=r"It is a ResNet-1D such as PaPaGei: .*convert_papagei_checkpoint"):
        checkpoint_kind(tmp_path / "papagei_p.pt")


def test_a_resnet_reads_what_the_encoder_reads(tmp_path):
    ResNet1DForSequenceClassification(ResNet1DConfig(**TINY, num_labels=1)).save_pretrained(tmp_path)
    CMSSLFeatureExtractor().save_pretrained(tmp_path)
    answer = pipeline(REGRESSION, model=str(tmp_path))(noisy_recording(20), sampling_rate=64)
    assert len(answer["windows"]) == 2
    with pytest.raises(ValueError, match=r"must have shape \(batch, 1, samples\), for ppg"):
        ResNet1DModel(ResNet1DConfig(**TINY))(torch.zeros(1, 2, 100))
    with pytest.raises(ValueError, match=r"must have shape \(batch, 1, samples\), for ppg, but has shape \(1, 1250\)"):
        PaPaGeiModel(PaPaGeiConfig(**TINY))(torch.zeros(1, 1250))
