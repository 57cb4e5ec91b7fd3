"""BIDMC PPG and Respiration Dataset 1.0.0: 53 intensive-care recordings of 8 minutes with ECG, PPG and breaths."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import wfdb

from cmssl_hf.building.dataset_builder import SignalDatasetBuilder, WindowedConfig, labelled_features, pair_features
from cmssl_hf.building.errors import DamagedRecordError, damaged_if_unreadable
from cmssl_hf.building.release_files import beside, matching_files
from cmssl_hf.building.tables import read_table, whole_numbers
from cmssl_hf.building.wfdb_records import read_record
from cmssl_hf.building.windows import cut_windows, usable_windows, window_starts


_CITATION = """\
@article{pimentel2016robust,
  title = {Toward a Robust Estimation of Respiratory Rate From Pulse Oximeters},
  author = {Pimentel, Marco A. F. and Johnson, Alistair E. W. and Charlton, Peter H. and Birrenkott, Drew and
            Watkinson, Peter J. and Tarassenko, Lionel and Clifton, David A.},
  journal = {IEEE Transactions on Biomedical Engineering},
  volume = {64}, number = {8}, pages = {1914--1923}, year = {2017}, doi = {10.1109/TBME.2016.2613124}
}
"""

SAMPLING_RATE = 125
NUMERICS_RATE = 1
CHANNELS = {"ecg": "II", "ppg": "PLETH"}

_SUBJECTS = range(1, 54)


@dataclass
class BidmcConfig(WindowedConfig):
    """Options of `bidmc`, beside those of `WindowedConfig`.

    Args:
        modality: signal of the labelled rows, `"ppg"` (PLETH) or `"ecg"` (lead II).
        annotator: whose breaths label the `rr` configuration, 1 or 2.
        rr_label: `"count"` is the published label, breaths in the window times `60 / window_seconds`: in steps of 6/min
            with 10 s. `"interval"` is 60 over the mean time between the breaths in the window, and needs two of them.
    """

    stride_seconds: float = 2.0
    modality: str = "ppg"
    annotator: int = 1
    rr_label: str = "count"


class Bidmc(SignalDatasetBuilder):
    """Reads the WFDB form of the release or, in a folder without it, the CSV form."""

    BUILDER_CONFIG_CLASS = BidmcConfig
    BUILDER_CONFIGS = [
        BidmcConfig(name="pairs", description="ECG lead II and PPG, for pre-training"),
        BidmcConfig(name="hr", description="mean monitor heart rate in the window (beats/min)"),
        BidmcConfig(name="rr", description="respiratory rate from annotated breaths (breaths/min)"),
    ]
    DEFAULT_CONFIG_NAME = "pairs"
    TITLE = "the BIDMC PPG and Respiration Dataset 1.0.0"
    EXPECTED = (
        "`bidmcNN.hea`, `.dat`, `.breath` and `bidmcNNn.hea`, `.dat`, or `bidmc_NN_{Signals,Numerics,Breaths}.csv`"
    )
    DOWNLOAD_URL = "https://physionet.org/static/published-projects/bidmc/bidmc-ppg-and-respiration-dataset-1.0.0.zip"
    HOW_TO_GET = f"Download and extract {DOWNLOAD_URL} or leave `data_dir` out."

    def _info(self):
        fixed = {"age": datasets.Value("float32"), "sex": datasets.Value("string")}
        if self.config.name == "pairs":
            features = pair_features(**fixed)
        else:
            features = labelled_features(datasets.Value("float32"), **fixed)
        return datasets.DatasetInfo(
            description=__doc__,
            features=features,
            homepage="https://physionet.org/content/bidmc/1.0.0/",
            license="ODC-By 1.0",
            citation=_CITATION,
        )

    def _list_records(self, dl_manager):
        for option, allowed in (
            ("modality", tuple(CHANNELS)),
            ("annotator", (1, 2)),
            ("rr_label", ("count", "interval")),
        ):
            if getattr(self.config, option) not in allowed:
                raise ValueError(f"`{option}` must be one of {allowed}, but is {getattr(self.config, option)!r}.")
        folder = self.release_folder(dl_manager)
        paths = matching_files(folder, r"bidmc\d\d\.hea") or matching_files(folder, r"bidmc_\d\d_Signals\.csv")
        records = {_number(path): [str(path)] for path in reversed(paths)}
        if not records:
            raise self.not_the_release(folder)
        unknown = sorted(set(records) - set(_SUBJECTS))
        if unknown:
            raise self.not_the_release(folder, f"its subjects are 1 to 53, but there is {unknown[0]}")
        return self.config.divide({number: records[number] for number in sorted(records)}, subjects=_SUBJECTS)

    def _record_tables(self, record, counter):
        with damaged_if_unreadable(record):
            path = Path(record)
            recording = _read_csv(path) if path.suffix.lower() == ".csv" else _read_wfdb(path)
        window, stride = self.config.window_and_stride(SAMPLING_RATE)
        modalities = ("ecg", "ppg") if self.config.name == "pairs" else (self.config.modality,)
        signals = [recording.signals[modality] for modality in modalities]
        starts = np.array(window_starts(len(signals[0]), window, stride))
        labels = None
        if self.config.name == "hr":
            labels = mean_heart_rates(recording.heart_rate, starts / SAMPLING_RATE, window / SAMPLING_RATE)
        elif self.config.name == "rr":
            breaths = recording.breaths[self.config.annotator]
            if len(breaths) == 0:
                raise DamagedRecordError(f"{record} has no breaths of annotator {self.config.annotator}.")
            labels = respiratory_rates(breaths, starts, window, by_interval=self.config.rr_label == "interval")
        windows = [cut_windows(signal, starts, window) for signal in signals]
        kept = usable_windows(windows, counter, labels)
        windows = [cut[kept] for cut in windows]
        columns = dict(zip(modalities, windows)) if labels is None else {"signal": windows[0], "label": labels[kept]}
        yield self.to_table(
            **columns,
            sampling_rate=float(SAMPLING_RATE),
            subject_id=str(recording.subject),
            record_id=f"bidmc{recording.subject:02d}",
            start_time=starts[kept] / SAMPLING_RATE,
            age=recording.age,
            sex=recording.sex,
        )


@dataclass
class BidmcRecord:
    """One recording: signals at 125 Hz, monitor heart rate at 1 Hz, breaths of each annotator in samples from 0."""

    subject: int
    signals: dict[str, np.ndarray]
    heart_rate: np.ndarray
    breaths: dict[int, np.ndarray]
    age: float | None
    sex: str | None


def mean_heart_rates(heart_rate: np.ndarray, start_times: np.ndarray, window_seconds: float) -> np.ndarray:
    """Mean of the valid monitor values, one per second, within each window; NaN where there is none."""
    seconds = np.arange(len(heart_rate))
    within = (seconds >= start_times[:, None]) & (seconds < start_times[:, None] + window_seconds)
    within &= np.isfinite(heart_rate)
    number = within.sum(axis=1)
    total = within @ np.nan_to_num(heart_rate)
    return np.divide(total, number, out=np.full(len(start_times), np.nan), where=number > 0)


def respiratory_rates(breaths: np.ndarray, starts: np.ndarray, window: int, by_interval: bool) -> np.ndarray:
    """Breaths per minute in each window, by counting breaths or by their mean interval (NaN with fewer than two)."""
    first, end = np.searchsorted(breaths, starts), np.searchsorted(breaths, starts + window)
    number = end - first
    if not by_interval:
        return number * 60.0 * SAMPLING_RATE / window
    rates = np.full(len(starts), np.nan)
    several = number >= 2
    duration = (breaths[end[several] - 1] - breaths[first[several]]).astype(np.float64)
    # Marks at the same sample are one breath, of no known rate.
    duration[duration <= 0] = np.nan
    rates[several] = 60.0 * SAMPLING_RATE * (number[several] - 1) / duration
    return rates


def _read_wfdb(header: Path) -> BidmcRecord:
    record = header.with_suffix("")
    signals = _read_wfdb_signals(header, SAMPLING_RATE)
    numerics = _read_wfdb_signals(beside(header, f"{record.name}n.hea"), NUMERICS_RATE)
    comment = " ".join(signals.comments)
    channels = {name.strip(" ,"): values for name, values in zip(signals.sig_name, signals.p_signal.T)}
    rates = {name.strip(" ,"): values for name, values in zip(numerics.sig_name, numerics.p_signal.T)}
    # The WFDB annotations keep one mark per sample: where both annotators marked the same one, annotator 1's is lost.
    csv_breaths = beside(beside(header, "bidmc_csv") / "any", f"bidmc_{record.name[-2:]}_Breaths.csv")
    return _recording(
        header,
        channels,
        rates,
        _read_csv_breaths(csv_breaths) if csv_breaths.exists() else _read_wfdb_breaths(header),
        age=_field(comment, r"<age>:\s*(\w+)"),
        sex=_field(comment, r"<sex>:\s*(\w)"),
    )


def _read_wfdb_signals(header: Path, sampling_rate: float) -> wfdb.Record:
    record = read_record(header)
    if record.fs != sampling_rate:
        raise DamagedRecordError(f"{header} states {record.fs} Hz instead of {sampling_rate}.")
    return record


def _read_csv(path: Path) -> BidmcRecord:
    number = path.name.split("_")[1]
    signals = read_table(path, dict.fromkeys(CHANNELS.values(), float))
    numerics = read_table(beside(path, f"bidmc_{number}_Numerics.csv"), {"HR": float})
    fixed = beside(path, f"bidmc_{number}_Fix.txt")
    text = fixed.read_text() if fixed.exists() else ""
    return _recording(
        path,
        {name: column.to_numpy() for name, column in signals.items()},
        {name: column.to_numpy() for name, column in numerics.items()},
        _read_csv_breaths(beside(path, f"bidmc_{number}_Breaths.csv")),
        age=_field(text, r"Age:\s*(\w+)"),
        sex=_field(text, r"Gender:\s*(\w)"),
    )


def _read_wfdb_breaths(header: Path) -> dict[int, np.ndarray]:
    file = beside(header, f"{header.stem}.breath")
    with damaged_if_unreadable(file):
        annotation = wfdb.rdann(str(file.with_suffix("")), file.suffix[1:])
    authors = np.array([note.strip("\0 ") for note in annotation.aux_note])
    return {number: annotation.sample[authors == f"ann{number}"] for number in (1, 2)}


def _read_csv_breaths(path: Path) -> dict[int, np.ndarray]:
    names = {number: f"breaths ann{number} [signal sample no]" for number in (1, 2)}
    table = read_table(path, dict.fromkeys(names.values(), float))
    # The CSV form counts samples from 1, the WFDB form from 0.
    return {number: whole_numbers(table[name].dropna(), path) - 1 for number, name in names.items()}


def _recording(path, channels, rates, breaths, age, sex) -> BidmcRecord:
    missing = {*CHANNELS.values(), "HR"} - {*channels, *rates}
    if missing:
        raise DamagedRecordError(f"{path} has no {' and no '.join(sorted(missing))}; it has {[*channels, *rates]}.")
    return BidmcRecord(
        subject=_number(path),
        signals={modality: channels[name] for modality, name in CHANNELS.items()},
        # Monitors report whole numbers; the 16-bit scale of the WFDB form moves them by up to 1e-4.
        heart_rate=np.round(rates["HR"].astype(np.float64), 2),
        breaths={number: np.sort(positions) for number, positions in breaths.items()},
        age=float(age) if age and not math.isnan(float(age)) else None,
        sex=sex,
    )


def _number(path: Path) -> int:
    """The subject of a file."""
    return int(re.search(r"\d\d", path.name).group())


def _field(text: str, pattern: str) -> str | None:
    match = re.search(pattern, text)
    return match.group(1) if match else None
