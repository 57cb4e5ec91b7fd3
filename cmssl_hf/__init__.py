"""CM-SSL: cross-modality self-supervised learning for unimodal physiological signals, in the manner of transformers.

Importing this package makes the models known to transformers' Auto classes and pipelines. Where torch or transformers are not
installed, `cmssl_hf.signals`, `load_dataset` and the dataset builders serve all the same.
"""

import contextlib
import importlib
import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .models.cmssl.files_cmssl import register_file_reader
from .recordings import open_file
from .shipped import pretrained
from .tasks import Task, register_task


__version__ = "0.2.0"

__all__ = [
    "CMSSLEncoderConfig",
    "CMSSLEncoderForPreTraining",
    "CMSSLEncoderForSequenceClassification",
    "CMSSLEncoderModel",
    "CMSSLFeatureExtractor",
    "CMSSLTokenizerConfig",
    "CMSSLTokenizerForSequenceClassification",
    "CMSSLTokenizerModel",
    "Task",
    "load_dataset",
    "pretrained",
    "register_dataset",
    "register_objective",
    "register_task",
]

register_file_reader(open_file)

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
    from .models.cmssl.modeling_cmssl_tokenizer_classification import CMSSLTokenizerForSequenceClassification

if TYPE_CHECKING:
    from .data.loading import load_dataset, register_dataset
    from .training.stage import register_objective


@contextlib.contextmanager
def naming_the_extra(extra: str = "train") -> Iterator[None]:
    """Around imports of packages that a model does not need: where one is missing, the error says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or __name__).partition(".")[0]
        if package == __name__:
            raise
        raise ModuleNotFoundError(
            f'{package} is not installed: `pip install "cmssl_hf[{extra}]"`.', name=error.name
        ) from None


#: What is imported when it is asked for, since it needs packages of the extra `[train]`.
_NEEDS_AN_EXTRA = {
    "load_dataset": "data.loading",
    "register_dataset": "data.loading",
    "register_objective": "training.stage",
}


def __getattr__(name: str) -> Any:
    if name in _NEEDS_AN_EXTRA:
        with naming_the_extra():
            return getattr(importlib.import_module(f".{_NEEDS_AN_EXTRA[name]}", __name__), name)
    if name in __all__:
        raise ModuleNotFoundError(
            f"{name} needs torch and transformers: `pip install torch transformers`.", name="torch"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
