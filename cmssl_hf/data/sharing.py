"""Pushing datasets to the Hub with a card, as far as their licence lets them be passed on."""

import logging
import re
from typing import Any

import pandas as pd
from datasets import DatasetDict
from huggingface_hub import DatasetCard, DatasetCardData

from ..building.dataset_builder import SignalDatasetBuilder
from ..tasks import TASKS
from .licences import hub_licence, may_be_passed_on
from .loading import channels_of


logger = logging.getLogger(__name__)

_COLUMNS = {
    "ecg": ("in the unit of the release", "ECG"),
    "ppg": ("in the unit of the release", "PPG, synchronous with the ECG"),
    "signal": ("in the unit of the release", "the one signal of the window or recording"),
    "input_values": (
        "standard deviations",
        "signals as the models read them: channels of resampled, filtered samples",
    ),
    "codes": ("", "code of the tokenizer for each patch"),
    "sampling_rate": ("Hz", "rate of the signals"),
    "subject_id": ("", "person; never in two splits"),
    "record_id": ("", "recording"),
    "start_time": ("s", "where in the recording the window begins"),
    "sbp": ("mmHg", "systolic pressure"),
    "dbp": ("mmHg", "diastolic pressure"),
    "age": ("years", "age"),
    "sex": ("", "sex"),
}


def push_dataset(
    dataset: DatasetDict,
    builder: SignalDatasetBuilder,
    repo_id: str,
    *,
    license: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    **options: Any,
) -> str:
    """Uploads a dataset as Parquet with a card, so that `datasets.load_dataset(repo_id)` reads it anywhere.

    Args:
        dataset: all splits, as `load_dataset` returns them or with the models' input in them.
        builder: what prepared it, from `load_dataset_builder`: licence, citation and options for the card.
        repo_id: where to.
        license: licence of the release where the builder does not state it.
        private, token, options: as in `DatasetDict.push_to_hub`.

    Returns:
        Address of the dataset.

    Raises:
        ValueError: if the licence is not known or does not let the data be passed on.
    """
    license = license or builder.info.license
    if not may_be_passed_on(license):
        raise ValueError(
            f"{_title(builder)} is not pushed: "
            + (
                f"its licence ({license}) does not let it be passed on."
                if license
                else "its licence is not stated. If you may pass it on, say under which `license`."
            )
        )
    if re.search(r"\b(NC|SA|ODbL)\b", license):
        logger.warning("%s is under %s; so is what is pushed.", _title(builder), license)
    pushed = dataset.push_to_hub(repo_id, private=private, token=token, **options)
    # What `datasets` has written of files and columns stays.
    card = DatasetCard.load(repo_id, token=token)
    metadata = card.data.to_dict() | dataset_card_metadata(builder, license).to_dict()
    card = DatasetCard(
        f"---\n{DatasetCardData(**metadata).to_yaml()}\n---\n\n{dataset_card_text(dataset, builder, repo_id, license)}"
    )
    card.push_to_hub(repo_id, token=token)
    return str(pushed.repo_url)


def dataset_card_metadata(builder: SignalDatasetBuilder, license: str) -> DatasetCardData:
    """Metadata of a dataset's card that the Hub reads, apart from files and columns."""
    identifier = hub_licence(license)
    return DatasetCardData(
        license=identifier,
        license_name=re.sub(r"[^a-z0-9.]+", "-", license.lower()) if identifier == "other" else None,
        pretty_name=_title(builder),
        tags=["physiological-signals", *channels_of(builder)],
    )


def dataset_card_text(dataset: DatasetDict, builder: SignalDatasetBuilder, repo_id: str, license: str) -> str:
    """Text of a dataset's card."""
    options = {
        name: value
        for name, value in vars(builder.config).items()
        if name not in ("name", "version", "data_dir", "data_files", "description") and value is not None
    }
    sections = [
        f"# {_title(builder)}, configuration {builder.config.name}",
        builder.info.description.strip(),
        builder.config.description and f"Configuration `{builder.config.name}`: {builder.config.description}.",
        f'```python\nfrom datasets import load_dataset\n\ndataset = load_dataset("{repo_id}")\n```',
        f"## Columns\n\n{_columns_table(dataset, builder)}",
        f"## Splits\n\n{_splits_table(dataset)}\n\n{builder.subject_note}",
        "## Preparation\n\nPrepared by `cmssl_hf` with "
        + ", ".join(f"`{name}={value}`" for name, value in sorted(options.items()))
        + ". Windows with missing or flat signal or without a label were left out.",
        f"## Licence and citation\n\nThe release is under {license}; so is this preparation of it."
        + (f"\n\n```bibtex\n{builder.info.citation.strip()}\n```" if builder.info.citation else ""),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _title(builder: SignalDatasetBuilder) -> str:
    title = builder.TITLE.removeprefix("the ")
    return title[0].upper() + title[1:]


def _columns_table(dataset: DatasetDict, builder: SignalDatasetBuilder) -> str:
    task = next((t for t in TASKS.values() if (t.dataset, t.config_name) == (builder.name, builder.config.name)), None)
    rows = []
    for name, feature in next(iter(dataset.values())).features.items():
        unit, meaning = _COLUMNS.get(name, ("", ""))
        if name == "label":
            names = ", ".join(builder.label_names or (task.label_names if task else ()))
            unit, meaning = (task.unit if task and task.unit else ""), names
        rows.append({"column": f"`{name}`", "type": _type(feature), "unit": unit, "meaning": meaning})
    return pd.DataFrame(rows).to_markdown(index=False)


def _type(feature: Any) -> str:
    if hasattr(feature, "feature"):
        return f"list of {_type(feature.feature)}"
    return getattr(feature, "dtype", type(feature).__name__) if not hasattr(feature, "names") else "class"


def _splits_table(dataset: DatasetDict) -> str:
    rows = [
        {"split": split, "rows": len(rows), "subjects": len(rows.unique("subject_id"))}
        for split, rows in dataset.items()
    ]
    return pd.DataFrame(rows).to_markdown(index=False, intfmt=",")
