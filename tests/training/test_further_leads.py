"""`training_leads`: the training recordings seen from other leads too, and nothing else changed."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from cmssl_hf.data.features import extract_features
from cmssl_hf.data.loading import load_dataset
from cmssl_hf.models.cmssl.feature_extraction_cmssl import CMSSLFeatureExtractor
from cmssl_hf.training.arguments import DataArguments
from cmssl_hf.training.data import with_further_leads
from helpers.releases import PTB_XL_LEADS, ptb_xl_signals, write_ptb_xl_release


# Without its filter, of which little would be left of the slow sines of the release.
EXTRACTOR = CMSSLFeatureExtractor(channels=("ecg",), do_band_pass=False)
ALONE = SimpleNamespace(main_process_first=lambda desc: nullcontext())


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return write_ptb_xl_release(tmp_path_factory.mktemp("ptb-xl"))


@pytest.fixture
def arguments(release, tmp_path):
    return DataArguments(dataset="ptb_xl", dataset_config="superclass", data_dir=str(release), cache_dir=str(tmp_path))


def rows_of(arguments, split="train"):
    raw = load_dataset("ptb_xl", "superclass", data_dir=arguments.data_dir, cache_dir=arguments.cache_dir, split=split)
    return extract_features(raw, EXTRACTOR, drop_unusable=True)


def test_rows_are_those_of_the_leads(arguments):
    rows = rows_of(arguments)
    more = with_further_leads(rows, ["V1", "avl"], arguments, EXTRACTOR, ALONE)
    assert list(more["record_id"]) == ["1", "2"] * 3 and list(more["label"]) == list(rows["label"]) * 3
    for row, (record, lead) in enumerate([(1, "II"), (2, "II"), (1, "V1"), (2, "V1"), (1, "AVL"), (2, "AVL")]):
        signal = ptb_xl_signals(record, 100)[:, PTB_XL_LEADS.index(lead)]
        expected = EXTRACTOR(ecg=signal, sampling_rate=100)["input_values"][0]
        # The release stores whole microvolts.
        np.testing.assert_allclose(np.asarray(more[row]["input_values"])[:, :1000], expected[:, :1000], atol=0.01)


def test_all_leads_and_those_of_a_fold(arguments):
    # A fold may train on what is a test recording of the release.
    more = with_further_leads(rows_of(arguments, "test"), ["all"], arguments, EXTRACTOR, ALONE)
    assert list(more["record_id"]) == ["4"] * len(PTB_XL_LEADS)


def test_what_has_no_leads_is_refused(arguments):
    rows = rows_of(arguments)
    with pytest.raises(ValueError, match="`lead` must be one of I, II"):
        with_further_leads(rows, ["V9"], arguments, EXTRACTOR, ALONE)
    arguments.dataset_options = {"lead": "all"}
    with pytest.raises(ValueError, match="reads one of several leads, as ptb_xl does, but ptb_xl reads I, II, III"):
        with_further_leads(rows, ["all"], arguments, EXTRACTOR, ALONE)
    simulated = DataArguments(dataset="simulated", cache_dir=arguments.cache_dir)
    with pytest.raises(ValueError, match="but simulated reads one signal"):
        with_further_leads(rows, ["all"], simulated, EXTRACTOR, ALONE)
