"""Labels of a task: read from a dataset, and described in the config of a model that will answer with them."""

import logging
from collections.abc import Sequence

import numpy as np
from datasets import Dataset

from ..data.batches import labels_to_numpy
from ..models.cmssl.configuration_cmssl_classification import SignalClassificationConfig
from ..tasks import PLAUSIBLE_MEDIANS, Task


logger = logging.getLogger(__name__)


def labels_of(rows: Dataset) -> np.ndarray:
    return labels_to_numpy(rows.select_columns(["label"]).with_format("arrow")[:]["label"])


def describe_labels(config: SignalClassificationConfig, task: Task, names: Sequence[str], labels: np.ndarray) -> None:
    """Writes what the labels mean into the config, so that the saved model answers in physical units and class names."""
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in config.id2label.items()}
    config.problem_type = task.problem_type
    # They may be those of an earlier task of a model that is fine-tuned further.
    config.label_mean = config.label_std = config.label_unit = config.class_weights = config.calibration = None
    if task.problem_type != "regression":
        _refuse_one_class(task, labels)
        return
    values = labels.reshape(len(labels), -1)
    mean, deviation = values.mean(0), values.std(0)
    if not (deviation > 0).all():
        raise ValueError(f"The training labels of {task.name} are constant ({mean}); there is nothing to learn.")
    config.label_mean, config.label_std = tuple(map(float, mean)), tuple(map(float, deviation))
    config.label_unit = task.unit
    if config.regression_loss == "histogram":
        low, high = config.label_range  # type: ignore[misc]  # checked by the config
        outside = (values < low) | (values > high)
        if outside.any():
            logger.warning(
                "%.2g %% of the training labels of %s lie outside of `label_range` (%g to %g) and count as its ends.",
                100 * outside.mean(),
                task.name,
                low,
                high,
            )
    _warn_of_other_units(task, values)


def class_weights(labels: np.ndarray, num_classes: int, exponent: float) -> tuple[float, ...]:
    """Weight of each class: its frequency relative to that of equally frequent classes, to the power of `-exponent`; 1 for a
    class that does not occur."""
    counts = np.bincount(labels, minlength=num_classes)
    relative = np.where(counts > 0, counts * num_classes / counts.sum(), 1.0)
    return tuple(map(float, relative**-exponent))


def _refuse_one_class(task: Task, labels: np.ndarray) -> None:
    present = np.unique(labels, axis=0)
    if len(present) < 2:
        raise ValueError(f"All training labels of {task.name} are the same ({present[0]}); there is nothing to learn.")


def _warn_of_other_units(task: Task, values: np.ndarray) -> None:
    low, high = PLAUSIBLE_MEDIANS.get(task.unit or "", (-np.inf, np.inf))
    for name, median in zip(task.label_names, np.median(values, axis=0)):
        if not low <= median <= high:
            logger.warning(
                "The median training label of %s (%s) is %.3g, but in %s it should lie between %g and %g. Are the labels in"
                " another unit?",
                task.name,
                name,
                median,
                task.unit,
                low,
                high,
            )
