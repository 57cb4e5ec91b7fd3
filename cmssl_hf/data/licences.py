"""Licences of datasets: what a model card has to say about them, and whether prepared data may be passed on."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .loading import dataset_names, load_dataset_builder


#: Datasets drawn from one collection of patients, whose identifiers do not tell which of them they share.
_ORIGINS = {"the MIMIC waveform databases": ("bidmc", "pulsedb", "uci_bp")}

_NOT_STATED = "not stated"

#: Licences under which a release, or what is prepared from it, may be passed on, by pattern, and what the Hub calls them.
_OPEN_LICENCES = {
    r"Apache-2\.0": "apache-2.0",
    r"CC0( 1\.0)?": "cc0-1.0",
    r"CC BY( |-)4\.0": "cc-by-4.0",
    r"CC BY-NC-SA 4\.0": "cc-by-nc-sa-4.0",
    r"CC BY-SA 4\.0": "cc-by-sa-4.0",
    r"MIT": "mit",
    r"ODC-By 1\.0": "odc-by",
    r"ODbL 1\.0": "odbl",
}


@dataclass(frozen=True)
class TrainingData:
    """What a builder says of the release it reads.

    Attributes:
        dataset: name of the builder.
        config: name of its configuration.
        title: the release in words.
        license: its licence, or `"not stated"`.
        citation: BibTeX; empty where there is none.
        subject_note: how it is known whose a recording is, and that nobody is in two splits.
    """

    dataset: str
    config: str | None
    title: str
    license: str
    citation: str
    subject_note: str = "How its subjects are told apart is not known here."


def describe_training_data(description: dict[str, Any]) -> TrainingData:
    """What the builder of a run's data says of its release.

    Args:
        description: with `dataset`, `config` and `options`, as in `run.json`.
    """
    name = description["dataset"]
    if name not in dataset_names():
        return TrainingData(name, description.get("config"), name, _NOT_STATED, "")
    # Folds were options of builders before 0.2.
    options = {key: v for key, v in (description.get("options") or {}).items() if key not in ("fold", "num_folds")}
    builder = load_dataset_builder(name, description.get("config"), **options)
    return TrainingData(
        name,
        builder.config.name,
        builder.TITLE.removeprefix("the "),
        builder.info.license or _NOT_STATED,
        builder.info.citation.strip(),
        builder.subject_note,
    )


def forbids_commercial_use(data: TrainingData) -> bool:
    """Whether the licence has a non-commercial clause (`NC`)."""
    return re.search(r"\bNC\b", data.license) is not None


def shared_origins(data: Iterable[TrainingData]) -> dict[str, list[str]]:
    """Collections of patients from which several of the datasets were drawn, and which those are."""
    names = {entry.dataset for entry in data}
    shared = {origin: sorted(names.intersection(members)) for origin, members in _ORIGINS.items()}
    return {origin: members for origin, members in shared.items() if len(members) > 1}


def hub_licence(license: str) -> str:
    """The Hub's identifier of a licence; `"other"` for one it does not know and for several."""
    return next((hub for pattern, hub in _OPEN_LICENCES.items() if re.fullmatch(pattern, license)), "other")


def may_be_passed_on(license: str | None) -> bool:
    """Whether every part of a release is under a licence that is known to allow redistribution.

    Args:
        license: one licence, or several as `"<part>: <licence>; <part>: <licence>"`; empty where it is not known.
    """
    parts = [part.rpartition(": ")[2].strip() for part in (license or "").split(";")]
    return all(hub_licence(part) != "other" for part in parts)
