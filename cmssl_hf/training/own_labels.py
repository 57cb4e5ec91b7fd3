"""Tasks that nobody has defined: what is predicted is a column beside somebody's own recordings."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transformers import AutoConfig

from ..data.loading import channels_of, load_dataset_builder, options_for_channels
from ..tasks import Task
from .arguments import DataArguments
from .engine.run_folder import check_model_name


def task_of_labels(
    labels: Sequence[str], arguments: DataArguments, *, model: str | None, channels: Sequence[str] | None
) -> tuple[Task, DataArguments]:
    """The task of predicting labels of a dataset that has an option `label`, and the arguments under which it is read.

    Args:
        labels: columns of its metadata.
        arguments: which dataset.
        model: folder or Hub id of the encoder, whose signal is read; `None` for one with random weights.
        channels: that an encoder with random weights reads; those of the recordings if left out.

    Raises:
        ValueError: if the dataset has no such option or column, or it is not known which signal is read.
    """
    if arguments.additional_data:
        raise ValueError("`additional_data` are for pre-training: a task reads its own dataset.")
    if arguments.prepared_dir is not None:
        raise ValueError("`label` is read from the recordings' folder, not from `prepared_dir`: give `data_dir`.")
    if model is not None:
        check_model_name(model)
        channels = getattr(AutoConfig.from_pretrained(model), "channels", None)
    channels = channels or channels_of(_builder(labels, arguments, arguments.dataset_options))
    if len(channels) != 1:
        raise ValueError(
            f"The recordings hold {' and '.join(channels)}, but one signal is read: say which by"
            " `config_overrides`, such as `channels=[ppg]`."
        )
    options = options_for_channels(arguments.dataset_name(), arguments.dataset_options, channels)
    if channels[0] not in options.get("channels", channels):
        raise ValueError(f"The model reads {channels[0]}, but `dataset_options` ask for {options['channels']}.")
    builder = _builder(labels, arguments, options)
    task = Task(
        "_".join(labels),
        arguments.dataset_name(),
        builder.config.name,
        channels[0],  # type: ignore[arg-type]
        builder.problem_type,
        label_names=() if builder.label_names else tuple(labels),
    )
    options = {**options, "label": list(labels)}
    return task, replace(arguments, dataset_config=builder.config.name, dataset_options=options)


def _builder(labels: Sequence[str], arguments: DataArguments, options: dict[str, Any]) -> Any:
    if "label" in options:
        raise ValueError("`dataset_options` and `label` both say what is predicted: leave the option out.")
    builder = load_dataset_builder(
        arguments.dataset_name(),
        arguments.dataset_config,
        data_dir=arguments.data_dir,
        cache_dir=arguments.cache_dir,
        **options,
        label=list(labels),
    )
    if getattr(builder, "problem_type", None) is None:
        raise ValueError(f"{arguments.dataset} has no labels of its own choice: give a `task`, or `data_dir`.")
    return builder
