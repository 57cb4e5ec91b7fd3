"""transformers' common tests of feature extractors of sequences."""

import unittest

import numpy as np

from cmssl_hf import CMSSLFeatureExtractor
from helpers.common_tests import import_common


SequenceFeatureExtractionTestMixin = import_common(
    "test_sequence_feature_extraction_common"
).SequenceFeatureExtractionTestMixin


class SignalFeatureExtractionTester:
    """Windows of several lengths; the common tests read its attributes by these names."""

    batch_size = 7
    min_seq_length = 400
    max_seq_length = 2000
    seq_length_diff = (max_seq_length - min_seq_length) // (batch_size - 1)
    sampling_rate = 125
    padding_value = 0.0

    def __init__(self, channels: tuple[str, ...]):
        self.channels = channels
        self.feature_size = len(channels)

    def prepare_feat_extract_dict(self):
        return {
            "channels": list(self.channels),
            "sampling_rate": self.sampling_rate,
            "patch_size": 50,
            "padding_value": self.padding_value,
            "do_band_pass": False,
            "do_standardize": False,
        }

    def prepare_inputs_for_common(self, equal_length=False, numpify=False):
        if equal_length:
            lengths = [self.max_seq_length] * self.batch_size
        else:
            lengths = [self.min_seq_length + index * self.seq_length_diff for index in range(self.batch_size)]
        shape = () if self.feature_size == 1 else (self.feature_size,)
        generator = np.random.default_rng(0)
        windows = [generator.random((length, *shape), dtype=np.float32) for length in lengths]
        return windows if numpify else [window.tolist() for window in windows]


class OneSignalTest(SequenceFeatureExtractionTestMixin, unittest.TestCase):
    feature_extraction_class = CMSSLFeatureExtractor

    def setUp(self):
        self.feat_extract_tester = SignalFeatureExtractionTester(("ppg",))


class TwoSignalsTest(SequenceFeatureExtractionTestMixin, unittest.TestCase):
    feature_extraction_class = CMSSLFeatureExtractor

    def setUp(self):
        self.feat_extract_tester = SignalFeatureExtractionTester(("ecg", "ppg"))
