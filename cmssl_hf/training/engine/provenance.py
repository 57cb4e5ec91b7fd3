"""Which subjects a model has seen, and that none of them is tested on."""

from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from ...models.cmssl.configuration_cmssl import ENCODER_SIZES
from .run_folder import RANDOM_WEIGHTS, RUN_FILE, parse_run, read_run


class UnreachableError(OSError):
    """The Hub cannot be asked, so that nothing is known of a model whose `run.json` is not in the cache."""


def run_of_model(name_or_path: str | Path) -> dict[str, Any] | None:
    """Content of the `run.json` that travels with a model, in its folder or its repository on the Hub; `None` if it has none
    or if the name is neither.

    Raises:
        UnreachableError: if the Hub cannot be asked whether there is one.
        ValueError: if the file is damaged.
    """
    if Path(name_or_path).is_dir() or "/" not in str(name_or_path):
        return read_run(name_or_path)
    try:
        file = hf_hub_download(str(name_or_path), RUN_FILE)
    # A kind of `EntryNotFoundError`, but it tells nothing about the repository.
    except LocalEntryNotFoundError as error:
        raise UnreachableError(
            f"The {RUN_FILE} of {name_or_path} is not in the cache and the Hub not reached."
        ) from error
    except EntryNotFoundError:
        return None
    return parse_run(Path(file))


def known_run_of_model(name_or_path: str | Path) -> dict[str, Any] | None:
    """What [`run_of_model`] returns, and `None` also where the Hub cannot be asked."""
    try:
        return run_of_model(name_or_path)
    except UnreachableError:
        return None


def subjects_seen(run: dict[str, Any] | None) -> set[tuple[str, str]]:
    """`(dataset, subject)` of everyone a run and the runs it builds on were trained or validated on, as far as recorded; see
    [`is_fully_known`]."""
    seen: set[tuple[str, str]] = set()
    while run is not None:
        for part in _data(run):
            for split in ("train", "validation"):
                members = part["splits"].get(split, {}).get("subjects", [])
                seen.update((part["dataset"], subject) for subject in members)
        run = run.get("builds_on")
    return seen


def is_fully_known(run: dict[str, Any] | None) -> bool:
    """Whether a run and all runs that it builds on say whom they were trained and validated on."""
    if run is None:
        return False
    data, identity = _data(run), run["identity"]
    if not data or not all("subjects" in split for part in data for split in part["splits"].values()):
        return False
    if run.get("builds_on") is not None:
        return is_fully_known(run["builds_on"])
    # Stage 2 names its tokenizer, and stage 3 what it starts from.
    starts_at_random = identity.get("initialisation", RANDOM_WEIGHTS) in (*ENCODER_SIZES, RANDOM_WEIGHTS)
    return starts_at_random and "tokenizer" not in identity


def _data(run: dict[str, Any]) -> list[dict[str, Any]]:
    data = run["identity"].get("data")
    return [] if data is None else [data, *data.get("additional", [])]


def refuse_seen_test_subjects(model: str | Path, data: dict[str, Any], accept_unknown: bool = False) -> None:
    """Refuses to test a model on subjects it was pre-trained on, or may have been.

    Args:
        model: folder or Hub id of the pre-trained model; a published size has seen nobody.
        data: description of the task's data by [`describe_data`].
        accept_unknown: whether a model is accepted of which it is not known whom it has seen.

    Raises:
        ValueError: if test subjects are among those that the model or its tokenizer have seen, or if these are not known.
    """
    if str(model) in ENCODER_SIZES and not Path(model).is_dir():
        return
    try:
        run = run_of_model(model)
        unknown = None if is_fully_known(run) else f"there is no complete {RUN_FILE} of it and of all it builds on"
    except UnreachableError as error:
        run, unknown = None, str(error).rstrip(".")
    seen = subjects_seen(run)
    leaked = [subject for subject in data["splits"]["test"]["subjects"] if (data["dataset"], subject) in seen]
    if leaked:
        raise ValueError(
            f"{model} was pre-trained on {len(leaked)} of the test subjects of {data['dataset']}"
            f" ({', '.join(leaked[:8])}), so its test results would mean nothing. Pre-train with the same split as the task."
        )
    if unknown and not accept_unknown:
        raise ValueError(
            f"Whom {model} was pre-trained on is not known ({unknown}); it may be test subjects of {data['dataset']}. If you"
            " know that it is none of them, give `--accept_unknown_provenance true`: the model card will say that nothing is"
            " recorded."
        )
