"""All windows of a task, once, whatever the split: what is predicted, of whom, and who is trained on."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets
from transformers import TrainingArguments

from ..data.batches import labels_to_numpy
from ..data.subjects import cross_validation_fold, labelled_share
from ..models.cmssl.feature_extraction_cmssl import CMSSLFeatureExtractor
from ..private_access import fingerprint_of
from ..tasks import Task
from ..training.arguments import DataArguments
from ..training.data import label_names, load_raw_data, load_stage_data


@dataclass
class TaskWindows:
    """The windows of a task in the order train, validation, test of the published split.

    Attributes:
        task: the task.
        data_arguments: how they are read.
        num_folds: folds of the cross-validation over all subjects.
    """

    task: Task
    data_arguments: DataArguments
    num_folds: int = 5
    _divisions: dict[tuple, dict[str, np.ndarray]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self):
        self.data_arguments = replace(
            self.data_arguments,
            dataset=self.task.dataset,
            dataset_config=self.data_arguments.dataset_config or self.task.config_name,
        )

    @cached_property
    def raw(self) -> DatasetDict:
        """The splits as the builder gives them."""
        return load_raw_data(self.data_arguments)

    @cached_property
    def labels(self) -> np.ndarray:
        """`(windows,)` or `(windows, labels)`."""
        return labels_to_numpy(self._described.with_format("arrow")[:]["label"])

    @cached_property
    def subjects(self) -> np.ndarray:
        return np.asarray(self._described.select_columns(["subject_id"])[:]["subject_id"])

    @cached_property
    def keys(self) -> dict[tuple[str, float], int]:
        """Index of each window by record and start time (s)."""
        table = self._described.select_columns(["record_id", "start_time"])[:]
        pairs = zip(table["record_id"], (round(float(time), 4) for time in table["start_time"]))
        keys = {pair: row for row, pair in enumerate(pairs)}
        if len(keys) != len(self._described):
            raise ValueError(f"Two windows of {self.task.dataset} have the same record and start time.")
        return keys

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        return label_names(self.data_arguments) or self.task.label_names

    @cached_property
    def raw_windows(self) -> Dataset:
        """All windows with their raw signals."""
        return concatenate_datasets(list(self.raw.values()))

    @property
    def fingerprint(self) -> str:
        """Changes with the data and with how they are read."""
        return "-".join(fingerprint_of(rows) for rows in self.raw.values())

    def features(self, extractor: CMSSLFeatureExtractor) -> Dataset:
        """All windows as `input_values` of a model.

        Raises:
            ValueError: if some cannot be used by it: all rows of the table are measured on the same windows.
        """
        arguments = TrainingArguments(output_dir="unused", report_to="none", use_cpu=True)
        splits = load_stage_data(self.data_arguments, extractor, arguments, tuple(self.raw))
        windows = concatenate_datasets(list(splits.values()))
        if len(windows) < len(self._described):
            raise ValueError(
                f"{len(self._described) - len(windows)} windows of {self.task.dataset} cannot be used by the model, so that its"
                " row would be measured on others than the rest."
            )
        return windows

    def division(self, fraction: float, seed: int, fold: int | None) -> dict[str, np.ndarray]:
        """Rows that are trained on, validated on and tested on; the same that `finetune` uses.

        Raises:
            ValueError: if there are too few subjects.
        """
        key = (fraction, seed if fraction < 1 else None, fold)
        if key not in self._divisions:
            self._divisions[key] = self._divide(fraction, seed, fold)
        return self._divisions[key]

    def _divide(self, fraction: float, seed: int, fold: int | None) -> dict[str, np.ndarray]:
        first = 0
        splits = DatasetDict()
        for split, rows in self._described_splits.items():
            splits[split] = rows.add_column("row", np.arange(first, first + len(rows)))
            first += len(rows)
        if fold is not None:
            splits = cross_validation_fold(splits, fold, self.num_folds)
        splits["train"] = labelled_share(splits["train"], fraction, seed)
        return {split: np.asarray(rows.select_columns(["row"])[:]["row"]) for split, rows in splits.items()}

    @cached_property
    def _described_splits(self) -> DatasetDict:
        columns = ["subject_id", "record_id", "start_time", "label"]
        return DatasetDict({split: rows.select_columns(columns) for split, rows in self.raw.items()})

    @cached_property
    def _described(self) -> Dataset:
        return concatenate_datasets(list(self._described_splits.values()))
