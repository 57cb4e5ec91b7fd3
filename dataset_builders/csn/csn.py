"""Chapman-Shaoxing-Ningbo (CSN): 45,152 12-lead ECGs of 10 s at 500 Hz with SNOMED CT codes of rhythm and condition."""

import logging
import re
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np

from cmssl_hf.building.ecg_recordings import EcgConfig, EcgRecordingBuilder, RecordSplitConfig, multi_hot, read_leads
from cmssl_hf.building.errors import damaged_if_unreadable
from cmssl_hf.building.release_files import first_by_stem, matching_files
from cmssl_hf.building.windows import DropCounter

from .csn_codes import CODES, RHYTHM_GROUPS


logger = logging.getLogger(__name__)

_CITATION = """\
@article{zheng2020optimal,
  title = {Optimal Multi-Stage Arrhythmia Classification Approach},
  author = {Zheng, Jianwei and Chu, Huimin and Struppa, Daniele and Zhang, Jianming and Yacoub, Sir Magdi and El-Askary, Hesham
            and Chang, Anthony and Ehwerhemuepha, Louis and Abudayyeh, Islam and Barrett, Alexander and Fu, Guohua and Yao, Hai
            and Li, Dongbo and Guo, Hangyuan and Rakovski, Cyril},
  journal = {Scientific Reports}, volume = {10}, pages = {2898}, year = {2020}, doi = {10.1038/s41598-020-59821-7}
}
"""


@dataclass
class CsnConfig(EcgConfig, RecordSplitConfig):
    """Options of `csn`: those of `EcgConfig` and `RecordSplitConfig`. A few records of the release are damaged."""

    max_damaged_share: float = 0.01


class Csn(EcgRecordingBuilder):
    """Reads every `JSNNNNN` record below the folder."""

    BUILDER_CONFIG_CLASS = CsnConfig
    BUILDER_CONFIGS = [
        CsnConfig(name="codes", description="which of the 94 SNOMED CT codes the record has"),
        CsnConfig(name="rhythm", description="one of four groups of rhythms"),
        CsnConfig(name="paper", description="as `codes`, squeezed to 1250 samples"),
    ]
    DEFAULT_CONFIG_NAME = "codes"
    TITLE = "the 12-lead electrocardiogram database for arrhythmia study 1.0.0 (Chapman-Shaoxing-Ningbo)"
    EXPECTED = "`WFDBRecords/GG/GGS/JSNNNNN.hea` and `.mat`"
    DOWNLOAD_URL = (
        "https://physionet.org/static/published-projects/ecg-arrhythmia/"
        "a-large-scale-12-lead-electrocardiogram-database-for-arrhythmia-study-1.0.0.zip"
    )
    HOW_TO_GET = f"Download and extract {DOWNLOAD_URL} or leave `data_dir` out."

    @property
    def label_names(self):
        return tuple(RHYTHM_GROUPS if self.config.name == "rhythm" else CODES.values())

    def _info(self):
        if self.config.name == "rhythm":
            label = datasets.ClassLabel(names=list(RHYTHM_GROUPS))
        else:
            label = datasets.Sequence(datasets.Value("float32"))
        return datasets.DatasetInfo(
            description=f"{__doc__}\n\nLabels: {', '.join(self.label_names)}\n\n{self.subject_note}",
            features=self.recording_features(label, age=datasets.Value("float32"), sex=datasets.Value("string")),
            homepage="https://physionet.org/content/ecg-arrhythmia/1.0.0/",
            license="CC BY 4.0",
            citation=_CITATION,
        )

    def _list_records(self, dl_manager):
        folder = self.release_folder(dl_manager)
        records = first_by_stem(matching_files(folder, r"JS\d{5}\.hea"))
        if not records:
            raise self.not_the_release(folder)
        return self.config.divide([*map(str, records.values())])

    def _record_tables(self, record, counter):
        header = Path(record)
        with damaged_if_unreadable(header):
            comments = _read_comments(header)
        # Some of the release are not valid dates.
        signals, sampling_rate = read_leads(str(header.with_suffix("")), self.config.leads, without_date=True)
        codes = frozenset(re.findall(r"\d+", comments.get("Dx", "")))
        unknown = codes - CODES.keys()
        if unknown:
            logger.warning("%s has codes that are none of the 94: %s", header, ", ".join(sorted(unknown)))
        label = self._label(codes, counter)
        if label is None:
            return
        age = re.fullmatch(r"\d+(\.\d+)?", comments.get("Age", ""))
        yield from self.recording_table(
            signals,
            sampling_rate,
            header.stem.upper(),
            counter,
            label=label,
            age=float(age.group()) if age else None,
            sex={"Male": "M", "Female": "F"}.get(comments.get("Sex")),
        )

    def _label(self, codes: Set[str], counter: DropCounter) -> int | np.ndarray | None:
        """Label of a record with these codes; `None`, counted, if it has none or not just one."""
        if self.config.name == "rhythm":
            groups = [i for i, members in enumerate(RHYTHM_GROUPS.values()) if not members.isdisjoint(codes)]
        else:
            groups = [multi_hot(codes, CODES)] if codes & CODES.keys() else []
        if len(groups) == 1:
            return groups[0]
        counter["several_rhythms" if groups else "unlabelled"] += 1
        return None


def _read_comments(header: Path) -> dict[str, str]:
    """Comments such as `#Dx: 426177001,164934002`, also written `# Dx:`. Read here because labels do not depend on whether the
    rest of the header is valid."""
    lines = [line.strip(" \t#\r") for line in header.read_text().splitlines() if line.startswith("#")]
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
