"""`load_dataset`: names, forms, downloads, and a cache that is never stale."""

import dataclasses
import functools
import os
import re
import subprocess
import sys
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import datasets
import numpy as np
import pytest
import wfdb

import cmssl_hf
from cmssl_hf.data.loading import dataset_names, load_dataset, load_dataset_builder
from cmssl_hf.data.subjects import cross_validation_fold
from cmssl_hf.dataset_builders.bidmc.bidmc import Bidmc
from cmssl_hf.dataset_builders.simulated.simulated import Simulated
from helpers.small_releases import WRITERS


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
            if name == "signalfolder":
                # Its recordings decide.
                assert features is None
                continue
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


def test_another_version_is_prepared_anew(tmp_path, monkeypatch):
    """That of the builder, and that of what all builders share; what has neither changed is not."""
    builder = functools.partial(load_dataset_builder, "simulated", cache_dir=tmp_path, num_subjects=5)
    folders = {builder().cache_dir}
    monkeypatch.setattr(Simulated, "VERSION", datasets.Version("1.0.1"))
    folders.add(builder().cache_dir)
    monkeypatch.setattr("cmssl_hf.building.dataset_builder.BUILDING_VERSION", 1000)
    folders.add(builder().cache_dir)
    assert len(folders) == 3
    monkeypatch.undo()
    assert builder().cache_dir in folders


def test_changes_behind_links_are_seen_and_foreign_files_are_not(tmp_path):
    write_records(tmp_path / "store")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "linked").symlink_to(tmp_path / "store")
    hashes = [load_dataset_builder("wfdb_pairs", data_dir=folder).hash]
    (folder / ".DS_Store").write_bytes(b"1")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "r0.hea").write_bytes(b"1")
    hashes.append(load_dataset_builder("wfdb_pairs", data_dir=folder).hash)
    write_records(tmp_path / "store", seconds=30)
    hashes.append(load_dataset_builder("wfdb_pairs", data_dir=folder).hash)
    assert hashes[0] == hashes[1] != hashes[2]


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


FEW = {"num_subjects": 15, "seconds_per_subject": 30}


def subjects_of(data):
    return {split: set(rows["subject_id"]) for split, rows in data.items()}


@pytest.mark.parametrize("config_name", ["hr", "rhythm", "bp", "pairs"])
def test_folds_are_those_of_the_commands(tmp_path, config_name):
    load = functools.partial(load_dataset, "simulated", config_name, cache_dir=tmp_path, **FEW)
    for fold in range(5):
        expected, parts = cross_validation_fold(load(), fold), load(fold=fold)
        assert {split: rows.to_list() for split, rows in parts.items()} == {
            split: rows.to_list() for split, rows in expected.items()
        }


def test_every_subject_is_tested_in_one_fold_and_divided_in_none(tmp_path):
    everyone = {f"{number:05d}" for number in range(15)}
    for config_name in ("hr", "pairs"):
        tested = []
        for fold in range(4):
            parts = subjects_of(
                load_dataset("simulated", config_name, cache_dir=tmp_path, fold=fold, num_folds=4, **FEW)
            )
            assert sum(map(len, parts.values())) == 15 and set.union(*parts.values()) == everyone
            tested += parts["test"]
        assert sorted(tested) == sorted(everyone)


def test_folds_of_pairs_and_numbers_have_the_same_subjects(tmp_path):
    pairs, numbers = (
        subjects_of(load_dataset("simulated", config_name, cache_dir=tmp_path, fold=2, **FEW))
        for config_name in ("pairs", "hr")
    )
    assert pairs == numbers


def test_split_of_a_fold(tmp_path):
    load = functools.partial(load_dataset, "simulated", "hr", cache_dir=tmp_path, fold=1, **FEW)
    parts = {split: rows.to_list() for split, rows in load().items()}
    for split in ("train", "validation", "test"):
        assert load(split=split).to_list() == parts[split]
    assert load(split="train[:4]").to_list() == parts["train"][:4]
    assert (
        load(split="train[-2:]+test[50%:]").to_list() == parts["train"][-2:] + parts["test"][len(parts["test"]) // 2 :]
    )
    assert load(split="all").to_list() == [row for rows in parts.values() for row in rows]
    with pytest.raises(ValueError, match='Unknown split "dev"'):
        load(split="dev")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fold": 5}, r"`fold` must lie in 0\.\.4, but is 5"),
        ({"fold": -1}, r"`fold` must lie in 0\.\.4, but is -1"),
        ({"fold": "0"}, "`fold` must be a whole number, but is '0'"),
        ({"fold": 1.0}, r"`fold` must be a whole number, but is 1\.0"),
        ({"fold": True}, "`fold` must be a whole number, but is True"),
        ({"fold": 0, "num_folds": 1}, "`num_folds` must be at least 2, but is 1"),
        ({"fold": 0, "num_folds": None}, "`num_folds` must be a whole number, but is None"),
        ({"fold": 0, "num_folds": 16}, r"15 subject\(s\) are too few for 16 folds"),
        ({"fold": 0, "streaming": True}, "`fold` needs to know all subjects"),
    ],
)
def test_folds_that_there_are_not(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        load_dataset("simulated", "hr", cache_dir=tmp_path, **FEW, **options)


WRONG_TYPES = [None, True, 1, 1.5, float("nan"), "1", ["1"], [1], {"a": 1}, b"1"]


@pytest.mark.parametrize("name", dataset_names())
def test_options_of_a_wrong_type_are_named(name):
    """Whatever the option: what is no value of its kind is refused with what would be right."""
    inherited = {field.name for field in dataclasses.fields(datasets.BuilderConfig)}
    options = dataclasses.fields(load_dataset_builder(name).BUILDER_CONFIG_CLASS)
    right = {
        "bool": lambda value: value is True,
        "int": lambda value: type(value) is int,
        "float": lambda value: type(value) in (int, float) and value == value,
        "str": lambda value: type(value) is str,
        "None": lambda value: value is None,
        "Sequence[str]": lambda value: value == ["1"],
    }
    for field in options:
        if field.name in inherited:
            continue
        kinds = re.sub(r"<class '(\w+)'>|collections\.abc\.", r"\1", str(field.type)).split(" | ")
        for value in WRONG_TYPES:
            if any(right[kind](value) for kind in kinds):
                continue
            with pytest.raises(
                ValueError, match=rf"`{field.name}` of {name} must be (a|True|None)[ \w,]+, but is "
            ) as error:
                load_dataset_builder(name, **{field.name: value})
            assert str(error.value).endswith(f"but is {value!r}.")


@pytest.mark.parametrize(("name", "config_name"), [(3, None), (None, None), ("bidmc", 3), ("bidmc", ["hr"])])
def test_names_that_are_no_texts(name, config_name):
    with pytest.raises(ValueError, match=r"`(name|config_name)` must be a text, but is"):
        load_dataset(name, config_name)


STREAM = """
import sys
from cmssl_hf import load_dataset

rows = iter(load_dataset(sys.argv[1], data_dir=sys.argv[2] or None, streaming=True, split="train"))
next(rows)
"""


@pytest.mark.parametrize(
    "name",
    [
        "pulsedb",
        *(pytest.param(name, marks=pytest.mark.long) for name in ["simulated", *WRITERS] if name != "pulsedb"),
    ],
)
def test_stream_that_is_left_half_way_ends_without_a_word(tmp_path, name):
    data_dir = ""
    if name in WRITERS:
        data_dir = str(tmp_path / "release")
        (tmp_path / "release").mkdir()
        WRITERS[name](tmp_path / "release")
    command = [sys.executable, "-W", "ignore", "-c", STREAM, name, data_dir]
    ended = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"HF_HOME": str(tmp_path / "home")}
    )
    assert (ended.returncode, ended.stderr) == (0, "")
