"""Models measured on people they have not seen: without training, or from the predictions that fine-tuning runs left behind."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset, DatasetDict, concatenate_datasets
from scipy.special import expit, log_softmax, logit

from ..baselines import CLASSICAL_FEATURES
from ..data.batches import WindowsCollator, WindowsDataset, labels_to_numpy
from ..data.features import extract_features
from ..models.cmssl.feature_extraction_cmssl import CMSSLFeatureExtractor
from ..models.cmssl.modeling_cmssl_encoder import CMSSLEncoderForSequenceClassification
from ..tasks import Task
from ..training.calibration import measure_limits
from ..training.data import describe_data, raw_windows_of
from ..training.engine.provenance import refuse_seen_test_subjects
from ..training.engine.run_folder import read_run
from ..training.results import classical_predictions, constant_predictions
from .intervals import bootstrap, primary_metric
from .shallow import fit_and_predict
from .task_windows import TaskWindows


#: Columns of a table of predictions that say whose window it is.
KEYS = ["subject_id", "record_id", "start_time"]


def predict_held_out(
    model: str | Path, windows: TaskWindows, accept_unknown_provenance: bool = False, batch_size: int = 128
) -> pd.DataFrame:
    """Predictions of a fine-tuned model for all windows of a task's dataset, whatever the split.

    Returns:
        A row per usable window with `subject_id`, `record_id`, `start_time`, `label` and `prediction`; the last two hold arrays.

    Raises:
        ValueError: if the model was trained or validated on any of the subjects, or it is not known whom it has seen.
    """
    network, rows = _model_and_windows(model, windows, accept_unknown_provenance)
    dataset, collate = WindowsDataset(rows, ["input_values"]), WindowsCollator(network.config.patch_size)
    parts = []
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            batch = collate(dataset.__getitems__(range(start, min(start + batch_size, len(rows)))))
            parts.append(network(**batch).logits.float().numpy())
    return _table(rows, labels_to_numpy(rows.with_format("arrow")[:]["label"]), np.concatenate(parts))


def limits_held_out(
    model: str | Path, windows: TaskWindows, accept_unknown_provenance: bool = False, batch_size: int = 128
) -> dict[str, Any] | None:
    """What the calibration of a fine-tuned model is worth for all subjects of a task's dataset, as
    `cmssl_hf.training.calibration.measure_limits` says it; `None` for a model without one.

    Raises:
        ValueError: as [`predict_held_out`].
    """
    network, rows = _model_and_windows(model, windows, accept_unknown_provenance)
    return measure_limits(network, rows, batch_size=batch_size)


def _model_and_windows(
    model: str | Path, windows: TaskWindows, accept_unknown_provenance: bool
) -> tuple[CMSSLEncoderForSequenceClassification, Dataset]:
    extractor = CMSSLFeatureExtractor.from_pretrained(model)
    rows = extract_features(concatenate_datasets([*windows.raw.values()]), extractor, drop_unusable=True)
    described = describe_data(DatasetDict({"test": rows}), windows.data_arguments)
    refuse_seen_test_subjects(model, described, accept_unknown_provenance)
    return CMSSLEncoderForSequenceClassification.from_pretrained(model).eval(), rows


def read_predictions(files: Sequence[str | Path]) -> pd.DataFrame:
    """The `predictions.csv` of fine-tuning runs as one table, such as those of all folds; the columns are those of
    [`predict_held_out`].

    Raises:
        ValueError: if a window is in several of them.
    """
    table = pd.concat(
        [pd.read_csv(file, dtype={"subject_id": str, "record_id": str}) for file in files], ignore_index=True
    )
    twice = table.duplicated(["record_id", "start_time"])
    if twice.any():
        first = table[twice].iloc[0]
        raise ValueError(
            f"{int(twice.sum())} windows are in several files, such as that of record {first['record_id']} at"
            f" {first['start_time']:g} s: give one seed at a time."
        )
    keyed = table[KEYS].copy()
    for name in ("label", "prediction"):
        columns = [column for column in table if str(column).startswith(name)]
        keyed[name] = pd.Series([*table[columns].to_numpy()], index=keyed.index, dtype=object)
    return keyed


def predict_from_features(files: Sequence[str | Path], windows: TaskWindows, seed: int = 0) -> np.ndarray:
    """Predictions by the task's classical features for the windows of `files`, in their order: for each file a linear or tree
    model that was fitted, and chosen, on the subjects on which the run beside it was trained, and validated.

    Returns:
        Logits `(windows, classes)`.

    Raises:
        ValueError: if the task has no classical features, or a file lies in no folder of a run.
    """
    task = windows.task
    if task.classical_features is None:
        raise ValueError(f"There are no classical features for {task.name}.")
    method = CLASSICAL_FEATURES[task.classical_features]
    rows = windows.raw_windows.select_columns(["signal", "sampling_rate"]).with_format("numpy")
    features = {
        task.classical_features: np.stack([method(row["signal"], float(row["sampling_rate"])) for row in rows])
    }
    parts = []
    for file in map(Path, files):
        run = read_run(file.parent)
        if run is None:
            raise ValueError(f"{file} must lie in the folder of its run, whose `run.json` says who was trained on.")
        splits = run["identity"]["data"]["splits"]
        division = {
            split: np.flatnonzero(np.isin(windows.subjects, splits[split]["subjects"]))
            for split in ("train", "validation")
        }
        table = pd.read_csv(file, dtype={"record_id": str})
        keys = zip(table["record_id"], table["start_time"].astype(float).round(4))
        division["test"] = np.array([windows.keys[key] for key in keys])
        parts.append(fit_and_predict(task, features, windows.labels, division, seed=seed, with_trees=True)[0])
    return np.concatenate(parts)


def mean_of_probabilities(task: Task, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Logits `(windows, classes)` whose probabilities are the mean of those of two other logits."""
    if task.problem_type == "single_label_classification":
        return np.logaddexp(log_softmax(first, -1), log_softmax(second, -1)) - np.log(2)
    return logit((expit(first) + expit(second)) / 2)


def compare(
    task: Task,
    predictions: pd.DataFrame,
    windows: TaskWindows | None = None,
    num_resamples: int = 2000,
    others: Mapping[str, np.ndarray] | None = None,
) -> pd.DataFrame:
    """The metric that a task is judged by, with the 95 % interval of a bootstrap over subjects, of the model, of the best constant
    (that of these very windows, which favours it), and of the task's classical method where there is one.

    Args:
        task: the task.
        predictions: a table of [`predict_held_out`] or [`read_predictions`].
        windows: the raw signals for the classical method, which is left out without them.
        num_resamples: of the bootstrap.
        others: further predictions for the same windows, by the name of their row.

    Returns:
        A row for each with `value`, `low`, `high`, and the same of the model minus the row, `difference`, on the same draws.
    """
    labels = np.stack([*predictions["label"]])
    labels = labels[:, 0] if task.problem_type != "multi_label_classification" and labels.shape[1] == 1 else labels
    if task.problem_type == "single_label_classification":
        labels = labels.astype(np.int64)
    own = np.stack([*predictions["prediction"]])
    rows = {"model": own}
    if task.problem_type == "regression":
        rows["constant"] = np.tile(np.median(labels, axis=0), (len(labels), 1))
    else:
        rows["constant"] = constant_predictions(task, labels, len(labels), own.shape[1])
    if task.classical_method is not None and windows is not None:
        raw = concatenate_datasets([*windows.raw.values()])
        raw = raw_windows_of(Dataset.from_pandas(predictions[KEYS]), raw)
        rows[task.classical_method], _ = classical_predictions(task, raw, float(np.mean(labels)))
    rows |= others or {}
    metric = primary_metric(task.problem_type)
    subjects = predictions["subject_id"].tolist()

    def measured(values: np.ndarray) -> Callable[[np.ndarray], float]:
        return lambda drawn: metric(values[drawn], labels[drawn])

    def paired(values: np.ndarray) -> Callable[[np.ndarray], float]:
        return lambda drawn: metric(own[drawn], labels[drawn]) - metric(values[drawn], labels[drawn])

    lines = []
    for name, values in rows.items():
        found = bootstrap(measured(values), subjects, num_resamples=num_resamples)
        line = {"row": name, "value": found.value, "low": found.low, "high": found.high}
        if name != "model":
            difference = bootstrap(paired(values), subjects, num_resamples=num_resamples)
            line |= {"difference": difference.value, "difference_low": difference.low}
            line |= {"difference_high": difference.high}
        lines.append(line)
    return pd.DataFrame(lines)


def _table(rows: Dataset, labels: np.ndarray, predictions: np.ndarray) -> pd.DataFrame:
    table = rows.select_columns(KEYS).to_pandas()
    table["label"] = list(labels.reshape(len(rows), -1))
    table["prediction"] = list(predictions.reshape(len(rows), -1))
    return table
