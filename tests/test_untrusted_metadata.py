"""What headers and tables say of other files: names that would lead out of the data folder, and lengths that no file has, are
refused, and the record is named."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import wfdb

from cmssl_hf.data.loading import load_dataset
from cmssl_hf.data.prepared.reading import read_manifest
from cmssl_hf.models.cmssl.recordings_cmssl import read_recording
from helpers.releases import (
    CSN_SINUS_RHYTHM,
    write_bidmc_recording,
    write_csn_recording,
    write_physionet2017_release,
    write_ptb_xl_release,
    write_wfdb_record,
)


REFUSED = r"names the file .*: only files beside a header are read"


def other_names(folder):
    """Names of signals that are there and would be read if they were followed."""
    outside = folder / "outside"
    outside.mkdir()
    return [f"{outside}/x.dat", "../outside/x.dat", "..\\x.dat", "/etc/passwd", "./x.dat", ".."]


def point_elsewhere(header, name):
    """Replaces the names of the signal files in a header."""
    first, *lines = header.read_text().splitlines()
    lines = [line if line.startswith("#") else f"{name} {line.split(maxsplit=1)[1]}" for line in lines]
    header.write_text("\n".join([first, *lines]) + "\n")


def wfdb_pairs(release):
    for number in range(3):
        write_wfdb_record(release, f"r{number}", {"II": None, "PLETH": None})
    return "r0.hea", lambda cache: load_dataset("wfdb_pairs", data_dir=release, cache_dir=cache)


def bidmc(release):
    release.mkdir()
    for subject in (1, 8, 11):
        write_bidmc_recording(release, subject)
    return "bidmc08.hea", lambda cache: load_dataset("bidmc", data_dir=release, cache_dir=cache)


def bidmc_numerics(release):
    return "bidmc08n.hea", bidmc(release)[1]


def physionet2017(release):
    write_physionet2017_release(release, "NAO~" * 10)
    return "training2017/A00003.hea", lambda cache: load_dataset("physionet2017", data_dir=release, cache_dir=cache)


def ptb_xl(release):
    release.mkdir()
    write_ptb_xl_release(release, rates=(100,))
    return "records100/00000/00003_lr.hea", lambda cache: load_dataset("ptb_xl", data_dir=release, cache_dir=cache)


def csn(release):
    for number in range(20):
        write_csn_recording(release, number, [CSN_SINUS_RHYTHM])
    return "JS00005.hea", lambda cache: load_dataset("csn", data_dir=release, cache_dir=cache)


def csn_with_date(release):
    header, read = csn(release)
    lines = (release / header).read_text()
    (release / header).write_text(lines.replace("12 500 5000", "12 500 5000 12:00:00 99/99/2020", 1))
    return header, read


def recording(release):
    write_wfdb_record(release, "r0", {"II": None, "PLETH": None})
    return "r0.hea", lambda cache: read_recording(release / "r0", ("ppg",))


READERS = [wfdb_pairs, bidmc, bidmc_numerics, physionet2017, ptb_xl, csn, csn_with_date, recording]


@pytest.mark.parametrize("write", READERS, ids=lambda write: write.__name__)
def test_header_with_a_path_is_refused_by_name(write, tmp_path):
    header, read = write(tmp_path / "release")
    path = tmp_path / "release" / header
    whole = path.read_text()
    for number, name in enumerate(other_names(tmp_path)):
        point_elsewhere(path, name)
        with pytest.raises(ValueError, match=REFUSED) as error:
            read(tmp_path / f"cache{number}")
        assert path.name in str(error.value)
        assert repr(name) in str(error.value)
        path.write_text(whole)
    read(tmp_path / "cache")


# wfdb takes the digits and leaves out what follows them.
@pytest.mark.parametrize("length", ["4294967296", "4294967296-"])
@pytest.mark.parametrize("write", READERS, ids=lambda write: write.__name__)
def test_header_with_an_impossible_length_is_refused_by_name(write, length, tmp_path):
    header, read = write(tmp_path / "release")
    path = tmp_path / "release" / header
    first, *lines = path.read_text().splitlines()
    name, num_signals, rate, _, *rest = first.split()
    path.write_text("\n".join([" ".join([name, num_signals, rate, length, *rest]), *lines]) + "\n")
    with pytest.raises(ValueError, match=r"states 4,294,967,296 samples, but .* has only .* bytes") as error:
        read(tmp_path / "cache")
    assert path.name in str(error.value)


def test_compressed_signals_may_be_far_longer_than_their_file(tmp_path):
    """A flat FLAC signal of a minute at 1000 Hz, which takes a few hundred bytes."""
    samples = np.full((60_000, 1), 0.5)
    wfdb.wrsamp("r", fs=1000, units=["mV"], sig_name=["PLETH"], p_signal=samples, fmt=["516"], adc_gain=[1000.0],
                baseline=[0], write_dir=str(tmp_path))  # fmt: skip
    assert (tmp_path / "r.dat").stat().st_size < 60_000
    np.testing.assert_allclose(read_recording(tmp_path / "r", ("ppg",)).signals["ppg"], samples[:, 0])


def test_record_of_segments_with_an_impossible_gap_is_refused(tmp_path):
    write_wfdb_record(tmp_path, "s", {"PLETH": None})
    (tmp_path / "long.hea").write_text("long/2 1 125 4294967296\ns 3750\n~ 4294963546\n")
    with pytest.raises(ValueError, match=r"long\.hea .*states 4,294,967,296 samples, more than 268,435,456"):
        read_recording(tmp_path / "long", ("ppg",))


@pytest.mark.parametrize("name", ["../outside/s", "/etc/s", "sub/s"])
def test_segment_in_another_folder_is_refused(name, tmp_path):
    release = tmp_path / "release"
    write_wfdb_record(tmp_path / "outside", "s", {"II": None, "PLETH": None})
    for number in range(3):
        write_wfdb_record(release, f"r{number}", {"II": None, "PLETH": None})
    (release / "long.hea").write_text(f"long/1 2 125 3750\n{name} 3750\n")
    with pytest.raises(ValueError, match=REFUSED) as error:
        load_dataset("wfdb_pairs", data_dir=release, cache_dir=tmp_path / "cache")
    assert "long.hea" in str(error.value)
    with pytest.raises(ValueError, match=REFUSED):
        read_recording(release / "long", ("ppg",))


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        ("s 2 125 3750\n../outside/s.dat 16 200 16 0 0 0 0 II\n../outside/s.dat 16 200 16 0 0 0 0 PLETH\n", REFUSED),
        (
            "s 2 125 4294967296\ns.dat 16 200 16 0 0 0 0 II\ns.dat 16 200 16 0 0 0 0 PLETH\n",
            "states 4,294,967,296 samples",
        ),
        ("s/1 2 125 3750\ns 3750\n", "segment .* has segments"),
    ],
)
def test_headers_of_segments_are_checked(segment, message, tmp_path):
    release = tmp_path / "release"
    write_wfdb_record(tmp_path / "outside", "s", {"II": None, "PLETH": None})
    write_wfdb_record(release, "s", {"II": None, "PLETH": None})
    (release / "s.hea").write_text(segment)
    (release / "long.hea").write_text("long/1 2 125 3750\ns 3750\n")
    with pytest.raises(ValueError, match=message):
        read_recording(release / "long", ("ppg",))


def test_damaged_records_that_are_allowed_are_left_out_and_named(tmp_path):
    release = tmp_path / "release"
    wfdb_pairs(release)
    point_elsewhere(release / "r0.hea", "../r1.dat")
    data = load_dataset("wfdb_pairs", data_dir=release, cache_dir=tmp_path, max_damaged_share=0.4, streaming=True)
    read = {row["record_id"] for rows in data.values() for row in rows}
    assert read == {"r1", "r2"}


@pytest.mark.parametrize("name", ["../outside/00001_lr", "/etc/00001_lr", "records100/../../outside/00001_lr"])
def test_ptb_xl_table_with_a_path_that_leads_out_is_refused(name, tmp_path):
    release = tmp_path / "release"
    ptb_xl(release)
    table = pd.read_csv(release / "ptbxl_database.csv")
    table.loc[1, "filename_lr"] = name
    table.to_csv(release / "ptbxl_database.csv", index=False)
    with pytest.raises(
        ValueError, match=rf"ptbxl_database\.csv, row 3, column `filename_lr`: .*{re.escape(name)}.* out of the folder"
    ):
        load_dataset("ptb_xl", data_dir=release, cache_dir=tmp_path)


@pytest.mark.parametrize("name", ["../x.parquet", "/etc/x.parquet", "a/../../x.parquet"])
def test_prepared_folder_with_a_shard_elsewhere_is_refused(name, tmp_path):
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    (tmp_path / "x.parquet").write_bytes(np.zeros(3, "u1").tobytes())
    manifest = {"settings": {}, "splits": {"train": {"files": {name: 3}}}}
    (prepared / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=rf"{re.escape(name)}.* out of the folder"):
        read_manifest(prepared)
