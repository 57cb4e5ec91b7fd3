"""CM-SSL: cross-modality self-supervised learning for unimodal physiological signals, in the manner of transformers.

Importing this package makes the models known to transformers' Auto classes and pipelines. Where torch or transformers are not
installed, `cmssl_hf.signals`, `load_dataset` and the dataset builders serve all the same.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from .tasks import Task, register_task


__version__ = "0.2.0"

__all__ = [
    "CMSSLEncoderConfig",
    "CMSSLEncoderForPreTraining",
    "CMSSLEncoderForSequenceClassification",
    "CMSSLEncoderModel",
    "CMSSLFeatureExtractor",
    "CMSSLTokenizerConfig",
    "CMSSLTokenizerModel",
    "Task",
    "load_dataset",
    "register_dataset",
    "register_objective",
    "register_task",
]

if importlib.util.find_spec("transformers") is not None and importlib.util.find_spec("torch") is not None:
    from .models import registration as _registration  # noqa: F401 (after the models, which it imports too)
    from .models.cmssl.configuration_cmssl import CMSSLEncoderConfig, CMSSLTokenizerConfig
    from .models.cmssl.feature_extraction_cmssl import CMSSLFeatureExtractor
    from .models.cmssl.modeling_cmssl_encoder import (
        CMSSLEncoderForPreTraining,
        CMSSLEncoderForSequenceClassification,
        CMSSLEncoderModel,
    )
    from .models.cmssl.modeling_cmssl_tokenizer import CMSSLTokenizerModel

if TYPE_CHECKING:
    from .data.loading import load_dataset, register_dataset
    from .training.stage import register_objective

#: What needs more than a model does: packages of the extras `[data]` and `[train]`.
_NEEDS_AN_EXTRA = {
    "load_dataset": "data.loading",
    "register_dataset": "data.loading",
    "register_objective": "training.stage",
}


def __getattr__(name: str) -> Any:
    if name in _NEEDS_AN_EXTRA:
        return getattr(importlib.import_module(f".{_NEEDS_AN_EXTRA[name]}", __name__), name)
    if name in __all__:
        raise ModuleNotFoundError(
            f"{name} needs torch and transformers: `pip install torch transformers`.", name="torch"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
