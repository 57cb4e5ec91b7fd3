"""Training arguments of transformers that would do nothing here, or break what a run promises: refused before anything is read."""

from dataclasses import MISSING, Field, fields
from typing import Any

from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations, get_reporting_integration_callbacks


_ALWAYS_DONE = "does nothing here: every stage trains and validates, and fine-tuning tests."
_OWN_METRICS = "does not fit the metrics of the stages, which are computed over all windows at once."
_OWN_COLUMNS = "does nothing here: the collator chooses the columns."

#: What is said of an argument that is not at its default.
REFUSED = {
    "resume_from_checkpoint": (
        "does nothing here: a run continues by itself when its command is given again with the same `output_dir`."
    ),
    "do_train": _ALWAYS_DONE,
    "do_predict": _ALWAYS_DONE,
    "ignore_data_skip": "would let a run that continues read windows of its epoch a second time.",
    "enable_jit_checkpoint": "does nothing here: a run that gets SIGTERM saves a checkpoint already.",
    "save_only_model": "leaves out what a run needs to continue from its checkpoints, which hold more than weights.",
    "auto_find_batch_size": (
        "would change the batch size, which decides the result: give one that fits, with `gradient_accumulation_steps`."
    ),
    "prediction_loss_only": "leaves out the metrics that the stages report.",
    "eval_do_concat_batches": _OWN_METRICS,
    "batch_eval_metrics": _OWN_METRICS,
    "eval_use_gather_object": _OWN_METRICS,
    "include_for_metrics": _OWN_METRICS,
    "label_names": _OWN_COLUMNS,
    "remove_unused_columns": _OWN_COLUMNS,
    "length_column_name": "does nothing here: windows are read in random or sequential order.",
    "label_smoothing_factor": "does nothing here: the models compute their own loss.",
    "optim_target_modules": "does nothing here: parameters are grouped by layer and head.",
    "use_liger_kernel": "does nothing here: there are no such kernels for these models.",
    "liger_kernel_config": "does nothing here: there are no such kernels for these models.",
    "use_cache": "does nothing here: these models generate nothing.",
    "logging_nan_inf_filter": "does nothing here: a loss that is not finite ends the training.",
    "average_tokens_across_devices": "does nothing here: a step's loss is always the mean over all its processes.",
    "hub_always_push": "does nothing here: with `hub_strategy` every_save each save waits for its upload.",
    "deepspeed": "is not supported: use DDP or FSDP, see `scripts/accelerate`.",
}
#: Values that say what is done anyway.
_HEEDED = {"label_names": ["labels"]}
_SAMPLING_STRATEGIES = ("random", "sequential")
_HUB_STRATEGIES = ("end", "every_save")


def refuse_unsupported(arguments: TrainingArguments) -> None:
    """Called before `TrainingArguments.__post_init__`, which changes what was given.

    Raises:
        ValueError: if an argument is given that the stages do not heed, or a logger that is not installed.
    """
    for field in fields(arguments):
        given = getattr(arguments, field.name)
        if field.name in REFUSED and given not in (_default(field), _HEEDED.get(field.name)):
            raise ValueError(f"`{field.name}` {REFUSED[field.name]}")
    if arguments.train_sampling_strategy not in _SAMPLING_STRATEGIES:
        raise ValueError(
            f"`train_sampling_strategy` must be {' or '.join(_SAMPLING_STRATEGIES)} here, but is"
            f" {arguments.train_sampling_strategy!r}."
        )
    if arguments.hub_strategy not in _HUB_STRATEGIES:
        raise ValueError(
            f"`hub_strategy` must be {' or '.join(_HUB_STRATEGIES)} here, but is {arguments.hub_strategy!r}: no run continues from"
            " checkpoints on the Hub."
        )
    for name in ("hub_private_repo", "hub_revision"):
        if getattr(arguments, name) and not arguments.push_to_hub:
            raise ValueError(f"`{name}` does nothing without `push_to_hub`.")
    _refuse_missing_loggers(arguments.report_to)


def _default(field: Field) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _refuse_missing_loggers(report_to: str | list[str] | None) -> None:
    names = [report_to] if isinstance(report_to, str) else list(report_to or ())
    for name in names:
        if name in ("none", "all", *get_available_reporting_integrations()):
            continue
        (callback,) = get_reporting_integration_callbacks([name])
        try:
            callback()
        except Exception as error:
            raise ValueError(f"`report_to` names {name}, which cannot be used: {error}") from error
