"""Which subjects a model has seen, and that none of them is tested on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from ..data.window_reader import input_values_to_numpy
from .arguments import DataArguments
from .run_folder import RUN_FILE, read_run


def describe_data(dataset: DatasetDict, arguments: DataArguments) -> dict[str, Any]:
    """What a run records of its data: name, configuration, options, and per split fingerprint, size and subjects; the same
    again under `additional` for each dataset of `additional_data`."""
    additional = [entry.partition("=")[0] for entry in arguments.additional_data]
    description = {
        "dataset": arguments.dataset,
        "config": arguments.dataset_config,
        "options": arguments.dataset_options,
        "splits": _describe_splits(dataset, arguments.dataset if additional else None),
    }
    if additional:
        description["additional"] = [
            {
                "dataset": name,
                "config": arguments.dataset_config,
                "options": {},
                "splits": _describe_splits(dataset, name),
            }
            for name in additional
        ]
    return description


def _describe_splits(dataset: DatasetDict, member: str | None) -> dict[str, dict[str, Any]]:
    """Per split fingerprint, size and subjects of the rows that come from the dataset `member`, or of all."""
    description = {}
    for split, rows in dataset.items():
        columns = rows.select_columns(["subject_id"] if member is None else ["subject_id", "dataset"]).to_pandas()
        if member is not None:
            columns = columns[columns["dataset"] == member]
        description[split] = {
            "fingerprint": rows._fingerprint,
            "num_windows": len(columns),
            "subjects": sorted(columns["subject_id"].unique()),
        }
    return description


def median_window_seconds(rows: Dataset, sampling_rate: float, num_sampled: int = 1000) -> float:
    """Median duration in seconds of windows `input_values (channels, samples)`, judged from some that are spread over the
    dataset."""
    sampled = rows.select_columns(["input_values"]).with_format("arrow")[:: max(1, len(rows) // num_sampled)]
    lengths = [window.shape[-1] for window in input_values_to_numpy(sampled["input_values"])]
    return float(np.median(lengths) / sampling_rate)


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
