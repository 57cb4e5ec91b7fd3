"""Changed copies of a dataset: more windows, the same every time, and tokens of the changed signals."""

import numpy as np
import torch

from cmssl_hf import CMSSLTokenizerModel
from cmssl_hf.data.augmentation import Augmentation
from cmssl_hf.data.codes import add_codes, with_augmented_copies
from helpers.tiny import tokenizer_config, waves, windows_dataset


STRETCH = Augmentation(125, time_stretch=1.3, amplitude_jitter=0.2)


def test_copies_follow_the_windows():
    windows = waves(9, 2, 200)
    dataset = windows_dataset(windows, subject_id=[f"p{i}" for i in range(9)])
    copied = with_augmented_copies(dataset, STRETCH, num_copies=2, seed=3, batch_size=4)
    assert len(copied) == 27
    assert copied["subject_id"][:] == [f"p{i}" for i in range(9)] * 3
    for copy in range(2):
        for index, window in enumerate(windows):
            (expected,), _ = STRETCH([window], None, [np.random.default_rng((3, copy, index))])
            np.testing.assert_array_equal(np.array(copied[9 + 9 * copy + index]["input_values"]), expected)
    for index, window in enumerate(windows):
        np.testing.assert_array_equal(np.array(copied[index]["input_values"], dtype=np.float32), window)


def test_copies_are_tokenised_as_they_are():
    torch.manual_seed(0)
    tokenizer = CMSSLTokenizerModel(tokenizer_config())
    dataset = windows_dataset(waves(4, 2, 200))
    copied = with_augmented_copies(dataset, STRETCH, num_copies=1, seed=0)
    coded = add_codes(copied, tokenizer, dataset_channels=("ecg", "ppg"))
    patch = tokenizer.config.patch_size
    for row in coded:
        signal = torch.tensor(row["input_values"])[None]
        length = signal.shape[-1]
        padded = torch.nn.functional.pad(signal, (0, -length % patch))
        mask = (torch.arange(padded.shape[-1]) < length).long()[None]
        assert row["codes"] == tokenizer.encode(padded, mask)[0].tolist()
