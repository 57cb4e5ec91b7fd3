"""Which subjects a model has seen, and that none of them is tested on."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from .run_folder import RUN_FILE, read_run


def run_of_model(name_or_path: str | Path) -> dict[str, Any] | None:
    """Content of the `run.json` that travels with a model, in its folder or its repository on the Hub; `None` if it has none
    or if the name is neither."""
    if Path(name_or_path).is_dir() or "/" not in str(name_or_path):
        return read_run(name_or_path)
    try:
        return json.loads(Path(hf_hub_download(str(name_or_path), RUN_FILE)).read_text())
    except EntryNotFoundError:
        return None


def subjects_seen(run: dict[str, Any] | None) -> set[tuple[str, str]]:
    """`(dataset, subject)` of everyone a run and the runs it builds on were trained or validated on."""
    seen = set()
    while run is not None:
        data = run["identity"]["data"]
        for part in (data, *data.get("additional", [])):
            for split in ("train", "validation"):
                members = part["splits"].get(split, {}).get("subjects", [])
                seen.update((part["dataset"], subject) for subject in members)
        run = run.get("builds_on")
    return seen


def refuse_seen_test_subjects(model: str | Path, data: dict[str, Any]) -> None:
    """Refuses to test a model on subjects it was pre-trained on.

    Args:
        model: folder or Hub id of the pre-trained model; one without `run.json` is accepted, since nothing is known of it.
        data: description of the task's data by [`describe_data`].

    Raises:
        ValueError: if test subjects are among those that the model or its tokenizer have seen.
    """
    seen = subjects_seen(run_of_model(model))
    leaked = [subject for subject in data["splits"]["test"]["subjects"] if (data["dataset"], subject) in seen]
    if leaked:
        raise ValueError(
            f"{model} was pre-trained on {len(leaked)} of the test subjects of {data['dataset']}"
            f" ({', '.join(leaked[:8])}), so its test results would mean nothing. Pre-train with the same split as the task."
        )
