"""Linear and tree models on fixed features: of a frozen encoder, or of the intervals between beats."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..tasks import Task
from ..training.results import score


#: Regularisation that is tried. Features are standardised, so that the same values serve all.
RIDGE_PENALTIES = (1e1, 1e2, 1e3, 1e4, 1e5)
LOGISTIC_COSTS = (1e-4, 1e-3, 1e-2, 1e-1)


def fit_and_predict(
    task: Task,
    features: Mapping[str, np.ndarray],
    labels: np.ndarray,
    division: Mapping[str, np.ndarray],
    *,
    seed: int,
    with_trees: bool = False,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Fits on the training rows, chooses features and regularisation on the validation rows, and predicts the test rows.

    Args:
        task: what is predicted.
        features: `(windows, features)` each; NaN becomes the median of the training rows.
        labels: `(windows,)` or `(windows, outputs)`.
        division: the rows of `"train"`, `"validation"` and `"test"`.
        seed: of what is random in tree models.
        with_trees: whether random forests are tried beside linear models (classification).

    Returns:
        Predictions of the test rows, `(rows, outputs)`, as `cmssl_hf.training.results.score` expects them, and what was chosen.

    Raises:
        ValueError: if the training labels are all the same.
    """
    train, validation, test = (division[split] for split in ("train", "validation", "test"))
    if len(np.unique(labels[train], axis=0)) < 2:
        raise ValueError(f"All training labels of {task.name} are the same; there is nothing to learn.")
    metric, sign = task.selection_metric, 1 if task.greater_is_better else -1
    tried = []
    for name, values in features.items():
        for description, estimator in _candidates(task, seed, with_trees):
            estimator.fit(values[train], labels[train])
            found = score(task, _predict(task, estimator, values[validation], labels), labels[validation])[metric]
            tried.append((sign * found if np.isfinite(found) else -np.inf, estimator, name, description))
    value, estimator, name, description = max(tried, key=lambda candidate: candidate[0])
    chosen = {"features": name, "model": description, f"validation_{metric}": sign * value}
    return _predict(task, estimator, features[name][test], labels), chosen


def _candidates(task: Task, seed: int, with_trees: bool):
    def prepared(model: BaseEstimator) -> BaseEstimator:
        return make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler(), model)

    if task.problem_type == "regression":
        for penalty in RIDGE_PENALTIES:
            yield f"ridge, penalty {penalty:g}", prepared(Ridge(alpha=penalty))
        return
    multi_label = task.problem_type == "multi_label_classification"
    for cost in LOGISTIC_COSTS:
        # Rare rhythms count as much as frequent ones in macro averages.
        model = LogisticRegression(C=cost, max_iter=300, class_weight=None if multi_label else "balanced")
        yield f"logistic, C {cost:g}", prepared(OneVsRestClassifier(model) if multi_label else model)
    if with_trees:
        for leaf in (1, 4, 10):
            forest = RandomForestClassifier(
                300, min_samples_leaf=leaf, class_weight="balanced_subsample", random_state=seed
            )
            yield f"random forest, leaves of {leaf}", prepared(forest)


def _predict(task: Task, estimator: BaseEstimator, values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    if task.problem_type == "regression":
        return estimator.predict(values).reshape(len(values), -1)
    probabilities = estimator.predict_proba(values)
    if isinstance(probabilities, list):
        # Forests give a pair of columns per label; one column where a label never varies.
        probabilities = np.stack([p[:, 1] if p.shape[1] > 1 else np.zeros(len(p)) for p in probabilities], axis=1)
    if task.problem_type == "single_label_classification":
        # Classes that are absent from the training rows are never predicted.
        complete = np.zeros((len(values), int(labels.max()) + 1))
        complete[:, estimator.classes_] = probabilities
        return np.log(np.clip(complete, 1e-6, 1))
    probabilities = np.clip(probabilities, 1e-6, 1 - 1e-6)
    return np.log(probabilities / (1 - probabilities))
