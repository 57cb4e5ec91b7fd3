"""The head that reads intervals between R-peaks: its features against the classical ones, and what it does beside the other head."""

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

from cmssl_hf import CMSSLEncoderConfig, CMSSLEncoderForSequenceClassification, CMSSLFeatureExtractor, load_dataset
from cmssl_hf.baselines import RR_INTERVAL_FEATURES, rr_interval_features
from cmssl_hf.models.cmssl.modeling_cmssl_intervals import INTERVAL_FEATURES, CMSSLIntervalHead, interval_features
from helpers.tiny import encoder_config


RATE = 125


def heartbeats(beat_times, seconds=30.0, rate=RATE):
    """An ECG `(samples,)` of one narrow wave per beat."""
    times = np.arange(round(seconds * rate)) / rate
    return np.exp(-0.5 * ((times[:, None] - np.asarray(beat_times)) / 0.015) ** 2).sum(1)


def features_of(ecg, attention_mask=None, rate=RATE):
    ecg = torch.tensor(np.atleast_2d(ecg), dtype=torch.float32)
    values = interval_features(ecg, attention_mask, rate)
    return [dict(zip(INTERVAL_FEATURES, row.tolist(), strict=True)) for row in values]


def test_features_are_named_as_the_classical_ones():
    assert set(RR_INTERVAL_FEATURES) - set(INTERVAL_FEATURES) == {"sample_entropy"}


@pytest.mark.parametrize("rate", [100, 125, 250])
def test_regular_beats(rate):
    (found,) = features_of(heartbeats(np.arange(0.5, 30, 0.8), rate=rate), rate=rate)
    assert found["num_intervals"] == 36 and found["mean_rate"] == pytest.approx(75, abs=0.1)
    assert found["median_interval"] == pytest.approx(0.8, abs=1e-3)
    assert found["std"] <= 1 / rate and found["regular_share"] == 1 and found["pnn50"] == 0
    assert found["beat_correlation"] > 0.95


def test_irregular_beats_by_their_definitions():
    intervals = np.random.default_rng(0).permutation(np.arange(0.48, 1.2, 0.024))
    beats = 0.48 + np.concatenate([[0], intervals.cumsum()])
    (found,) = features_of(heartbeats(beats, seconds=30))
    steps = np.diff(intervals)
    expected = {
        "num_intervals": len(intervals),
        "mean_rate": 60 / intervals.mean(),
        "std": intervals.std(),
        "cv": intervals.std() / intervals.mean(),
        "rmssd": np.sqrt(np.mean(steps**2)),
        "iqr": np.subtract(*np.percentile(intervals, [75, 25])),
        "range": np.ptp(intervals),
        "median_absolute_difference": np.median(np.abs(steps)),
        "turning_point_ratio": np.mean(steps[1:] * steps[:-1] < 0),
        "lag1_correlation": np.corrcoef(intervals[1:], intervals[:-1])[0, 1],
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=0.02, abs=0.005)


def test_they_are_those_of_the_baseline_on_real_recordings(test_data, tmp_path):
    rows = load_dataset("physionet2017", data_dir=test_data / "challenge-2017-1.0.0", cache_dir=tmp_path, split="test")
    ecgs = [np.asarray(row["signal"]) for row in rows]
    inputs = CMSSLFeatureExtractor(channels=("ecg",))(
        ecg=ecgs, sampling_rate=rows[0]["sampling_rate"], return_tensors="pt"
    )
    found = interval_features(inputs["input_values"][:, 0], inputs["attention_mask"], RATE).numpy()
    classical = np.stack([rr_interval_features(ecg, rows[0]["sampling_rate"]) for ecg in ecgs])
    for name in ("mean_rate", "median_interval", "rmssd", "pnn50", "interval_entropy", "regular_share", "kurtosis"):
        expected = classical[:, RR_INTERVAL_FEATURES.index(name)]
        known = np.isfinite(expected)
        # The first and the last beat may be found by one and not by the other.
        assert np.corrcoef(found[known, INTERVAL_FEATURES.index(name)], expected[known])[0, 1] > 0.9, name


def test_padding_changes_nothing():
    ecg = heartbeats(np.arange(0.5, 20, 0.7), seconds=20)
    (alone,) = features_of(ecg)
    padded = np.concatenate([ecg, np.random.default_rng(0).standard_normal(1250)])
    (beside,) = features_of(padded, (torch.arange(len(padded)) < len(ecg)).long()[None])
    assert beside == pytest.approx(alone, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(
    "ecg", [np.zeros(1250), np.ones(50), heartbeats([1.0], seconds=10), heartbeats([1.0, 2.0], seconds=10)]
)
def test_too_few_beats_are_zeros(ecg):
    (found,) = features_of(ecg)
    assert np.isfinite([*found.values()]).all()
    assert (found["mean_rate"], found["rmssd"], found["interval_entropy"]) == (0, 0, 0)


def model_of(**fields):
    torch.manual_seed(0)
    return CMSSLEncoderForSequenceClassification(
        encoder_config(channels=("ecg",), interval_head=True, num_labels=3, initializer_range=0.3, **fields)
    )


def batch():
    ecgs = [heartbeats(np.arange(0.3, 8, interval), seconds=8) for interval in (0.5, 0.8, 1.1)]
    return {"input_values": torch.tensor(np.stack(ecgs)[:, None], dtype=torch.float32)}


@pytest.mark.parametrize("fields", [{}, {"piece_seconds": 2.0}])
def test_the_model_answers_with_the_mean_of_both_heads(fields):
    model = model_of(**fields).eval()
    logits = model(**batch()).logits
    by_intervals = model.interval_head(batch()["input_values"], None)
    model.interval_head = None
    torch.testing.assert_close(logits, (model(**batch()).logits + by_intervals) / 2)
    assert by_intervals.std(0).min() > 0


def test_each_head_learns_by_itself():
    model, labels = model_of(), torch.tensor([0, 1, 2])
    torch.manual_seed(1)
    model(**batch(), labels=labels).loss.backward()
    gradient = model.classifier.out_proj.weight.grad.clone()
    model.zero_grad()
    torch.manual_seed(1)
    model.interval_head(batch()["input_values"], None)
    head, model.interval_head = model.interval_head, None
    model(**batch(), labels=labels).loss.backward()
    torch.testing.assert_close(gradient, model.classifier.out_proj.weight.grad / 2)
    assert all(parameter.grad is None for parameter in head.parameters())


def test_it_tells_rates_apart_after_a_few_steps():
    torch.manual_seed(0)
    head = CMSSLIntervalHead(encoder_config(channels=("ecg",)), 2)
    rates = np.random.default_rng(0).uniform(0.5, 1.1, 64)
    ecgs = torch.tensor(
        np.stack([heartbeats(np.arange(0.3, 8, rate), seconds=8) for rate in rates]), dtype=torch.float32
    )
    labels = torch.tensor(rates > 0.8).long()
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(ecgs[:, None], None), labels).backward()
        optimizer.step()
    assert (head.eval()(ecgs[:, None], None).argmax(-1) == labels).float().mean() > 0.95


def test_it_needs_an_ecg():
    with pytest.raises(
        StrictDataclassClassValidationError,
        match=r"`interval_head` looks for R-peaks in an ECG, but the model reads \('ppg',\)",
    ):
        CMSSLEncoderConfig(channels=("ppg",), interval_head=True)


def test_it_is_saved_with_the_model(tmp_path):
    model = model_of().train()
    model(**batch())
    model.eval().save_pretrained(tmp_path)
    again = CMSSLEncoderForSequenceClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(**batch()).logits, model(**batch()).logits)
    torch.testing.assert_close(again.interval_head.norm.running_mean, model.interval_head.norm.running_mean)


def test_a_batch_of_one_trains():
    model = model_of().train()
    before = model.interval_head.norm.running_mean.clone()
    one = {name: value[:1] for name, value in batch().items()}
    assert model(**one, labels=torch.tensor([1])).loss.isfinite()
    # A single window has no statistics.
    torch.testing.assert_close(model.interval_head.norm.running_mean, before)


def test_equal_waves_and_flat_tops_are_one_beat():
    ecg = np.zeros(30 * RATE)
    ecg[50::100] = ecg[51::100] = 1
    (found,) = features_of(ecg)
    assert found["median_interval"] == pytest.approx(0.8, abs=0.01) and found["regular_share"] > 0.9


@pytest.mark.parametrize("patch_size", [1, 2, 25])
def test_the_shortest_window(patch_size):
    model = model_of(patch_size=patch_size).eval()
    assert model(torch.randn(2, 1, patch_size)).logits.isfinite().all()


def test_wrong_shapes_are_named_as_without_it():
    model, inputs = model_of(), torch.randn(2, 1, 250)
    with pytest.raises(ValueError, match="`input_values`"):
        model(inputs[:, 0])
    with pytest.raises(ValueError, match=r"`attention_mask` must have shape \(2, 250\)"):
        model(inputs, torch.ones(2, 240))
