"""From Arrow rows to tensors: values, padding, masks and labels, whatever the chunks and slices of the table."""

import gc
import pickle

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import ClassLabel, List, Value, concatenate_datasets, load_from_disk
from torch.utils.data import DataLoader

from cmssl_hf.data.augmentation import Augmentation
from cmssl_hf.data.batches import (
    WindowBatch,
    WindowReader,
    WindowsCollator,
    WindowsDataset,
    input_values_to_numpy,
    labels_to_numpy,
)
from cmssl_hf.data.features import input_values_to_arrow
from helpers.tiny import waves, windows_dataset


LENGTHS = [100, 75, 130, 100, 50, 25]


@pytest.mark.parametrize("num_channels", [1, 2])
@pytest.mark.parametrize("num_samples", [100, LENGTHS])
def test_arrow_round_trip(num_channels, num_samples):
    windows = waves(6, num_channels, num_samples)
    column = pa.chunked_array([input_values_to_arrow(windows)])
    for read, window in zip(input_values_to_numpy(column), windows):
        np.testing.assert_array_equal(read, window)


@pytest.mark.parametrize("num_samples", [100, LENGTHS])
def test_slices_and_chunks_are_read_right(num_samples):
    windows = waves(6, 2, num_samples)
    whole = input_values_to_arrow(windows)
    for column, expected in (
        (pa.chunked_array([whole.slice(2, 3)]), windows[2:5]),
        (pa.chunked_array([whole.slice(4), whole.slice(0, 2)]), windows[4:] + windows[:2]),
        (pa.chunked_array([whole.slice(5)]), windows[5:]),
    ):
        for read, window in zip(input_values_to_numpy(column), expected, strict=True):
            np.testing.assert_array_equal(read, window)


def test_rows_come_in_the_order_asked_for():
    windows = waves(6, 2)
    parts = [windows_dataset(windows[:2]), windows_dataset(windows[2:])]
    dataset = WindowsDataset(concatenate_datasets(parts), ["input_values"])
    batch = WindowsCollator(25)(dataset.__getitems__([5, 0, 3, 0]))
    np.testing.assert_array_equal(batch["input_values"], np.stack([windows[i] for i in (5, 0, 3, 0)]))
    assert "attention_mask" not in batch


@pytest.mark.parametrize("num_samples", [100, LENGTHS])
def test_windows_of_a_dataset_whose_rows_were_chosen(num_samples):
    """Shuffled, filtered and joined datasets keep their tables and a list of which of the rows they are."""
    windows = waves(6, 2, num_samples)
    parts = [windows_dataset(windows[:4]).select([3, 1, 0]), windows_dataset(windows[4:]).shuffle(seed=0)]
    dataset = concatenate_datasets(parts)
    expected = [np.array(row, dtype=np.float32) for row in dataset["input_values"]]
    for read, window in zip(WindowReader(dataset).read([4, 0, 0, 2, 1, 3]), (expected[i] for i in (4, 0, 0, 2, 1, 3))):
        np.testing.assert_array_equal(read, window)


def test_reader_holds_no_windows(tmp_path):
    """What it keeps of a dataset are views of mapped memory, none of which Arrow had to allocate."""
    windows_dataset(waves(500, 2)).save_to_disk(tmp_path)
    gc.collect()  # what other tests left behind is neither counted nor freed in between
    before = pa.total_allocated_bytes()
    reader = WindowReader(load_from_disk(tmp_path))
    read = [reader.read([row]) for row in range(500)]
    assert pa.total_allocated_bytes() - before < sum(window.nbytes for window in read) / 10


def test_reader_travels_without_the_data(tmp_path):
    windows_dataset(waves(200, 2)).save_to_disk(tmp_path)
    reader = WindowReader(load_from_disk(tmp_path), channel=1)
    before = reader.read([150, 3])
    pickled = pickle.dumps(reader)
    assert len(pickled) < 20_000 < before.nbytes * 100
    np.testing.assert_array_equal(pickle.loads(pickled).read([150, 3]), before)


def test_missing_column_is_named():
    with pytest.raises(ValueError, match="no column codes; it has input_values"):
        WindowsDataset(windows_dataset(waves(2)), ["input_values", "codes"])


@pytest.mark.parametrize(("lengths", "padded"), [([100, 75, 130], 150), ([110, 110], 125), ([75, 50], 75)])
def test_padding_to_whole_patches(lengths, padded):
    windows = waves(len(lengths), 2, lengths)
    batch = WindowsCollator(25)(WindowBatch(windows))
    assert batch["input_values"].shape == batch["attention_mask"][:, None].expand(-1, 2, -1).shape
    assert batch["input_values"].shape[-1] == padded
    for values, mask, window in zip(batch["input_values"], batch["attention_mask"], windows):
        length = window.shape[-1]
        np.testing.assert_array_equal(values[:, :length], window)
        assert not values[:, length:].any()
        assert mask.tolist() == [1] * length + [0] * (padded - length)


@pytest.mark.parametrize("num_samples", [100, [100, 75]])
@pytest.mark.parametrize("channel", [0, 1])
def test_one_channel_is_kept(num_samples, channel):
    windows = waves(2, 2, num_samples)
    dataset = WindowsDataset(windows_dataset(windows), ["input_values"], channel=channel)
    batch = WindowsCollator(25)(dataset.__getitems__([0, 1]))
    for values, window in zip(batch["input_values"], windows):
        assert values.shape[0] == 1
        np.testing.assert_array_equal(values[0, : window.shape[-1]], window[channel])


def test_batches_can_be_changed_without_touching_the_data():
    windows = waves(2)
    dataset = WindowsDataset(windows_dataset(windows), ["input_values"])
    batch = WindowsCollator(25)(dataset.__getitems__([0, 1]))
    batch["input_values"].zero_()
    np.testing.assert_array_equal(WindowsCollator(25)(dataset[0])["input_values"][0], windows[0])


@pytest.mark.parametrize(
    ("feature", "labels", "dtype", "expected"),
    [
        (Value("float32"), [60.5, 70.0], torch.float32, [60.5, 70.0]),
        (ClassLabel(names=["N", "A"]), [1, 0], torch.int64, [1, 0]),
        (List(Value("float32")), [[120.0, 80.0], [110.0, 70.0]], torch.float32, [[120.0, 80.0], [110.0, 70.0]]),
        (List(Value("int16")), [[3, 4], [5, 6]], torch.int64, [[3, 4], [5, 6]]),
        (List(Value("int16")), [[3, 4, 5], [6]], torch.int64, [[3, 4, 5], [6, -100, -100]]),
        (List(Value("int32")), [[40000], [3, 2]], torch.int64, [[40000, -100], [3, 2]]),
    ],
)
def test_labels(feature, labels, dtype, expected):
    dataset = WindowsDataset(windows_dataset(waves(2), feature, label=labels), ["input_values", "label"])
    batch = WindowsCollator(25, label_column="label")(dataset.__getitems__([0, 1]))
    assert batch["labels"].dtype == dtype
    assert batch["labels"].tolist() == expected


def test_labels_of_a_slice():
    column = pa.chunked_array([pa.array([[1], [2, 3], [4], [5, 6, 7]], pa.list_(pa.int16())).slice(1, 2)])
    assert labels_to_numpy(column).tolist() == [[2, 3], [4, -100]]


ALL = Augmentation(125, time_stretch=1.5, scales_labels=True, amplitude_jitter=0.3, noise=0.2)


def augmented(indices, epoch=0, seed=3):
    dataset = windows_dataset(waves(6), Value("float32"), label=[60.0 + i for i in range(6)])
    windows = WindowsDataset(dataset, ["input_values", "label"], augmentation=ALL, seed=seed)
    windows.set_epoch(epoch)
    batch = WindowsCollator(25, label_column="label")(windows.__getitems__(indices))
    values = [row[:, mask.bool()] for row, mask in zip(batch["input_values"], batch["attention_mask"])]
    return dict(zip(indices, zip(values, batch["labels"].tolist())))


def test_augmentation_of_a_window_does_not_depend_on_its_batch():
    together, alone = augmented([4, 1, 2]), augmented([1, 5])
    torch.testing.assert_close(together[1][0], alone[1][0], rtol=0, atol=0)
    assert together[1][1] == alone[1][1]


@pytest.mark.parametrize("other", [{"epoch": 1}, {"seed": 4}])
def test_augmentation_changes_with_epoch_and_seed(other):
    assert augmented([2])[2][1] != augmented([2], **other)[2][1]


def test_an_augmentation_that_does_nothing_is_none():
    assert (
        WindowsDataset(windows_dataset(waves(2)), ["input_values"], augmentation=Augmentation(125)).augmentation
        is None
    )


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("augmentation", [None, ALL])
def test_data_loader_gives_every_window_once(num_workers, augmentation):
    dataset = windows_dataset(waves(7), Value("float32"), label=[float(i) for i in range(7)])
    windows = WindowsDataset(dataset, ["input_values", "label"], augmentation=augmentation)
    loader = DataLoader(
        windows, batch_size=3, collate_fn=WindowsCollator(25, label_column="label"), num_workers=num_workers
    )
    labels = [batch["labels"] for batch in loader]
    assert [len(part) for part in labels] == [3, 3, 1]
    if augmentation is None:
        assert torch.cat(labels).tolist() == list(range(7))


def test_rows_fetched_one_by_one_make_the_same_batch():
    dataset = windows_dataset(waves(6), Value("float32"), label=[60.0 + i for i in range(6)])
    windows = WindowsDataset(dataset, ["input_values", "label"], augmentation=ALL)
    collate = WindowsCollator(25, label_column="label")
    together, apart = collate(windows.__getitems__([0, 4])), collate([windows[0], windows[4]])
    for name, tensor in together.items():
        torch.testing.assert_close(apart[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_workers_that_outlive_an_epoch_augment_each_anew(start_method):
    """As a process without workers does."""
    dataset = windows_dataset(waves(4), Value("float32"), label=[60.0] * 4)
    windows = WindowsDataset(dataset, ["input_values", "label"], augmentation=ALL)
    options = {"num_workers": 1, "persistent_workers": True, "multiprocessing_context": start_method}
    loader = DataLoader(windows, batch_size=4, collate_fn=WindowsCollator(25, label_column="label"), **options)
    labels = []
    for epoch in range(2):
        windows.set_epoch(epoch)
        labels.append(next(iter(loader))["labels"].tolist())
    expected = []
    for epoch in range(2):
        windows.set_epoch(epoch)
        collate = WindowsCollator(25, label_column="label")
        expected.append(collate(windows.__getitems__([0, 1, 2, 3]))["labels"].tolist())
    assert labels == expected
    assert labels[0] != labels[1]


def test_long_windows_are_cut_to_pieces_of_themselves():
    windows = [np.arange(length, dtype=np.float32)[None] for length in (40, 100, 200)]
    dataset = WindowsDataset(windows_dataset(windows), ["input_values"], longest=60, seed=3)
    starts = []
    for epoch in range(30):
        dataset.set_epoch(epoch)
        pieces = dataset[0].windows[0], *dataset.__getitems__([1, 2]).windows
        assert [piece.shape for piece in pieces] == [(1, 40), (1, 60), (1, 60)]
        for piece in pieces:
            np.testing.assert_array_equal(piece[0] - piece[0, 0], np.arange(piece.shape[1]))
        starts.append([piece[0, 0] for piece in pieces])
        # Alone or in a batch it is the same piece.
        np.testing.assert_array_equal(dataset[2].windows[0], pieces[2])
    first, second, third = np.array(starts).T
    assert (first == 0).all() and second.max() <= 40 and third.max() <= 140
    assert len(set(second)) > 10 and len(set(third)) > 15
