r"""What the dataset builders share: configurations, columns, splits, Arrow tables, and an account of what was left out.

A builder lists its recordings per split and turns one recording into Arrow tables; everything else is here:

    class MyData(SignalDatasetBuilder):
        BUILDER_CONFIG_CLASS = WindowedConfig
        BUILDER_CONFIGS = [WindowedConfig(name="pairs")]
        TITLE = "My data 1.0"
        EXPECTED = "files named `subjectN.npz`"
        HOW_TO_GET = "Download it from https://example.org."

        def _info(self):
            return datasets.DatasetInfo(features=pair_features())

        def _list_records(self, dl_manager):
            folder = self.release_folder(dl_manager)
            records = {path.stem: [str(path)] for path in matching_files(folder, r"subject\d+\.npz")}
            if not records:
                raise self.not_the_release(folder)
            return self.config.divide(records)

        def _record_tables(self, record, counter):
            with damaged_if_unreadable(record):
                file = np.load(record)
            ...
            yield self.to_table(ecg=ecg[kept], ppg=ppg[kept], sampling_rate=125.0, ...)
"""

import abc
import hashlib
import json
import logging
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from cmssl_hf.building.downloads import fetch_release
from cmssl_hf.building.errors import DamagedRecordError, PreparationError
from cmssl_hf.building.splits import SPLITS, split_subjects
from cmssl_hf.building.windows import DropCounter


logger = logging.getLogger(__name__)

REPORT_FILE = "preparation_report.json"

#: The signals that models read.
CHANNELS = ("ecg", "ppg")

#: Raised when what the builders share makes other rows of the same release.
BUILDING_VERSION = 1


def pair_features(channels: Sequence[str] = CHANNELS, **extra: Any) -> datasets.Features:
    """Columns of synchronous ECG and PPG windows, or of those `channels`: each signal in the unit of the release, `start_time`
    in seconds."""
    return datasets.Features(
        **{channel: datasets.Sequence(datasets.Value("float32")) for channel in channels},
        **_provenance_features(),
        **extra,
    )


def labelled_features(label: Any, **extra: Any) -> datasets.Features:
    """Columns of one signal with a label: `datasets.Value("float32")`, a `ClassLabel`, or a sequence of float32."""
    return datasets.Features(
        signal=datasets.Sequence(datasets.Value("float32")),
        **_provenance_features(),
        label=label,
        **extra,
    )


def _provenance_features() -> dict[str, Any]:
    return {
        "sampling_rate": datasets.Value("float64"),
        "subject_id": datasets.Value("string"),
        "record_id": datasets.Value("string"),
        "start_time": datasets.Value("float64"),
    }


@dataclass
class SignalBuilderConfig(datasets.BuilderConfig):
    """Options of every builder.

    Args:
        max_damaged_share: share of all recordings that may be unreadable. Those are named, skipped and counted; beyond the
            share, and at once where it is 0, preparation stops with an error.
    """

    max_damaged_share: float = 0.0


@dataclass
class ChannelsConfig(SignalBuilderConfig):
    """Options of builders whose recordings may lack a signal. Stages ask them for the signals that their model reads.

    Args:
        channels: signals that rows hold, `"ecg"` and/or `"ppg"`; a recording needs no other. The builder decides if left out.
    """

    channels: Sequence[str] | None = None

    def checked_channels(self) -> tuple[str, ...]:
        """`channels` in the order of columns; empty if left out.

        Raises:
            ValueError: if there are others, or none, in the list.
        """
        if self.channels is None:
            return ()
        chosen = tuple(channel for channel in CHANNELS if channel in self.channels)
        if not chosen or set(self.channels) - set(CHANNELS):
            raise ValueError(f"`channels` are {' and/or '.join(CHANNELS)}, but got {list(self.channels)}.")
        return chosen


@dataclass
class SubjectSplitConfig(SignalBuilderConfig):
    """Options of builders whose release has no split of its own.

    Args:
        split_seed: seed of the shuffle of subjects; 42 is the published one.
    """

    split_seed: int = 42

    def divide(self, records: Mapping[Any, Sequence], subjects: Sequence[Any] | None = None) -> dict[str, list]:
        """Assigns the recordings of each subject to train, validation or test, in the order in which they are given.

        Args:
            records: the recordings of each subject.
            subjects: all subjects of the release where `records` may hold fewer, so that a subject's split does not
                depend on which others are present.
        """
        split = split_subjects(list(subjects or records), seed=self.split_seed)
        split_of = {subject: name for name, members in split.items() for subject in members}
        divided: dict[str, list] = {name: [] for name in SPLITS}
        for subject, members in records.items():
            divided[split_of[subject]].extend(members)
        return divided


@dataclass
class WindowedConfig(SubjectSplitConfig):
    """Options of builders that cut recordings into windows.

    Args:
        window_seconds: length of a window.
        stride_seconds: distance between the starts of two windows.
    """

    window_seconds: float = 10.0
    stride_seconds: float = 10.0

    def window_and_stride(self, sampling_rate: float) -> tuple[int, int]:
        """Length and stride of the windows in samples.

        Raises:
            ValueError: if either is shorter than one sample.
        """
        window = round(self.window_seconds * sampling_rate)
        stride = round(self.stride_seconds * sampling_rate)
        if window < 1 or stride < 1:
            raise ValueError(
                f"`window_seconds` and `stride_seconds` must be positive, but are {self.window_seconds} and"
                f" {self.stride_seconds} at {sampling_rate} Hz."
            )
        return window, stride


@dataclass
class SplitCounts:
    """What became of windows and recordings: the outcomes of windows, and the unreadable recordings with the reason."""

    windows: DropCounter = field(default_factory=DropCounter)
    damaged_records: dict[str, str] = field(default_factory=dict)

    def add(self, other: Mapping[str, Mapping]) -> None:
        self.windows.update(other["windows"])
        self.damaged_records.update(other["damaged_records"])

    def to_dict(self) -> dict[str, dict]:
        return {"windows": dict(self.windows), "damaged_records": self.damaged_records}


class SignalDatasetBuilder(datasets.ArrowBasedBuilder):
    """Base of all builders.

    Subclasses set `TITLE`, `EXPECTED`, `HOW_TO_GET` and, where anyone may download the release, `DOWNLOAD_URL` (one archive,
    or several archives and files); they implement `_info`, `_list_records` and `_record_tables`. A recording is anything that
    can be pickled and whose text names it in messages, typically a path. `num_proc` and streaming divide the list of
    recordings. `VERSION` is raised whenever the same release makes other rows: prepared data of another version are not used.
    """

    VERSION = datasets.Version("1.0.0")
    TITLE: str
    EXPECTED: str
    HOW_TO_GET: str
    DOWNLOAD_URL: str | Sequence[str] | None = None

    def __init__(self, cache_dir: str | None = None, *args: Any, **kwargs: Any):
        super().__init__(cache_dir, *args, **kwargs)
        downloads = Path(cache_dir, datasets.config.DOWNLOADED_DATASETS_DIR) if cache_dir else None
        self._downloads = Path(downloads or datasets.config.DOWNLOADED_DATASETS_PATH).expanduser()
        # Where `num_proc` processes leave their counts; empty where none are kept.
        self._counts_folder = ""
        self._report: dict[str, dict[str, Any]] = {"splits": {}, "skipped_records": {}}
        self._num_records = 0

    @classmethod
    def code_version(cls) -> str:
        """What the prepared rows depend on, beside the release and the options: the versions of the builder and of what all
        builders share."""
        return f"{cls.VERSION}+{BUILDING_VERSION}"

    @property
    def subject_note(self) -> str:
        """A sentence on who is in which split, for the cards of datasets and models."""
        return "No subject is in two splits."

    @abc.abstractmethod
    def _list_records(self, dl_manager: datasets.DownloadManager) -> dict[str, list]:
        """The recordings of each split; a split without recordings is left out of the dataset."""

    @abc.abstractmethod
    def _record_tables(self, record: Any, counter: DropCounter) -> Iterator[pa.Table]:
        """The rows of one recording, as one table or several.

        Raises:
            DamagedRecordError: if the recording cannot be read.
        """

    def release_folder(self, dl_manager: datasets.DownloadManager) -> Path:
        """The folder with the release: `data_dir`, else the downloaded archive.

        Raises:
            FileNotFoundError: if `data_dir` does not exist or is not a folder.
            ValueError: if it is empty, or if there is none and the release cannot be downloaded.
            DownloadError: if the download fails.
        """
        if self.config.data_dir is None:
            if self.DOWNLOAD_URL is None:
                raise ValueError(f"`data_dir` is needed for {self.TITLE}. {self.HOW_TO_GET}")
            urls = [self.DOWNLOAD_URL] if isinstance(self.DOWNLOAD_URL, str) else self.DOWNLOAD_URL
            version = hashlib.sha256(" ".join(urls).encode()).hexdigest()[:8]
            # The download manager neither continues an interrupted download nor checks what it got; when streaming, it
            # has no folder either.
            config = dl_manager.download_config
            return fetch_release(
                urls,
                Path(config.cache_dir or self._downloads) / f"{self.name}-{version}",
                force=config.force_download,
            )
        folder = Path(self.config.data_dir).expanduser()
        if not folder.is_dir():
            problem = "is not a folder" if folder.exists() else "does not exist"
            raise FileNotFoundError(f"`data_dir` {folder} {problem}. {self._what_would_be_right()}")
        if all(path.name.startswith(".") for path in folder.iterdir()):
            raise ValueError(f"`data_dir` {folder} is empty. {self._what_would_be_right()}")
        return folder

    def not_the_release(self, folder: Path, problem: str | None = None) -> ValueError:
        """The error to raise when `folder` does not hold what the builder reads."""
        reason = f"`data_dir` {folder} is not {self.TITLE}{f': {problem}' if problem else ''}."
        return ValueError(f"{reason} {self._what_would_be_right()}")

    def _what_would_be_right(self) -> str:
        return f"Expected: {self.EXPECTED}. {self.HOW_TO_GET}"

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes of a `ClassLabel`, or of the entries of a multi-hot label; empty for other labels."""
        label = (self.info.features or {}).get("label")
        return tuple(label.names) if isinstance(label, datasets.ClassLabel) else ()

    def skip_record(self, record: str, reason: str) -> None:
        """Notes a recording that `_list_records` leaves out because it holds nothing that the builder reads."""
        logger.info("%s: %s skipped: %s", self.name, record, reason)
        self._report["skipped_records"][record] = reason

    @property
    def preparation_report(self) -> dict[str, dict]:
        """What was kept and left out when the dataset was prepared, read from beside the prepared data.

        Returns:
            `{"splits": {split: {"windows": {"kept": 9000, "flat": 12, ...}, "damaged_records": {record: problem}}},
            "skipped_records": {record: reason}}`.
        """
        return json.loads((Path(self.cache_dir) / REPORT_FILE).read_text())

    def list_records(self) -> dict[str, list]:
        """The recordings of each split, for programs that keep the rows elsewhere than in the cache of `datasets`; the
        release is downloaded first where that is needed."""
        config = datasets.DownloadConfig(cache_dir=self._downloads)
        manager = datasets.DownloadManager(dataset_name=self.name, download_config=config)
        return {split.name: split.gen_kwargs["records"] for split in self._split_generators(manager)}

    @property
    def skipped_records(self) -> dict[str, str]:
        """The recordings that were not listed because they hold nothing that the builder reads, with the reason."""
        return self._report["skipped_records"]

    def read_records(self, records: Sequence, counts: SplitCounts) -> Iterator[pa.Table]:
        """Yields the rows of recordings out of `list_records`; `counts` receives what was kept and left out.

        Raises:
            DamagedRecordError: if a recording cannot be read and `max_damaged_share` is 0.
            ValueError: if more recordings cannot be read than `max_damaged_share` of all allows.
        """
        for record in records:
            tables = self._record_tables(record, counts.windows)
            while True:
                # Nothing is yielded within `try`: a generator that is dropped when Python ends is closed by an exception, and the
                # names of this module may be gone.
                try:
                    table = _next_table(tables, record)
                except DamagedRecordError as error:
                    if self.config.max_damaged_share <= 0:
                        raise
                    logger.warning("%s: skipped: %s", self.name, error)
                    counts.damaged_records[str(record)] = str(error)
                    self.check_damaged_share(counts.damaged_records)
                    break
                if table is None:
                    break
                if len(table):
                    yield table

    def to_table(self, **columns: Any) -> pa.Table:
        """Makes a table with the builder's features.

        Args:
            columns: for each column an array with one entry per row, or one scalar (or `None`) for all rows. Lists are
                given as an array of shape `(rows, samples)` or as a sequence of one-dimensional arrays, lists of lists
                likewise with one dimension more.
        """
        schema = self.info.features.arrow_schema
        num_rows = max(len(values) for values in columns.values() if _is_column(values))
        arrays = [_to_arrow(columns[field.name], field.type, num_rows) for field in schema]
        return pa.Table.from_arrays(arrays, schema=schema)

    def _split_generators(self, dl_manager):
        records = self._list_records(dl_manager)
        self._num_records = sum(map(len, records.values()))
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"records": records[split], "split": split})
            for split in SPLITS
            if records.get(split)
        ]

    def _generate_tables(self, records, split):
        counts = SplitCounts()
        yield from enumerate(self.read_records(records, counts))
        if self._counts_folder:
            # With `num_proc` this is another process.
            path = Path(self._counts_folder, f"{split}-{uuid.uuid4().hex}.json")
            path.write_text(json.dumps(counts.to_dict()))

    def check_damaged_share(self, damaged_records: Mapping[str, str]) -> None:
        """Refuses more unreadable recordings than `max_damaged_share` of all allows.

        Raises:
            PreparationError: a ValueError, if there are more.
        """
        if len(damaged_records) > self.config.max_damaged_share * self._num_records:
            raise PreparationError(
                f"{len(damaged_records)} of {self._num_records} recordings of {self.TITLE} are damaged, more than"
                f" `max_damaged_share={self.config.max_damaged_share}` allows. The last one: {[*damaged_records.values()][-1]}"
            )

    def download_and_prepare(self, output_dir: str | None = None, **kwargs: Any) -> None:
        """Prepares the data unless they are there, as that of `datasets`, and leaves the report beside them."""
        self._report["splits"] = {}
        with tempfile.TemporaryDirectory() as folder:
            self._counts_folder = folder
            try:
                super().download_and_prepare(output_dir, **kwargs)
            finally:
                self._counts_folder = ""
        if self._report["splits"]:
            Path(output_dir or self.cache_dir, REPORT_FILE).write_text(json.dumps(self._report, indent=2))

    def _prepare_split(self, split_generator, **kwargs):
        super()._prepare_split(split_generator, **kwargs)
        counts, split = SplitCounts(), split_generator.name
        for path in sorted(Path(self._counts_folder).glob(f"{split}-*.json")):
            counts.add(json.loads(path.read_text()))
        logger.info("%s/%s, %s: %s", self.name, self.config.name, split, counts.windows.summary())
        if split_generator.split_info.num_examples == 0:
            raise ValueError(
                f"The {split} split of {self.TITLE} would be empty: {counts.windows.summary()};"
                f" {len(counts.damaged_records)} damaged recordings."
            )
        self._report["splits"][split] = counts.to_dict()
        damaged_records = {}
        for members in self._report["splits"].values():
            damaged_records.update(members["damaged_records"])
        self.check_damaged_share(damaged_records)


def _next_table(tables: Iterator[pa.Table], record: Any) -> pa.Table | None:
    """The next table of a recording, or `None` after the last; any error names the recording."""
    try:
        return next(tables, None)
    except PreparationError:
        raise
    except ValueError as error:
        message = str(error) if str(record) in str(error) else f"{record}: {error}"
        raise PreparationError(message) from error
    except Exception as error:
        raise DamagedRecordError(f"{record} cannot be read: {type(error).__name__}: {error}") from error


def _is_column(values: Any) -> bool:
    return not isinstance(values, str) and hasattr(values, "__len__")


def _to_arrow(values: Any, arrow_type: pa.DataType, num_rows: int) -> pa.Array:
    if not _is_column(values):
        return pa.repeat(pa.scalar(values, arrow_type), num_rows)
    if not pa.types.is_list(arrow_type):
        return pa.array(values, arrow_type)
    offsets = np.zeros(len(values) + 1, dtype=np.int32)
    np.cumsum([len(row) for row in values], out=offsets[1:])
    flat = values.reshape(-1, *values.shape[2:]) if isinstance(values, np.ndarray) else np.concatenate(values)
    if not pa.types.is_list(arrow_type.value_type):
        flat = flat.astype(arrow_type.value_type.to_pandas_dtype(), copy=False)
    return pa.ListArray.from_arrays(pa.array(offsets), _to_arrow(flat, arrow_type.value_type, len(flat)))
