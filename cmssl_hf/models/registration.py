"""Makes the models known to transformers' Auto classes, and the pipelines to its registry.

Registering needs the classes, and importing them costs seconds that most uses of this package should not pay. So each
registration waits until transformers imports the module whose Auto class it extends.

The layers of the models themselves import the Auto classes (`transformers.modeling_layers` does). Whichever of the two a
process imports first, the chain below waits for it to finish: Auto classes, then layers, then models, then registration.
"""

import importlib

import wrapt


@wrapt.when_imported("transformers.models.auto.configuration_auto")
def register_configurations(module) -> None:
    """Adds our configurations to `AutoConfig`."""
    from .cmssl.configuration_cmssl import CMSSLEncoderConfig, CMSSLTokenizerConfig

    for config_class in (CMSSLTokenizerConfig, CMSSLEncoderConfig):
        module.AutoConfig.register(config_class.model_type, config_class)


@wrapt.when_imported("transformers.models.auto.feature_extraction_auto")
def register_feature_extractors(module) -> None:
    """Adds our feature extractor to `AutoFeatureExtractor`."""
    from .cmssl.configuration_cmssl import CMSSLEncoderConfig, CMSSLTokenizerConfig
    from .cmssl.feature_extraction_cmssl import CMSSLFeatureExtractor

    for config_class in (CMSSLTokenizerConfig, CMSSLEncoderConfig):
        module.AutoFeatureExtractor.register(config_class, CMSSLFeatureExtractor)


@wrapt.when_imported("transformers.models.auto.modeling_auto")
def import_layers(module) -> None:
    """Imports the layers, unless it is they that are importing the Auto classes."""
    importlib.import_module("cmssl_hf.models.cmssl.modeling_cmssl_layers")


@wrapt.when_imported("cmssl_hf.models.cmssl.modeling_cmssl_layers")
def import_models(module) -> None:
    """Imports the models, except the one that is importing the layers."""
    importlib.import_module("cmssl_hf.models.cmssl.modeling_cmssl_tokenizer")
    importlib.import_module("cmssl_hf.models.cmssl.modeling_cmssl_encoder")


@wrapt.when_imported("cmssl_hf.models.cmssl.modeling_cmssl_tokenizer")
def register_tokenizer(module) -> None:
    """Adds the tokenizer to `AutoModel` and `AutoModelForPreTraining`."""
    from transformers import AutoModel, AutoModelForPreTraining

    AutoModel.register(module.CMSSLTokenizerConfig, module.CMSSLTokenizerModel)
    AutoModelForPreTraining.register(module.CMSSLTokenizerConfig, module.CMSSLTokenizerModel)


@wrapt.when_imported("cmssl_hf.models.cmssl.modeling_cmssl_encoder")
def register_encoder(module) -> None:
    """Adds the encoder to `AutoModel`, `AutoModelForPreTraining` and `AutoModelForSequenceClassification`."""
    from transformers import AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification

    config_class = module.CMSSLEncoderConfig
    AutoModel.register(config_class, module.CMSSLEncoderModel)
    AutoModelForPreTraining.register(config_class, module.CMSSLEncoderForPreTraining)
    AutoModelForSequenceClassification.register(config_class, module.CMSSLEncoderForSequenceClassification)


@wrapt.when_imported("transformers.pipelines")
def import_pipelines(module) -> None:
    """Imports the pipelines, unless it is they that are importing those of transformers."""
    importlib.import_module("cmssl_hf.models.cmssl.pipeline_cmssl")


@wrapt.when_imported("cmssl_hf.models.cmssl.pipeline_cmssl")
def register_pipelines(module) -> None:
    """Adds the pipelines to transformers' registry."""
    from transformers.pipelines import PIPELINE_REGISTRY

    for task, (pipeline_class, auto_class) in module.PIPELINES.items():
        PIPELINE_REGISTRY.register_pipeline(task, pipeline_class=pipeline_class, pt_model=auto_class)
