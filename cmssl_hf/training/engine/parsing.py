"""How a YAML file and flags become instances of dataclasses, each field of the type that it states."""

import argparse
import contextlib
import difflib
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from ...extensions import IMPORT_HELP


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
    parser = HfArgumentParser(
        dataclass_types,  # type: ignore[arg-type]  # their type of dataclasses is none
        allow_abbrev=False,
        usage="%(prog)s [FILE.yaml ...] [--name value ...]",
        epilog=IMPORT_HELP,
    )
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
