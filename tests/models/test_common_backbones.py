"""Those of transformers' common tests that tell whether models load, save and train as its own do: of models of other work and of a
tokenizer with a head."""

import unittest

import torch
from torch import nn
from transformers.models.auto import modeling_auto

from cmssl_hf import CMSSLTokenizerConfig, CMSSLTokenizerForSequenceClassification
from cmssl_hf.models.heartlang.configuration_heartlang import HeartLangConfig
from cmssl_hf.models.heartlang.modeling_heartlang import HeartLangForSequenceClassification, HeartLangModel
from cmssl_hf.models.papagei.configuration_papagei import PaPaGeiConfig
from cmssl_hf.models.papagei.modeling_papagei import PaPaGeiForSequenceClassification, PaPaGeiModel
from helpers.common_tests import import_common
from helpers.tiny import PATCH, tokenizer_config


ConfigTester = import_common("test_configuration_common").ConfigTester
ModelTesterMixin = import_common("test_modeling_common").ModelTesterMixin

# The common tests tell base models and heads by the names in these tables, which hold transformers' own models only.
for name, kind in (
    ("papagei", "PaPaGei"),
    ("heartlang", "HeartLang"),
    ("cmssl_tokenizer", "CMSSLTokenizer"),
):
    modeling_auto.MODEL_MAPPING_NAMES[name] = f"{kind}Model"
    modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES[name] = f"{kind}ForSequenceClassification"

CHOSEN = {
    "test_batching_equivalence",
    "test_can_init_all_missing_weights",
    "test_determinism",
    "test_forward_signature",
    "test_from_pretrained_no_checkpoint",
    "test_init_weights_can_init_buffers",
    "test_model_outputs_equivalence",
    "test_save_load",
    "test_training",
}


class BackboneTests(ModelTesterMixin):
    has_attentions = False
    test_resize_embeddings = False

    def test_config(self):
        tester = ConfigTester(
            self, config_class=self.model_tester.config_class, has_text_modality=False, common_properties=[]
        )
        tester.run_common_tests()

    def test_input_embeddings(self):
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            replacement = nn.Identity()
            self.assertIsNot(model.get_input_embeddings(), replacement)
            model.set_input_embeddings(replacement)
            self.assertIs(model.get_input_embeddings(), replacement)


for name in dir(ModelTesterMixin):
    if name.startswith("test_") and callable(getattr(ModelTesterMixin, name)) and name not in CHOSEN:
        setattr(BackboneTests, name, None)


class PaPaGeiTester:
    config_class = PaPaGeiConfig
    batch_size = 3
    is_training = True

    def get_config(self):
        return PaPaGeiConfig(base_filters=4, num_blocks=5, embedding_size=8, patch_size=50, num_labels=3)

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {"input_values": torch.randn(self.batch_size, 1, 100)}


class PaPaGeiTest(BackboneTests, unittest.TestCase):
    all_model_classes = (PaPaGeiModel, PaPaGeiForSequenceClassification)

    def setUp(self):
        self.model_tester = PaPaGeiTester()


class HeartLangTester:
    config_class = HeartLangConfig
    batch_size = 3
    is_training = True

    def get_config(self):
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8}
        return HeartLangConfig(**sizes, intermediate_size=24, patch_size=6, max_beats=5, num_labels=3)

    def prepare_config_and_inputs_for_common(self):
        ids = torch.randint(1, 12, (2, self.batch_size, 5))
        inputs = {"input_values": torch.randn(self.batch_size, 5, 6), "lead_ids": ids[0], "time_ids": ids[1]}
        return self.get_config(), inputs


class HeartLangTest(BackboneTests, unittest.TestCase):
    all_model_classes = (HeartLangModel, HeartLangForSequenceClassification)

    def setUp(self):
        self.model_tester = HeartLangTester()


class TokenizerTester:
    config_class = CMSSLTokenizerConfig
    batch_size = 3
    is_training = True

    def get_config(self):
        return tokenizer_config(given_channels=("ppg",), num_labels=3)

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {"input_values": torch.randn(self.batch_size, 1, 4 * PATCH)}


class TokenizerWithHeadTest(BackboneTests, unittest.TestCase):
    all_model_classes = (CMSSLTokenizerForSequenceClassification,)
    # Codes start random, and are no parameters.
    test_init_weights_can_init_buffers = None

    def setUp(self):
        self.model_tester = TokenizerTester()
