"""Multi-class classification as the method reports it."""

import datasets
import evaluate
import numpy as np
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    f1_score,
    roc_auc_score,
)


_DESCRIPTION = """
Macro AUROC and AUC-PR (one class against the rest), accuracy, balanced accuracy, Cohen's kappa, weighted and macro F1.
AUROC and AUC-PR are means over the classes that have both positives and negatives; `num_classes_scored` is their number.
"""

_INPUTS = """
Args:
    predictions: class probabilities `(windows, classes)`, or other scores that compare between windows, as logits do not; the largest
        is the predicted class.
    references: class indices `(windows,)`.
"""


class SingleLabelClassification(evaluate.Metric):
    """`evaluate` module; see `compute(predictions=..., references=...)`."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions, references):
        scores, references = np.asarray(predictions, dtype=np.float64), np.asarray(references)
        predicted = scores.argmax(-1)
        one_hot = references[:, None] == np.arange(scores.shape[1])
        scored = np.flatnonzero(one_hot.any(0) & ~one_hot.all(0))
        return {
            "auroc": _mean([roc_auc_score(one_hot[:, c], scores[:, c]) for c in scored]),
            "auc_pr": _mean([average_precision_score(one_hot[:, c], scores[:, c]) for c in scored]),
            "accuracy": float(accuracy_score(references, predicted)),
            "balanced_accuracy": float(balanced_accuracy_score(references, predicted)),
            "kappa": float(cohen_kappa_score(references, predicted)),
            "f1_weighted": float(f1_score(references, predicted, average="weighted", zero_division=0)),
            "f1_macro": float(f1_score(references, predicted, average="macro", zero_division=0)),
            "num_classes_scored": len(scored),
        }


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
