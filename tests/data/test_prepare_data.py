"""From a release to Parquet shards of input_values and back, with interruptions, several processes and damaged files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest

from cmssl_hf import CMSSLFeatureExtractor
from cmssl_hf.building.dataset_builder import (
    DamagedRecordError,
    SignalDatasetBuilder,
    SubjectSplitConfig,
    pair_features,
)
from cmssl_hf.building.windows import usable_windows
from cmssl_hf.data.features import extract_features
from cmssl_hf.data.loading import channels_of, load_dataset, load_dataset_builder
from cmssl_hf.data.prepared.reading import load_prepared, read_manifest
from cmssl_hf.data.prepared.writing import Preparation
from helpers.checkout import ROOT
from helpers.pulsedb_release import copy_segment_file, simulated_segments, write_segment_file


SCRIPT = ROOT / "scripts" / "prepare_data.py"
PAIRS = CMSSLFeatureExtractor(channels=("ecg", "ppg"))


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """Forty people with 25 segments each."""
    folder = tmp_path_factory.mktemp("PulseDB")
    template = write_segment_file(folder, "p0000010", simulated_segments(25, 0))
    for number in range(2, 41):
        copy_segment_file(template, folder, f"p{number:06d}{number % 2}")
    return folder


def prepare(builder, output_dir, dtype="float32", extractor=PAIRS, num_processes=1, **options):
    preparation = Preparation(builder, extractor, output_dir, dtype, **options)
    plan = preparation.load_plan() or preparation.make_plan(preparation.estimate())
    for process_index in range(num_processes):
        list(preparation.run(plan, process_index, num_processes))
    return preparation.finish(plan)


def command(release, output_dir, *arguments, launcher=(sys.executable,)):
    return [*launcher, str(SCRIPT), "pulsedb", "--data_dir", str(release), "--output_dir", str(output_dir), *arguments]


def run(*arguments, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(Path(arguments[1]).parent / "hf")}
    finished = subprocess.run(
        command(*arguments, **options), env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def contents(folder):
    """The shards by name, without when they were written."""
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def test_prepared_pairs_equal_extracted_features(release, tmp_path):
    manifest = prepare(
        load_dataset_builder("pulsedb", data_dir=release, cache_dir=tmp_path / "cache"), tmp_path / "prepared"
    )
    prepared = load_prepared(tmp_path / "prepared", cache_dir=tmp_path / "cache")
    raw = load_dataset("pulsedb", data_dir=release, cache_dir=tmp_path / "cache")
    assert set(prepared) == set(raw) == {"train", "validation", "test"}
    for split in raw:
        expected = extract_features(raw[split], PAIRS)
        assert prepared[split].features["input_values"] == expected.features["input_values"]
        kept = [name for name in expected.column_names if name != "sampling_rate"]
        assert set(prepared[split].column_names) == set(kept)
        assert prepared[split].select_columns(kept).to_list() == expected.select_columns(kept).to_list()
        assert manifest["splits"][split]["num_windows"] == len(raw[split])
        assert prepared[split].cache_files  # memory-mapped
    assert manifest["settings"]["feature_extractor"]["channels"] == ["ecg", "ppg"]
    assert manifest["storage_error"] == {"largest": 0.0, "rms": 0.0}


@pytest.mark.parametrize("config_name", ["hr", "bp", "rhythm"])
def test_labels_of_every_kind_survive(tmp_path, config_name):
    options = {"num_subjects": 10, "seconds_per_subject": 20.0}
    builder = load_dataset_builder("simulated", config_name, cache_dir=tmp_path / "cache", **options)
    assert channels_of(builder) == ("ppg",)
    manifest = prepare(builder, tmp_path / "prepared", extractor=CMSSLFeatureExtractor())
    prepared = load_prepared(tmp_path / "prepared", cache_dir=tmp_path / "cache")
    raw = load_dataset("simulated", config_name, cache_dir=tmp_path / "cache", **options)
    for split in raw:
        assert prepared[split].features["label"] == raw[split].features["label"]
        for column in ("label", "subject_id", "record_id", "start_time"):
            assert prepared[split][column][:] == raw[split][column][:]
    assert manifest["settings"]["options"]["num_subjects"] == 10


def test_channels_of(tmp_path):
    assert channels_of(load_dataset_builder("simulated", cache_dir=tmp_path)) == ("ecg", "ppg")
    assert channels_of(load_dataset_builder("simulated", "hr", modality="ecg", cache_dir=tmp_path)) == ("ecg",)
    assert channels_of(load_dataset_builder("ptb_xl", cache_dir=tmp_path)) == ("ecg",)
    assert channels_of(load_dataset_builder("uci_bp", cache_dir=tmp_path)) == ("ppg",)


@pytest.mark.parametrize(("dtype", "largest"), [("float16", 4e-3), ("int16", 3e-4)])
def test_fewer_bits_cost_what_the_manifest_says(release, tmp_path, dtype, largest):
    builder = load_dataset_builder("pulsedb", data_dir=release, cache_dir=tmp_path / "cache")
    exact_manifest = prepare(builder, tmp_path / "float32")
    manifest = prepare(builder, tmp_path / dtype, dtype)
    exact = load_prepared(tmp_path / "float32", cache_dir=tmp_path / "cache")
    stored = load_prepared(tmp_path / dtype, cache_dir=tmp_path / "cache")
    assert stored["train"].features == exact["train"].features
    differences = np.concatenate(
        [
            np.subtract(
                stored[s].with_format("numpy")["input_values"][:], exact[s].with_format("numpy")["input_values"][:]
            )
            for s in exact
        ]
    )
    error = manifest["storage_error"]
    assert 0 < error["largest"] < largest
    np.testing.assert_allclose(np.abs(differences).max(), error["largest"], rtol=1e-3)
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(differences))), error["rms"], rtol=1e-3)
    size = {
        name: sum(s["num_bytes"] for s in m["splits"].values())
        for name, m in ((dtype, manifest), ("float32", exact_manifest))
    }
    assert size[dtype] < 0.65 * size["float32"]
    schema = pq.read_schema(next((tmp_path / dtype).glob("*.parquet")))
    assert str(schema.field("input_values").type.value_type.value_type) == {"float16": "halffloat"}.get(dtype, dtype)
    assert ("scale" in schema.names) == (dtype == "int16")


def test_estimate_is_right_where_recordings_are_alike(release, tmp_path):
    preparation = Preparation(
        load_dataset_builder("pulsedb", data_dir=release, cache_dir=tmp_path / "cache"),
        PAIRS,
        tmp_path / "prepared",
        "int16",
    )
    estimate = preparation.estimate()
    assert estimate.num_windows == pytest.approx(40 * 25, rel=0.01)
    assert (estimate.num_records, estimate.num_sampled) == (40, 12)
    assert estimate.errors["float32"].largest == 0 < estimate.errors["int16"].rms < estimate.errors["float16"].rms
    manifest = prepare(preparation.builder, tmp_path / "prepared", "int16")
    size = sum(split["num_bytes"] for split in manifest["splits"].values())
    assert estimate.num_bytes("int16") == pytest.approx(size, rel=0.1)


def test_shards_do_not_depend_on_who_writes_them(release, tmp_path):
    builder = load_dataset_builder("pulsedb", data_dir=release, cache_dir=tmp_path / "cache")
    prepare(builder, tmp_path / "one", shard_bytes=100_000)
    prepare(builder, tmp_path / "three", shard_bytes=100_000, num_processes=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")
    assert len(contents(tmp_path / "one")) > 10


def test_killed_run_continues_where_it_stopped(release, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    builder = load_dataset_builder("pulsedb", data_dir=release, cache_dir=tmp_path / "cache")
    prepare(builder, whole, shard_bytes=10_000)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "hf")}
    process = subprocess.Popen(
        command(release, broken, "--shard_megabytes", "0.01"), env=environment, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while len(contents(broken)) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in broken.glob("*.parquet")}
    assert 3 <= len(done) < 40
    with pytest.raises(ValueError, match=rf"is not complete: {len(done)} of 40 shards are there"):
        load_prepared(broken)
    for leftover in broken.glob(".*.tmp"):
        leftover.unlink()
    (broken / ".train-00000-of-00032.parquet.1.tmp").write_bytes(b"half a shard")
    os.utime(broken / ".train-00000-of-00032.parquet.1.tmp", (0, 0))
    output = run(release, broken, "--shard_megabytes", "0.01", "--num_proc", "2")
    assert f"Continuing: {len(done)} of 40 shards are there." in output
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert contents(broken) == contents(whole)
    assert not [*broken.glob(".*")]
    assert json.loads((broken / "manifest.json").read_text()) == json.loads((whole / "manifest.json").read_text())


def test_two_launched_processes_equal_one(release, tmp_path):
    # The launcher of `--multi_gpu` connects processes without GPUs as well; that of `--cpu` does so only through MPI.
    launcher = (sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
    launcher += (
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        "0",
    )
    output = run(release, tmp_path / "two", "--shard_megabytes", "0.5", "--dtype", "int16", launcher=launcher)
    prepare(
        load_dataset_builder("pulsedb", data_dir=release, cache_dir=tmp_path / "cache"),
        tmp_path / "one",
        "int16",
        shard_bytes=500_000,
    )
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert read_manifest(tmp_path / "two") == read_manifest(tmp_path / "one")
    assert "About 1,000 windows, judging from 12 recordings." in output
    assert "-> int16" in output and "are free in" in output
    assert "shards, 2 x 1 processes." in output
    assert output.count("Complete:") == 1


def test_processes_that_do_not_know_of_each_other(release, tmp_path):
    """As `accelerate launch --num_machines 2` starts them on machines without GPUs and MPI."""
    builder = load_dataset_builder("pulsedb", data_dir=release, cache_dir=tmp_path / "cache")
    prepare(builder, tmp_path / "one", shard_bytes=10_000)
    preparations = [Preparation(builder, PAIRS, tmp_path / "two", shard_bytes=10_000) for _ in range(2)]
    plan = preparations[0].make_plan(preparations[0].estimate())
    assert preparations[1].load_plan() == plan
    for _ in zip(*(preparation.run(plan) for preparation in preparations)):
        pass
    assert preparations[0].finish(plan) == preparations[1].finish(plan)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_damaged_recordings_are_reported_and_tried_again(release, tmp_path):
    for path in (release / "Segment_Files").rglob("*.mat"):
        copy = tmp_path / "release" / path.relative_to(release)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.symlink_to(path)
    broken = tmp_path / "release" / "Segment_Files" / "PulseDB_MIMIC" / "p000008.mat"
    intact = broken.readlink()
    broken.unlink()
    broken.write_bytes(intact.read_bytes()[:5000])
    options = {"data_dir": tmp_path / "release", "cache_dir": tmp_path / "cache"}
    builder = load_dataset_builder("pulsedb", **options, max_damaged_share=0.05)
    manifest = prepare(builder, tmp_path / "prepared", shard_bytes=500_000)
    damaged = {
        path: problem for split in manifest["splits"].values() for path, problem in split["damaged_records"].items()
    }
    assert list(damaged) == [str(broken)]
    assert "cannot be read" in damaged[str(broken)]
    assert sum(split["num_windows"] for split in manifest["splits"].values()) == 39 * 25
    for share, error in ((0.01, ValueError), (0, DamagedRecordError)):
        with pytest.raises(error, match=r"p000008\.mat"):
            prepare(load_dataset_builder("pulsedb", **options, max_damaged_share=share), tmp_path / f"strict{share}")
    broken.unlink()
    broken.symlink_to(intact)
    manifest = prepare(load_dataset_builder("pulsedb", **options), tmp_path / "prepared", shard_bytes=500_000)
    assert sum(split["num_windows"] for split in manifest["splits"].values()) == 40 * 25
    assert load_prepared(tmp_path / "prepared", cache_dir=tmp_path / "cache").num_rows["train"] == 32 * 25


def test_other_settings_need_another_folder(release, tmp_path):
    builder = load_dataset_builder("pulsedb", data_dir=release, cache_dir=tmp_path / "cache")
    prepare(builder, tmp_path / "prepared")
    with pytest.raises(ValueError, match="holds another preparation, which differs in dtype"):
        prepare(builder, tmp_path / "prepared", "int16")
    with pytest.raises(ValueError, match="differs in options"):
        prepare(
            load_dataset_builder("pulsedb", data_dir=release, cache_dir=tmp_path / "cache", signals="raw"),
            tmp_path / "prepared",
        )
    with pytest.raises(ValueError, match="`dtype` must be one of"):
        Preparation(builder, PAIRS, tmp_path / "prepared", "int8")


def test_folders_that_are_not_complete_are_refused(release, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no prepared dataset: there is no manifest\.json"):
        load_prepared(tmp_path)
    preparation = Preparation(
        load_dataset_builder("pulsedb", data_dir=release, cache_dir=tmp_path / "cache"),
        PAIRS,
        tmp_path,
        shard_bytes=500_000,
    )
    plan = preparation.make_plan(preparation.estimate())
    next(preparation.run(plan))
    with pytest.raises(FileNotFoundError, match=rf"{len(plan) - 1} of {len(plan)} shards are missing in"):
        preparation.finish(plan)
    prepare(preparation.builder, tmp_path)
    shard = tmp_path / plan[1].file
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"1 of {len(plan)} shards in .* are missing or not as they were written"):
        load_prepared(tmp_path)


class Odd(SignalDatasetBuilder):
    """One window per recording, every third one with a signal too short for the models."""

    BUILDER_CONFIG_CLASS = SubjectSplitConfig
    BUILDER_CONFIGS = [SubjectSplitConfig(name="pairs")]

    def _info(self):
        return datasets.DatasetInfo(features=pair_features())

    def _list_records(self, dl_manager):
        return self.config.divide({number: [number] for number in range(30)})

    def _record_tables(self, record, counter):
        signal = np.sin(np.arange(50 if record % 3 == 0 else 500.0))[None]
        usable_windows([signal], counter)
        ids = {"subject_id": str(record), "record_id": str(record), "start_time": 0.0}
        yield self.to_table(ecg=signal, ppg=signal, sampling_rate=125.0, **ids)


def test_windows_that_the_extractor_rejects_are_counted(tmp_path):
    manifest = prepare(Odd(cache_dir=str(tmp_path / "cache")), tmp_path / "prepared")
    prepared = load_prepared(tmp_path / "prepared", cache_dir=tmp_path / "cache")
    kept = {subject for split in prepared.values() for subject in split["subject_id"]}
    assert kept == {str(number) for number in range(30) if number % 3}
    outcomes = [split["windows"] for split in manifest["splits"].values()]
    assert sum(outcome["kept"] for outcome in outcomes) == 30
    assert sum(outcome.get("rejected", 0) for outcome in outcomes) == 10


def test_a_release_and_its_preparation_leave_out_the_same_windows(tmp_path):
    builder = Odd(cache_dir=str(tmp_path / "cache"))
    prepare(builder, tmp_path / "prepared")
    prepared = load_prepared(tmp_path / "prepared", cache_dir=tmp_path / "cache")
    builder.download_and_prepare()
    for split, rows in builder.as_dataset().items():
        extracted = extract_features(rows, PAIRS, drop_unusable=True)
        assert extracted["record_id"][:] == prepared[split]["record_id"][:]
        assert extracted["input_values"][:] == prepared[split]["input_values"][:]
    assert len(prepared["train"]) == 15 < len(builder.as_dataset()["train"]) == 24


def test_windows_are_prepared_at_the_rate_of_the_models(tmp_path):
    flags = ["--option", "num_subjects=10", "--option", "seconds_per_subject=20", "--sampling_rate", "64"]
    subprocess.run(
        [sys.executable, str(SCRIPT), "simulated", "hr", "--output_dir", str(tmp_path / "prepared"), *flags],
        env={**os.environ, "HF_HOME": str(tmp_path / "hf")},
        capture_output=True,
        timeout=300,
        check=True,
    )
    prepared = load_prepared(tmp_path / "prepared", cache_dir=tmp_path / "cache")
    assert {len(signal) for (signal,) in prepared["train"]["input_values"]} == {640}
