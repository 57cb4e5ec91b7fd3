"""PulseDB v2_0: 5.2 million 10 s segments of ECG, PPG and blood pressure from MIMIC-III and VitalDB, 5,361 subjects."""

import re
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np

from cmssl_hf.building.dataset_builder import (
    SignalDatasetBuilder,
    SubjectSplitConfig,
    labelled_features,
    pair_features,
)
from cmssl_hf.building.release_files import matching_files
from cmssl_hf.building.splits import split_subjects
from cmssl_hf.building.windows import usable_windows

from .pulsedb_files import SIGNAL_FIELDS, SegmentFile, SubsetSlice, read_info, subset_slices


_CITATION = """\
@article{wang2023pulsedb,
  title = {PulseDB: A large, cleaned dataset based on MIMIC-III and VitalDB for benchmarking cuff-less blood pressure
           estimation methods},
  author = {Wang, Weinan and Mohseni, Pedram and Kilgore, Kevin L. and Najafizadeh, Laleh},
  journal = {Frontiers in Digital Health},
  volume = {4}, pages = {1090854}, year = {2023}, doi = {10.3389/fdgth.2022.1090854}
}
"""

SAMPLING_RATE = 125
SEGMENT_FOLDERS = {"mimic": "PulseDB_MIMIC", "vitaldb": "PulseDB_Vital"}


@dataclass
class PulseDbConfig(SubjectSplitConfig):
    """Options of `pulsedb`, beside those of `SubjectSplitConfig`.

    Args:
        form: `"segments"`, everything in the Segment files, its subjects divided 80/10/10; or `"subsets"`, the selection
            that the release makes, read from Subset files, or else from Segment files and Info files.
        train_subset: with `form="subsets"`, the subset for training: `"Train"` or `"VitalDB_Train"`. A tenth of its
            subjects validate.
        test_subset: the subset for testing, such as `"CalFree_Test"` or `"VitalDB_AAMI_Test"`; `""` for no test split.
        calibration_based: whether the test subset may share subjects with the training subset, as `"CalBased_Test"` does.
        source: `"both"`, `"mimic"` or `"vitaldb"`.
        signals: `"filtered"` by the release (ECG 0.5-40 Hz, PPG 0.5-8 Hz), or `"raw"`, scaled to 0-1 per segment.
        modality: signal of the labelled rows, `"ppg"` or `"ecg"`.
    """

    max_damaged_share: float = 0.01
    form: str = "segments"
    train_subset: str = "Train"
    test_subset: str = "CalFree_Test"
    calibration_based: bool = False
    source: str = "both"
    signals: str = "filtered"
    modality: str = "ppg"


class PulseDb(SignalDatasetBuilder):
    """Reads Segment files, one per subject, and Subset files in slices; neither is ever whole in memory."""

    BUILDER_CONFIG_CLASS = PulseDbConfig
    BUILDER_CONFIGS = [
        PulseDbConfig(name="pairs", description="ECG and PPG, for pre-training"),
        PulseDbConfig(name="sbp", form="subsets", description="systolic pressure (mmHg)"),
        PulseDbConfig(name="dbp", form="subsets", description="diastolic pressure (mmHg)"),
        PulseDbConfig(name="bp", form="subsets", description="systolic and diastolic pressure (mmHg)"),
    ]
    DEFAULT_CONFIG_NAME = "pairs"
    TITLE = "PulseDB v2_0"
    EXPECTED = (
        "`Segment_Files/PulseDB_{MIMIC,Vital}/pNNNNNN.mat`, and for `form='subsets'` either `Subset_Files/*_Subset.mat`, or"
        " `Info_Files/*_Info.mat` beside the Segment files"
    )
    HOW_TO_GET = (
        "Follow https://github.com/pulselabteam/PulseDB: download the Segment files (PulseDB_MIMIC and PulseDB_Vital, in"
        " parts) and extract them, and/or the Subset and Info files; then give the folder that holds `Segment_Files` and"
        " `Subset_Files` as `data_dir`. The VitalDB subsets are also at https://doi.org/10.34740/KAGGLE/DS/2447469."
    )

    @property
    def subject_note(self):
        if self.config.form == "subsets" and self.config.calibration_based:
            return "Subjects of the test split are in the training split too, as a calibration-based test has it."
        return super().subject_note

    def _info(self):
        extra = {name: datasets.Value("float32") for name in ("sbp", "dbp", "age")}
        extra |= {"sex": datasets.Value("string"), "segment_index": datasets.Value("int32")}
        if self.config.name == "pairs":
            features = pair_features(**extra)
        elif self.config.name == "bp":
            features = labelled_features(datasets.Sequence(datasets.Value("float32")), **extra)
        else:
            features = labelled_features(datasets.Value("float32"), **extra)
        return datasets.DatasetInfo(
            description=__doc__,
            features=features,
            homepage="https://github.com/pulselabteam/PulseDB",
            license="MIMIC part: ODbL 1.0; VitalDB part: CC BY-NC-SA 4.0",
            citation=_CITATION,
        )

    def _list_records(self, dl_manager):
        for option, allowed in (
            ("form", ("segments", "subsets")),
            ("source", ("both", *SEGMENT_FOLDERS)),
            ("signals", tuple(SIGNAL_FIELDS)),
            ("modality", ("ppg", "ecg")),
        ):
            if getattr(self.config, option) not in allowed:
                raise ValueError(f"`{option}` must be one of {allowed}, but is {getattr(self.config, option)!r}.")
        folder = self.release_folder(dl_manager)
        if self.config.form == "segments":
            return self._list_segments(folder)
        return self._list_subsets(folder)

    def _record_tables(self, record, counter):
        modalities = ("ecg", "ppg") if self.config.name == "pairs" else (self.config.modality,)
        for segments in record.read(modalities, self.config.signals):
            labels = {
                "pairs": None,
                "sbp": segments.sbp,
                "dbp": segments.dbp,
                "bp": np.stack([segments.sbp, segments.dbp], axis=1),
            }[self.config.name]
            kept = usable_windows([*segments.signals.values()], counter, labels)
            if labels is None:
                columns = {modality: signal[kept] for modality, signal in segments.signals.items()}
            else:
                columns = {"signal": segments.signals[self.config.modality][kept], "label": labels[kept]}
            yield self.to_table(
                **columns,
                sampling_rate=float(SAMPLING_RATE),
                subject_id=segments.subject_id[kept],
                record_id=segments.record_id[kept],
                start_time=None if segments.start_time is None else np.ma.masked_invalid(segments.start_time[kept]),
                sbp=np.ma.masked_invalid(segments.sbp[kept]),
                dbp=np.ma.masked_invalid(segments.dbp[kept]),
                age=np.ma.masked_invalid(segments.age[kept]),
                sex=segments.sex[kept],
                segment_index=None if segments.segment_index is None else segments.segment_index[kept],
            )

    def _segment_files(self, folder: Path) -> dict[str, Path]:
        """The Segment file of each subject of the wanted source."""
        files = {}
        for source in SEGMENT_FOLDERS if self.config.source == "both" else [self.config.source]:
            for path in matching_files(folder, r"p\d{6}\.mat"):
                if path.parent.name.lower() == SEGMENT_FOLDERS[source].lower():
                    files.setdefault(f"{source}_{path.stem.lower()}", path)
        return files

    def _list_segments(self, folder: Path) -> dict[str, list]:
        files = self._segment_files(folder)
        if not files:
            raise self.not_the_release(folder, f"it has no Segment files of `source={self.config.source!r}`")
        return self.config.divide({subject: [SegmentFile(str(path), subject)] for subject, path in files.items()})

    def _list_subsets(self, folder: Path) -> dict[str, list]:
        train = self._read_subset(folder, self.config.train_subset)
        test = self._read_subset(folder, self.config.test_subset) if self.config.test_subset else []
        subjects, tested = _subjects_of(train), _subjects_of(test)
        shared = subjects & tested
        if shared and not self.config.calibration_based:
            raise ValueError(
                f"{len(shared)} of the {len(tested)} subjects of {self.config.test_subset} are in {self.config.train_subset}"
                " too. If that is meant, as in a calibration-based test, pass `calibration_based=True`."
            )
        validating = set(split_subjects([*subjects], seed=self.config.split_seed)["validation"])
        return {
            "train": _of_subjects(train, subjects - validating),
            "validation": _of_subjects(train, validating),
            "test": test,
        }

    def _read_subset(self, folder: Path, name: str) -> list[SegmentFile | SubsetSlice]:
        """The segments of a subset that are of the wanted source."""
        subset_file = next(iter(matching_files(folder, rf"{re.escape(name)}_Subset\.mat")), None)
        info_file = next(iter(matching_files(folder, rf"{re.escape(name)}_Info\.mat")), None)
        info = read_info(info_file) if info_file else None
        if subset_file and self.config.signals == "filtered":
            records = subset_slices(subset_file, info)
        elif info:
            records = self._selected_segments(folder, info)
        elif subset_file:
            raise ValueError(
                f"{subset_file} holds filtered signals. With `signals='raw'` the Segment files and {name}_Info.mat are read."
            )
        else:
            raise self.not_the_release(folder, f"it has neither {name}_Subset.mat nor {name}_Info.mat")
        if self.config.source != "both":
            wanted = {subject for subject in _subjects_of(records) if subject.startswith(self.config.source)}
            records = _of_subjects(records, wanted)
        if not records:
            raise self.not_the_release(folder, f"{name} has no segments of `source={self.config.source!r}`")
        return records

    def _selected_segments(self, folder: Path, info: dict[str, list[int]]) -> list[SegmentFile]:
        files = self._segment_files(folder)
        if not files:
            raise self.not_the_release(folder, "it has an Info file, but neither the Subset file nor Segment files")
        return [
            SegmentFile(
                # A missing file is listed as well, to be reported as damaged when its turn comes.
                path=str(files.get(subject, folder / SEGMENT_FOLDERS[source] / f"{number}.mat")),
                subject_id=subject,
                rows=tuple(index - 1 for index in indices),
            )
            for subject, indices in info.items()
            for source, number in [subject.split("_")]
            if self.config.source in ("both", source)
        ]


def _subjects_of(records: list[SegmentFile | SubsetSlice]) -> set[str]:
    return set().union(*(record.subjects for record in records))


def _of_subjects(records: list[SegmentFile | SubsetSlice], subjects: set[str]) -> list[SegmentFile | SubsetSlice]:
    return [part for record in records if (part := record.of_subjects(subjects))]
