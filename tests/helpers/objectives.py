"""Trainers of the objectives with tiny models and windows, without files."""

import torch

from cmssl_hf.data.batches import WindowsCollator, WindowsDataset
from cmssl_hf.training.engine.arguments import StageArguments
from cmssl_hf.training.objectives import byol, clip, masked, moco_v3, simclr, simsiam, tfc
from cmssl_hf.training.objectives.teacher import TeacherTrainer
from cmssl_hf.training.objectives.views import LastCheckpointArguments, TwoViewsCollator, ViewsTrainer
from cmssl_hf.training.pretraining import FixedWindows
from helpers.tiny import PATCH, encoder_config, resnet_config, waves, windows_dataset
from helpers.trainers import NUM_WINDOWS, training_arguments


HEADS = {"projection_hidden_size": 24, "projection_size": 8}
#: Arguments, model, trainer, collator and training arguments of each.
PARTS = {
    "simclr": (simclr.SimCLRArguments, simclr.EncoderForSimCLR, ViewsTrainer, TwoViewsCollator, StageArguments),
    "byol": (byol.BYOLArguments, byol.EncoderForBYOL, TeacherTrainer, TwoViewsCollator, LastCheckpointArguments),
    "simsiam": (
        simsiam.SimSiamArguments,
        simsiam.EncoderForSimSiam,
        ViewsTrainer,
        TwoViewsCollator,
        LastCheckpointArguments,
    ),
    "moco_v3": (moco_v3.MoCoV3Arguments, moco_v3.EncoderForMoCoV3, TeacherTrainer, TwoViewsCollator, StageArguments),
    "tfc": (tfc.TFCArguments, tfc.EncoderForTFC, ViewsTrainer, tfc.TimeFrequencyCollator, StageArguments),
    "clip": (clip.CLIPArguments, clip.EncodersForCLIP, clip.CLIPTrainer, WindowsCollator, StageArguments),
    "masked": (
        masked.MaskedArguments,
        lambda config, arguments: masked.EncoderForMaskedReconstruction(config),
        masked.MaskedTrainer,
        masked.HiddenSamplesCollator,
        StageArguments,
    ),
}


#: Those that train an encoder of either backbone.
COMPARING = [name for name in PARTS if name != "masked"]


def objective_arguments(name, **options):
    heads = {} if name == "masked" else HEADS
    return PARTS[name][0](**heads | options)


def objective_trainer(
    name, folder, dropout=0.1, num_samples=100, num_eval=7, model_options=None, backbone=None, **options
):
    """A trainer of an objective on `NUM_WINDOWS` windows."""
    _, model_class, trainer_class, collator_class, arguments_class = PARTS[name]
    arguments = objective_arguments(name, **model_options or {})
    torch.manual_seed(0)
    fields = {"channels": arguments.channels, "hidden_dropout_prob": dropout}
    if backbone is None:
        config = encoder_config(**fields)
    else:
        config = resnet_config(**fields)
    channels = len(arguments.channels)
    return trainer_class(
        model=model_class(config, arguments),
        args=training_arguments(arguments_class, folder, **{"per_device_train_batch_size": 8} | options),
        data_collator=collator_class(PATCH),
        train_dataset=WindowsDataset(
            windows_dataset(waves(NUM_WINDOWS, channels, num_samples)),
            ["input_values"],
            arguments.augmentation(125),
            seed=7,
        ),
        eval_dataset=FixedWindows(
            windows_dataset(waves(num_eval, channels, 100, seed=1)),
            ["input_values"],
            arguments.validation_augmentation(125),
            seed=7,
        ),
    )
