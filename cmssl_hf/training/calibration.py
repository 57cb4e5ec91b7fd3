"""Calibrates a fine-tuned model on people it was not trained on, and measures on others what its intervals and sets are worth."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from ..data.batches import WindowsCollator, WindowsDataset
from ..models.cmssl.conformal_cmssl import NUM_CROPS, Calibration, outputs_and_spreads
from .labels import labels_of


#: The share of windows whose label an interval or a set is to hold.
COVERAGES = (0.5, 0.8, 0.9, 0.95)
#: Shares of the windows that are answered, those with the narrowest intervals first, at which the error is told.
_ANSWERED = (1.0, 0.75, 0.5, 0.25)


def calibrate(model: PreTrainedModel, windows: Dataset, *, batch_size: int = 64) -> dict[str, Any] | None:
    """What `config.calibration` should hold, from labelled windows of people that the model was not trained on.

    The guarantee is one for a random window of a person who could have been one of these: same sensor, same activities. Windows of
    one person are no independent ones (`quantile_over_subjects`); coverages that there are too few people for are left out: 0.9
    takes nine.

    ```python
    rows = extract_features(load_dataset("bidmc", "hr", data_dir="bidmc", split="validation"), feature_extractor)
    model.config.calibration = calibrate(model, rows)
    model.save_pretrained("runs/bidmc_hr_calibrated")
    ```

    Args:
        model: a regression or one of single classes; for several labels at once there is no calibration.
        windows: with `input_values`, `label` and `subject_id`, such as `extract_features` gives.
        batch_size: windows, and crops of them, that the model gets at a time.

    Returns:
        `None` for a model of several labels, and for one that reads beats, whose windows cannot be cut elsewhere.
    """
    if model.config.problem_type == "multi_label_classification" or _of_beats(windows):
        return None
    outputs, spreads, seconds = _answers(model, windows, batch_size)
    subjects = _subjects(windows)
    if model.config.problem_type == "regression":
        # As large as a usual spread: a window that is answered alike however it is cut is not free of error.
        floors = np.maximum(np.median(spreads, axis=0), np.finfo(np.float32).tiny)
        scores = _errors(outputs, windows) / (spreads + floors)
    else:
        floors = np.zeros(0)
        scores = 1 - _probabilities(outputs)[np.arange(len(windows)), labels_of(windows)][:, None]
    quantiles = {
        f"{coverage:g}": [quantile_over_subjects(column, subjects, coverage) for column in scores.T]
        for coverage in COVERAGES
    }
    return Calibration(
        quantiles={coverage: values for coverage, values in quantiles.items() if np.isfinite(values).all()},
        floors=floors.tolist(),
        window_seconds=[float(seconds.min()), float(seconds.max())],
        num_subjects=len(np.unique(subjects)),
        num_windows=len(windows),
    ).to_dict()


def quantile_over_subjects(scores: np.ndarray, subjects: Sequence | np.ndarray, coverage: float) -> float:
    """The score below which that of a random window of a new person lies with a probability of at least `coverage`; infinite if
    there are too few people to tell.

    Each person counts once, however many windows there are of one, and the new one as a score without bound (Lee, Barber and
    Willett 2023, "Distribution-free inference with hierarchical data", arXiv:2306.06342). MAPIE and crepes count windows.

    Args:
        scores: `(windows,)`.
        subjects: whose they are.
        coverage: between 0 and 1.
    """
    names, index, counts = np.unique(np.asarray(subjects), return_inverse=True, return_counts=True)
    order = np.argsort(scores)
    shares = np.cumsum(1 / counts[index[order]]) / (len(names) + 1)
    # Sums of fractions.
    place = int(np.searchsorted(shares, coverage - 1e-9))
    return float(scores[order][place]) if place < len(scores) else float("inf")


def measure_limits(model: PreTrainedModel, windows: Dataset, *, batch_size: int = 64) -> dict[str, Any] | None:
    """What the calibration of a model is worth for other people.

    Args:
        model: with `config.calibration`.
        windows: as for `calibrate`, of other people.
        batch_size: windows that the model gets at a time.

    Returns:
        `None` without a calibration; else `num_subjects` of it, `coverage`: for each stored one the share of windows whose label was
        held, each person counting once, in `covered`, and the mean width (labels' unit; classes) in `width`; and `risk`: the
        mean absolute error (or share of wrong classes) in `error` if only the share `answered` with the narrowest intervals (or
        most likely classes) is answered. Of several labels the mean.
    """
    calibration = Calibration.from_config(model.config)
    if calibration is None:
        return None
    outputs, spreads, _ = _answers(model, windows, batch_size)
    weights = _subject_weights(_subjects(windows))
    rows = []
    if model.config.problem_type == "regression":
        errors = _errors(outputs, windows)
        for coverage in calibration.quantiles:
            bounds = calibration.intervals(np.zeros_like(outputs), spreads, coverage)
            rows.append((coverage, (errors <= bounds[..., 1]).mean(-1), np.ptp(bounds, axis=-1).mean(-1)))
        error, uncertainty = errors.mean(-1), rows[0][2]
    else:
        probabilities, labels = _probabilities(outputs), labels_of(windows)
        for coverage in calibration.quantiles:
            members = calibration.sets(probabilities, coverage)
            rows.append((coverage, members[np.arange(len(labels)), labels], members.sum(-1)))
        error, uncertainty = outputs.argmax(-1) != labels, -probabilities.max(-1)
    order = np.argsort(uncertainty, kind="stable")
    answered = [(share, error[order[: max(1, round(share * len(order)))]]) for share in _ANSWERED]
    return {
        "num_subjects": calibration.num_subjects,
        "coverage": [
            {"asked": float(coverage), "covered": float(covered @ weights), "width": float(width @ weights)}
            for coverage, covered, width in rows
        ],
        "risk": [{"answered": share, "error": float(errors.mean())} for share, errors in answered],
    }


def _answers(model: PreTrainedModel, windows: Dataset, batch_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outputs and spreads `(windows, labels)`, the latter 0 for classes, and durations in seconds `(windows,)`."""
    rows, collate = WindowsDataset(windows, ["input_values"]), WindowsCollator(model.config.patch_size)
    is_regression, was_training = model.config.problem_type == "regression", model.training
    step = max(1, batch_size // (1 + NUM_CROPS)) if is_regression else batch_size
    parts = []
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(rows), step):
            batch = rows.__getitems__(range(start, min(start + step, len(rows))))
            inputs = {name: values.to(model.device) for name, values in collate(batch).items()}
            if is_regression:
                outputs, spreads = outputs_and_spreads(model, **inputs)
            else:
                outputs = model(**inputs).logits.float()
                spreads = torch.zeros_like(outputs)
            seconds = np.array([window.shape[-1] for window in batch.windows]) / model.config.sampling_rate
            parts.append((outputs.double().cpu().numpy(), spreads.double().cpu().numpy(), seconds))
    model.train(was_training)
    all_outputs, all_spreads, durations = map(np.concatenate, zip(*parts))
    return all_outputs, all_spreads, durations


def _of_beats(windows: Dataset) -> bool:
    return any(column.endswith("_ids") for column in windows.column_names)


def _errors(outputs: np.ndarray, windows: Dataset) -> np.ndarray:
    return np.abs(outputs - labels_of(windows).reshape(len(outputs), -1))


def _probabilities(outputs: np.ndarray) -> np.ndarray:
    return torch.from_numpy(outputs).softmax(-1).numpy()


def _subjects(windows: Dataset) -> np.ndarray:
    return np.asarray(windows.select_columns(["subject_id"]).with_format(None)["subject_id"][:], dtype=str)


def _subject_weights(subjects: np.ndarray) -> np.ndarray:
    _, index, counts = np.unique(subjects, return_inverse=True, return_counts=True)
    return 1 / (len(counts) * counts[index])
