"""PPG-DaLiA: 15 people through their day, wrist PPG and chest ECG and respiration, with heart rate and activity."""

from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from scipy import signal as scipy_signal

from cmssl_hf.building.dataset_builder import SignalDatasetBuilder, WindowedConfig, labelled_features, pair_features
from cmssl_hf.building.errors import DamagedRecordError, damaged_if_unreadable
from cmssl_hf.building.paper_protocol import PAPER_SAMPLES, PAPER_SAMPLING_RATE, stretch
from cmssl_hf.building.release_files import first_by_stem, matching_files
from cmssl_hf.building.windows import cut_windows, usable_windows, window_starts
from cmssl_hf.signals import resample

from .numpy_pickle import load_numpy_pickle


_CITATION = """\
@article{reiss2019deep,
  title = {Deep {PPG}: Large-Scale Heart Rate Estimation with Convolutional Neural Networks},
  author = {Reiss, Attila and Indlekofer, Ina and Schmidt, Philip and Van Laerhoven, Kristof},
  journal = {Sensors}, volume = {19}, number = {14}, pages = {3079}, year = {2019}, doi = {10.3390/s19143079}
}
"""

PPG_RATE = 64
CHEST_RATE = 700
ACTIVITY_RATE = 4
#: The pairs share the rate of the models: the ECG keeps its band of 0.5-40 Hz, and the PPG, sampled up, keeps everything.
PAIRS_RATE = 125
ACTIVITIES = (
    "transition", "sitting", "stairs", "table_soccer", "cycling", "driving", "lunch_break", "walking", "working",
)  # fmt: skip

#: Length and stride of the windows in seconds. Those of `hr` are the release's; 19.53 s of `rr` are 1250 samples.
_WINDOWS = {"pairs": (10.0, 10.0), "hr": (8.0, 2.0), "rr": (PAPER_SAMPLES / PPG_RATE, 1.0)}
# Respiration of a long recording, cut into windows that overlap by 95 %, would fill a gigabyte.
_WINDOWS_PER_TABLE = 256


@dataclass
class PpgDaliaConfig(WindowedConfig):
    """Options of `ppg_dalia`, beside those of `WindowedConfig`.

    Args:
        window_seconds: length of a window; that of the published task if `None`. Fixed for heart rate, whose labels the release
            gives for windows of 8 s every 2 s.
        stride_seconds: likewise.
        label: of the configuration `paper`: `"hr"` or `"rr"`. The others are named after theirs.
    """

    window_seconds: float | None = None
    stride_seconds: float | None = None
    label: str | None = None


class PpgDalia(SignalDatasetBuilder):
    """Reads the pickle of each subject, admitting only arrays and plain containers."""

    BUILDER_CONFIG_CLASS = PpgDaliaConfig
    BUILDER_CONFIGS = [
        PpgDaliaConfig(name="pairs", label="pairs", description="chest ECG and wrist PPG at 125 Hz, for pre-training"),
        PpgDaliaConfig(name="hr", label="hr", description="heart rate of the release (beats/min)"),
        PpgDaliaConfig(name="rr", label="rr", description="dominant frequency of the chest respiration (breaths/min)"),
        PpgDaliaConfig(name="paper", label="rr", description="1250 samples whatever the duration, `rr` in Hz"),
    ]
    DEFAULT_CONFIG_NAME = "pairs"
    TITLE = "PPG-DaLiA"
    EXPECTED = "`PPG_FieldStudy/S1/S1.pkl` to `S15/S15.pkl`"
    DOWNLOAD_URL = "https://archive.ics.uci.edu/static/public/495/ppg+dalia.zip"
    HOW_TO_GET = f"Download and extract {DOWNLOAD_URL}, and the archive in it, or leave `data_dir` out."

    @property
    def _paper(self) -> bool:
        return self.config.name == "paper"

    def _info(self):
        allowed = ("hr", "rr") if self._paper else (self.config.name,)
        if self.config.label not in allowed:
            raise ValueError(
                f"`label` of the configuration {self.config.name!r} must be {' or '.join(map(repr, allowed))}, but is"
                f" {self.config.label!r}."
            )
        extra = {
            "activity": datasets.ClassLabel(names=list(ACTIVITIES)),
            "age": datasets.Value("float32"),
            "sex": datasets.Value("string"),
        }
        pairs = self.config.label == "pairs"
        return datasets.DatasetInfo(
            description=__doc__,
            features=pair_features(**extra) if pairs else labelled_features(datasets.Value("float32"), **extra),
            homepage="https://archive.ics.uci.edu/dataset/495/ppg+dalia",
            license="CC BY 4.0",
            citation=_CITATION,
        )

    def _list_records(self, dl_manager):
        window, stride = _WINDOWS[self.config.label]
        asked = (
            window if self.config.window_seconds is None else self.config.window_seconds,
            stride if self.config.stride_seconds is None else self.config.stride_seconds,
        )
        if (self._paper or self.config.label == "hr") and asked != (window, stride):
            raise ValueError(
                f"The windows of the configuration {self.config.name!r} are fixed: {window:g} s every {stride:g} s."
            )
        self.config.window_seconds, self.config.stride_seconds = asked
        folder = self.release_folder(dl_manager)
        paths = first_by_stem(matching_files(folder, r"S\d+\.pkl"))
        if not paths:
            raise self.not_the_release(folder)
        # The published code sorts the subjects as text for heart rate but as numbers for respiration; ours are split once.
        by_number = self._paper and self.config.label == "rr"
        return self.config.divide(
            {int(name[1:]) if by_number else name: [str(path)] for name, path in sorted(paths.items())}
        )

    def _record_tables(self, record, counter):
        with damaged_if_unreadable(record):
            recording = _read(Path(record))
        if self.config.label == "pairs":
            signals, rate = recording.pair(), PAIRS_RATE
        else:
            signals, rate = {"signal": recording.ppg}, PPG_RATE
        window, stride = self.config.window_and_stride(rate)
        starts = np.array(window_starts(int(recording.duration * rate), window, stride))
        if self.config.label == "hr":
            starts = starts[: len(recording.heart_rate)]
        for first in range(0, len(starts), _WINDOWS_PER_TABLE):
            some = starts[first : first + _WINDOWS_PER_TABLE]
            times, seconds = some / rate, window / rate
            windows = [cut_windows(signal, some, window) for signal in signals.values()]
            labels = None
            if self.config.label == "hr":
                labels = recording.heart_rate[first : first + len(some)]
            elif self.config.label == "rr":
                labels = dominant_frequencies(recording.respiration, CHEST_RATE, times, seconds)
                labels = labels if self._paper else 60 * labels
            kept = usable_windows(windows, counter, labels)
            columns = {name: stretch(cut[kept]) if self._paper else cut[kept] for name, cut in zip(signals, windows)}
            if labels is not None:
                columns["label"] = labels[kept]
            yield self.to_table(
                **columns,
                sampling_rate=PAPER_SAMPLING_RATE if self._paper else float(rate),
                subject_id=recording.subject,
                record_id=recording.subject,
                start_time=times[kept],
                activity=most_frequent(recording.activity, ACTIVITY_RATE, times[kept], seconds),
                age=recording.age,
                sex=recording.sex,
            )


@dataclass
class DaliaRecord:
    """One subject: wrist PPG at 64 Hz, chest ECG (mV) and respiration at 700 Hz, activity at 4 Hz, heart rate every 2 s."""

    subject: str
    ppg: np.ndarray
    ecg: np.ndarray
    respiration: np.ndarray
    activity: np.ndarray
    heart_rate: np.ndarray
    age: float | None
    sex: str | None

    @property
    def duration(self) -> float:
        """Seconds for which all devices recorded."""
        return min(
            len(self.ppg) / PPG_RATE,
            len(self.ecg) / CHEST_RATE,
            len(self.respiration) / CHEST_RATE,
            len(self.activity) / ACTIVITY_RATE,
        )

    def pair(self) -> dict[str, np.ndarray]:
        """ECG and PPG at `PAIRS_RATE`."""
        return {
            "ecg": resample(self.ecg, CHEST_RATE, PAIRS_RATE),
            "ppg": resample(self.ppg, PPG_RATE, PAIRS_RATE),
        }


def dominant_frequencies(
    respiration: np.ndarray, sampling_rate: float, start_times: np.ndarray, window_seconds: float
) -> np.ndarray:
    """Frequency (Hz) of the largest peak between 0.1 and 0.5 Hz in each window of a respiration signal: the published label.

    The window is filtered (2nd-order Butterworth, 0.08-2 Hz) and its spectrum is that of a single Hamming segment, so the
    frequencies are multiples of `1 / window_seconds`. NaN where samples are missing or the signal is constant.
    """
    window = int(window_seconds * sampling_rate)
    starts = np.round(start_times * sampling_rate).astype(np.int64)
    windows = cut_windows(respiration, starts, window).astype(np.float64)
    known = np.isfinite(windows).all(axis=1) & (np.ptp(windows, axis=1) > 0)
    rates = np.full(len(windows), np.nan)
    if known.any():
        sos = scipy_signal.butter(2, (0.08, 2.0), btype="bandpass", fs=sampling_rate, output="sos")
        filtered = scipy_signal.sosfiltfilt(sos, windows[known], axis=1)
        frequencies, power = scipy_signal.welch(filtered, sampling_rate, window="hamming", nperseg=window, axis=1)
        band = (frequencies >= 0.1) & (frequencies <= 0.5)
        # Of huge values the power is infinite, and so is that of every frequency.
        strongest = np.where(np.isfinite(power).all(axis=1), np.argmax(power[:, band], axis=1), -1)
        rates[known] = np.where(strongest < 0, np.nan, frequencies[band][strongest])
    return rates


def most_frequent(
    codes: np.ndarray, sampling_rate: float, start_times: np.ndarray, window_seconds: float
) -> np.ndarray:
    """The code that fills most of each window of a sequence of small integers; of equally frequent ones the smallest."""
    first = np.round(start_times * sampling_rate).astype(np.int64)
    end = np.round((start_times + window_seconds) * sampling_rate).astype(np.int64)
    # However short the window, there is a code at its start.
    return np.array([np.bincount(codes[a : max(b, a + 1)]).argmax() for a, b in zip(first, end)], dtype=np.int64)


def _numbers(values: np.ndarray) -> np.ndarray:
    """As they are if they are numbers: those of 700 Hz for hours are not copied."""
    return values if values.dtype.kind in "fiub" else values.astype(np.float64)


def _read(path: Path) -> DaliaRecord:
    content = load_numpy_pickle(path)
    chest, wrist, questionnaire = content["signal"]["chest"], content["signal"]["wrist"], content["questionnaire"]
    vectors = {"BVP": wrist["BVP"], "ECG": chest["ECG"], "Resp": chest["Resp"]}
    vectors.update((name, content[name]) for name in ("activity", "label"))
    for name, vector in vectors.items():
        if np.size(vector) == 0 or np.size(vector) != len(vector):
            raise DamagedRecordError(f"{path}: {name} has shape {np.shape(vector)} instead of (samples, 1).")
    activity = np.ravel(vectors["activity"]).astype(np.int64)
    if not np.isin(activity, range(len(ACTIVITIES))).all():
        raise DamagedRecordError(f"{path} has activities other than 0 to {len(ACTIVITIES) - 1}.")
    age, sex = questionnaire["AGE"], questionnaire["Gender"]
    if not isinstance(sex, str):
        raise DamagedRecordError(f"{path}: Gender of the questionnaire is {sex!r} instead of a text.")
    return DaliaRecord(
        subject=path.stem.upper(),
        ppg=np.ravel(vectors["BVP"]).astype(np.float32),
        ecg=np.ravel(vectors["ECG"]).astype(np.float32),
        respiration=_numbers(np.ravel(vectors["Resp"])),
        activity=activity,
        heart_rate=np.ravel(vectors["label"]).astype(np.float64),
        age=float(age),
        sex=sex.strip().upper()[:1],
    )
