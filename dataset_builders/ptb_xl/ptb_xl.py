"""PTB-XL 1.0.3: 21,799 12-lead ECGs of 10 s with diagnostic, form and rhythm statements."""

import ast
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import datasets
import pandas as pd

from cmssl_hf.building.ecg_recordings import EcgConfig, EcgRecordingBuilder, multi_hot, read_leads
from cmssl_hf.building.errors import DamagedRecordError
from cmssl_hf.building.release_files import beside, matching_files
from cmssl_hf.building.splits import SPLITS
from cmssl_hf.building.tables import damaged_cell, read_table


_CITATION = """\
@article{wagner2020ptbxl,
  title = {{PTB-XL}, a large publicly available electrocardiography dataset},
  author = {Wagner, Patrick and Strodthoff, Nils and Bousseljot, Ralf-Dieter and Kreiseler, Dieter and Lunze, Fatima I. and
            Samek, Wojciech and Schaeffter, Tobias},
  journal = {Scientific Data}, volume = {7}, pages = {154}, year = {2020}, doi = {10.1038/s41597-020-0495-6}
}
"""

#: Statements of each kind, and the classes into which the diagnostic ones are grouped, sorted as in the published task.
SUPERCLASSES = ("CD", "HYP", "MI", "NORM", "STTC")
# fmt: off
SUBCLASSES = (
    "AMI", "CLBBB", "CRBBB", "ILBBB", "IMI", "IRBBB", "ISCA", "ISCI", "ISC_", "IVCD", "LAFB/LPFB", "LAO/LAE",
    "LMI", "LVH", "NORM", "NST_", "PMI", "RAO/RAE", "RVH", "SEHYP", "STTC", "WPW", "_AVB",
)
FORM_STATEMENTS = (
    "ABQRS", "DIG", "HVOLT", "INVT", "LNGQT", "LOWT", "LPR", "LVOLT", "NDT", "NST_", "NT_", "PAC", "PRC(S)", "PVC",
    "QWAVE", "STD_", "STE_", "TAB_", "VCLVH",
)
RHYTHM_STATEMENTS = (
    "AFIB", "AFLT", "BIGU", "PACE", "PSVT", "SARRH", "SBRAD", "SR", "STACH", "SVARR", "SVTAC", "TRIGU",
)
DIAGNOSTIC_STATEMENTS = (
    "1AVB", "2AVB", "3AVB", "ALMI", "AMI", "ANEUR", "ASMI", "CLBBB", "CRBBB", "DIG", "EL", "ILBBB", "ILMI", "IMI",
    "INJAL", "INJAS", "INJIL", "INJIN", "INJLA", "IPLMI", "IPMI", "IRBBB", "ISCAL", "ISCAN", "ISCAS", "ISCIL",
    "ISCIN", "ISCLA", "ISC_", "IVCD", "LAFB", "LAO/LAE", "LMI", "LNGQT", "LPFB", "LVH", "NDT", "NORM", "NST_",
    "PMI", "RAO/RAE", "RVH", "SEHYP", "WPW",
)
# fmt: on
CLASSES = {
    "superclass": SUPERCLASSES,
    "subclass": SUBCLASSES,
    "form": FORM_STATEMENTS,
    "rhythm": RHYTHM_STATEMENTS,
    "all": tuple(sorted({*DIAGNOSTIC_STATEMENTS, *FORM_STATEMENTS, *RHYTHM_STATEMENTS})),
    "paper": SUPERCLASSES,
}
_SPLIT_OF_FOLD = {**dict.fromkeys(range(1, 9), "train"), 9: "validation", 10: "test"}
_SECONDS = 10


@dataclass
class PtbXlConfig(EcgConfig):
    """Options of `ptb_xl`, beside those of `EcgConfig`.

    Args:
        sampling_rate: 100 or 500 Hz; the release holds both.
        drop_unlabelled: whether to leave out records to which no class of the configuration is assigned. The published task
            keeps them, with a label of zeros; the PTB-XL benchmark (Strodthoff et al. 2021) leaves them out.
    """

    sampling_rate: int = 100
    drop_unlabelled: bool = False


@dataclass(frozen=True)
class PtbXlRecord:
    """One recording: path without extension, and its row of `ptbxl_database.csv`."""

    path: str
    ecg_id: str
    patient_id: str
    age: float | None
    sex: str | None
    classes: frozenset[str]

    def __str__(self) -> str:
        return self.path


class PtbXl(EcgRecordingBuilder):
    """Reads the recordings that `ptbxl_database.csv` lists, at one of the two rates."""

    BUILDER_CONFIG_CLASS = PtbXlConfig
    BUILDER_CONFIGS = [
        PtbXlConfig(name="superclass", description="5 diagnostic superclasses"),
        PtbXlConfig(name="subclass", description="23 diagnostic subclasses"),
        PtbXlConfig(name="form", description="19 statements on the form of the ECG"),
        PtbXlConfig(name="rhythm", description="12 statements on the rhythm"),
        PtbXlConfig(name="all", description="all 71 statements"),
        PtbXlConfig(name="paper", description="as `superclass`, stretched to 1250 samples"),
    ]
    DEFAULT_CONFIG_NAME = "superclass"
    TITLE = "PTB-XL 1.0.3"
    EXPECTED = "`ptbxl_database.csv`, `scp_statements.csv` and `records100/` or `records500/`"
    DOWNLOAD_URL = (
        "https://physionet.org/static/published-projects/ptb-xl/"
        "ptb-xl-a-large-publicly-available-electrocardiography-dataset-1.0.3.zip"
    )
    HOW_TO_GET = f"Download and extract {DOWNLOAD_URL} or leave `data_dir` out."

    @property
    def label_names(self):
        return CLASSES[self.config.name]

    def _info(self):
        return datasets.DatasetInfo(
            description=f"{__doc__}\n\nLabels: {', '.join(CLASSES[self.config.name])}",
            features=self.recording_features(
                datasets.Sequence(datasets.Value("float32")),
                age=datasets.Value("float32"),
                sex=datasets.Value("string"),
            ),
            homepage="https://physionet.org/content/ptb-xl/1.0.3/",
            license="CC BY 4.0",
            citation=_CITATION,
        )

    def _list_records(self, dl_manager):
        if self.config.sampling_rate not in (100, 500):
            raise ValueError(f"`sampling_rate` must be 100 or 500, but is {self.config.sampling_rate}.")
        folder = self.release_folder(dl_manager)
        databases = matching_files(folder, r"ptbxl_database\.csv")
        if not databases:
            raise self.not_the_release(folder, "it has no ptbxl_database.csv")
        folder = databases[0].parent
        file_column = "filename_lr" if self.config.sampling_rate == 100 else "filename_hr"
        table = _read_database(databases[0], file_column)
        classes_of = _read_statements(beside(databases[0], "scp_statements.csv"), self.config.name)
        # In lower case: a disk may have changed that.
        headers = {
            header.relative_to(folder).with_suffix("").as_posix().lower(): header
            for header in matching_files(folder, r".*\.hea")
        }
        records = {split: [] for split in SPLITS}
        for row in table.itertuples():
            name = getattr(row, file_column)
            header = folder / f"{name}.hea"
            if not header.exists() and (header := headers.get(name.lower())) is None:
                self.skip_record(name, "not in this folder")
                continue
            recording = PtbXlRecord(
                path=str(header.with_suffix("")),
                ecg_id=str(row.ecg_id),
                patient_id=str(row.patient_id),
                # The release hides ages above 89 behind 300.
                age=None if math.isnan(row.age) else 90.0 if row.age == 300 else row.age,
                sex={0: "M", 1: "F"}.get(row.sex),
                classes=classes_of(row.scp_codes),
            )
            records[_SPLIT_OF_FOLD[row.strat_fold]].append(recording)
        if not any(records.values()):
            raise self.not_the_release(folder, f"it has none of the recordings at {self.config.sampling_rate} Hz")
        return records

    def _record_tables(self, record, counter):
        if self.config.drop_unlabelled and not record.classes:
            counter["unlabelled"] += 1
            return
        signals, sampling_rate = read_leads(
            record.path, self.config.leads, num_samples=_SECONDS * self.config.sampling_rate
        )
        yield from self.recording_table(
            signals,
            sampling_rate,
            record.ecg_id,
            counter,
            subject_id=record.patient_id,
            label=multi_hot(record.classes, self.label_names),
            age=record.age,
            sex=record.sex,
        )


def _read_database(path: Path, file_column: str) -> pd.DataFrame:
    whole_numbers = dict.fromkeys(("ecg_id", "patient_id", "strat_fold"), int)
    table = read_table(path, {**whole_numbers, "age": float, "sex": float, "scp_codes": str, file_column: str})
    if table.empty:
        raise DamagedRecordError(f"{path} is empty.")
    table["scp_codes"] = [_statements(path, *cell) for cell in enumerate(table["scp_codes"])]
    checks = {
        "strat_fold": (table["strat_fold"].isin(_SPLIT_OF_FOLD), "{} is none of the folds 1 to 10"),
        "ecg_id": (~table["ecg_id"].duplicated(), "{} is listed before"),
        "sex": (table["sex"].isin((0, 1)) | table["sex"].isna(), "{:g} is neither 0 nor 1"),
        "age": (table["age"].between(0, 300) | table["age"].isna(), "{:g} is no age"),
        file_column: (~table[file_column].map(_leads_out), "the recording {!r} leads out of the folder"),
    }
    for column, (right, problem) in checks.items():
        for row in table.index[~right]:
            raise damaged_cell(path, row, column, problem.format(table[column][row]))
    return table


def _statements(path: Path, row: int, cell: str) -> dict[str, float]:
    try:
        statements = ast.literal_eval(cell)
    # Whatever is no literal raises one of many errors.
    except Exception as error:
        raise damaged_cell(path, row, "scp_codes", f"{cell!r} is no dictionary: {error}") from error
    if not isinstance(statements, dict):
        raise damaged_cell(path, row, "scp_codes", f"{cell!r} is no dictionary")
    return statements


def _leads_out(name: str) -> bool:
    return PurePosixPath(name).is_absolute() or ".." in re.split(r"[/\\]", name)


def _read_statements(path: Path, config_name: str) -> Callable[[Iterable[str]], frozenset[str]]:
    """Returns the function from the statements of a record, whatever their likelihood, to its classes."""
    statement = "Unnamed: 0"
    if config_name == "all":
        table = read_table(path, {statement: str})
        class_of = {name: name for name in table[statement]}
    elif config_name in ("form", "rhythm"):
        table = read_table(path, {statement: str, config_name: float})
        class_of = {name: name for name in table[statement][table[config_name] == 1]}
    else:
        column = "diagnostic_subclass" if config_name == "subclass" else "diagnostic_class"
        table = read_table(path, {statement: str, "diagnostic": float, column: None})
        table = table[table["diagnostic"] == 1]
        class_of = dict(zip(table[statement], table[column]))
    unknown = sorted({str(name) for name in class_of.values()} - set(CLASSES[config_name]))
    if unknown:
        raise DamagedRecordError(f"{path} has classes that PTB-XL 1.0.3 has not: {', '.join(unknown)}.")
    return lambda statements: frozenset(class_of[name] for name in statements if name in class_of)
