"""HeartLang: parity with an independent build, beats with their leads and seconds, and what is refused."""

import argparse
import os

import numpy as np
import pytest
import torch
from scipy import signal as scipy_signal
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForSequenceClassification, pipeline

from cmssl_hf.models.heartlang.configuration_heartlang import HeartLangConfig
from cmssl_hf.models.heartlang.convert_heartlang_checkpoint import ConversionArguments, convert, convert_heartlang
from cmssl_hf.models.heartlang.feature_extraction_heartlang import HeartLangFeatureExtractor, cut_beats
from cmssl_hf.models.heartlang.modeling_heartlang import HeartLangForSequenceClassification, HeartLangModel
from helpers.pipelines import CLASSIFICATION, FEATURES
from helpers.published_heartlang import VQHBR, STECGFormer, published_file


TINY = {"width": 16, "layers": 2, "heads": 1, "inner": 24, "tokens": 256}


def sentence(number=2, beats=256, real=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(number, beats, 96, generator=generator)
    leads = torch.randint(1, 13, (number, beats), generator=generator)
    times = torch.randint(1, 11, (number, beats), generator=generator)
    for tensor in (values, leads, times):
        tensor[:, real:] = 0
    return values, leads, times


def ecg(beats, seconds=10.0, rate=100.0):
    """Narrow QRS complexes of 1 mV at the times `beats` (s), with T-waves."""
    times = np.arange(round(seconds * rate)) / rate
    waves = np.zeros_like(times)
    for beat in beats:
        waves += np.exp(-(((times - beat) / 0.015) ** 2)) - 0.3 * np.exp(-(((times - beat - 0.03) / 0.015) ** 2))
        waves += 0.2 * np.exp(-(((times - beat - 0.25) / 0.04) ** 2))
    return waves + 0.005 * np.random.default_rng(0).standard_normal(len(times))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heartlang")
    torch.manual_seed(0)
    torch.save(published_file(STECGFormer(**TINY)), folder / "checkpoint-200.pth")
    convert(ConversionArguments(str(folder / "checkpoint-200.pth"), str(folder / "model")))
    return str(folder / "model")


@pytest.mark.parametrize("sizes", [TINY, pytest.param({}, marks=pytest.mark.long)], ids=["narrow", "published"])
def test_the_published_encoder(sizes, tmp_path):
    torch.manual_seed(0)
    theirs = STECGFormer(**sizes).eval()
    # The words that stage 2 chooses from are not converted.
    head = {"lm_head.weight": torch.zeros(8192, 16), "lm_head.bias": torch.zeros(8192)}
    torch.save(published_file(theirs, **head), tmp_path / "checkpoint-200.pth")
    ours = convert_heartlang(tmp_path / "checkpoint-200.pth")
    if not sizes:
        assert ours.config.to_diff_dict() == HeartLangConfig().to_diff_dict()
    values, leads, times = sentence(1)
    with torch.no_grad():
        class_token, tokens = theirs(values, leads, times)
        output = ours(values, lead_ids=leads, time_ids=times)
    torch.testing.assert_close(output.pooler_output, class_token, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.last_hidden_state[:, 1:], tokens, rtol=1e-5, atol=1e-5)


def test_the_published_number_of_parameters():
    """It was counted by others; the token that hides words is not converted."""
    with torch.device("meta"):
        theirs, ours = STECGFormer(), HeartLangModel(HeartLangConfig())
    assert sum(parameter.numel() for parameter in theirs.parameters()) == 38_262_528
    assert sum(parameter.numel() for parameter in ours.parameters()) == 38_262_528 - 768


def test_the_published_first_stage(tmp_path):
    """With the published width of heads and feed-forward blocks; narrower, for the sake of time."""
    torch.manual_seed(0)
    theirs = VQHBR(width=48, codes=32).eval()
    torch.save(published_file(theirs), tmp_path / "checkpoint-100.pth")
    ours = convert_heartlang(tmp_path / "checkpoint-100.pth")
    config = ours.config
    assert (config.num_hidden_layers, config.num_attention_heads, config.intermediate_size) == (4, 2, 2048)
    assert config.hidden_dropout_prob == 0
    values, leads, times = sentence()
    with torch.no_grad():
        class_token, _ = theirs.encoder(values, leads, times)
        output = ours(values, lead_ids=leads, time_ids=times).pooler_output
    torch.testing.assert_close(output, class_token, rtol=1e-5, atol=1e-5)


class Intruder:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_no_code_in_a_file_runs(tmp_path):
    state = published_file(STECGFormer(**TINY))
    torch.save({**state, "args": Intruder(tmp_path / "ran")}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"bad\.pth is not a PyTorch checkpoint, or is damaged"):
        convert_heartlang(tmp_path / "bad.pth")
    assert not (tmp_path / "ran").exists()
    # What is admitted while one file is read is not admitted afterwards.
    convert_heartlang_of = {"args": argparse.Namespace(lr=1)}
    torch.save(state, tmp_path / "good.pth")
    convert_heartlang(tmp_path / "good.pth")
    torch.save(convert_heartlang_of, tmp_path / "namespace.pth")
    with pytest.raises(Exception, match="Namespace"):
        torch.load(tmp_path / "namespace.pth", weights_only=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"module.basicblock_list.0.bn1.weight": 0},
            r"no checkpoint of HeartLang\. It is a ResNet-1D such as PaPaGei",
        ),
        ({"te.linear.weight": 0}, r"no checkpoint of HeartLang\. It is a CM-SSL tokenizer"),
        ({"model": [1]}, "its `model` is a list"),
        (
            {"model": {"transformer.layers.0.0.norm.weight": 0, "spa_embed.embed.weight": 0}},
            r"Missing keys: pos_embed, tem_embed\.embed, token_embed",
        ),
    ],
)
def test_other_files_are_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=message):
        convert_heartlang(tmp_path / "file.pth")


def test_a_checkpoint_with_more_in_it_is_refused(tmp_path):
    torch.save(published_file(STECGFormer(**TINY), extra=torch.zeros(1)), tmp_path / "more.pth")
    with pytest.raises(ValueError, match=r"Missing keys: none\. Unexpected keys: extra\."):
        convert_heartlang(tmp_path / "more.pth")


def test_ids_are_given_by_keyword_and_cannot_be_exchanged_unnoticed(folder):
    model = AutoModel.from_pretrained(folder).eval()
    values, leads, times = sentence()
    with pytest.raises(TypeError):
        model(values, leads, times)
    with pytest.raises(ValueError, match="`lead_ids` must lie between 0 and 15, but lie between 0 and 16"):
        model(values, lead_ids=leads.masked_fill(leads.eq(leads.max()), 16), time_ids=times)
    with pytest.raises(ValueError, match=r"`time_ids` must have shape \(2, 256\)"):
        model(values, lead_ids=leads, time_ids=times[:, :5])
    with pytest.raises(ValueError, match=r"must hold beats, in the shape \(batch, a multiple of 256, 96\)"):
        model(torch.zeros(2, 1, 1250), lead_ids=leads, time_ids=times)


def test_pieces_without_beats_do_not_count(folder):
    model = AutoModel.from_pretrained(folder).eval()
    first, second = sentence(1, seed=1), sentence(1, seed=2)
    empty = sentence(1, real=0)

    def pooled(*pieces):
        values, leads, times = (torch.cat(parts, 1) for parts in zip(*pieces))
        with torch.no_grad():
            return model(values, lead_ids=leads, time_ids=times).pooler_output

    torch.testing.assert_close(pooled(first, second), (pooled(first) + pooled(second)) / 2, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pooled(first, empty), pooled(first), rtol=1e-5, atol=1e-5)
    assert pooled(empty, empty).isfinite().all()


def test_beats_in_closed_form():
    """Peaks at 30, 100, 160 and 400 of a ramp; halfway lie 65, 130 and 280."""
    ramp = np.arange(1, 501.0)
    first, second, third, last = cut_beats(ramp, np.array([30, 100, 160, 400]), 96)
    expected = np.zeros(96)
    expected[18 : 18 + 65] = ramp[:65]  # the recording begins 30 before the peak
    np.testing.assert_array_equal(first, expected)
    expected = np.zeros(96)
    expected[13 : 13 + 65] = ramp[65:130]
    np.testing.assert_array_equal(second, expected)
    # From 130 to 280 it would be longer than 96 samples, and so would the last one, from 280 to 448.
    np.testing.assert_array_equal(third, ramp[112:208])
    np.testing.assert_array_equal(last, ramp[352:448])
    (only,) = cut_beats(ramp, np.array([490]), 96)
    np.testing.assert_array_equal(only[:58], ramp[442:])
    assert not only[58:].any()
    assert cut_beats(ramp, np.array([], dtype=int), 96) == []


BEATS = [0.8, 1.7, 2.4, 3.4, 4.3, 5.1, 6.0, 6.9, 7.7, 8.6, 9.3]


def test_leads_and_seconds_of_beats():
    lead_1 = ecg(BEATS)
    extractor = HeartLangFeatureExtractor(leads=("I", "V2"))
    features = extractor(ecg=np.stack((lead_1, -0.5 * lead_1)), sampling_rate=100, return_tensors="pt")
    assert features["input_values"].shape == (1, 256, 96) and features["input_values"].dtype == torch.float32
    number = int(features["lead_ids"][0].eq(1).sum())
    assert len(BEATS) - 1 <= number <= len(BEATS)
    assert features["lead_ids"][0, : 2 * number].tolist() == [1] * number + [8] * number
    assert not features["lead_ids"][0, 2 * number :].any() and not features["time_ids"][0, 2 * number :].any()
    seconds = [int(beat) + 1 for beat in BEATS][-number:]
    assert features["time_ids"][0, : 2 * number].tolist() == seconds * 2
    values = features["input_values"][0]
    # The R-peak is in the middle, also of a lead that points downwards, and nothing is scaled.
    assert (values[1:number].argmax(1) - 48).abs().max() <= 2
    torch.testing.assert_close(values[number : 2 * number], -0.5 * values[:number], rtol=1e-3, atol=1e-4)
    assert 0.6 < values[:number].max() < 1.1


def test_signals_are_resampled_and_filtered_as_published():
    rate, seconds = 500, 4
    times = np.arange(rate * seconds) / rate
    signal = np.sin(2 * np.pi * 5 * times) + np.sin(2 * np.pi * 0.1 * times) + 2
    conditioned = HeartLangFeatureExtractor()._condition("ecg", signal[None], rate)[0]
    b, a = scipy_signal.butter(5, [0.67, 40], "bandpass", fs=100)
    expected = scipy_signal.filtfilt(b, a, scipy_signal.resample(signal, 100 * seconds))
    np.testing.assert_allclose(conditioned, expected, atol=1e-6)


def test_windows_beyond_10_s_are_read_in_pieces():
    beats = [*BEATS, *(10 + beat for beat in BEATS)]
    features = HeartLangFeatureExtractor()([ecg(beats, 21.0), ecg(BEATS)], sampling_rate=100, return_tensors="np")
    assert features["input_values"].shape == (2, 512, 96)
    assert set(features["lead_ids"][0, :5]) == set(features["lead_ids"][0, 256:261]) == {2}
    assert features["time_ids"].max() <= 10
    assert not features["lead_ids"][1, 256:].any()


def test_pipelines(folder, tmp_path):
    signal = ecg([*BEATS, *(10 + beat for beat in BEATS)], 20.0)
    answer = pipeline(FEATURES, model=folder)(signal, sampling_rate=100)
    assert [window["value"].shape for window in answer["windows"]] == [(16,)] * 2
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    assert type(model) is HeartLangForSequenceClassification
    model.save_pretrained(tmp_path)
    AutoFeatureExtractor.from_pretrained(folder).save_pretrained(tmp_path)
    answers = pipeline(CLASSIFICATION, model=str(tmp_path))(
        [signal, np.zeros(500)], sampling_rate=100, on_error="skip", batch_size=2
    )
    assert sum(answers[0]["scores"].values()) == pytest.approx(1, abs=1e-5)
    assert answers[1]["value"] is None


def test_saving_and_loading(folder, tmp_path):
    assert type(AutoModel.from_pretrained(folder)) is HeartLangModel
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    assert type(extractor) is HeartLangFeatureExtractor and extractor.leads == ("II",)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, problem_type="regression", label_mean=70.0, label_std=10.0
    ).eval()
    inputs = extractor(ecg(BEATS), sampling_rate=100, return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs, labels=torch.tensor([75.0]))
    torch.testing.assert_close(output.loss, ((output.logits[0, 0] - 75) / 10) ** 2)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, output.logits, rtol=0, atol=0)


def test_another_signal_is_refused():
    with pytest.raises(ValueError, match="reads ecg, but ecg is missing, but was given ppg"):
        HeartLangFeatureExtractor()(ppg=np.random.randn(1250), sampling_rate=125)
    with pytest.raises(ValueError, match=r"HeartLang reads ecg alone, .* PaPaGei reads PPG"):
        HeartLangFeatureExtractor(channels=("ppg",))
    with pytest.raises(Exception, match=r"HeartLang reads ecg alone, .* PaPaGei reads PPG"):
        HeartLangConfig(channels=("ppg",))
    with pytest.raises(ValueError, match="`leads` must name one or more of I, II"):
        HeartLangFeatureExtractor(leads=("V9",))
    with pytest.raises(ValueError, match=r"Window 0 of `ecg` must have shape \(2, samples\), for the leads I, V2"):
        HeartLangFeatureExtractor(leads=("I", "V2"))(ecg=np.zeros((3, 1000)), sampling_rate=100)
    with pytest.raises(ValueError, match="lasts 1 s, but at least"):
        HeartLangFeatureExtractor()(ecg(BEATS)[:100], sampling_rate=100)
