"""MAE, RMSE and R2 of physiological regression, in physical units."""

import datasets
import evaluate
import numpy as np
from sklearn.metrics import r2_score


_DESCRIPTION = """
Mean absolute error, root mean squared error and coefficient of determination, in the unit of the labels. With several
outputs `mae`, `rmse` and `r2` are means over outputs, and each output has its own `mae_<name>`, `rmse_<name>`, `r2_<name>`.
"""

_INPUTS = """
Args:
    predictions: array `(windows,)` or `(windows, outputs)`.
    references: array of the same shape.
    output_names: names of the outputs where there are several.
"""


class Regression(evaluate.Metric):
    """`evaluate` module; see `compute(predictions=..., references=..., output_names=...)`."""

    def _info(self):
        vector = datasets.Features(
            {
                "predictions": datasets.Sequence(datasets.Value("float64")),
                "references": datasets.Sequence(datasets.Value("float64")),
            }
        )
        scalar = datasets.Features({"predictions": datasets.Value("float64"), "references": datasets.Value("float64")})
        return evaluate.MetricInfo(
            description=_DESCRIPTION, citation="", inputs_description=_INPUTS, features=[vector, scalar]
        )

    def _compute(self, predictions, references, output_names=None):
        predictions = np.asarray(predictions, dtype=np.float64).reshape(len(predictions), -1)
        references = np.asarray(references, dtype=np.float64).reshape(len(references), -1)
        error = predictions - references
        per_output = {
            "mae": np.abs(error).mean(0),
            "rmse": np.sqrt((error**2).mean(0)),
            # R2 of a single window, or of constant labels, does not exist.
            "r2": np.array(
                [
                    r2_score(reference, prediction) if len(reference) > 1 and np.ptp(reference) > 0 else np.nan
                    for reference, prediction in zip(references.T, predictions.T)
                ]
            ),
        }
        result = {name: float(values.mean()) for name, values in per_output.items()}
        if predictions.shape[1] > 1 and output_names is not None:
            for name, values in per_output.items():
                result.update({f"{name}_{output}": float(value) for output, value in zip(output_names, values)})
        return result
