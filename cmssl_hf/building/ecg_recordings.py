"""What the builders of ECG recordings share that are labelled as a whole: leads, reading, rows, the split of records."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from cmssl_hf.building.dataset_builder import SignalBuilderConfig, SignalDatasetBuilder, labelled_features
from cmssl_hf.building.errors import DamagedRecordError
from cmssl_hf.building.paper_protocol import PAPER_SAMPLING_RATE, stretch
from cmssl_hf.building.release_files import beside
from cmssl_hf.building.splits import SPLITS
from cmssl_hf.building.wfdb_records import read_record
from cmssl_hf.building.windows import DropCounter


#: The leads of a 12-lead ECG in their usual order.
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


@dataclass
class EcgConfig(SignalBuilderConfig):
    """Options of builders of 12-lead ECGs.

    Args:
        lead: one of `LEADS`, whatever its case, or `"all"`: `signal` is then a list of 12 lists in the order of `LEADS`.
    """

    lead: str = "II"

    @property
    def leads(self) -> tuple[str, ...]:
        """The leads that are read.

        Raises:
            ValueError: if there is no such lead.
        """
        if self.lead == "all":
            return LEADS
        chosen = tuple(lead for lead in LEADS if lead.upper() == self.lead.upper())
        if not chosen:
            raise ValueError(f"`lead` must be one of {', '.join(LEADS)} or 'all', but is {self.lead!r}.")
        return chosen


@dataclass
class RecordSplitConfig(SignalBuilderConfig):
    """Options of builders whose records are each of another person, as far as the release tells.

    Args:
        split_seed: seed of the published random split of records.
    """

    split_seed: int = 42

    def divide(self, records: Sequence, classes: Sequence | None = None) -> dict[str, list]:
        """The published split: a tenth of the records, drawn by `sklearn.model_selection.train_test_split`, for testing;
        of the others a ninth, drawn likewise, for validation. Each split keeps the order of `records`.

        Args:
            records: all recordings, in the order of the release.
            classes: the class of each, where every split shall hold the same share of each class.

        Raises:
            ValueError: if there are too few recordings, altogether or of a class.
        """
        from sklearn.model_selection import train_test_split

        rows, strata = np.arange(len(records)), None if classes is None else np.asarray(classes)
        try:
            rest, test = train_test_split(rows, test_size=0.1, random_state=self.split_seed, stratify=strata)
            train, validation = train_test_split(
                rest,
                test_size=0.1 / 0.9,
                random_state=self.split_seed,
                stratify=None if strata is None else strata[rest],
            )
        except ValueError as error:
            raise ValueError(f"{len(records)} recordings cannot be split 80/10/10: {error}") from error
        return {name: [records[i] for i in sorted(part)] for name, part in zip(SPLITS, (train, validation, test))}


class EcgRecordingBuilder(SignalDatasetBuilder):
    """Builders with one row per recording, at full length."""

    @property
    def subject_note(self):
        if isinstance(self.config, RecordSplitConfig):
            return (
                "The release does not tell people apart: each recording is taken for another person, and someone who has several"
                " may be in two splits."
            )
        return super().subject_note

    def recording_features(self, label: Any, **extra: Any) -> datasets.Features:
        """Columns of a labelled recording; `label` as in `labelled_features`."""
        features = labelled_features(label, **extra)
        if getattr(self.config, "lead", None) == "all":
            features["signal"] = datasets.Sequence(datasets.Sequence(datasets.Value("float32")))
        return features

    def recording_table(
        self, signals: np.ndarray, sampling_rate: float, record_id: str, counter: DropCounter, **columns: Any
    ) -> Iterator[pa.Table]:
        """Yields the row of one recording unless it has missing samples; a recording is labelled as it is, so a flat lead is
        no reason to leave it out.

        Args:
            signals: array of shape `(leads, samples)`. In the configuration `paper` it is stretched to the published length.
            sampling_rate: rate in Hz.
            record_id: name of the recording, and of the subject unless `columns` has a `subject_id`.
            counter: receives the outcome.
            columns: the label and the builder's own columns.
        """
        if not np.isfinite(signals).all():
            counter["missing"] += 1
            return
        counter["kept"] += 1
        if self.config.name == "paper":
            signals, sampling_rate = stretch(signals), PAPER_SAMPLING_RATE
        rows = signals if len(signals) == 1 else signals[None]
        # A column has one entry per row; a multi-hot label is itself an array.
        columns = {name: [value] for name, value in {"subject_id": record_id, **columns}.items()}
        yield self.to_table(signal=rows, sampling_rate=sampling_rate, record_id=record_id, start_time=0.0, **columns)


def read_leads(
    record: str, leads: Sequence[str], num_samples: int | None = None, without_date: bool = False
) -> tuple[np.ndarray, float]:
    """Reads leads of a WFDB record.

    Args:
        record: path without extension.
        leads: names, whatever their case.
        num_samples: length that the record must have.
        without_date: as for `read_record`.

    Returns:
        Float32 array of shape `(leads, samples)` in the units of the record (mV), NaN where a sample is invalid, and the
        sampling rate in Hz.

    Raises:
        DamagedRecordError: if the record cannot be read, lacks a lead, is empty or is of another length.
    """
    header = beside(Path(f"{record}.hea"), f"{Path(record).name}.hea")
    # Parsing the header is what takes the time, so all leads are read with it, once.
    content = read_record(header, without_date)
    if content.n_sig == 0:
        raise DamagedRecordError(f"{header} has no signals.")
    names = [(name or "").strip(" ,").upper() for name in content.sig_name]
    missing = [lead for lead in leads if lead.upper() not in names]
    if missing:
        raise DamagedRecordError(f"{header} has no lead {', '.join(missing)}; it has {content.sig_name}.")
    signals = content.p_signal.T[[names.index(lead.upper()) for lead in leads]].astype(np.float32)
    if signals.shape[1] == 0 or (num_samples is not None and signals.shape[1] != num_samples):
        expected = "" if num_samples is None else f" instead of {num_samples}"
        raise DamagedRecordError(f"{header} has {signals.shape[1]} samples{expected}.")
    return signals, float(content.fs)


def multi_hot(present: Collection[str], classes: Iterable[str]) -> np.ndarray:
    """Float32 vector with 1 for each of `classes` that is present."""
    return np.array([name in present for name in classes], dtype=np.float32)
