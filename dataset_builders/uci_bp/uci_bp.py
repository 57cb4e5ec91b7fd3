"""UCI cuff-less blood pressure, benchmark release: 5 s windows of PPG at 125 Hz with systolic and diastolic pressure."""

import re
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np

from cmssl_hf.building.dataset_builder import SignalBuilderConfig, SignalDatasetBuilder, labelled_features
from cmssl_hf.building.errors import DamagedRecordError, damaged_if_unreadable
from cmssl_hf.building.matlab_5 import read_variables
from cmssl_hf.building.paper_protocol import PAPER_SAMPLING_RATE, stretch
from cmssl_hf.building.release_files import matching_files
from cmssl_hf.building.windows import usable_windows


_CITATION = """\
@article{gonzalez2023benchmark,
  title = {A benchmark for machine-learning based non-invasive blood pressure estimation using photoplethysmogram},
  author = {Gonz{\\'a}lez, Sergio and Hsieh, Wan-Ting and Chen, Trista Pei-Chun},
  journal = {Scientific Data}, volume = {10}, pages = {149}, year = {2023}, doi = {10.1038/s41597-023-02020-6}
}
@article{kachuee2017cuffless,
  title = {Cuffless Blood Pressure Estimation Algorithms for Continuous Health-Care Monitoring},
  author = {Kachuee, Mohammad and Kiani, Mohammad Mahdi and Mohammadzade, Hoda and Shabany, Mahdi},
  journal = {IEEE Transactions on Biomedical Engineering}, volume = {64}, number = {4}, pages = {859--869}, year = {2017}
}
"""

SAMPLING_RATE = 125.0
WINDOW_SAMPLES = 625
_FILES = {"train": "signal_fold_2.mat", "validation": "signal_fold_1.mat", "test": "signal_fold_0.mat"}
_ROWS_PER_TABLE = 4096


@dataclass
class UciBpConfig(SignalBuilderConfig):
    """Options of `uci_bp`.

    Args:
        label: of the configuration `paper`: `"sbp"`, `"dbp"` or `"bp"`. The others are named after theirs.
    """

    label: str | None = None


class UciBp(SignalDatasetBuilder):
    """Reads the three folds of the release, one of which is for training, one for validation and one for testing."""

    BUILDER_CONFIG_CLASS = UciBpConfig
    BUILDER_CONFIGS = [
        UciBpConfig(name="bp", label="bp", description="systolic and diastolic pressure (mmHg)"),
        UciBpConfig(name="sbp", label="sbp", description="systolic pressure (mmHg)"),
        UciBpConfig(name="dbp", label="dbp", description="diastolic pressure (mmHg)"),
        UciBpConfig(name="paper", label="bp", description="stretched to 1250 samples"),
    ]
    DEFAULT_CONFIG_NAME = "bp"
    TITLE = "the benchmark release of the UCI cuff-less blood pressure data"
    EXPECTED = "`signal_fold_0.mat`, `signal_fold_1.mat` and `signal_fold_2.mat`"
    DOWNLOAD_URL = "https://figshare.com/ndownloader/files/38671886"
    HOW_TO_GET = (
        f"Download {DOWNLOAD_URL} (of https://doi.org/10.6084/m9.figshare.c.6150390), extract it and give the folder"
        " `uci2_dataset`, or leave `data_dir` out."
    )

    @property
    def subject_note(self):
        return (
            "The release takes each recording of the original data, which knows no patients, for another person: someone who has"
            " several may be in two splits."
        )

    def _info(self):
        allowed = ("sbp", "dbp", "bp") if self.config.name == "paper" else (self.config.name,)
        if self.config.label not in allowed:
            raise ValueError(
                f"`label` of the configuration {self.config.name!r} must be {' or '.join(map(repr, allowed))}, but is"
                f" {self.config.label!r}."
            )
        pressure = datasets.Value("float32")
        return datasets.DatasetInfo(
            description=__doc__,
            features=labelled_features(
                datasets.Sequence(pressure) if self.config.label == "bp" else pressure, sbp=pressure, dbp=pressure
            ),
            homepage="https://doi.org/10.6084/m9.figshare.c.6150390",
            license="CC BY 4.0",
            citation=_CITATION,
        )

    def _list_records(self, dl_manager):
        folder = self.release_folder(dl_manager)
        records = {}
        for split, name in _FILES.items():
            found = matching_files(folder, re.escape(name))
            if not found:
                raise self.not_the_release(folder, f"it has no {name}")
            records[split] = [str(found[0])]
        return records

    def _record_tables(self, record, counter):
        with damaged_if_unreadable(record):
            content = read_variables(record, ["patient", "trial", "SP", "DP", "signal"])
            signal, sbp, dbp, patients, trials = _checked(Path(record), content)
            trial_numbers = np.array([_trial_number(Path(record), *trial) for trial in enumerate(trials)])
        for first in range(0, len(signal), _ROWS_PER_TABLE):
            rows = slice(first, first + _ROWS_PER_TABLE)
            pressures = np.stack([sbp[rows], dbp[rows]], axis=1)
            kept = usable_windows([signal[rows]], counter, labels=pressures)
            windows, pressures = signal[rows][kept], pressures[kept]
            labels = {"sbp": pressures[:, 0], "dbp": pressures[:, 1], "bp": pressures}
            paper = self.config.name == "paper"
            yield self.to_table(
                signal=stretch(windows) if paper else windows,
                sampling_rate=PAPER_SAMPLING_RATE if paper else SAMPLING_RATE,
                subject_id=patients[rows][kept],
                record_id=trials[rows][kept],
                start_time=trial_numbers[rows][kept] * (WINDOW_SAMPLES / SAMPLING_RATE),
                label=labels[self.config.label],
                sbp=pressures[:, 0],
                dbp=pressures[:, 1],
            )


def _trial_number(path: Path, row: int, trial: str) -> float:
    number = trial.rpartition("_")[2]
    if not number.isdecimal():
        raise DamagedRecordError(f"{path}, row {row + 1} of `trial`: {str(trial)!r} does not end in a number.")
    return float(number)


def _checked(path: Path, content: dict) -> tuple[np.ndarray, ...]:
    """Signals `(rows, 625)` and, each `(rows,)`, systolic and diastolic pressures, patients and trials."""
    missing = [name for name in ("patient", "trial", "SP", "DP", "signal") if name not in content]
    if missing:
        raise DamagedRecordError(f"{path} has no variable {', '.join(missing)}.")
    signal = content["signal"]
    if signal.ndim != 2 or signal.shape[1] != WINDOW_SAMPLES or len(signal) == 0:
        raise DamagedRecordError(f"{path}: `signal` has shape {signal.shape} instead of (rows, {WINDOW_SAMPLES}).")
    if any(content[name].dtype.kind not in "fiu" for name in ("SP", "DP", "signal")):
        raise DamagedRecordError(f"{path}: `SP`, `DP` and `signal` must be numbers.")
    columns = [content[name].ravel() for name in ("SP", "DP", "patient", "trial")]
    if any(len(column) != len(signal) for column in columns):
        raise DamagedRecordError(f"{path} has {len(signal)} signals but {[len(column) for column in columns]} labels.")
    # Texts of a MATLAB array all have the length of the longest.
    patients, trials = (np.char.strip(column.astype(str)) for column in columns[2:])
    return signal, *columns[:2], patients, trials
