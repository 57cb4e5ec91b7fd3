"""Loading a stage's data: released windows to `input_values`, once for all processes of a machine."""

import logging
from collections.abc import Sequence

from datasets import DatasetDict
from transformers import TrainingArguments

from ..data.features import extract_features, without_issues
from ..data.loading import load_dataset, load_dataset_builder
from ..data.prepared import load_prepared, read_manifest
from ..models.cmssl.feature_extraction_cmssl import CMSSLFeatureExtractor
from .arguments import DataArguments


logger = logging.getLogger(__name__)


def load_raw_data(data_arguments: DataArguments) -> DatasetDict:
    """All splits as the builder gives them."""
    return load_dataset(
        data_arguments.dataset,
        data_arguments.dataset_config,
        data_dir=data_arguments.data_dir,
        cache_dir=data_arguments.cache_dir,
        num_proc=data_arguments.num_proc,
        **data_arguments.dataset_options,
    )


def label_names(data_arguments: DataArguments) -> tuple[str, ...]:
    """Names of the classes of a labelled dataset; empty for numbers."""
    builder = load_dataset_builder(
        data_arguments.dataset,
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
    Only the training windows can be chosen by their quality: people are measured on what they recorded.

    Raises:
        ValueError: if the dataset cannot be read with this feature extractor, lacks a split, or two splits share a subject.
    """
    with training_arguments.main_process_first(desc="preparing the data"):
        if data_arguments.prepared_dir is not None:
            dataset = _load_prepared(data_arguments, feature_extractor)
        else:
            dataset = load_raw_data(data_arguments)
        missing = [split for split in splits if split not in dataset]
        if missing:
            raise ValueError(
                f"{data_arguments.dataset} has no {' and no '.join(missing)} split; it has {', '.join(dataset)}."
            )
        _refuse_shared_subjects(dataset)
        dataset = DatasetDict({split: dataset[split] for split in splits})
        if data_arguments.prepared_dir is None:
            dataset = DatasetDict(
                {
                    split: extract_features(rows, feature_extractor, num_proc=data_arguments.num_proc)
                    for split, rows in dataset.items()
                }
            )
        if data_arguments.exclude_issues:
            kept = without_issues(dataset["train"], data_arguments.exclude_issues)
            logger.info("%d of %d training windows are good enough.", len(kept), len(dataset["train"]))
            dataset["train"] = kept
        return dataset


def _load_prepared(data_arguments: DataArguments, feature_extractor: CMSSLFeatureExtractor) -> DatasetDict:
    prepared = CMSSLFeatureExtractor.from_dict(
        read_manifest(data_arguments.prepared_dir)["settings"]["feature_extractor"]
    )
    for name in ("channels", "sampling_rate", "do_band_pass", "pass_bands", "do_standardize"):
        there, wanted = getattr(prepared, name), getattr(feature_extractor, name)
        if there != wanted:
            raise ValueError(
                f"{data_arguments.prepared_dir} was prepared with {name}={there!r}, but the model reads {name}={wanted!r}:"
                " prepare the data again, or read the release with `data_dir`."
            )
    return load_prepared(data_arguments.prepared_dir, cache_dir=data_arguments.cache_dir)


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
