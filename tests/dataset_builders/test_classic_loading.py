"""The builders as loading scripts of `datasets` 3, the last version that runs them by path. Needs a package index."""

import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from cmssl_hf.data.loading import load_dataset
from helpers.checkout import ROOT, copy_package


pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

CHECKOUT = ROOT
REQUIREMENTS = ["datasets==3.6.*", "filelock", "h5py", "pandas", "scikit-learn", "scipy", "tqdm", "wfdb"]
SCRIPT = """
import sys
import datasets

path, config_name, data_dir, cache_dir, output_dir = sys.argv[1:]
assert datasets.__version__.startswith("3.6.")
data = datasets.load_dataset(path, config_name, data_dir=data_dir or None, cache_dir=cache_dir, trust_remote_code=True)
for split, rows in data.items():
    rows.to_parquet(f"{output_dir}/{split}.parquet")
"""
CASES = [
    ("bidmc", "hr", "bidmc-ppg-and-respiration-dataset-1.0.0"),
    ("csn", "codes", "ecg-arrhythmia-1.0.0"),
    ("physionet2017", "rhythm", "challenge-2017-1.0.0"),
    ("ppg_dalia", "hr", "ppg_dalia"),
    ("ppg_dalia", "pairs", "ppg_dalia"),
    ("ptb_xl", "superclass", "ptb-xl-a-large-publicly-available-electrocardiography-dataset-1.0.3"),
    ("pulsedb", "pairs", "PulseDB"),
    ("signalfolder", "recordings", "challenge-2015-1.0.0"),
    ("simulated", "hr", None),
    ("uci_bp", "bp", "uci2_dataset"),
    ("wfdb_pairs", "pairs", "challenge-2015-1.0.0"),
]


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Interpreter of an environment with `datasets` 3.6 and this package, without torch and transformers."""
    folder = tmp_path_factory.mktemp("datasets3")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", copy_package(folder / "source")], check=True
    )
    return python


def test_every_builder_is_tried():
    folders = {
        path.parent.name for path in (CHECKOUT / "dataset_builders").glob("*/*.py") if path.stem == path.parent.name
    }
    assert {name for name, *_ in CASES} == folders


@pytest.mark.parametrize(("name", "config_name", "release"), CASES)
def test_loading_script_gives_the_same_rows(python, test_data, tmp_path, name, config_name, release):
    data_dir = str(test_data / release) if release else ""
    script = CHECKOUT / "dataset_builders" / name
    subprocess.run(
        [python, "-W", "ignore", "-c", SCRIPT, script, config_name, data_dir, tmp_path / "cache", tmp_path],
        env={"HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        check=True,
    )
    data = load_dataset(name, config_name, data_dir=data_dir or None, cache_dir=tmp_path / "ours")
    assert sorted(path.stem for path in tmp_path.glob("*.parquet")) == sorted(data)
    for split, rows in data.items():
        table = pq.read_table(tmp_path / f"{split}.parquet")
        ours = rows.data.table
        assert table.column_names == ours.column_names
        assert table.cast(ours.schema).equals(ours.combine_chunks())
