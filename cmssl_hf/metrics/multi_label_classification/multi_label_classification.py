"""Multi-label classification as the method reports it."""

import datasets
import evaluate
import numpy as np
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score


_DESCRIPTION = """
Macro AUROC and AUC-PR, accuracy (share of right decisions, mean over labels), weighted and macro F1, at a threshold of 0 on
the logits. AUROC and AUC-PR are means over the labels that have both positives and negatives; `num_classes_scored` is their
number. (The published code counts a label without positives as an AUROC of 0.)
"""

_INPUTS = """
Args:
    predictions: logits `(windows, labels)`.
    references: multi-hot labels `(windows, labels)`.
"""


class MultiLabelClassification(evaluate.Metric):
    """`evaluate` module; see `compute(predictions=..., references=...)`."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Sequence(datasets.Value("float64")),
                }
            ),
        )

    def _compute(self, predictions, references):
        scores = np.asarray(predictions, dtype=np.float64)
        references = np.asarray(references) > 0.5
        predicted = scores > 0
        scored = np.flatnonzero(references.any(0) & ~references.all(0))
        return {
            "auroc": _mean([roc_auc_score(references[:, c], scores[:, c]) for c in scored]),
            "auc_pr": _mean([average_precision_score(references[:, c], scores[:, c]) for c in scored]),
            "accuracy": float((predicted == references).mean()),
            "f1_weighted": float(f1_score(references, predicted, average="weighted", zero_division=0)),
            "f1_macro": float(f1_score(references, predicted, average="macro", zero_division=0)),
            "num_classes_scored": len(scored),
        }


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
