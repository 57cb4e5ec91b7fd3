"""Makes the models known to transformers' Auto classes, and the pipelines to its registry: importing this module does it."""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .cmssl.configuration_cmssl import CMSSLEncoderConfig, CMSSLTokenizerConfig
from .cmssl.feature_extraction_cmssl import CMSSLFeatureExtractor
from .cmssl.modeling_cmssl_encoder import (
    CMSSLEncoderForPreTraining,
    CMSSLEncoderForSequenceClassification,
    CMSSLEncoderModel,
)
from .cmssl.modeling_cmssl_tokenizer import CMSSLTokenizerModel
from .cmssl.pipeline_cmssl import PIPELINES


for config_class in (CMSSLTokenizerConfig, CMSSLEncoderConfig):
    AutoConfig.register(config_class.model_type, config_class)
    AutoFeatureExtractor.register(config_class, CMSSLFeatureExtractor)

AutoModel.register(CMSSLTokenizerConfig, CMSSLTokenizerModel)
AutoModelForPreTraining.register(CMSSLTokenizerConfig, CMSSLTokenizerModel)
AutoModel.register(CMSSLEncoderConfig, CMSSLEncoderModel)
AutoModelForPreTraining.register(CMSSLEncoderConfig, CMSSLEncoderForPreTraining)
AutoModelForSequenceClassification.register(CMSSLEncoderConfig, CMSSLEncoderForSequenceClassification)

for task, (pipeline_class, auto_class) in PIPELINES.items():
    PIPELINE_REGISTRY.register_pipeline(task, pipeline_class=pipeline_class, pt_model=auto_class)
