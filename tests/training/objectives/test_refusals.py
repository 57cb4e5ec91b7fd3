"""What cannot work is refused, with what would."""

import pytest

from cmssl_hf.training.arguments import DataArguments
from cmssl_hf.training.encoder import EncoderArguments
from cmssl_hf.training.engine.arguments import StageArguments
from cmssl_hf.training.engine.parsing import parse_arguments
from cmssl_hf.training.objectives.clip import CLIPArguments, pretrain_by_clip
from cmssl_hf.training.objectives.views import LastCheckpointArguments
from cmssl_hf.training.stage import get_objective
from helpers.checkout import ROOT
from helpers.objectives import COMPARING, PARTS, objective_arguments, objective_trainer


CONTRASTIVE = ["simclr", "moco_v3", "tfc", "clip"]
VIEWS = ["simclr", "byol", "simsiam", "moco_v3", "tfc"]
NOTHING = DataArguments(dataset="simulated", dataset_config="pairs")


def training(kind=StageArguments, **options):
    return kind(**{"output_dir": "unused", "use_cpu": True, "report_to": "none"} | options)


@pytest.mark.parametrize("temperature", [0, -0.1, float("nan")])
@pytest.mark.parametrize("name", CONTRASTIVE)
def test_temperature(name, temperature):
    with pytest.raises(ValueError, match=r"`temperature` must be greater than 0, such as 0\.1, but is"):
        objective_arguments(name, temperature=temperature)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, float("nan")])
@pytest.mark.parametrize("name", ["byol", "moco_v3"])
def test_momentum(name, momentum):
    with pytest.raises(ValueError, match=r"`teacher_momentum` must be at least 0 and less than 1, such as 0.99"):
        objective_arguments(name, teacher_momentum=momentum)


@pytest.mark.parametrize("field", ["projection_size", "projection_hidden_size"])
def test_sizes_of_heads(field):
    with pytest.raises(ValueError, match=f"`{field}` must be at least 1, but is 0"):
        objective_arguments("simclr", **{field: 0})
    with pytest.raises(ValueError, match="`predictor_hidden_size` must be at least 1"):
        objective_arguments("simsiam", predictor_hidden_size=0)
    with pytest.raises(ValueError, match="`within_domain_weight` must be at least 0"):
        objective_arguments("tfc", within_domain_weight=-1.0)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_reconstruction_of_nothing_or_from_nothing(share):
    with pytest.raises(ValueError, match=r"`masked_share` must be more than 0 and less than 1, such as 0.6"):
        objective_arguments("masked", masked_share=share)


@pytest.mark.parametrize("name", VIEWS)
def test_views(name):
    with pytest.raises(ValueError, match="`noise` does nothing with `views` heart: give `views` own"):
        objective_arguments(name, noise=0.1)
    with pytest.raises(ValueError, match="both views of a window are the same"):
        objective_arguments(name, views="own")
    assert objective_arguments(name, views="own", noise=0.1).augmentation(125).noise == 0.1


def test_backbones():
    message = (
        "`{}` learns from an output for each patch, which `resnet1d` does not have: leave `backbone` out, or take"
    )
    with pytest.raises(ValueError, match=message.format("masked")):
        objective_arguments("masked", backbone="resnet1d")
    with pytest.raises(ValueError, match=message.format("tokens")):
        EncoderArguments(tokenizer="runs/tokenizer", backbone="resnet1d")
    for name in COMPARING:
        with pytest.raises(ValueError, match=r"`encoder_size` is one of the transformer's: give `config_overrides`"):
            objective_arguments(name, backbone="resnet1d", encoder_size="small")
        with pytest.raises(ValueError, match=r"do not exist: num_hidden_layers\. See `ResNet1DConfig`"):
            objective_arguments(name, backbone="resnet1d", config_overrides={"num_hidden_layers": 2})
        with pytest.raises(ValueError, match=r"do not exist: num_blocks\. See `CMSSLEncoderConfig`"):
            objective_arguments(name, config_overrides={"num_blocks": 2})


def test_the_backbone_takes_the_place_of_the_one_in_a_file():
    file = ROOT / "scripts" / "configs" / "pretrain_encoder_objectives.yaml"
    stage = get_objective("simclr")
    flags = ["--objective", "simclr", "--backbone", "resnet1d", "--use_cpu", "true", "--report_to", "none"]
    arguments, *_ = parse_arguments(stage.arguments, [str(file), *flags])
    assert (arguments.encoder_size, arguments.config_overrides) == (None, {})
    config = arguments.config()
    assert (config.model_type, config.channels, config.num_blocks) == ("resnet1d", ("ppg",), 16)
    narrow, *_ = parse_arguments(stage.arguments, [str(file), *flags, "--config_overrides", "base_filters=8"])
    assert narrow.config().hidden_size == 64


@pytest.mark.parametrize("name", [*VIEWS, "clip"])
def test_batch_of_one_window(name):
    kind = PARTS[name][4]
    function = get_objective(name).function
    with pytest.raises(ValueError, match="give `per_device_train_batch_size` of at least 2"):
        function(objective_arguments(name), NOTHING, training(kind, per_device_train_batch_size=1))
    with pytest.raises(ValueError, match="give `per_device_eval_batch_size` of at least 2"):
        function(objective_arguments(name), NOTHING, training(kind, per_device_eval_batch_size=1))


@pytest.mark.parametrize("name", [*VIEWS, "clip"])
def test_batch_larger_than_the_dataset(name, tmp_path):
    with pytest.raises(ValueError, match=r"larger than the 24 training windows.*of at most 24"):
        objective_trainer(name, tmp_path, per_device_train_batch_size=25)


@pytest.mark.parametrize("options", [{"load_best_model_at_end": True}, {"metric_for_best_model": "eval_loss"}])
def test_checkpoints_of_byol_and_simsiam_are_not_chosen_by_their_loss(options, tmp_path):
    assert LastCheckpointArguments in get_objective("byol").arguments
    assert LastCheckpointArguments in get_objective("simsiam").arguments
    arguments = training(LastCheckpointArguments, output_dir=str(tmp_path))
    assert arguments.load_best_model_at_end is False
    if "metric_for_best_model" in options:
        options = options | {"early_stopping_patience": 2}
    with pytest.raises(ValueError, match="no checkpoint is chosen by it"):
        training(LastCheckpointArguments, **options)
    by_rank = training(
        LastCheckpointArguments,
        load_best_model_at_end=True,
        metric_for_best_model="effective_rank",
        greater_is_better=True,
    )
    assert by_rank.load_best_model_at_end


def test_clip_reads_both_signals(tmp_path):
    with pytest.raises(ValueError, match="`channel` is ppg, but `clip` trains an encoder of each of two signals"):
        CLIPArguments(channel="ppg")
    with pytest.raises(ValueError, match="`push_to_hub` uploads one model, but `clip` leaves two"):
        pretrain_by_clip(CLIPArguments(), NOTHING, training(push_to_hub=True, hub_model_id="a/b"))
    with pytest.raises(ValueError, match="`layerwise_lr_decay` is not made for two encoders"):
        pretrain_by_clip(CLIPArguments(), NOTHING, training(layerwise_lr_decay=0.5))
    one_signal = DataArguments(
        dataset="simulated",
        dataset_config="hr",
        cache_dir=str(tmp_path / "cache"),
        dataset_options={"num_subjects": 10, "seconds_per_subject": 20.0},
    )
    with pytest.raises(
        ValueError, match="one signal per row, but the model reads ecg and ppg: use a configuration with pairs"
    ):
        pretrain_by_clip(CLIPArguments(), one_signal, training(output_dir=str(tmp_path / "run")))
