"""`load_dataset`: names, forms, downloads, and a cache that is never stale."""

import functools
import os
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import datasets
import numpy as np
import pytest
import wfdb

import cmssl_hf
from cmssl_hf.data.loading import _fingerprint, dataset_names, load_dataset, load_dataset_builder
from cmssl_hf.dataset_builders.bidmc.bidmc import Bidmc


def write_records(folder, number=3, seconds=20):
    folder.mkdir(exist_ok=True)
    times = np.arange(seconds * 125) / 125
    for index in range(number):
        wfdb.wrsamp(
            f"r{index}",
            fs=125,
            units=["mV", "NU"],
            sig_name=["II", "PLETH"],
            p_signal=np.stack([np.sin(9 * times + index), np.cos(9 * times)], axis=1),
            fmt=["16", "16"],
            write_dir=str(folder),
        )


def test_load_dataset_is_public():
    assert cmssl_hf.load_dataset is load_dataset


def test_every_builder_can_be_made():
    names = dataset_names()
    assert {"bidmc", "simulated", "wfdb_pairs"} <= set(names)
    for name in names:
        builder = load_dataset_builder(name)
        assert builder.name == name
        for config in builder.builder_configs:
            features = load_dataset_builder(name, config).info.features
            assert {"sampling_rate", "subject_id", "record_id", "start_time"} <= set(features)
            assert {"ecg", "ppg"} <= set(features) or {"signal", "label"} <= set(features)


def test_unknown_names_are_answered_with_the_known_ones(tmp_path):
    with pytest.raises(
        ValueError, match=r"There is no dataset 'mimic'; the datasets are .*bidmc.*simulated.*wfdb_pairs"
    ):
        load_dataset("mimic")
    with pytest.raises(ValueError, match=r"'heart' not found\. Available: \['pairs', 'hr', 'rr'\]"):
        load_dataset("bidmc", "heart", data_dir=tmp_path)


def test_forms(tmp_path):
    load = functools.partial(load_dataset, "simulated", cache_dir=tmp_path, num_subjects=5, seconds_per_subject=30)
    assert isinstance(load(), datasets.DatasetDict)
    assert list(load()) == ["train", "validation", "test"]
    assert isinstance(load(split="test"), datasets.Dataset)
    assert len(load(split="train[:4]")) == 4
    assert isinstance(load(streaming=True), datasets.IterableDatasetDict)
    assert isinstance(load(streaming=True, split="test"), datasets.IterableDataset)
    with pytest.raises(ValueError, match="dev"):
        load(split="dev")


def test_prepared_data_are_reused(tmp_path):
    folder, cache = tmp_path / "records", tmp_path / "cache"
    write_records(folder)
    first = load_dataset("wfdb_pairs", data_dir=folder, cache_dir=cache, split="train").cache_files
    times = [os.stat(file["filename"]).st_mtime_ns for file in first]
    again = load_dataset("wfdb_pairs", data_dir=str(folder / ".." / "records"), cache_dir=cache, split="train")
    assert again.cache_files == first
    assert [os.stat(file["filename"]).st_mtime_ns for file in again.cache_files] == times


@pytest.mark.parametrize("where", ["beside", "inside"])
def test_changed_data_are_prepared_anew(tmp_path, where):
    folder = tmp_path / "records"
    cache = folder / "cache" if where == "inside" else tmp_path / "cache"
    write_records(folder)
    load = functools.partial(load_dataset, "wfdb_pairs", data_dir=folder, cache_dir=cache)
    before = load()
    fingerprint = load_dataset_builder("wfdb_pairs", data_dir=folder, cache_dir=cache).hash
    assert load_dataset_builder("wfdb_pairs", data_dir=folder, cache_dir=cache).hash == fingerprint
    write_records(folder, number=4, seconds=30)
    assert sum(before.num_rows.values()) == 6
    assert sum(load().num_rows.values()) == 12
    content = bytearray((folder / "r0.dat").read_bytes())
    content[:2] = b"\x07\x07"
    (folder / "r0.dat").write_bytes(content)
    values = [row["ecg"][0] for rows in load().values() for row in rows if row["record_id"] == "r0"]
    raw = wfdb.rdrecord(str(folder / "r0")).p_signal[0, 0]
    assert values[0] == pytest.approx(raw, rel=1e-6)


def test_changed_code_changes_the_fingerprint(tmp_path):
    builder, part = tmp_path / "mine.py", tmp_path / "part.py"
    part.write_text("x = 1\n")
    builder.write_text("from cmssl_hf.building.windows import cut_windows\n")
    fingerprints = [_fingerprint(builder, None, None)]
    part.write_text("x = 2\n")
    fingerprints.append(_fingerprint(builder, None, None))
    builder.write_text("from cmssl_hf.signals import resample\n")
    fingerprints.append(_fingerprint(builder, None, None))
    assert len(set(fingerprints)) == 3


def test_options_have_caches_of_their_own(tmp_path):
    load = functools.partial(load_dataset, "simulated", cache_dir=tmp_path, num_subjects=5, seconds_per_subject=30)
    assert load().num_rows["test"] == 3
    assert load(window_seconds=20.0).num_rows["test"] == 2
    assert len(load(window_seconds=20.0)["test"][0]["ecg"]) == 2500
    assert load(seed=1)["test"][0]["ecg"] != load()["test"][0]["ecg"]


@pytest.fixture
def server(tmp_path):
    """A web server on this machine that serves the folder `web`."""
    (tmp_path / "web").mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path / "web")))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_release_is_downloaded_without_data_dir(tmp_path, server, test_data, monkeypatch):
    release = test_data / "bidmc-ppg-and-respiration-dataset-1.0.0"
    with zipfile.ZipFile(tmp_path / "web" / "release.zip", "w") as archive:
        for path in [*release.glob("bidmc08*"), *release.glob("bidmc11*")]:
            archive.write(path, f"{release.name}/{path.name}")
    monkeypatch.setattr(Bidmc, "DOWNLOAD_URL", f"{server}/release.zip")
    data = load_dataset("bidmc", "hr", cache_dir=tmp_path / "cache")
    assert data.num_rows == {"validation": 236, "test": 236}
    streamed = load_dataset("bidmc", "hr", cache_dir=tmp_path / "cache", streaming=True, split="test")
    assert next(iter(streamed)) == data["test"][0]


def test_download_that_fails_is_an_error(tmp_path, server, monkeypatch):
    monkeypatch.setattr(Bidmc, "DOWNLOAD_URL", f"{server}/nothing.zip")
    with pytest.raises(OSError, match=r"nothing\.zip"):
        load_dataset("bidmc", "hr", cache_dir=tmp_path / "cache")


def test_release_that_cannot_be_downloaded_asks_for_a_folder(tmp_path):
    with pytest.raises(ValueError, match="`data_dir` is needed for a folder of WFDB records"):
        load_dataset("wfdb_pairs", cache_dir=tmp_path)
