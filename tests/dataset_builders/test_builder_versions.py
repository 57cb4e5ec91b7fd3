"""Prepared data are kept as long as versions stay the same, so whoever changes what comes out must raise a version.

`builder_rows.json` says what each version makes of small releases that are written here. After a version was raised,
`PYTHONPATH=tests python tests/dataset_builders/test_builder_versions.py` notes its rows there.
"""

import hashlib
import json
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from cmssl_hf.data.loading import dataset_names, load_dataset, load_dataset_builder
from cmssl_hf.data.prepared.writing import FEATURE_EXTRACTION_VERSION
from cmssl_hf.models.cmssl.feature_extraction_cmssl import CMSSLFeatureExtractor
from helpers.checkout import ROOT
from helpers.small_releases import WRITERS


TABLE = Path(__file__).with_name("builder_rows.json")


#: Configurations and options whose rows are noted; builders that read no release have none to write.
CASES = {
    "bidmc": [("pairs", {}), ("hr", {}), ("rr", {"annotator": 2}), ("rr", {"rr_label": "interval", "window_seconds": 20})],
    "csn": [("codes", {}), ("rhythm", {"lead": "aVF"}), ("paper", {})],
    "physionet2017": [("rhythm", {}), ("paper", {})],
    "ppg_dalia": [("pairs", {}), ("hr", {}), ("rr", {}), ("paper", {}), ("paper", {"label": "hr"})],
    "ptb_xl": [("superclass", {"lead": "all"}), ("subclass", {}), ("form", {}), ("rhythm", {}), ("all", {}), ("paper", {})],
    "pulsedb": [("pairs", {}), ("pairs", {"signals": "raw"}), ("bp", {}), ("sbp", {"signals": "raw"}), ("dbp", {})],
    "signalfolder": [
        ("recordings", {}),
        ("recordings", {"label": "rate", "channels": ["ppg"], "window_seconds": 7.5, "stride_seconds": 5}),
        ("recordings", {"label": ["codes"], "whole_recordings": True}),
    ],
    "simulated": [
        (config, {"num_subjects": 5, "seconds_per_subject": 40}) for config in ("pairs", "hr", "rr", "bp", "rhythm")
    ],
    "uci_bp": [("bp", {}), ("paper", {"label": "dbp"})],
    "wfdb_pairs": [("pairs", {}), ("pairs", {"subject": "record", "window_seconds": 7, "stride_seconds": 3})],
}  # fmt: skip


def rows_of(name: str, folder: Path) -> dict:
    """What a builder makes of its small release: per case and split the summary of each column."""
    data_dir = None
    if name in WRITERS:
        data_dir = folder / "release"
        data_dir.mkdir()
        WRITERS[name](data_dir)
    summaries = {}
    for config_name, options in CASES[name]:
        data = load_dataset(name, config_name, data_dir=data_dir, cache_dir=folder / "cache", **options)
        summaries[f"{config_name} {json.dumps(options)}"] = {
            split: {column: summary(list(rows[column])) for column in rows.column_names}
            for split, rows in data.items()
        }
    return summaries


def feature_extraction() -> dict:
    """What feature extraction makes of fixed signals."""
    times = np.arange(2500) / 250
    signals = {"ecg": np.sin(9 * times) ** 9, "ppg": np.sin(9 * times) + times}
    summaries = {}
    for options in ({}, {"do_band_pass": False}):
        extract = CMSSLFeatureExtractor(channels=("ecg", "ppg"), **options)
        values = extract(**signals, sampling_rate=250, return_tensors="np")["input_values"]
        summaries[json.dumps(options)] = summary(np.asarray(values).tolist())
    return summaries


def summary(values: list) -> list:
    """Of numbers how many there are, mean, root mean square and a sum that depends on their order, which all change little where
    arithmetic differs a little; of other values a hash."""
    flat = flattened(values)
    if not all(isinstance(value, (int, float)) for value in flat):
        return [len(flat), hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]]
    numbers = np.array(flat, dtype=np.float64)
    scale = np.sqrt(np.mean(numbers**2))
    return [
        len(flat),
        *(float(f"{value:.6g}") for value in (numbers.mean(), scale, numbers @ np.cos(np.arange(len(flat))))),
    ]


def flattened(values: list) -> list:
    return [item for value in values for item in (flattened(value) if isinstance(value, list) else [value])]


def differences(noted, found, place="") -> list[str]:
    """Where two summaries differ."""
    if isinstance(noted, dict) and isinstance(found, dict):
        return [
            difference
            for key in sorted({*noted, *found})
            for difference in differences(noted.get(key), found.get(key), f"{place}/{key}")
        ]
    if not isinstance(noted, list) or not isinstance(found, list) or len(noted) != len(found) or noted[0] != found[0]:
        return [place]
    if len(noted) == 2:
        return [place] if noted != found else []
    number, *_, scale, _ = noted
    tolerances = 1e-4 * scale * np.array([1, 1, np.sqrt(number)]) + 1e-12
    return [place] if (np.abs(np.subtract(noted[1:], found[1:])) > tolerances).any() else []


def everything(name: str, folder: Path) -> dict:
    if name == "feature extraction":
        return {"version": FEATURE_EXTRACTION_VERSION, "rows": feature_extraction()}
    return {"version": type(load_dataset_builder(name)).code_version(), "rows": rows_of(name, folder)}


NAMES = [*dataset_names(), "feature extraction"]


@pytest.mark.parametrize("name", NAMES)
def test_what_comes_out_changes_with_the_version_only(name, tmp_path):
    noted, found = json.loads(TABLE.read_text())[name], everything(name, tmp_path)
    assert found["version"] == noted["version"], (
        f"Note what this version makes: PYTHONPATH=tests python {Path(__file__).relative_to(ROOT)}"
    )
    changed = differences(noted["rows"], found["rows"])
    constant = {"feature extraction": "FEATURE_EXTRACTION_VERSION"}.get(name, "its VERSION (or BUILDING_VERSION)")
    assert not changed, (
        f"What the code of {name} makes changed: raise {constant}. It differs in {', '.join(changed[:5])}."
    )


def test_differences_are_seen():
    values = [[float(np.sin(row + sample)) for sample in range(100)] for row in range(5)]
    noted = {"train": {"signal": summary(values), "record_id": summary(["a", "b"])}}

    def of(values, names=("a", "b")):
        return differences(noted, {"train": {"signal": summary(values), "record_id": summary([*names])}})

    assert of(values) == []
    assert of((np.array(values) * (1 + 1e-6)).tolist()) == []
    assert of((np.array(values) * 1.001).tolist()) == ["/train/signal"]
    assert of(values[::-1]) == ["/train/signal"]
    assert of(values[:-1]) == ["/train/signal"]
    assert of(np.roll(values, 1, axis=1).tolist()) == ["/train/signal"]
    assert of(values, ("a", "c")) == ["/train/record_id"]
    assert differences(noted, {}) == ["/train"]


def note() -> None:
    """Notes what the present versions make; refuses where a version stayed the same and its rows did not."""
    table = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    for name in NAMES:
        with tempfile.TemporaryDirectory() as folder:
            found = everything(name, Path(folder))
        noted = table.get(name, {})
        if noted.get("version") == found["version"] and differences(noted["rows"], found["rows"]):
            sys.exit(f"What {name} makes changed, but its version did not: raise it.")
        table[name] = found if noted.get("version") != found["version"] else noted
    # Each column on a line of its own.
    TABLE.write_text(
        re.sub(r"\[\s+([^]]*?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", json.dumps(table, indent=1))
        + "\n"
    )


if __name__ == "__main__":
    note()
