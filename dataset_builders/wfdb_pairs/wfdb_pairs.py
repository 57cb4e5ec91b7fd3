"""Synchronous ECG and PPG from any folder of WFDB records, such as the MIMIC waveforms or the CinC Challenge 2015."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import wfdb

from cmssl_hf.baselines import RR_INTERVAL_FEATURES, rr_interval_features
from cmssl_hf.building.dataset_builder import (
    CHANNELS,
    ChannelsConfig,
    SignalDatasetBuilder,
    WindowedConfig,
    labelled_features,
    pair_features,
)
from cmssl_hf.building.errors import DamagedRecordError
from cmssl_hf.building.release_files import beside, matching_files
from cmssl_hf.building.subjects import checked_pattern, note_on_subjects, subjects_of_paths
from cmssl_hf.building.wfdb_records import read_header, read_record
from cmssl_hf.building.windows import cut_windows, usable_windows, window_starts
from cmssl_hf.signals import CHANNEL_PATTERNS, detect_pulse_peaks, first_match, resample


# Recordings may last for days; this much of one is in memory at a time.
_SLICE_SECONDS = 600
# Samples on either side of a slice from which resampling reads: ten, and some more for what is between two rates.
_MARGIN_SAMPLES = 32


@dataclass
class WfdbPairsConfig(ChannelsConfig, WindowedConfig):
    """Options of `wfdb_pairs`, beside those of `WindowedConfig` and `ChannelsConfig`; without `channels` rows hold both.

    Args:
        ecg_patterns: regular expressions that a whole channel name must match, whatever its case, without the commas and
            spaces around it. Of all channels the one that matches the earliest expression is taken.
        ppg_patterns: the same for the PPG.
        subject: whose a record is. `None`: that of its folder, where records lie in folders (the topmost of those in which
            they differ, or the person's folder of MIMIC); a record outside of folders is taken for another person.
            `"record"`: each record is of another person. `"folder"`: the folder that holds it is the subject. Or a regular
            expression whose first group (or whole match), searched in the path relative to `data_dir`, is the subject, such
            as `"([^/_]+)_[^/]*$"` for files named `subject_session`.
    """

    max_damaged_share: float = 0.05
    ecg_patterns: Sequence[str] = CHANNEL_PATTERNS["ecg"]
    ppg_patterns: Sequence[str] = CHANNEL_PATTERNS["ppg"]
    subject: str | None = None


@dataclass(frozen=True)
class Segment:
    """A single-segment WFDB record, or one segment of a longer record: `start_time` (s) is where it lies in that."""

    path: str
    record_id: str
    subject_id: str
    start_time: float = 0.0

    def __str__(self) -> str:
        return self.path


class WfdbPairs(SignalDatasetBuilder):
    """Windows do not reach across the segments of a multi-segment record, whose channels may differ."""

    BUILDER_CONFIG_CLASS = WfdbPairsConfig
    BUILDER_CONFIGS = [
        WfdbPairsConfig(name="pairs", description="ECG and PPG, for pre-training"),
        WfdbPairsConfig(name="hr", description="PPG with the heart rate of the R-peaks in its ECG (beats/min)"),
    ]
    DEFAULT_CONFIG_NAME = "pairs"
    TITLE = "a folder of WFDB records with ECG and PPG"
    EXPECTED = "WFDB records (`.hea` and `.dat` or `.mat` files), in subfolders or not"
    HOW_TO_GET = (
        "Such records are found at https://physionet.org, for example https://physionet.org/content/challenge-2015/."
    )

    @property
    def subject_note(self):
        return note_on_subjects(self.config.subject)

    @property
    def _names(self) -> tuple[str, ...]:
        if self.config.name == "hr":
            if self.config.checked_channels() not in ((), ("ppg",)):
                raise ValueError(f"The rows of the configuration hr hold the PPG, not {self.config.channels}.")
            return CHANNELS
        return self.config.checked_channels() or CHANNELS

    def _info(self):
        names = {f"{channel}_channel": datasets.Value("string") for channel in self._names}
        if self.config.name == "pairs":
            features = pair_features(self._names, **names)
        else:
            features = labelled_features(datasets.Value("float32"), **names)
        return datasets.DatasetInfo(description=f"{__doc__}\n\n{self.subject_note}", features=features)

    def _list_records(self, dl_manager):
        for option in ("ecg_patterns", "ppg_patterns"):
            for pattern in getattr(self.config, option):
                checked_pattern(pattern, option)
        folder = self.release_folder(dl_manager)
        headers = {path: _read_header_if_whole(path) for path in matching_files(folder, r".*\.hea")}
        if not headers:
            raise self.not_the_release(folder, "it holds no WFDB headers (*.hea)")
        parts = {
            segment
            for path, header in headers.items()
            if isinstance(header, wfdb.MultiRecord)
            for segment in _segment_headers(path, header)
        }
        record_ids = {
            path: path.relative_to(folder).with_suffix("").as_posix() for path in headers if path not in parts
        }
        subjects = subjects_of_paths([*record_ids.values()], self.config.subject, self.name)
        segments = {}
        for path, record_id in record_ids.items():
            usable = self._usable_segments(path, headers, record_id, subjects[record_id])
            if usable:
                segments.setdefault(subjects[record_id], []).extend(usable)
            else:
                self.skip_record(record_id, f"no {self._wanted} channels")
        if not segments:
            wanted = " and ".join(
                f"a channel that matches {' or '.join(self._patterns(channel))} ({channel.upper()})"
                for channel in self._names
            )
            both = "both " * (len(self._names) > 1)
            raise self.not_the_release(folder, f"none of its {len(headers)} records has {both}{wanted}")
        return self.config.divide(segments)

    def _usable_segments(self, path, headers, record_id, subject_id) -> list[Segment]:
        header = headers[path]
        if not isinstance(header, wfdb.MultiRecord):
            parts = [(path, 0.0)]
        else:
            lengths = np.asarray(header.seg_len)
            times = (np.cumsum(lengths) - lengths) / header.fs
            # `~` is a gap and a segment of no length the layout of the others.
            parts = [
                (part, float(time))
                for part, name, length, time in zip(
                    _segment_headers(path, header), header.seg_name, lengths, times, strict=True
                )
                if name != "~" and length > 0
            ]
        return [
            Segment(str(part), record_id, subject_id, time)
            for part, time in parts
            # What cannot be read is kept here, to be counted and reported as damaged when its turn comes.
            if headers.get(part) is None or None not in self._channels(headers[part])
        ]

    @property
    def _wanted(self) -> str:
        return " and ".join(map(str.upper, self._names))

    def _patterns(self, channel: str) -> Sequence[str]:
        return getattr(self.config, f"{channel}_patterns")

    def _channels(self, header: wfdb.Record) -> list[int | None]:
        names = [(name or "").strip(" ,") for name in header.sig_name or []]
        return [first_match(names, self._patterns(channel)) for channel in self._names]

    def _record_tables(self, record, counter):
        path = Path(record.path)
        header = read_header(path)
        channels = self._channels(header)
        if None in channels:
            raise DamagedRecordError(f"{path} has no {self._wanted} channels; it has {header.sig_name}.")
        whole = None
        if header.sig_len is None:
            # Only reading it tells how long it is.
            whole = _read_signals(path, channels)
        # A frame holds one or several samples of each channel, so channels may have different rates.
        per_frame = np.array([header.samps_per_frame[channel] for channel in channels])
        num_frames = header.sig_len if whole is None else len(whole[0]) // int(per_frame[0])
        # Windows are counted in samples of the faster channel, to whose rate the slower one is brought.
        fastest = int(per_frame.max())
        rate = float(header.fs * fastest)
        window, stride = self.config.window_and_stride(rate)
        starts = np.array(window_starts(num_frames * fastest, window, stride), dtype=np.int64)
        windows_per_slice = max(1, int(_SLICE_SECONDS * rate) // stride)
        for first in range(0, len(starts), windows_per_slice):
            some = starts[first : first + windows_per_slice]
            margin = 0 if (per_frame == fastest).all() else -(-_MARGIN_SAMPLES // int(per_frame.min()))
            begin = max(0, int(some[0]) // fastest - margin)
            end = min(num_frames, -(-int(some[-1] + window) // fastest) + margin)
            if whole is None:
                signals = _read_signals(path, channels, sampfrom=begin, sampto=end)
            else:
                signals = [signal[begin * n : end * n] for signal, n in zip(whole, per_frame)]
            windows = [
                _raw_windows(signal, some - begin * fastest, window, int(n), fastest)
                for signal, n in zip(signals, per_frame)
            ]
            kept = usable_windows(windows, counter)
            columns = {
                channel: cut[kept]
                if n == fastest
                else cut_windows(_resampled(signal, int(n), fastest), (some - begin * fastest)[kept], window)
                for channel, signal, cut, n in zip(self._names, signals, windows, per_frame)
            }
            columns |= {
                f"{channel}_channel": header.sig_name[position].strip(" ,")
                for channel, position in zip(self._names, channels)
            }
            if self.config.name == "hr":
                ecg, ppg = columns.pop("ecg"), columns.pop("ppg")
                labels = np.array([heart_rate_of_both(*window, rate) for window in zip(ecg, ppg)])
                known = np.isfinite(labels)
                counter["unlabelled"] += int((~known).sum())
                counter["kept"] -= int((~known).sum())
                kept[kept] = known
                columns |= {"signal": ppg[known], "label": labels[known]}
            yield self.to_table(
                **columns,
                sampling_rate=rate,
                subject_id=record.subject_id,
                record_id=record.record_id,
                start_time=record.start_time + some[kept] / rate,
            )


def heart_rate_of_both(ecg: np.ndarray, ppg: np.ndarray, sampling_rate: float) -> float:
    """Heart rate in beats/min from the R-peaks of a window `(samples,)`, NaN where they cannot be trusted.

    Beats of an ECG look alike (a correlation of 0.66 with their template: Orphanidou et al. 2015,
    doi:10.1109/JBHI.2014.2338351). One that is missed or counted twice moves the mean of the intervals away from their median;
    so does an arrhythmia, in which the PPG has the same mean rate.
    """
    features = dict(zip(RR_INTERVAL_FEATURES, rr_interval_features(ecg, sampling_rate)))
    rate = features["mean_rate"]
    pulses = detect_pulse_peaks(ppg, sampling_rate)
    if not features["beat_correlation"] >= 0.66 or len(pulses) < 4:
        return float("nan")
    pulse_rate = 60.0 * sampling_rate / np.diff(pulses).mean()
    trusted = abs(rate * features["median_interval"] / 60 - 1) <= 0.15 or abs(pulse_rate / rate - 1) <= 0.1
    return float(rate) if trusted else float("nan")


def _segment_headers(path: Path, header: wfdb.MultiRecord) -> list[Path]:
    return [beside(path, f"{name}.hea") for name in header.seg_name]


def _read_header_if_whole(path: Path) -> wfdb.Record | wfdb.MultiRecord | None:
    try:
        return read_header(path)
    except DamagedRecordError:
        return None


def _read_signals(path: Path, channels: Sequence[int], **options: int) -> list[np.ndarray]:
    """Channels, each at its own rate, in physical units with NaN where a sample is invalid."""
    return read_record(path, channels=[*channels], smooth_frames=False, **options).e_p_signal


def _raw_windows(signal: np.ndarray, starts: np.ndarray, window: int, per_frame: int, fastest: int) -> np.ndarray:
    """All samples of a channel within windows that are given in samples of the fastest one."""
    length = -(-window * per_frame // fastest)
    first = np.minimum(starts * per_frame // fastest, len(signal) - length)
    return cut_windows(signal, first, length)


def _resampled(signal: np.ndarray, per_frame: int, fastest: int) -> np.ndarray:
    """Whole frames of a channel at the rate of the fastest one; what is missing, whose windows are left out, is bridged."""
    known = np.isfinite(signal)
    if not known.all():
        positions = np.arange(len(signal))
        signal = np.interp(positions, positions[known], signal[known]) if known.any() else np.zeros(len(signal))
    return resample(signal, per_frame, fastest)
