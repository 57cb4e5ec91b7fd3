"""The data of a stage: released windows to `input_values`, and what a run records of them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Value, concatenate_datasets
from transformers import TrainingArguments

from ..data.batches import input_values_to_numpy
from ..data.features import extract_features, without_issues
from ..data.loading import load_dataset, load_dataset_builder, options_for_channels
from ..data.prepared.reading import load_prepared, read_manifest
from ..models.cmssl.feature_extraction_cmssl import CMSSLFeatureExtractor
from ..private_access import fingerprint_of
from .arguments import DataArguments


logger = logging.getLogger(__name__)


def load_raw_data(data_arguments: DataArguments) -> DatasetDict:
    """All splits as the builder gives them."""
    return load_dataset(
        data_arguments.dataset_name(),
        data_arguments.dataset_config,
        data_dir=data_arguments.data_dir,
        cache_dir=data_arguments.cache_dir,
        num_proc=data_arguments.num_proc,
        **data_arguments.dataset_options,
    )


def raw_windows_of(rows: Dataset, raw: Dataset) -> Dataset:
    """The rows of `raw` that `rows` were made of, in their order, by record and start time: windows that cannot be used are
    left out of `rows`.

    Raises:
        ValueError: if a window is not there.
    """
    keys, raw_keys = _window_keys(rows), _window_keys(raw)
    if keys == raw_keys:
        return raw
    places = {key: row for row, key in enumerate(raw_keys)}
    missing = [key for key in keys if key not in places]
    if missing:
        record, start = missing[0]
        raise ValueError(
            f"{len(missing)} of {len(keys)} windows are not in the release, such as that of record {record} at {start:g} s:"
            " `prepared_dir` was made of other data than `data_dir` holds. Give one of them."
        )
    return raw.select([places[key] for key in keys])


def _window_keys(rows: Dataset) -> list[tuple[str, float]]:
    columns = rows.select_columns(["record_id", "start_time"])[:]
    return list(zip(columns["record_id"], columns["start_time"]))


def label_names(data_arguments: DataArguments) -> tuple[str, ...]:
    """Names of the classes of a labelled dataset; empty for numbers."""
    builder = load_dataset_builder(
        data_arguments.dataset_name(),
        data_arguments.dataset_config,
        data_dir=data_arguments.data_dir,
        cache_dir=data_arguments.cache_dir,
        **data_arguments.dataset_options,
    )
    return builder.label_names


def load_stage_data(
    data_arguments: DataArguments,
    feature_extractor: CMSSLFeatureExtractor,
    training_arguments: TrainingArguments,
    splits: Sequence[str],
) -> DatasetDict:
    """The named splits of a dataset as `input_values`; the main process of each machine prepares, the others read its cache.
    Windows that cannot be used are left out, with a warning. Only the training windows can be chosen by their quality: people
    are measured on what they recorded.

    With `additional_data` the rows of all datasets follow each other, and a column `dataset` says where each comes from.

    Raises:
        ValueError: if the dataset cannot be read with this feature extractor, lacks a split, or two splits share a subject.
    """
    with training_arguments.main_process_first(desc="preparing the data"):
        dataset = _load_splits(data_arguments, feature_extractor, splits)
        if data_arguments.additional_data:
            members = {data_arguments.dataset_name(): dataset}
            for name, folder in data_arguments.additional_folders.items():
                if name in members:
                    raise ValueError(f"`additional_data` names {name} a second time.")
                arguments = replace(
                    data_arguments,
                    dataset=name,
                    data_dir=folder,
                    dataset_options={},
                    prepared_dir=None,
                    additional_data=[],
                )
                members[name] = _load_splits(arguments, feature_extractor, splits)
            dataset = DatasetDict({split: _concatenate(members, split) for split in splits})
        if data_arguments.exclude_issues:
            idle = [
                issue
                for issue in data_arguments.exclude_issues
                if issue.partition("_")[0] in {"ecg", "ppg"} - set(feature_extractor.channels)
            ]
            if idle:
                raise ValueError(
                    f"`exclude_issues` names {', '.join(idle)}, but only {' and '.join(feature_extractor.channels)} is read."
                )
            kept = without_issues(dataset["train"], data_arguments.exclude_issues)
            logger.info("%d of %d training windows are good enough.", len(kept), len(dataset["train"]))
            dataset["train"] = kept
        return dataset


def _load_splits(
    data_arguments: DataArguments, feature_extractor: CMSSLFeatureExtractor, splits: Sequence[str]
) -> DatasetDict:
    if data_arguments.prepared_dir is not None:
        dataset = _load_prepared(data_arguments.prepared_dir, data_arguments, feature_extractor)
    else:
        options = options_for_channels(
            data_arguments.dataset_name(), data_arguments.dataset_options, feature_extractor.channels
        )
        dataset = load_raw_data(replace(data_arguments, dataset_options=options))
    missing = [split for split in splits if split not in dataset]
    if missing:
        raise ValueError(
            f"{data_arguments.dataset} has no {' and no '.join(missing)} split; it has {', '.join(dataset)}."
        )
    _refuse_shared_subjects(dataset)
    dataset = DatasetDict({split: dataset[split] for split in splits})
    if data_arguments.prepared_dir is not None:
        return dataset
    return DatasetDict(
        {
            split: extract_features(rows, feature_extractor, drop_unusable=True, num_proc=data_arguments.num_proc)
            for split, rows in dataset.items()
        }
    )


def _concatenate(members: Mapping[str, DatasetDict], split: str) -> Dataset:
    """The rows of one split of all datasets, with the columns that they share and one that names the dataset."""
    rows = {name: dataset[split] for name, dataset in members.items()}
    shared = set.intersection(*(set(part.column_names) for part in rows.values()))
    return concatenate_datasets(
        [
            part.select_columns([column for column in part.column_names if column in shared]).add_column(
                "dataset", [name] * len(part), feature=Value("string")
            )
            for name, part in rows.items()
        ]
    )


def _load_prepared(
    folder: str, data_arguments: DataArguments, feature_extractor: CMSSLFeatureExtractor
) -> DatasetDict:
    manifest = read_manifest(folder)
    prepared = CMSSLFeatureExtractor.from_dict(manifest["settings"]["feature_extractor"])
    for name in ("channels", "sampling_rate", "do_band_pass", "pass_bands", "do_standardize"):
        there, wanted = getattr(prepared, name), getattr(feature_extractor, name)
        if there != wanted:
            raise ValueError(
                f"{folder} was prepared with {name}={there!r}, but the model reads {name}={wanted!r}:"
                " prepare the data again, or read the release with `data_dir`."
            )
    for split, content in manifest["splits"].items():
        rejected = content["windows"].get("rejected", 0)
        if rejected:
            logger.warning(
                "%s: %d windows of %s could not be used and were left out of %s.",
                split,
                rejected,
                data_arguments.dataset,
                folder,
            )
    return load_prepared(folder, cache_dir=data_arguments.cache_dir, num_proc=data_arguments.num_proc)


def _refuse_shared_subjects(dataset: DatasetDict) -> None:
    subjects = {split: set(rows.unique("subject_id")) for split, rows in dataset.items()}
    names = list(subjects)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            shared = sorted(subjects[first] & subjects[second])
            if shared:
                raise ValueError(
                    f"The {first} and {second} splits share {len(shared)} subject(s), such as {shared[0]!r}; what is measured"
                    " would not hold for new people."
                )


def describe_data(dataset: DatasetDict, arguments: DataArguments) -> dict[str, Any]:
    """What a run records of its data: name, configuration, options, and per split fingerprint, size and subjects; the same
    again under `additional` for each dataset of `additional_data`."""
    additional = list(arguments.additional_folders)
    description: dict[str, Any] = {
        "dataset": arguments.dataset,
        "config": arguments.dataset_config,
        "options": arguments.dataset_options,
        "splits": _describe_splits(dataset, arguments.dataset if additional else None),
    }
    if additional:
        description["additional"] = [
            {
                "dataset": name,
                "config": arguments.dataset_config,
                "options": {},
                "splits": _describe_splits(dataset, name),
            }
            for name in additional
        ]
    return description


def _describe_splits(dataset: DatasetDict, member: str | None) -> dict[str, dict[str, Any]]:
    """Per split fingerprint, size and subjects of the rows that come from the dataset `member`, or of all."""
    description = {}
    for split, rows in dataset.items():
        columns = rows.select_columns(["subject_id"] if member is None else ["subject_id", "dataset"]).to_pandas()
        if member is not None:
            columns = columns[columns["dataset"] == member]
        description[split] = {
            "fingerprint": fingerprint_of(rows),
            "num_windows": len(columns),
            "subjects": sorted(columns["subject_id"].unique()),
        }
    return description


def median_window_seconds(rows: Dataset, sampling_rate: float, num_sampled: int = 1000) -> float:
    """Median duration in seconds of windows `input_values (channels, samples)`, judged from some that are spread over the
    dataset."""
    sampled = rows.select_columns(["input_values"]).with_format("arrow")[:: max(1, len(rows) // num_sampled)]
    lengths = [window.shape[-1] for window in input_values_to_numpy(sampled["input_values"])]
    return float(np.median(lengths) / sampling_rate)
