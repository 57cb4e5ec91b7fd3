"""`evaluate` modules kept in the package, so that nothing is fetched at run time.

Each can also be loaded by path with `evaluate.load("<path of this folder>/regression")`.
"""

import evaluate


def load_metric(problem_type: str) -> evaluate.Metric:
    """The metric module of a problem type of transformers: `"regression"`, `"single_label_classification"` or
    `"multi_label_classification"`.

    Raises:
        ValueError: for any other problem type.
    """
    if problem_type == "regression":
        from .regression.regression import Regression

        return Regression(keep_in_memory=True)
    if problem_type == "single_label_classification":
        from .single_label_classification.single_label_classification import SingleLabelClassification

        return SingleLabelClassification(keep_in_memory=True)
    if problem_type == "multi_label_classification":
        from .multi_label_classification.multi_label_classification import MultiLabelClassification

        return MultiLabelClassification(keep_in_memory=True)
    raise ValueError(f"There is no metric module for the problem type {problem_type!r}.")
