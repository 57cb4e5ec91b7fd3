"""Finding a dataset builder by name and loading what it prepares."""

import dataclasses
import difflib
import hashlib
import importlib
import math
import numbers
import os
import pkgutil
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import datasets

from cmssl_hf.building.dataset_builder import ChannelsConfig, SignalDatasetBuilder
from cmssl_hf.building.release_files import all_files

from ..tasks import TASKS
from .subjects import cross_validation_fold


_BUILDERS = "cmssl_hf.dataset_builders"

_REGISTERED: dict[str, type[SignalDatasetBuilder]] = {}


def register_dataset(name: str, builder_class: type[SignalDatasetBuilder]) -> type[SignalDatasetBuilder]:
    """Makes a builder from outside this package known to `load_dataset` and so to every command.

    Raises:
        ValueError: if another dataset has the name.
    """
    if name in _names_of_builders() or _REGISTERED.setdefault(name, builder_class) is not builder_class:
        raise ValueError(f"There is another dataset called {name!r}.")
    return builder_class


def dataset_names() -> list[str]:
    """Names of the datasets that `load_dataset` knows."""
    return sorted({*_names_of_builders(), *_REGISTERED})


def _names_of_builders() -> list[str]:
    package = importlib.import_module(_BUILDERS)
    return [module.name for module in pkgutil.iter_modules(package.__path__) if module.ispkg]


def _builder_class(name: str) -> type[SignalDatasetBuilder]:
    if name in _REGISTERED:
        return _REGISTERED[name]
    module = importlib.import_module(f"{_BUILDERS}.{name}.{name}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, SignalDatasetBuilder) and value.__module__ == module.__name__
    )


def load_dataset(
    name: str,
    config_name: str | None = None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    split: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    num_proc: int | None = None,
    streaming: bool = False,
    fold: int | None = None,
    num_folds: int = 5,
    **builder_kwargs: Any,
) -> datasets.DatasetDict | datasets.Dataset | datasets.IterableDatasetDict | datasets.IterableDataset:
    """Loads a dataset, preparing it first where the cache does not hold it yet.

    The cache is keyed by the versions of the builder and of what all builders share, by the options and by the names, sizes and
    times of the files in `data_dir`, so a change in any of them prepares the dataset anew.

    Args:
        name: one of `dataset_names()`.
        config_name: configuration of the builder; its default one if left out.
        data_dir: folder with the release. Without it the release is downloaded where that is possible.
        split: `"train"`, `"validation"`, `"test"` or an expression such as `"train[:100]"`; all splits if left out.
        cache_dir: folder of the prepared data; the one of `datasets` if left out.
        num_proc: number of processes that prepare the data.
        streaming: reads the recordings while iterating and caches nothing.
        fold: which part of a cross-validation over all subjects is tested on, instead of the split; the same as `--fold` of the
            commands, see [`~cmssl_hf.data.subjects.cross_validation_fold`].
        num_folds: number of parts; as many as subjects leave one out.
        builder_kwargs: options of the builder's configuration, such as `window_seconds=32`.

    Returns:
        All splits as a `DatasetDict`, or the `Dataset` of `split`; their iterable forms if `streaming`.

    Raises:
        ValueError: if there is no such dataset, configuration, option or fold, or `data_dir` is not its release.
        FileNotFoundError: if `data_dir` does not exist.
    """
    if fold is not None and streaming:
        raise ValueError("`fold` needs to know all subjects, which `streaming=True` does not: leave one of them out.")
    builder = load_dataset_builder(name, config_name, data_dir=data_dir, cache_dir=cache_dir, **builder_kwargs)
    if streaming:
        return builder.as_streaming_dataset(split=split)
    builder.download_and_prepare(num_proc=num_proc)
    if fold is None:
        return builder.as_dataset(split=split)
    parts = cross_validation_fold(builder.as_dataset(), fold, num_folds)
    return parts if split is None else _rows_of_split(parts, split)


def _rows_of_split(parts: datasets.DatasetDict, split: str) -> datasets.Dataset:
    """The rows of a split or an expression such as `"train[:10%]+test"`."""
    if split == "all":
        return datasets.concatenate_datasets([*parts.values()])
    instructions = datasets.ReadInstruction.from_spec(split).to_absolute(parts.num_rows)
    return datasets.concatenate_datasets(
        [
            parts[part.splitname].select(range(part.from_ or 0, part.to or parts.num_rows[part.splitname]))
            for part in instructions
        ]
    )


def load_dataset_builder(
    name: str,
    config_name: str | None = None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    **builder_kwargs: Any,
) -> SignalDatasetBuilder:
    """The builder that `load_dataset` uses, with the same arguments: its `info` describes the dataset, and after
    preparation its `preparation_report` says what was left out."""
    for argument, value in (("name", name), ("config_name", config_name)):
        if not isinstance(value, str) and (argument == "name" or value is not None):
            raise ValueError(f"`{argument}` must be a text, but is {value!r}.")
    names = dataset_names()
    if name not in names:
        raise ValueError(f"There is no dataset {name!r}; the datasets are {', '.join(names)}.")
    builder_class = _builder_class(name)
    _check_options(name, builder_class.BUILDER_CONFIG_CLASS, builder_kwargs)
    if data_dir is not None:
        data_dir = str(Path(data_dir).expanduser().resolve())
    if cache_dir is not None:
        cache_dir = str(Path(cache_dir).expanduser().resolve())
    return builder_class(
        config_name=config_name,
        data_dir=data_dir,
        cache_dir=cache_dir,
        hash=_fingerprint(builder_class.code_version(), data_dir, cache_dir),
        **builder_kwargs,
    )


def options_for_channels(name: str, options: Mapping[str, Any], channels: Sequence[str]) -> dict[str, Any]:
    """Options of a dataset under which its recordings need the signals of a model and no others, where it lets that be chosen
    (`ChannelsConfig`) and the options do not say otherwise."""
    if name not in dataset_names() or not issubclass(_builder_class(name).BUILDER_CONFIG_CLASS, ChannelsConfig):
        return dict(options)
    return {"channels": list(channels), **options}


def channels_of(builder: SignalDatasetBuilder) -> tuple[str, ...]:
    """The channels of the rows of a builder: their columns, the builder's `modality`, or what its tasks read.

    Raises:
        ValueError: if its rows hold one signal and nothing tells which.
    """
    pairs = tuple(channel for channel in ("ecg", "ppg") if channel in builder.info.features)
    if pairs:
        return pairs
    of_task = next((task.channel for task in TASKS.values() if task.dataset == builder.name), None)
    modality = getattr(builder.config, "modality", of_task)
    if modality is None:
        raise ValueError(f"Whether the signal of {builder.name}/{builder.config.name} is ECG or PPG must be said.")
    return (modality,)


def _check_options(name: str, config_class: type, options: Mapping[str, Any]) -> None:
    inherited = {field.name for field in dataclasses.fields(datasets.BuilderConfig)}
    known = sorted({field.name for field in dataclasses.fields(config_class)} - inherited)
    kinds = get_type_hints(config_class)
    for option, value in options.items():
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"{name} has no option {option!r}; {hint}Its options are {', '.join(known)}.")
        if not _is_a(value, kinds[option]):
            raise ValueError(f"`{option}` of {name} must be {_in_words(kinds[option])}, but is {value!r}.")


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value is of the annotated type of an option."""
    if get_origin(kind) in (Union, types.UnionType):
        return any(_is_a(value, member) for member in get_args(kind))
    if get_origin(kind) is Sequence:
        return isinstance(value, (list, tuple)) and all(_is_a(item, *get_args(kind)) for item in value)
    if kind is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if kind is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return isinstance(value, kind)


def _in_words(kind: Any) -> str:
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(map(_in_words, get_args(kind)))
    if get_origin(kind) is Sequence:
        return f"a list, each entry {_in_words(*get_args(kind))}"
    return {float: "a finite number", int: "a whole number", bool: "True or False", str: "a text"}.get(kind, "None")


def _fingerprint(code_version: str, data_dir: str | None, cache_dir: str | None) -> str:
    """Hash of the version of a builder and of the listing of `data_dir` without `cache_dir`, which may lie in it."""
    digest = hashlib.sha256(code_version.encode())
    if data_dir is not None and os.path.isdir(data_dir):
        for path in all_files(data_dir, leave_out=cache_dir):
            status = path.stat()
            digest.update(f"{path.relative_to(data_dir)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
