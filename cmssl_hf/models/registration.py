"""Makes the models known to transformers' Auto classes, and the pipelines to its registry: importing this module does it."""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
)
from transformers.pipelines import PIPELINE_REGISTRY

from ..shipped import pretrained, pretrained_names
from .cmssl.configuration_cmssl import CMSSLEncoderConfig, CMSSLTokenizerConfig
from .cmssl.feature_extraction_cmssl import CMSSLFeatureExtractor
from .cmssl.modeling_cmssl_encoder import (
    CMSSLEncoderForPreTraining,
    CMSSLEncoderForSequenceClassification,
    CMSSLEncoderModel,
)
from .cmssl.modeling_cmssl_tokenizer import CMSSLTokenizerModel
from .cmssl.modeling_cmssl_tokenizer_classification import CMSSLTokenizerForSequenceClassification
from .cmssl.pipeline_cmssl import PIPELINES
from .heartlang.configuration_heartlang import HeartLangConfig
from .heartlang.feature_extraction_heartlang import HeartLangFeatureExtractor
from .heartlang.modeling_heartlang import HeartLangForSequenceClassification, HeartLangModel
from .papagei.configuration_papagei import PaPaGeiConfig
from .papagei.feature_extraction_papagei import PaPaGeiFeatureExtractor
from .papagei.modeling_papagei import PaPaGeiForSequenceClassification, PaPaGeiModel
from .resnet1d.configuration_resnet1d import ResNet1DConfig
from .resnet1d.modeling_resnet1d import ResNet1DForSequenceClassification, ResNet1DModel


for config_class, extractor_class in (
    (CMSSLTokenizerConfig, CMSSLFeatureExtractor),
    (CMSSLEncoderConfig, CMSSLFeatureExtractor),
    (ResNet1DConfig, CMSSLFeatureExtractor),
    (PaPaGeiConfig, PaPaGeiFeatureExtractor),
    (HeartLangConfig, HeartLangFeatureExtractor),
):
    AutoConfig.register(config_class.model_type, config_class)
    AutoFeatureExtractor.register(config_class, extractor_class)

AutoModel.register(CMSSLTokenizerConfig, CMSSLTokenizerModel)
AutoModelForPreTraining.register(CMSSLTokenizerConfig, CMSSLTokenizerModel)
AutoModelForSequenceClassification.register(CMSSLTokenizerConfig, CMSSLTokenizerForSequenceClassification)
AutoModel.register(CMSSLEncoderConfig, CMSSLEncoderModel)
AutoModelForPreTraining.register(CMSSLEncoderConfig, CMSSLEncoderForPreTraining)
AutoModelForSequenceClassification.register(CMSSLEncoderConfig, CMSSLEncoderForSequenceClassification)
AutoModel.register(ResNet1DConfig, ResNet1DModel)
AutoModelForSequenceClassification.register(ResNet1DConfig, ResNet1DForSequenceClassification)
AutoModel.register(PaPaGeiConfig, PaPaGeiModel)
AutoModelForSequenceClassification.register(PaPaGeiConfig, PaPaGeiForSequenceClassification)
AutoModel.register(HeartLangConfig, HeartLangModel)
AutoModelForSequenceClassification.register(HeartLangConfig, HeartLangForSequenceClassification)

#: The shipped model that a pipeline takes where none is named.
DEFAULT_MODELS = {
    "physiological-signal-regression": "heart-rate",
    "physiological-signal-classification": "rhythm",
    "physiological-signal-feature-extraction": "ppg-encoder",
}

for task, (pipeline_class, auto_class) in PIPELINES.items():
    name = DEFAULT_MODELS[task]
    # transformers wants a revision, which a folder does not have.
    default = {"model": (pretrained(name), "main")} if name in pretrained_names() else None
    PIPELINE_REGISTRY.register_pipeline(task, pipeline_class=pipeline_class, pt_model=auto_class, default=default)
