"""Makes the models known to transformers' Auto classes.

Registering needs the classes, and importing them costs seconds that most uses of this package should not pay. So each
registration waits until transformers imports the module whose Auto class it extends, and runs right after.
"""

import wrapt


@wrapt.when_imported("transformers.models.auto.configuration_auto")
def register_configurations(module) -> None:
    """Adds our configurations to `AutoConfig`."""
    from .cmssl.configuration_cmssl import CMSSLEncoderConfig, CMSSLTokenizerConfig

    for config_class in (CMSSLTokenizerConfig, CMSSLEncoderConfig):
        module.AutoConfig.register(config_class.model_type, config_class)


@wrapt.when_imported("transformers.models.auto.modeling_auto")
def register_models(module) -> None:
    """Adds our models to `AutoModel`, `AutoModelForPreTraining` and `AutoModelForSequenceClassification`."""
    from .cmssl.configuration_cmssl import CMSSLEncoderConfig, CMSSLTokenizerConfig
    from .cmssl.modeling_cmssl_encoder import (
        CMSSLEncoderForPreTraining,
        CMSSLEncoderForSequenceClassification,
        CMSSLEncoderModel,
    )
    from .cmssl.modeling_cmssl_tokenizer import CMSSLTokenizerModel

    module.AutoModel.register(CMSSLTokenizerConfig, CMSSLTokenizerModel)
    module.AutoModel.register(CMSSLEncoderConfig, CMSSLEncoderModel)
    module.AutoModelForPreTraining.register(CMSSLTokenizerConfig, CMSSLTokenizerModel)
    module.AutoModelForPreTraining.register(CMSSLEncoderConfig, CMSSLEncoderForPreTraining)
    module.AutoModelForSequenceClassification.register(CMSSLEncoderConfig, CMSSLEncoderForSequenceClassification)


@wrapt.when_imported("transformers.models.auto.feature_extraction_auto")
def register_feature_extractors(module) -> None:
    """Adds our feature extractor to `AutoFeatureExtractor`."""
    from .cmssl.configuration_cmssl import CMSSLEncoderConfig, CMSSLTokenizerConfig
    from .cmssl.feature_extraction_cmssl import CMSSLFeatureExtractor

    for config_class in (CMSSLTokenizerConfig, CMSSLEncoderConfig):
        module.AutoFeatureExtractor.register(config_class, CMSSLFeatureExtractor)
