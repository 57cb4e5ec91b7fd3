"""Arguments that every run has, and how a YAML file and flags become them."""

import argparse
import contextlib
import difflib
import os
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool


@dataclass
class StageArguments(TrainingArguments):
    """`TrainingArguments` with the defaults that all stages share."""

    output_dir: str = field(default="runs/run", metadata={"help": "Folder of the run; a run that is there continues."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: `steps` or `epoch`."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save; the same as `eval_strategy`."})
    hub_strategy: str = field(
        default="end",
        metadata={"help": "With `push_to_hub`: `end` uploads the finished run, `every_save` each save too."},
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept; the best one stays."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best checkpoint."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning-rate schedule."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Warm-up steps, or their share if below 1."})
    logging_steps: float = field(default=10, metadata={"help": "Steps between two log lines."})
    # In the order of `TrainingArguments`: `HfArgumentParser` reads flags as the second kind.
    report_to: None | str | list[str] = field(default="tensorboard", metadata={"help": "Where to log."})  # noqa: RUF036
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "A loss that is not finite ends the training; here it would be hidden."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "The collator chooses the columns."})
    # Codebooks are kept equal by summing over processes; sending buffers around at each step would only cost time.
    ddp_broadcast_buffers: bool | None = field(default=False, metadata={"help": "See `TrainingArguments`."})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "See `TrainingArguments`."})
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "Early stopping goes on counting after an interruption."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after this many evaluations without a better one."}
    )
    layerwise_lr_decay: float = field(
        default=1.0, metadata={"help": "Each layer of the encoder learns this much slower than the one above it."}
    )
    cpu_kernels: str = field(
        default="auto",
        metadata={
            "help": "`auto`: on a CPU, faster routes through the model, see `cmssl_hf.models.cpu_kernels`; `off`: plain torch.",
            "choices": ["auto", "off"],
        },
    )

    def __post_init__(self):
        # Launched processes on a machine without accelerator find each other only if they are told that there is none.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        super().__post_init__()
        if int(os.environ.get("WORLD_SIZE", 1)) > 1 and self.world_size == 1:
            raise ValueError(
                f"{os.environ['WORLD_SIZE']} processes were launched, but they are not connected: each would train by itself in"
                " the same folder. On a machine with GPUs that are not to be used, give `--use_cpu true`."
            )
        if self.eval_strategy == "epoch" and self.save_strategy == "steps":
            raise ValueError(
                "With `save_strategy` steps and `eval_strategy` epoch a checkpoint may be saved at the end of an epoch but before"
                " its evaluation, and a run that continues from it would leave that out. Evaluate by steps, too, or save by"
                " epochs."
            )
        for name in ("resume_from_checkpoint", "do_train", "do_predict"):
            if getattr(self, name):
                raise ValueError(
                    f"`{name}` does nothing here: a stage always trains and evaluates, and a run continues from the last checkpoint"
                    " in its `output_dir`."
                )
        if self.save_only_model:
            raise ValueError(
                "With `save_only_model` no run could continue from its checkpoints, which hold more than weights."
            )
        # On a CPU there is nothing to pin for, and torch warns at every epoch.
        self.dataloader_pin_memory = self.dataloader_pin_memory and self.device.type != "cpu"


def refuse_idle(arguments: Any, name: str, needed: str, is_on: bool) -> None:
    """Refuses an argument that would do nothing: it was changed, but what it belongs to is off.

    Args:
        arguments: a dataclass.
        name: its field that may be idle.
        needed: what switches it on, for the message.
        is_on: whether that is the case.
    """
    default = next(field.default for field in fields(arguments) if field.name == name)
    if not is_on and getattr(arguments, name) != default:
        raise ValueError(f"`{name}` ({getattr(arguments, name)}) does nothing without {needed}.")


class _YamlLoader(yaml.SafeLoader):
    """YAML 1.2 in one thing: `1e-3` is a number."""


_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _load_yaml(text: str) -> Any:
    return yaml.load(text, _YamlLoader)  # a safe loader


def parse_options(options: str | Sequence[str] | Mapping[str, Any] | None, *, as_text: bool = False) -> dict[str, Any]:
    """A dictionary from `name=value` assignments, or from a mapping as YAML writes it.

    Args:
        options: `"name=value,name=value"`, `"{name: value}"`, a list of `"name=value"`, or a mapping, which is returned as it is.
            Values are read as YAML, so that `weights=[1,2]` and `band={low: 1}` are one value each.
        as_text: leaves values as they are written, such as names of folders.

    Raises:
        ValueError: if a part has no `=`, a name comes twice, or a value is no YAML.
    """
    if not options:
        return {}
    if isinstance(options, Mapping):
        return dict(options)
    if isinstance(options, str):
        if options.strip().startswith("{"):
            return _read_mapping(options)
        assignments = _split_at_commas(options)
    else:
        assignments = list(options)
    parsed: dict[str, Any] = {}
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        name = name.strip()
        if not separator or not name:
            raise ValueError(f"Options are given as `name=value,name=value`, but got {assignment!r}.")
        if name in parsed:
            raise ValueError(f"The option {name!r} is given twice.")
        try:
            parsed[name] = value if as_text else _load_yaml(value)
        except yaml.YAMLError as error:
            raise ValueError(f"The value of the option {name!r} cannot be read as YAML: {value!r}.") from error
    return parsed


def _read_mapping(text: str) -> dict[str, Any]:
    try:
        mapping = _load_yaml(text)
    except yaml.YAMLError as error:
        raise ValueError(
            f"Options in braces are given as `{{name: value, name: value}}`, but got {text!r}."
        ) from error
    return {str(name): value for name, value in mapping.items()}


def _split_at_commas(text: str) -> list[str]:
    """Parts between the commas that are in no brackets and no quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[{(":
            depth += 1
        elif character in "]})":
            depth -= 1
        elif character == "," and depth <= 0:
            parts.append("")
            continue
        parts[-1] += character
    return parts


def _options_flag(text: str) -> dict[str, Any]:
    try:
        return parse_options(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parse_arguments(dataclass_types: Sequence[type], arguments: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Reads `[file.yaml ...] [--flag value ...]` into one instance of each dataclass; flags override files, and a later file
    overrides an earlier one. An argument also overrides those that the dataclass names in its `OVERRIDES`.

    Raises:
        ValueError: if a file is not a YAML mapping or names an argument that does not exist, or a value is of the wrong kind.
        FileNotFoundError: if a file does not exist.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    files = []
    while arguments and not arguments[0].startswith("-"):
        files.append(Path(arguments.pop(0)))
    parser = HfArgumentParser(dataclass_types, allow_abbrev=False)
    parser.register("type", dict[str, Any], _options_flag)
    types = {name: hint for kind in dataclass_types for name, hint in get_type_hints(kind).items()}
    actions = {action.dest: action for action in parser._actions}
    for file in files:
        values = _read_file(file, types.keys() & actions.keys())
        parser.set_defaults(**_overridden(dataclass_types, values))
        for name, value in values.items():
            parser.set_defaults(**{name: _converted(value, types[name], f"{file}: `{name}`")})
            actions[name].required = False
    flags = {
        argument.partition("=")[0].removeprefix("--").replace("-", "_")
        for argument in arguments
        if argument.startswith("--")
    }
    parser.set_defaults(**_overridden(dataclass_types, flags))
    try:
        *parsed, unknown = parser.parse_args_into_dataclasses(args=arguments, return_remaining_strings=True)
    # What a slip makes (infinity, a wrong kind inside a mapping) is compared and converted by transformers unchecked.
    except (TypeError, OverflowError, yaml.YAMLError) as error:
        raise ValueError(f"An argument has a value of the wrong kind: {error}") from error
    if unknown:
        near = difflib.get_close_matches(unknown[0].lstrip("-"), actions, n=1)
        hint = f" Did you mean --{near[0]}?" if near else ""
        raise ValueError(f"There is no argument {unknown[0]}.{hint}")
    return tuple(parsed)


def _overridden(dataclass_types: Sequence[type], given: Collection[str]) -> dict[str, None]:
    """What is taken back of that which was read before."""
    overrides = {name: others for kind in dataclass_types for name, others in getattr(kind, "OVERRIDES", {}).items()}
    return {other: None for name in given for other in overrides.get(name, ()) if other not in given}


def _read_file(file: Path, known: Collection[str]) -> dict[str, Any]:
    try:
        values = _load_yaml(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read as YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"{file} must hold `name: value` lines.")
    unknown = sorted(map(str, set(values) - set(known)))
    if unknown:
        raise ValueError(f"{file} names arguments that do not exist: {', '.join(unknown)}.")
    return values


_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text (in quotes, where YAML reads something else)",
    dict: "options (`name: value`, or `name=value,name=value`)",
    type(None): "nothing",
}


def _converted(value: Any, hint: Any, where: str) -> Any:
    """A value of a YAML file as a field of type `hint` takes it, in the ways that a flag would be read: numbers may be text, and
    one value is a list of one.

    Raises:
        ValueError: if the field does not take it.
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if type(value) in kinds:
        return value
    for kind in kinds:
        with contextlib.suppress(ValueError, KeyError, TypeError, OverflowError, argparse.ArgumentTypeError):
            return _as_kind(value, kind)
    raise ValueError(f"{where} must be {_describe_kind(hint)}, but is {value!r}.")


def _as_kind(value: Any, kind: Any) -> Any:
    origin = get_origin(kind) or kind
    if kind is Any:
        return value
    if origin is Literal:
        return {choice: choice for choice in get_args(kind)}[value]
    if origin is list:
        (item,) = get_args(kind)
        return [_converted(each, item, "") for each in (value if isinstance(value, list) else [value])]
    if origin is dict:
        if value is not None and not isinstance(value, (str, dict)):
            raise ValueError
        # Other mappings are those of transformers, which reads their text itself.
        return parse_options(value) if kind == dict[str, Any] else _as_instance(value, dict)
    if kind is bool:
        return string_to_bool(value) if isinstance(value, str) else _as_instance(value, bool)
    if kind in (int, float):
        number = float(value)
        if isinstance(value, bool) or (kind is int and not number.is_integer()):
            raise ValueError
        return kind(number)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    return _as_instance(value, kind)


def _as_instance(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError
    return value


def _describe_kind(hint: Any) -> str:
    origin = get_origin(hint) or hint
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_describe_kind(kind) for kind in get_args(hint)))
    if origin is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if origin is list:
        return f"a list, each item {_describe_kind(*get_args(hint))}"
    return _KINDS.get(origin, getattr(origin, "__name__", str(origin)))
