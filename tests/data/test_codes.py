"""Codes of the frozen tokenizer: those of each window alone, cached, and never stale."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_from_disk

from cmssl_hf import CMSSLTokenizerModel
from cmssl_hf.data.codes import add_codes, model_fingerprint
from cmssl_hf.models.resnet1d.configuration_resnet1d import ResNet1DConfig
from cmssl_hf.models.resnet1d.modeling_resnet1d import ResNet1DModel
from helpers.tiny import tokenizer_config, waves, windows_dataset


LENGTHS = [100, 75, 130, 100, 50, 25]
BOTH = ("ecg", "ppg")


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    return CMSSLTokenizerModel(tokenizer_config()).eval()


@pytest.fixture
def stored(tmp_path):
    """A dataset on disk, loaded anew at each call."""
    windows_dataset(waves(6, 2, LENGTHS)).save_to_disk(tmp_path / "data")
    return lambda: load_from_disk(tmp_path / "data")


@pytest.fixture
def encoded_batches(monkeypatch):
    """The batches that any tokenizer encodes from now on."""
    batches = []
    encode = CMSSLTokenizerModel.encode
    monkeypatch.setattr(CMSSLTokenizerModel, "encode", lambda self, *a: batches.append(a[0]) or encode(self, *a))
    return batches


def codes_alone(tokenizer, window):
    length = window.shape[1]
    padded = np.pad(window, ((0, 0), (0, -length % 25)))
    mask = torch.from_numpy((np.arange(padded.shape[1]) < length).astype(np.int64))[None]
    with torch.no_grad():
        return tokenizer.encode(torch.from_numpy(padded)[None], mask)[0].tolist()


@pytest.mark.parametrize("batch_size", [1, 4, 512])
def test_codes_are_those_of_each_window_alone(tokenizer, batch_size):
    windows = waves(6, 2, LENGTHS)
    coded = add_codes(windows_dataset(windows), tokenizer, dataset_channels=BOTH, batch_size=batch_size)
    assert coded["codes"] == [codes_alone(tokenizer, window) for window in windows]
    assert [len(codes) for codes in coded["codes"]] == [4, 3, 6, 4, 2, 1]
    for read, window in zip(coded["input_values"], windows):
        np.testing.assert_array_equal(np.array(read, dtype=np.float32), window)


def test_dropout_is_off_while_tokenising():
    tokenizer = CMSSLTokenizerModel(tokenizer_config(hidden_dropout_prob=0.5)).train()
    before = tokenizer.codebook.weight.clone()
    data = windows_dataset(waves(20, 2))
    first, second = (add_codes(data, tokenizer, dataset_channels=BOTH)["codes"] for _ in range(2))
    assert first == second
    assert torch.equal(tokenizer.codebook.weight, before)


@pytest.mark.parametrize(("channels", "index"), [(("ppg",), 1), (("ecg",), 0)])
def test_tokenizer_reads_its_own_channels(channels, index):
    torch.manual_seed(0)
    tokenizer = CMSSLTokenizerModel(tokenizer_config(channels=channels)).eval()
    windows = waves(6, 2)
    coded = add_codes(windows_dataset(windows), tokenizer, dataset_channels=BOTH)
    assert coded["codes"] == [codes_alone(tokenizer, window[index : index + 1]) for window in windows]


def test_channels_are_put_into_the_order_of_the_tokenizer(tokenizer):
    windows = waves(6, 2)
    swapped = add_codes(windows_dataset(windows), tokenizer, dataset_channels=("ppg", "ecg"))
    assert swapped["codes"] == [codes_alone(tokenizer, window[::-1].copy()) for window in windows]


def test_missing_channel_is_refused(tokenizer):
    with pytest.raises(ValueError, match="The tokenizer reads ecg and ppg, but the data hold only ppg"):
        add_codes(windows_dataset(waves(2)), tokenizer, dataset_channels=("ppg",))


def test_same_tokenizer_meets_its_cache(stored, tokenizer, encoded_batches, tmp_path):
    first = add_codes(stored(), tokenizer, dataset_channels=BOTH)["codes"]
    assert len(encoded_batches) == 1
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    reloaded = CMSSLTokenizerModel.from_pretrained(tmp_path / "tokenizer")
    assert add_codes(stored(), reloaded, dataset_channels=BOTH)["codes"] == first
    assert len(encoded_batches) == 1


def test_changed_tokenizer_never_meets_stale_codes(stored, tokenizer, encoded_batches):
    add_codes(stored(), tokenizer, dataset_channels=BOTH)
    # A permuted codebook permutes the codes, and nothing else about the tokenizer changes.
    permutation = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    inverse = permutation.argsort().tolist()
    before = add_codes(stored(), tokenizer, dataset_channels=BOTH)["codes"]
    tokenizer.codebook.weight.copy_(tokenizer.codebook.weight[permutation])
    after = add_codes(stored(), tokenizer, dataset_channels=BOTH)["codes"]
    assert len(encoded_batches) == 2
    assert after == [[inverse[code] for code in codes] for codes in before]


def test_other_rows_and_other_channel_order_never_meet_stale_codes(stored, tokenizer):
    data = stored()
    forwards = add_codes(data, tokenizer, dataset_channels=BOTH)["codes"]
    assert add_codes(data.select([2, 0]), tokenizer, dataset_channels=BOTH)["codes"] == [forwards[2], forwards[0]]
    backwards = add_codes(data, tokenizer, dataset_channels=("ppg", "ecg"))["codes"]
    assert backwards == [codes_alone(tokenizer, window[::-1].copy()) for window in waves(6, 2, LENGTHS)]


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.encoder.code_projection.bias.data.add_(1e-6),
        lambda model: model.codebook.weight[3].mul_(-1),
        lambda model: setattr(model.config, "patch_size", 50),
        lambda model: setattr(model.config, "channels", ("ppg", "ecg")),
    ],
)
def test_fingerprint_sees_every_change(tokenizer, change):
    before = model_fingerprint(tokenizer)
    assert model_fingerprint(tokenizer) == before
    change(tokenizer)
    assert model_fingerprint(tokenizer) != before


def test_fingerprint_ignores_where_the_tokenizer_is_stored(tokenizer, tmp_path):
    before = model_fingerprint(tokenizer)
    for name in ("a", "b"):
        tokenizer.save_pretrained(tmp_path / name)
        tokenizer = CMSSLTokenizerModel.from_pretrained(tmp_path / name)
        assert model_fingerprint(tokenizer) == before


@pytest.mark.parametrize(
    ("field", "value"), [("quantize_features", False), ("given_channels", ("ppg",)), ("label_mean", 70.0)]
)
def test_fingerprint_of_a_tokenizer_ignores_what_heads_read(tokenizer, field, value):
    before = model_fingerprint(tokenizer)
    setattr(tokenizer.config, field, value)
    assert model_fingerprint(tokenizer) == before


def test_fingerprint_sees_single_numbers_and_not_what_is_left_out():
    model = ResNet1DModel(ResNet1DConfig(base_filters=2, num_blocks=1))
    before, without_norm = model_fingerprint(model), model_fingerprint(model, ("norm.",))
    model.norm.num_batches_tracked += 1
    assert model_fingerprint(model) != before
    assert model_fingerprint(model, ("norm.",)) == without_norm


def test_windows_are_not_stored_a_second_time(stored, tokenizer, tmp_path):
    coded = add_codes(stored(), tokenizer, dataset_channels=BOTH)
    assert len(coded.cache_files) == 2
    codes_file = next(file["filename"] for file in coded.cache_files if "cache-" in file["filename"])
    assert (tmp_path / "data") in Path(codes_file).parents


@pytest.mark.parametrize(("codebook_size", "dtype"), [(16, "int16"), (32767, "int16"), (40000, "int32")])
def test_codes_are_stored_in_few_bytes(codebook_size, dtype):
    torch.manual_seed(0)
    tokenizer = CMSSLTokenizerModel(tokenizer_config(codebook_size=codebook_size))
    windows = waves(40, 2)
    coded = add_codes(windows_dataset(windows), tokenizer, dataset_channels=BOTH)
    assert coded.features["codes"].feature.dtype == dtype
    assert coded["codes"] == [codes_alone(tokenizer.eval(), window) for window in windows]
