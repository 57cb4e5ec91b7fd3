"""What stage 3 starts from: a pre-trained (or random) model for one task, and the feature extractor that goes with it."""

from typing import Any

from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging as transformers_logging

from ..data.codes import model_fingerprint
from ..models.cmssl.configuration_cmssl import CMSSLEncoderConfig, CMSSLTokenizerConfig
from ..models.cmssl.configuration_cmssl_classification import SignalClassificationConfig
from ..models.cmssl.feature_extraction_cmssl import CMSSLFeatureExtractor
from ..tasks import Task
from .arguments import DataArguments, parse_config_overrides
from .engine.run_folder import RANDOM_WEIGHTS, check_model_name
from .finetuning_arguments import TaskArguments


#: Fields of the config that a pre-trained model has decided: with another value it would compute something else.
_DECIDED_BY_MODEL = (
    "channels",
    "sampling_rate",
    "patch_size",
    "patch_embedding",
    "position_embedding",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "layer_norm_eps",
    "codebook_size",
    "codebook_dim",
    "codes_per_patch",
    "use_code_projection",
    "base_filters",
    "num_blocks",
    "kernel_size",
    "embedding_size",
    "head_dim",
    "max_beats",
    "num_leads",
    "num_times",
)
#: Those that also the feature extractor in its folder rests on.
_DECIDED_BY_EXTRACTOR = ("channels", "sampling_rate", "patch_size")

#: Weights that are new with each task.
_NEW_WEIGHTS = ("classifier.", "interval_head.", "missing_channels.")


def starting_parts(
    task: Task, arguments: "TaskArguments", data_arguments: DataArguments
) -> tuple[SignalClassificationConfig, CMSSLFeatureExtractor]:
    """Config and feature extractor of the model that is fine-tuned for `task`.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if the model is of another kind, reads another signal, or `config_overrides` do not fit it.
    """
    name, band = arguments.source, arguments.pass_band
    config: SignalClassificationConfig
    if arguments.from_scratch:
        config = CMSSLEncoderConfig.from_size(name, **{"channels": (task.channel,), **arguments.config_overrides})
        if band is not None and data_arguments.do_band_pass is False:
            raise ValueError("`pass_band` does nothing with `do_band_pass` false: leave one of them out.")
        extractor = CMSSLFeatureExtractor(
            channels=config.channels,
            sampling_rate=config.sampling_rate,
            patch_size=config.patch_size,
            do_band_pass=data_arguments.do_band_pass is not False,
            pass_bands=None if band is None else {task.channel: band},
        )
    else:
        check_model_name(name)
        config = AutoConfig.from_pretrained(name)
        if not isinstance(config, SignalClassificationConfig):
            raise ValueError(
                f"`model_name_or_path` {name} holds a {config.model_type}, but a model of this package is fine-tuned."
            )
        parse_config_overrides(arguments.config_overrides, type(config))
        _refuse_other_model(config, arguments)
        config = AutoConfig.from_pretrained(name, **arguments.config_overrides)
        extractor = AutoFeatureExtractor.from_pretrained(name)
        data_arguments.check_band_pass(extractor, f"the model {name}")
        if band not in (None, there := extractor.pass_bands[task.channel]):
            raise ValueError(
                f"`pass_band` is {band}, but {name} was trained on signals of {there} Hz, which fine-tuning keeps: leave it out,"
                " or give `from_scratch` in place of the model."
            )
    if isinstance(config, CMSSLTokenizerConfig) and task.channel in config.channels:
        # Of the signals that it tokenises together, the task has one.
        config.given_channels = (task.channel,)
        extractor = CMSSLFeatureExtractor.from_pretrained(name, channels=config.given_channels)
    elif tuple(config.channels) != (task.channel,):
        raise ValueError(
            f"The task {task.name} reads {task.channel}, but the model {name} reads {' and '.join(config.channels)}."
        )
    return config, extractor


def _refuse_other_model(config: Any, arguments: "TaskArguments") -> None:
    decided = _DECIDED_BY_EXTRACTOR if arguments.random_weights else _DECIDED_BY_MODEL
    for name in set(decided).intersection(arguments.config_overrides):
        there, wanted = getattr(config, name), arguments.config_overrides[name]
        if (tuple(wanted) if isinstance(there, tuple) else wanted) != there:
            raise ValueError(
                f"`config_overrides` ask for {name}={wanted!r}, but {arguments.model_name_or_path} has {name}={there!r}, which"
                " fine-tuning cannot change. Leave it out, or give `from_scratch` in place of the model."
            )


def starting_model(arguments: "TaskArguments", config: SignalClassificationConfig) -> PreTrainedModel:
    """The model with a head, pre-trained or random as `arguments` say.

    Raises:
        ValueError: if the folder lacks weights of the model.
    """
    if arguments.from_scratch or arguments.random_weights:
        model = AutoModelForSequenceClassification.from_config(config)
    else:
        model = from_pretrained(arguments.source, config)
    if arguments.freeze_encoder:
        model.freeze_encoder()
    return model


def from_pretrained(name: str, config: SignalClassificationConfig) -> PreTrainedModel:
    """The model of a folder or repository with a head, which may be new; transformers would report that at length, and an
    encoder that is not there in the same way."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            name, config=config, output_loading_info=True
        )
    finally:
        transformers_logging.set_verbosity(verbosity)
    missing = sorted(weight for weight in loading["missing_keys"] if not weight.startswith(_NEW_WEIGHTS))
    if missing:
        raise ValueError(
            f"{name} lacks {len(missing)} weights of the encoder, such as {missing[0]}: it is no whole model."
        )
    return model


def initialisation(arguments: "TaskArguments", model: PreTrainedModel) -> str:
    """What a run records of the weights it started from: a published size, `RANDOM_WEIGHTS` or a fingerprint."""
    if arguments.from_scratch:
        return arguments.from_scratch
    if arguments.random_weights:
        return RANDOM_WEIGHTS
    encoder: Any = model.encoder
    return model_fingerprint(encoder if isinstance(encoder, PreTrainedModel) else model, _NEW_WEIGHTS)
