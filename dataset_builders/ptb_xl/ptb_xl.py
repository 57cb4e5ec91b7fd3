"""PTB-XL 1.0.3: 21,799 12-lead ECGs of 10 s with diagnostic, form and rhythm statements."""

import ast
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import datasets
import pandas as pd

from cmssl_hf.building.dataset_builder import DamagedRecordError, damaged_if_unreadable
from cmssl_hf.building.ecg_recordings import EcgConfig, EcgRecordingBuilder, multi_hot, read_leads
from cmssl_hf.building.splits import SPLITS


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
class Recording:
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
        databases = sorted(folder.rglob("ptbxl_database.csv"))
        if not databases:
            raise self.not_the_release(folder, "it has no ptbxl_database.csv")
        folder = databases[0].parent
        table = _read_database(databases[0])
        classes_of = _read_statements(folder / "scp_statements.csv", self.config.name)
        file_column = "filename_lr" if self.config.sampling_rate == 100 else "filename_hr"
        present = [(folder / f"{name}.hea").exists() for name in table[file_column]]
        if not any(present):
            raise self.not_the_release(folder, f"it has none of the recordings at {self.config.sampling_rate} Hz")
        for name in table[file_column][[not there for there in present]]:
            self.skip_record(name, "not in this folder")
        records = {split: [] for split in SPLITS}
        for row in table[present].itertuples():
            recording = Recording(
                path=str(folder / getattr(row, file_column)),
                ecg_id=str(row.ecg_id),
                patient_id=str(int(row.patient_id)),
                # The release hides ages above 89 behind 300.
                age=None if pd.isna(row.age) else 90.0 if row.age == 300 else float(row.age),
                sex={0: "M", 1: "F"}.get(row.sex),
                classes=classes_of(row.scp_codes),
            )
            records[_SPLIT_OF_FOLD[row.strat_fold]].append(recording)
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


def _read_database(path: Path) -> pd.DataFrame:
    with damaged_if_unreadable(path):
        table = pd.read_csv(path)
        table = table[["ecg_id", "patient_id", "age", "sex", "scp_codes", "strat_fold", "filename_lr", "filename_hr"]]
        table["scp_codes"] = table["scp_codes"].map(ast.literal_eval)
    for name in [*table["filename_lr"], *table["filename_hr"]]:
        if isinstance(name, str) and (Path(name).is_absolute() or ".." in Path(name).parts):
            raise DamagedRecordError(f"{path}: the recording {name!r} leads out of the folder.")
    if not table["strat_fold"].isin(_SPLIT_OF_FOLD).all():
        raise DamagedRecordError(f"{path} has folds other than 1 to 10.")
    return table


def _read_statements(path: Path, config_name: str) -> Callable[[Iterable[str]], frozenset[str]]:
    """Returns the function from the statements of a record, whatever their likelihood, to its classes."""
    with damaged_if_unreadable(path):
        table = pd.read_csv(path, index_col=0)
        if config_name in ("form", "rhythm"):
            class_of = {statement: statement for statement in table.index[table[config_name] == 1]}
        elif config_name == "all":
            class_of = {statement: statement for statement in table.index}
        else:
            column = "diagnostic_subclass" if config_name == "subclass" else "diagnostic_class"
            class_of = table[column][table["diagnostic"] == 1].to_dict()
    unknown = sorted(set(class_of.values()) - set(CLASSES[config_name]))
    if unknown:
        raise DamagedRecordError(f"{path} has classes that PTB-XL 1.0.3 has not: {', '.join(map(str, unknown))}.")
    return lambda statements: frozenset(class_of[statement] for statement in statements if statement in class_of)
