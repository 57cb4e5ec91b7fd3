"""Throughput and peak memory of PulseDB preparation on releases of 200,000 segments, which take 6 GB each."""

import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import time

import pytest

from cmssl_hf.building.dataset_builder import SplitCounts
from cmssl_hf.data.loading import load_dataset_builder
from cmssl_hf.data.prepared.reading import read_manifest
from helpers.checkout import ROOT
from helpers.pulsedb_release import copy_segment_file, simulated_segments, write_segment_file, write_subset_file


SCRIPT = ROOT / "scripts" / "prepare_data.py"
NUM_SEGMENTS = 200_000
NOT_READ = ("ECG_Raw", "PPG_Raw", "ABP_Raw", "ABP_F", "SegmentID")


def prepare(release, output_dir, *options):
    """Runs the script; returns seconds of processor time, seconds of wall-clock time and peak memory in bytes."""
    arguments = [sys.executable, str(SCRIPT), "pulsedb", "--data_dir", str(release), "--output_dir", str(output_dir)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(output_dir.parent / "hf")}
    started = time.perf_counter()
    process = subprocess.Popen([*arguments, "--dtype", "int16", *options], env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - started, usage.ru_maxrss * 1024


def report(capsys, what, processor_time, wall_time, memory):
    with capsys.disabled():
        print(
            f"\n{what}: {NUM_SEGMENTS / processor_time:,.0f} segments/s and core ({processor_time:.0f} s of processor time,"
            f" {wall_time:.0f} s in all), peak memory {memory / 1e6:,.0f} MB"
        )


@pytest.mark.long
def test_segment_files(tmp_path, capsys):
    release = tmp_path / "PulseDB"
    fields = {name: values for name, values in simulated_segments(500, 0).items() if name not in NOT_READ}
    template = write_segment_file(release, "p0000010", fields)
    for number in range(2, NUM_SEGMENTS // 500 + 1):
        copy_segment_file(template, release, f"p{number:06d}{number % 2}")
    try:
        builder = load_dataset_builder("pulsedb", data_dir=release, cache_dir=tmp_path / "cache")
        started, processor_started, num_rows = time.perf_counter(), time.process_time(), 0
        for records in builder.list_records().values():
            num_rows += sum(map(len, builder.read_records(records, SplitCounts())))
        reading = time.process_time() - processor_started
        assert num_rows == NUM_SEGMENTS
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        report(capsys, "Reading Segment files", reading, time.perf_counter() - started, memory)
        assert NUM_SEGMENTS / reading >= 4000
        used = prepare(release, tmp_path / "prepared")
        report(capsys, "Preparing Segment files", *used)
        manifest = read_manifest(tmp_path / "prepared")
        assert sum(split["num_windows"] for split in manifest["splits"].values()) == NUM_SEGMENTS
        assert used[2] < 1e9
    finally:
        shutil.rmtree(tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("storage", [{}, {"chunks": (1250, 1, 40), "compression": "gzip", "compression_opts": 3}])
def test_one_large_subset_file(tmp_path, capsys, storage):
    release = tmp_path / "PulseDB"
    people = simulated_segments(1000, 0)
    segments = {f"p{n:06d}0": people for n in range(NUM_SEGMENTS // 1000)}
    # In a process of its own: the peak memory of this one would be counted to the script that it starts.
    writer = multiprocessing.get_context("spawn").Process(
        target=write_subset_file, args=(release, "Train", segments), kwargs=storage
    )
    writer.start()
    writer.join()
    assert writer.exitcode == 0
    try:
        used = prepare(release, tmp_path / "prepared", "--option", "form=subsets", "--option", "test_subset=''")
        report(capsys, f"Preparing one Subset file, {storage or 'not compressed'}", *used)
        manifest = read_manifest(tmp_path / "prepared")
        assert sum(split["num_windows"] for split in manifest["splits"].values()) == NUM_SEGMENTS
        assert used[2] < 1e9
    finally:
        shutil.rmtree(tmp_path)
