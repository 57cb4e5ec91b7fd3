"""CM-SSL: cross-modality self-supervised learning for unimodal physiological signals, in the manner of transformers.

Importing this package makes the models known to transformers' Auto classes and pipelines. Nothing heavy is imported until
it is used: neither torch nor transformers is needed for `cmssl_hf.signals`, the dataset builders or `load_dataset`.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .data.loading import load_dataset
    from .models.cmssl.configuration_cmssl import CMSSLEncoderConfig, CMSSLTokenizerConfig
    from .models.cmssl.feature_extraction_cmssl import CMSSLFeatureExtractor
    from .models.cmssl.modeling_cmssl_encoder import (
        CMSSLEncoderForPreTraining,
        CMSSLEncoderForSequenceClassification,
        CMSSLEncoderModel,
    )
    from .models.cmssl.modeling_cmssl_tokenizer import CMSSLTokenizerModel

__version__ = "0.1.0"

_MODULE_OF = {
    "CMSSLEncoderConfig": "models.cmssl.configuration_cmssl",
    "CMSSLTokenizerConfig": "models.cmssl.configuration_cmssl",
    "CMSSLEncoderForPreTraining": "models.cmssl.modeling_cmssl_encoder",
    "CMSSLEncoderForSequenceClassification": "models.cmssl.modeling_cmssl_encoder",
    "CMSSLEncoderModel": "models.cmssl.modeling_cmssl_encoder",
    "CMSSLTokenizerModel": "models.cmssl.modeling_cmssl_tokenizer",
    "CMSSLFeatureExtractor": "models.cmssl.feature_extraction_cmssl",
    "load_dataset": "data.loading",
}

__all__ = [
    "CMSSLEncoderConfig",
    "CMSSLEncoderForPreTraining",
    "CMSSLEncoderForSequenceClassification",
    "CMSSLEncoderModel",
    "CMSSLFeatureExtractor",
    "CMSSLTokenizerConfig",
    "CMSSLTokenizerModel",
    "load_dataset",
]


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if importlib.util.find_spec("transformers") is not None and importlib.util.find_spec("torch") is not None:
    from .models import registration as _registration  # noqa: F401
