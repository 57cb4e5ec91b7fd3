"""Whose a recording is, where only its path can tell."""

import logging
import re
from collections.abc import Sequence
from pathlib import PurePosixPath


logger = logging.getLogger(__name__)

#: Name of a person's folder in the MIMIC waveform databases: `p10/p10014354/...` and `p00/p000020/...`.
_MIMIC_SUBJECT = re.compile(r"p\d{6}|p\d{8}")


def subjects_of_paths(record_ids: Sequence[str], option: str | None, dataset: str) -> dict[str, str]:
    """The subject of each recording.

    Args:
        record_ids: paths relative to the folder of all recordings.
        option: `None`: recordings in one folder are of one person (the topmost of those in which they differ, or the person's
            folder of MIMIC), and each outside of folders is of another, which a warning says. `"record"`: each is of another
            person. `"folder"`: the folder that holds it is the subject. Or a regular expression whose first group, or whole
            match, searched in the path, is the subject.
        dataset: named in messages.

    Raises:
        ValueError: if the regular expression is none, or is not found in a path.
    """
    if option is None:
        below = _below_common_folder(record_ids)
        subjects = {record_id: _folder_of_person(record_id, path) for record_id, path in below.items()}
        alone = sum("/" not in path for path in below.values())
        if alone and len(set(subjects.values())) > 1:
            logger.warning(
                "%s: %d records lie in no folder of a person, and each is taken for another person. Pass `subject` if some"
                " are of the same one.",
                dataset,
                alone,
            )
        return subjects
    if option == "record":
        return _below_common_folder(record_ids)
    if option == "folder":
        return {record_id: record_id.rpartition("/")[0] or "." for record_id in record_ids}
    pattern = checked_pattern(option, "subject")
    subjects = {}
    for record_id in record_ids:
        match = pattern.search(record_id)
        subject = match and match.group(1 if pattern.groups else 0)
        if not subject:
            raise ValueError(f"`subject={option!r}` is not found in the path of record {record_id}.")
        subjects[record_id] = subject
    return subjects


def note_on_subjects(option: str | None) -> str:
    """What `subjects_of_paths` takes for granted, in a sentence for cards."""
    if option is None:
        return (
            "Records in one folder are taken for those of one person, and each record outside of folders for another person:"
            " someone who has several of these may be in two splits."
        )
    if option == "record":
        return "Each record is taken for another person: someone who has several may be in two splits."
    return f"No subject, as `subject={option!r}` tells them apart, is in two splits."


def checked_pattern(pattern: str, option: str) -> re.Pattern[str]:
    """The compiled regular expression that an option holds.

    Raises:
        ValueError: if it is none.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"`{option}`: {pattern!r} is not a regular expression: {error}.") from error


def _below_common_folder(record_ids: Sequence[str]) -> dict[str, str]:
    """Each path without the folders that all have in common."""
    folders = [PurePosixPath(record_id).parts[:-1] for record_id in record_ids]
    number = 0
    while len({parts[: number + 1] for parts in folders}) == 1 and all(len(parts) > number for parts in folders):
        number += 1
    return {record_id: "/".join(PurePosixPath(record_id).parts[number:]) for record_id in record_ids}


def _folder_of_person(record_id: str, below: str) -> str:
    of_mimic = [name for name in PurePosixPath(record_id).parts[:-1] if _MIMIC_SUBJECT.fullmatch(name)]
    return of_mimic[0] if of_mimic else below.partition("/")[0]
