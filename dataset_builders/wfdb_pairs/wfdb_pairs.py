"""Synchronous ECG and PPG from any folder of WFDB records, such as the MIMIC waveforms or the CinC Challenge 2015."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import wfdb

from cmssl_hf.building.dataset_builder import (
    DamagedRecordError,
    SignalDatasetBuilder,
    WindowedConfig,
    damaged_if_unreadable,
    pair_features,
)
from cmssl_hf.building.windows import cut_windows, usable_windows, window_starts
from cmssl_hf.models.cmssl.recordings_cmssl import refuse_unsafe_header
from cmssl_hf.signals import CHANNEL_PATTERNS, first_match, resample


# Recordings may last for days; this much of one is in memory at a time.
_SLICE_SECONDS = 600


@dataclass
class WfdbPairsConfig(WindowedConfig):
    """Options of `wfdb_pairs`, beside those of `WindowedConfig`.

    Args:
        ecg_patterns: regular expressions that a whole channel name must match, whatever its case, without the commas and
            spaces around it. Of all channels the one that matches the earliest expression is taken.
        ppg_patterns: the same for the PPG.
        subject: `"record"`, the record's name; `"folder"`, the folder that holds it; or a regular expression whose first
            group (or whole match), searched in the path relative to `data_dir`, is the subject: `"p[0-9]{6}"` for MIMIC.
    """

    max_damaged_share: float = 0.05
    ecg_patterns: Sequence[str] = CHANNEL_PATTERNS["ecg"]
    ppg_patterns: Sequence[str] = CHANNEL_PATTERNS["ppg"]
    subject: str = "record"


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
    BUILDER_CONFIGS = [WfdbPairsConfig(name="pairs", description="ECG and PPG, for pre-training")]
    TITLE = "a folder of WFDB records with ECG and PPG"
    EXPECTED = "WFDB records (`.hea` and `.dat` or `.mat` files), in subfolders or not"
    HOW_TO_GET = (
        "Such records are found at https://physionet.org, for example https://physionet.org/content/challenge-2015/."
    )

    def _info(self):
        return datasets.DatasetInfo(
            description=__doc__,
            features=pair_features(ecg_channel=datasets.Value("string"), ppg_channel=datasets.Value("string")),
        )

    def _list_records(self, dl_manager):
        folder = self.release_folder(dl_manager)
        headers = {path: _read_header_if_whole(path) for path in sorted(folder.rglob("*.hea"))}
        if not headers:
            raise self.not_the_release(folder, "it holds no WFDB headers (*.hea)")
        parts = {
            path.with_name(f"{name}.hea")
            for path, header in headers.items()
            if isinstance(header, wfdb.MultiRecord)
            for name in header.seg_name
        }
        segments = {}
        for path, header in headers.items():
            if path not in parts:
                record_id = path.relative_to(folder).with_suffix("").as_posix()
                subject_id = self._subject(record_id)
                usable = self._usable_segments(path, header, headers, record_id, subject_id)
                if usable:
                    segments.setdefault(subject_id, []).extend(usable)
                else:
                    self.skip_record(record_id, "no ECG and PPG channels")
        if not segments:
            raise self.not_the_release(
                folder,
                f"none of its {len(headers)} records has both a channel that matches {self.config.ecg_patterns} (ECG) and one"
                f" that matches {self.config.ppg_patterns} (PPG)",
            )
        return self.config.divide(segments)

    def _usable_segments(self, path, header, headers, record_id, subject_id) -> list[Segment]:
        if not isinstance(header, wfdb.MultiRecord):
            parts = [(path, 0.0)]
        else:
            lengths = np.asarray(header.seg_len)
            times = (np.cumsum(lengths) - lengths) / header.fs
            # `~` is a gap and a segment of no length the layout of the others.
            parts = [
                (path.with_name(f"{name}.hea"), float(time))
                for name, length, time in zip(header.seg_name, lengths, times)
                if name != "~" and length > 0
            ]
        return [
            Segment(str(part), record_id, subject_id, time)
            for part, time in parts
            # What cannot be read is kept here, to be counted and reported as damaged when its turn comes.
            if headers.get(part) is None or None not in self._channels(headers[part])
        ]

    def _subject(self, record_id: str) -> str:
        if self.config.subject == "record":
            return record_id.split("/")[-1]
        if self.config.subject == "folder":
            return record_id.rpartition("/")[0] or "."
        match = re.search(self.config.subject, record_id)
        if match is None:
            raise ValueError(f"`subject={self.config.subject!r}` is not found in the path of record {record_id}.")
        return match.group(1 if match.re.groups else 0)

    def _channels(self, header: wfdb.Record) -> tuple[int | None, int | None]:
        names = [(name or "").strip(" ,") for name in header.sig_name or []]
        return first_match(names, self.config.ecg_patterns), first_match(names, self.config.ppg_patterns)

    def _record_tables(self, record, counter):
        header = _read_header(Path(record.path))
        if not header.sig_len:
            raise DamagedRecordError(f"{record.path} does not state the number of samples.")
        channels = self._channels(header)
        names = [header.sig_name[channel].strip(" ,") for channel in channels]
        # A frame holds one or several samples of each channel, so channels may have different rates.
        samples_per_frame = [header.samps_per_frame[channel] for channel in channels]
        rates = [float(header.fs * number) for number in samples_per_frame]
        window, stride = self.config.window_and_stride(header.fs)
        starts = np.array(window_starts(header.sig_len, window, stride))
        windows_per_slice = max(1, int(_SLICE_SECONDS * header.fs) // stride)
        for first in range(0, len(starts), windows_per_slice):
            some = starts[first : first + windows_per_slice]
            with damaged_if_unreadable(record.path):
                signals = _read_signals(record.path, channels, some[0], some[-1] + window)
            windows = [
                cut_windows(signal, (some - some[0]) * number, window * number)
                for signal, number in zip(signals, samples_per_frame)
            ]
            kept = usable_windows(windows, counter)
            ecg, ppg = (resample(cut[kept], rate, max(rates)) for cut, rate in zip(windows, rates))
            yield self.to_table(
                ecg=ecg,
                ppg=ppg,
                sampling_rate=max(rates),
                subject_id=record.subject_id,
                record_id=record.record_id,
                start_time=record.start_time + some[kept] / header.fs,
                ecg_channel=names[0],
                ppg_channel=names[1],
            )


def _read_header(path: Path) -> wfdb.Record | wfdb.MultiRecord:
    with damaged_if_unreadable(path):
        refuse_unsafe_header(path)
        return wfdb.rdheader(str(path.with_suffix("")))


def _read_header_if_whole(path: Path) -> wfdb.Record | wfdb.MultiRecord | None:
    try:
        return _read_header(path)
    except DamagedRecordError:
        return None


def _read_signals(path: str, channels: Sequence[int], first: int, end: int) -> list[np.ndarray]:
    """Channels between two frames, each at its own rate, in physical units with NaN where a sample is invalid."""
    record = wfdb.rdrecord(
        path.removesuffix(".hea"), sampfrom=first, sampto=end, channels=[*channels], smooth_frames=False
    )
    return record.e_p_signal
