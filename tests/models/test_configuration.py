"""The two configurations: sizes, saving, and what they refuse."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassError

from cmssl_hf import CMSSLEncoderConfig, CMSSLEncoderModel, CMSSLTokenizerConfig


@pytest.mark.parametrize(
    ("size", "hidden_size", "layers", "heads"), [("small", 256, 12, 4), ("base", 512, 12, 8), ("large", 1024, 12, 16)]
)
def test_published_sizes(size, hidden_size, layers, heads):
    config = CMSSLEncoderConfig.from_size(size)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (hidden_size, layers, heads)
    assert config.intermediate_size == 4 * hidden_size
    assert CMSSLEncoderConfig.from_size(size, num_hidden_layers=2, channels=("ecg",)).num_hidden_layers == 2


def test_the_small_size_is_the_default():
    assert CMSSLEncoderConfig.from_size("small").to_dict() == CMSSLEncoderConfig().to_dict()


def test_an_unknown_size():
    with pytest.raises(
        ValueError, match=r"Unknown encoder size 'huge'; the published ones are \['base', 'large', 'small'\]"
    ):
        CMSSLEncoderConfig.from_size("huge")


def test_number_of_parameters_of_the_published_small_encoder():
    """Counted from the published layers: patches, and per layer attention, feed-forward block and two norms."""
    width, patch = 256, 125
    attention = 4 * width * width + 4 * width
    feed_forward = 2 * 4 * width * width + 4 * width + width
    expected = patch * width + width + 12 * (attention + feed_forward + 4 * width)
    assert CMSSLEncoderModel(CMSSLEncoderConfig()).num_parameters() == expected


def test_published_tokenizer_is_the_default_architecture():
    config = CMSSLTokenizerConfig()
    assert (config.channels, config.sampling_rate, config.patch_size) == (("ecg", "ppg"), 125, 125)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (128, 10, 8)
    assert (config.num_decoder_layers, config.num_decoder_attention_heads) == (2, 4)
    assert (config.decoder_mlp_size, config.intermediate_size) == (512, 512)
    assert (config.codebook_size, config.codebook_dim) == (8192, 128)
    assert config.commitment_weight == 0.25


@pytest.mark.parametrize(
    "config",
    [
        CMSSLTokenizerConfig(channels=["ppg"], channel_loss_weights=[2]),
        CMSSLEncoderConfig(channels=["ecg"], num_labels=2, label_mean=[120.0, 70.0], label_std=[20.0, 10.0]),
    ],
)
def test_saving_changes_nothing(config, tmp_path):
    config.save_pretrained(tmp_path)
    loaded = type(config).from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert isinstance(loaded.channels, tuple)
    assert loaded.channels == config.channels
    assert isinstance(json.loads((tmp_path / "config.json").read_text())["channels"], list)


@pytest.mark.parametrize(
    ("config_class", "fields", "message"),
    [
        (CMSSLEncoderConfig, {"channels": ("eeg",)}, r"must name one or more of \['ecg', 'ppg'\] once each"),
        (CMSSLEncoderConfig, {"channels": ()}, r"must name one or more of \['ecg', 'ppg'\] once each"),
        (CMSSLTokenizerConfig, {"channels": ("ppg", "ppg")}, r"must name one or more of \['ecg', 'ppg'\] once each"),
        (CMSSLEncoderConfig, {"num_attention_heads": 5}, r"`hidden_size` \(256\) must be a multiple"),
        (CMSSLTokenizerConfig, {"num_decoder_attention_heads": 5}, r"`hidden_size` \(128\) must be a multiple"),
        (CMSSLTokenizerConfig, {"channel_loss_weights": (1.0,)}, "one weight per channel"),
        (CMSSLTokenizerConfig, {"reconstruction_objective": "l3"}, "reconstruction_objective"),
        (CMSSLEncoderConfig, {"num_labels": 2, "label_mean": (1.0,)}, r"one value per label \(2\)"),
        (CMSSLEncoderConfig, {"num_labels": 2, "label_std": (1.0, 0.0)}, "`label_std` must be positive"),
        (CMSSLEncoderConfig, {"num_labels": 1, "label_std": float("nan")}, "`label_std` must be positive"),
        (CMSSLEncoderConfig, {"label_mean": float("nan")}, "`label_mean` must be finite, but is nan"),
        (CMSSLEncoderConfig, {"piece_seconds": float("nan")}, r"`piece_seconds` \(nan\) must hold at least one patch"),
        (CMSSLEncoderConfig, {"num_attention_heads": 0}, "`num_attention_heads` must be positive, but is 0"),
        (CMSSLEncoderConfig, {"patch_size": 0}, "`patch_size` must be positive, but is 0"),
        (CMSSLEncoderConfig, {"sampling_rate": -125}, "`sampling_rate` must be positive, but is -125"),
        (CMSSLEncoderConfig, {"codes_per_patch": 0}, "`codes_per_patch` must be positive, but is 0"),
        (CMSSLTokenizerConfig, {"codebook_dim": 0}, "`codebook_dim` must be positive, but is 0"),
        (CMSSLTokenizerConfig, {"ema_decay": 2.0}, "`ema_decay` must lie between 0 and 1, but is 2.0"),
        (CMSSLEncoderConfig, {"hidden_size": "256"}, "hidden_size"),
        (CMSSLEncoderConfig, {"num_hidden_layers": 10**9}, "`num_hidden_layers` must lie between 0 and 1000"),
        (CMSSLTokenizerConfig, {"num_decoder_layers": 10**6}, "`num_decoder_layers` must lie between 0 and 1000"),
        (CMSSLTokenizerConfig, {"num_hidden_layers": -1}, "`num_hidden_layers` must lie between 0 and 1000"),
    ],
)
def test_what_does_not_fit_is_refused(config_class, fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        config_class(**fields)
