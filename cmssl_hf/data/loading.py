"""Finding a dataset builder by name and loading what it prepares."""

import ast
import dataclasses
import difflib
import hashlib
import importlib
import os
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets

import cmssl_hf
from cmssl_hf.building.dataset_builder import SignalDatasetBuilder


_BUILDERS = "cmssl_hf.dataset_builders"


def dataset_names() -> list[str]:
    """Names of the datasets that `load_dataset` knows."""
    package = importlib.import_module(_BUILDERS)
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.ispkg)


def load_dataset(
    name: str,
    config_name: str | None = None,
    *,
    data_dir: str | os.PathLike | None = None,
    split: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    num_proc: int | None = None,
    streaming: bool = False,
    **builder_kwargs: Any,
) -> datasets.DatasetDict | datasets.Dataset | datasets.IterableDatasetDict | datasets.IterableDataset:
    """Loads a dataset, preparing it first where the cache does not hold it yet.

    The cache is keyed by the code that prepares the data, by the options and by the names, sizes and times of the files in
    `data_dir`, so a change in any of them prepares the dataset anew.

    Args:
        name: one of `dataset_names()`.
        config_name: configuration of the builder; its default one if left out.
        data_dir: folder with the release. Without it the release is downloaded where that is possible.
        split: `"train"`, `"validation"`, `"test"` or an expression such as `"train[:100]"`; all splits if left out.
        cache_dir: folder of the prepared data; the one of `datasets` if left out.
        num_proc: number of processes that prepare the data.
        streaming: reads the recordings while iterating and caches nothing.
        builder_kwargs: options of the builder's configuration, such as `window_seconds=32`.

    Returns:
        All splits as a `DatasetDict`, or the `Dataset` of `split`; their iterable forms if `streaming`.

    Raises:
        ValueError: if there is no such dataset, configuration or option, or `data_dir` is not its release.
        FileNotFoundError: if `data_dir` does not exist.
    """
    builder = load_dataset_builder(name, config_name, data_dir=data_dir, cache_dir=cache_dir, **builder_kwargs)
    if streaming:
        return builder.as_streaming_dataset(split=split)
    builder.download_and_prepare(num_proc=num_proc)
    return builder.as_dataset(split=split)


def load_dataset_builder(
    name: str,
    config_name: str | None = None,
    *,
    data_dir: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
    **builder_kwargs: Any,
) -> SignalDatasetBuilder:
    """The builder that `load_dataset` uses, with the same arguments: its `info` describes the dataset, and after
    preparation its `preparation_report` says what was left out."""
    names = dataset_names()
    if name not in names:
        raise ValueError(f"There is no dataset {name!r}; the datasets are {', '.join(names)}.")
    module = importlib.import_module(f"{_BUILDERS}.{name}.{name}")
    builder_class = next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, SignalDatasetBuilder) and value.__module__ == module.__name__
    )
    _check_options(name, builder_class.BUILDER_CONFIG_CLASS, builder_kwargs)
    if data_dir is not None:
        data_dir = str(Path(data_dir).expanduser().resolve())
    if cache_dir is not None:
        cache_dir = str(Path(cache_dir).expanduser().resolve())
    return builder_class(
        config_name=config_name,
        data_dir=data_dir,
        cache_dir=cache_dir,
        hash=_fingerprint(Path(module.__file__), data_dir, cache_dir),
        **builder_kwargs,
    )


def _check_options(name: str, config_class: type, options: Mapping[str, Any]) -> None:
    inherited = {field.name for field in dataclasses.fields(datasets.BuilderConfig)}
    known = sorted({field.name for field in dataclasses.fields(config_class)} - inherited)
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"{name} has no option {option!r}; {hint}Its options are {', '.join(known)}.")


def _fingerprint(builder_file: Path, data_dir: str | None, cache_dir: str | None) -> str:
    """Hash of the builder's code, of the modules of this package that it imports, and of the listing of `data_dir`
    without `cache_dir`, which may lie in it."""
    digest = hashlib.sha256()
    for path in sorted(_sources(builder_file)):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    for folder, subfolders, files in os.walk(data_dir or ""):
        subfolders[:] = sorted(name for name in subfolders if os.path.join(folder, name) != cache_dir)
        for file in sorted(files):
            path = os.path.join(folder, file)
            if not os.path.exists(path):  # a link to nowhere, which no builder can read either
                continue
            status = os.stat(path)
            digest.update(f"{os.path.relpath(path, data_dir)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _sources(builder_file: Path) -> set[Path]:
    """The files of a builder's folder and those of this package that they import, directly or not."""
    package = Path(cmssl_hf.__path__[0])
    sources, pending = set(), set(builder_file.parent.glob("*.py"))
    while pending:
        path = pending.pop()
        sources.add(path)
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom):
                folder = path.parents[node.level - 1] if node.level else package.parent
                module = folder.joinpath(*(node.module or "").split("."))
                imported = [module, *(module / name.name for name in node.names)]
            elif isinstance(node, ast.Import):
                imported = [package.parent.joinpath(*name.name.split(".")) for name in node.names]
            else:
                continue
            files = {file.with_suffix(".py") for file in imported if file.is_relative_to(package)}
            pending.update(file for file in files - sources if file.is_file())
    return sources
