"""PhysioNet/CinC Challenge 2017: single-lead ECGs of 9 to 61 s labelled normal, atrial fibrillation, other or noisy."""

import re
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np

from cmssl_hf.building.ecg_recordings import EcgRecordingBuilder, RecordSplitConfig, read_leads
from cmssl_hf.building.errors import DamagedRecordError
from cmssl_hf.building.release_files import first_by_stem, matching_files
from cmssl_hf.building.tables import damaged_cell, read_table


_CITATION = """\
@inproceedings{clifford2017af,
  title = {{AF} Classification from a Short Single Lead {ECG} Recording: the {PhysioNet/Computing in Cardiology} Challenge 2017},
  author = {Clifford, Gari D. and Liu, Chengyu and Moody, Benjamin and Lehman, Li-wei H. and Silva, Ikaro and Li, Qiao and
            Johnson, A. E. and Mark, Roger G.},
  booktitle = {Computing in Cardiology}, volume = {44}, year = {2017}, doi = {10.22489/CinC.2017.065-469}
}
"""

#: Normal rhythm, atrial fibrillation, other rhythm, too noisy to classify.
CLASSES = ("N", "A", "O", "~")
SAMPLING_RATE = 300
#: The published code pads every recording with zeros to the length of the longest before it squeezes it.
PAPER_PADDED_SAMPLES = 61 * SAMPLING_RATE
REFERENCE = "REFERENCE-v3.csv"


@dataclass(frozen=True)
class Physionet2017Record:
    """One recording: path without extension, and its class."""

    path: str
    label: str

    def __str__(self) -> str:
        return self.path


class Physionet2017(EcgRecordingBuilder):
    """Reads the recordings of `training2017` that `REFERENCE-v3.csv` lists."""

    BUILDER_CONFIG_CLASS = RecordSplitConfig
    BUILDER_CONFIGS = [
        RecordSplitConfig(name="rhythm", description="one of four classes, at full length"),
        RecordSplitConfig(name="paper", description="as `rhythm`, padded to 61 s and squeezed to 1250 samples"),
    ]
    DEFAULT_CONFIG_NAME = "rhythm"
    TITLE = "the PhysioNet/CinC Challenge 2017"
    EXPECTED = f"`{REFERENCE}` and `training2017/A*.hea`, `.mat`"
    DOWNLOAD_URL = tuple(
        f"https://physionet.org/files/challenge-2017/1.0.0/{file}"
        for file in ("training2017.zip", REFERENCE, "SHA256SUMS.txt")
    )
    HOW_TO_GET = (
        f"Download {' and '.join(DOWNLOAD_URL[:2])} and extract the archive beside the table, or leave `data_dir` out."
    )

    def _info(self):
        return datasets.DatasetInfo(
            description=f"{__doc__}\n\n{self.subject_note}",
            features=self.recording_features(datasets.ClassLabel(names=list(CLASSES))),
            homepage="https://physionet.org/content/challenge-2017/1.0.0/",
            license="ODC-By 1.0",
            citation=_CITATION,
        )

    def _list_records(self, dl_manager):
        folder = self.release_folder(dl_manager)
        references = matching_files(folder, re.escape(REFERENCE))
        if not references:
            raise self.not_the_release(folder, f"it has no {REFERENCE}")
        recordings = _read_reference(references[0], folder)
        # The published split depends on the numbers of the classes too.
        return self.config.divide(recordings, classes=[CLASSES.index(recording.label) for recording in recordings])

    def _record_tables(self, record, counter):
        signals, sampling_rate = read_leads(record.path, ["ECG"])
        if self.config.name == "paper":
            signals = np.pad(signals, [(0, 0), (0, max(0, PAPER_PADDED_SAMPLES - signals.shape[1]))])
        yield from self.recording_table(
            signals, sampling_rate, Path(record.path).name.upper(), counter, label=CLASSES.index(record.label)
        )


def _read_reference(reference: Path, folder: Path) -> list[Physionet2017Record]:
    table = read_table(reference, {"record": str, "label": str}, header=False)
    if table.empty:
        raise DamagedRecordError(f"{reference} is empty.")
    for position, label in enumerate(table["label"]):
        if label not in CLASSES:
            problem = f"{label!r} is none of {', '.join(CLASSES)}"
            raise damaged_cell(reference, position, "label", problem, header=False)
    # Someone who is listed twice could be in two splits.
    for position in np.flatnonzero(table["record"].duplicated()):
        raise damaged_cell(
            reference, position, "record", f"{table['record'][position]} is listed before", header=False
        )
    where = first_by_stem(matching_files(folder, r"A\d{5}\.hea"))
    absent = [record for record in table["record"] if record.upper() not in where]
    if absent:
        raise DamagedRecordError(
            f"{reference} lists {len(absent)} recordings that are not there, such as {absent[0]}."
        )
    return [
        Physionet2017Record(str(where[record.upper()].with_suffix("")), label)
        for record, label in zip(table["record"], table["label"])
    ]
