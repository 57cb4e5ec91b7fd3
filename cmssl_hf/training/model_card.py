"""Model cards, written from what a run has recorded and from nothing else.

What differs between stages, a card takes from its [`Stage`], and the results of a test from the task, where the run has one.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import AutoConfig

from ..data.licences import TrainingData, describe_training_data, forbids_commercial_use, shared_origins
from ..models.cmssl.configuration_cmssl import ENCODER_SIZES, CMSSLTokenizerConfig
from ..models.cmssl.hub_cmssl import name_model
from ..tasks import Task, task_of_record
from .engine.provenance import is_fully_known
from .engine.run_folder import RANDOM_WEIGHTS, read_run
from .results import result_table
from .stage import Stage, get_stage


#: Models of other work that can be fine-tuned here, by `model_type`.
_OTHER_WORK = {"resnet1d": "ResNet-1D", "papagei": "PaPaGei", "heartlang": "HeartLang"}

_LIMITS = """\
For research. **This is not a medical device**: it must not be used to diagnose, treat or monitor patients, and no regulator has
assessed it. It has been measured on the recordings named above and on no others; other sensors, body sites, activities and
populations may give other errors, which nothing in its answers reveals."""


_CM_SSL = """\
CM-SSL learns a joint vocabulary of synchronous ECG and PPG, and then teaches an encoder of one of the two signals to name its
codes, so that one sensor is enough at deployment."""
_STAGES_OF_CM_SSL = ("tokenizer", "encoder", "finetuning")


def write_model_card(folder: str | Path, name: str | None = None) -> ModelCard:
    """Writes `README.md` into the folder of a finished run.

    Args:
        folder: folder with `run.json`.
        name: what the card calls the model in its code: the Hub id it is pushed to; the folder by default.

    Raises:
        FileNotFoundError: if the folder holds no run.
        ValueError: if the run has no results yet.
    """
    run = read_run(folder)
    if run is None:
        raise FileNotFoundError(f"{folder} holds no run (`run.json`).")
    if "results" not in run:
        raise ValueError(f"The run in {folder} is not finished: it has no results to put on a card.")
    card = model_card(run, str(name or folder))
    card.save(Path(folder) / "README.md")
    return card


def model_card(run: dict[str, Any], name: str) -> ModelCard:
    """The card of a finished run.

    Args:
        run: content of `run.json`.
        name: Hub id or folder of the model.
    """
    data = [describe_training_data(description) for description in _chain(run)]
    metadata = ModelCardData(
        library_name="transformers",
        license="other" if any(map(forbids_commercial_use, data)) else "apache-2.0",
        license_name="terms-of-the-training-data" if any(map(forbids_commercial_use, data)) else None,
        pipeline_tag=None if _task(run) else "feature-extraction",
        tags=_tags(run),
        model_name=Path(name).name,
        eval_results=list(_eval_results(run)),
    )
    sections = [
        f"# {_title(run)}",
        _method(run),
        f"## Use\n\n```python\n{_usage(run)}\n```",
        f"## Input and model\n\n{_model_table(run)}",
        f"## Data\n\n{_data_section(run, data)}",
        f"## Results\n\n{_results_section(run)}",
        f"## Training\n\n{_training_section(run)}",
        f"## Intended use and limits\n\n{_LIMITS}",
    ]
    if not _other_work(run) and all(description["stage"] in _STAGES_OF_CM_SSL for description in _chain(run)):
        sections.append(f"## Method\n\n{_CM_SSL}")
    text = "\n\n".join(sections)
    return ModelCard(name_model(f"---\n{metadata.to_yaml()}\n---\n\n{text}\n", name))


def _chain(run: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Data descriptions of a run and of the runs it builds on, the latest first, each tagged with its stage."""
    while run is not None:
        data = run["identity"]["data"]
        for part in (data, *data.get("additional", [])):
            yield {**part, "stage": run["identity"]["stage"]}
        run = run.get("builds_on")


def _channels(run: dict[str, Any]) -> list[str]:
    """The signals that the model is given."""
    model = run["identity"]["model"]
    return model.get("given_channels") or model["channels"]


def _signals(run: dict[str, Any]) -> str:
    return " and ".join(channel.upper() for channel in _channels(run))


def _other_work(run: dict[str, Any]) -> str | None:
    """The name of the published model that was fine-tuned, where it is not CM-SSL."""
    return _OTHER_WORK.get(run["identity"]["model"].get("model_type"))


def _stage(run: dict[str, Any]) -> Stage:
    return get_stage(run["identity"]["stage"])


def _task(run: dict[str, Any]) -> Task | None:
    """What the model was fine-tuned for and tested on; `None` for a pre-trained one."""
    return task_of_record(run["identity"]["task"]) if "task" in run["identity"] else None


def _pipeline(task: Task) -> str:
    """The pipeline that answers with a model of the task."""
    kind = "regression" if task.problem_type == "regression" else "classification"
    return f"physiological-signal-{kind}"


def _tags(run: dict[str, Any]) -> list[str]:
    family = run["identity"]["model"]["model_type"] if _other_work(run) else "cm-ssl"
    tags = [family, "physiological-signals", "self-supervised-learning", *_channels(run)]
    if task := _task(run):
        tags += [_pipeline(task), task.name]
    return tags


def _title(run: dict[str, Any]) -> str:
    task, predicted = _task(run), None
    if task:
        predicted = " and ".join(task.label_names).replace("_", " ") or task.name
    series = _other_work(run) or "CM-SSL, stage 3"
    title = _stage(run).title.format(signals=_signals(run), predicted=predicted, series=series)
    return title[0].upper() + title[1:]


def _method(run: dict[str, Any]) -> str:
    identity = run["identity"]
    if run.get("builds_on") is not None:
        initialisation = f"It started from a pre-trained {_kind(run)} ({_stages_before(run)})."
    elif identity.get("initialisation") in (*ENCODER_SIZES, RANDOM_WEIGHTS):
        initialisation = "It started from random weights: no pre-training."
    else:
        initialisation = "It started from weights of whose training nothing is recorded."
    if identity.get("freeze_encoder"):
        initialisation += f" The {_kind(run)} was frozen; only the head was trained."
    if rank := identity.get("lora_rank"):
        initialisation += f" Adapters of rank {rank} (LoRA) and the head were trained, and merged into its weights."
    model = identity["model"]
    kind = _other_work(run) or ("A transformer" if model.get("num_hidden_layers") != 0 else "A convolutional network")
    architecture = f"{kind}{', which' if _other_work(run) else ' that'} reads one signal"
    if model.get("interval_head"):
        initialisation += (
            " It answers with the mean of two heads, of which one knows the intervals between R-peaks alone."
        )
    series = "by the recipe of CM-SSL" if _other_work(run) else "CM-SSL"
    return _stage(run).method.format(architecture=architecture, series=series, initialisation=initialisation)


def _kind(run: dict[str, Any]) -> str:
    """What carries the head of a fine-tuned model."""
    return "tokenizer" if run["identity"]["model"].get("model_type") == CMSSLTokenizerConfig.model_type else "encoder"


def _stages_before(run: dict[str, Any]) -> str:
    earlier = [f"{get_stage(data['stage']).label}: {data['dataset']}" for data in _chain(run.get("builds_on"))]
    return "; ".join(earlier)


def _usage(run: dict[str, Any]) -> str:
    model, task = run["identity"]["model"], _task(run)
    usage = (
        _stage(run)
        .usage.format(
            arrays=" and ".join(f"`{channel}`" for channel in _channels(run)),
            arguments=", ".join(f"{channel}={channel}" for channel in _channels(run)),
            items=", ".join(f'"{channel}": {channel}' for channel in _channels(run)),
            hidden_size=_width(model),
            pipeline=_pipeline(task) if task else None,
        )
        .strip()
    )
    # The code of models of other work is not in their folders.
    return usage if _other_work(run) is None else f"import cmssl_hf\n{usage.replace(', trust_remote_code=True', '')}"


def _width(model: dict[str, Any]) -> int:
    """Of what the model says of a window, which some configs compute from other fields."""
    return model.get("hidden_size") or AutoConfig.for_model(**model).hidden_size


def _table(rows: dict[str, Any]) -> str:
    cells = {name: _cell(value) for name, value in rows.items() if value is not None}
    return pd.DataFrame({"": cells.keys(), " ": cells.values()}).to_markdown(index=False, disable_numparse=True)


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _model_table(run: dict[str, Any]) -> str:
    identity = run["identity"]
    model = identity["model"]
    rows = {
        "signals": _signals(run),
        "sampling rate": f"{model['sampling_rate']} Hz (other rates are resampled; time is not stretched)",
        "window in training": f"{model['window_seconds']:g} s (median)" if model.get("window_seconds") else None,
        "patch": f"{model['patch_size']} samples = {model['patch_size'] / model['sampling_rate']:g} s",
        "layers": model.get("num_hidden_layers"),
        "blocks of convolutions": model.get("num_blocks"),
        "width": _width(model),
        "heads": model.get("num_attention_heads"),
        "codebook": f"{model['codebook_size']:,} codes" if "codebook_size" in model else None,
    }
    if identity["stage"] not in _STAGES_OF_CM_SSL:
        rows["codebook"] = None
    if task := _task(run):
        labels = list((model.get("id2label") or {}).values())
        empty = [channel.upper() for channel in model["channels"] if channel not in _channels(run)]
        rows["empty slots"] = " and ".join(empty) or None
        # No other model with a head uses one.
        if not (_kind(run) == "tokenizer" and model["quantize_features"]):
            rows["codebook"] = None
        rows["answers"] = ", ".join(labels) + (f" ({task.unit})" if task.unit else "")
    return _table(rows)


def _data_section(run: dict[str, Any], data: list[TrainingData]) -> str:
    rows = []
    for description, entry in zip(_chain(run), data):
        for split, content in description["splits"].items():
            rows.append(
                {
                    "stage": description["stage"],
                    "dataset": f"{entry.dataset}/{entry.config}",
                    "split": split,
                    "subjects": len(content["subjects"]),
                    "windows": content["num_windows"],
                    "licence of the data": entry.license,
                }
            )
    parts = [pd.DataFrame(rows).to_markdown(index=False, intfmt=",")]
    options = {
        f"{entry.dataset}/{entry.config}": description["options"]
        for description, entry in zip(_chain(run), data)
        if description.get("options")
    }
    parts += [f"Options of {dataset}: {_inline(chosen)}." for dataset, chosen in options.items()]
    parts.append("\n".join(f"- {note}" for note in _leak_notes(run, data)))
    if any(map(forbids_commercial_use, data)):
        parts.append(
            "A licence above restricts commercial use; whether it binds these weights is for their user to judge."
        )
    citations = list(dict.fromkeys(entry.citation for entry in data if entry.citation))
    if citations:
        parts.append("```bibtex\n" + "\n\n".join(citations) + "\n```")
    return "\n\n".join(parts)


def _inline(values: dict[str, Any]) -> str:
    return ", ".join(f"`{name}={value}`" for name, value in values.items())


def _leak_notes(run: dict[str, Any], data: list[TrainingData]) -> Iterator[str]:
    for dataset, note in dict.fromkeys((entry.dataset, entry.subject_note) for entry in data):
        yield f"{dataset}: {note}"
    is_tested = _task(run) is not None
    if not is_fully_known(run):
        weights = "the starting weights have" if is_tested else "its tokenizer has"
        yield f"Which subjects {weights} seen is not known; test subjects may be among them."
    elif not is_tested:
        yield "Test subjects of these datasets were not used."
    elif run.get("builds_on") is not None:
        yield "No test subject, by dataset and identifier, was in the training or validation data of an earlier stage."
    for origin, names in shared_origins(data).items():
        yield (
            f"{' and '.join(names)} are both drawn from {origin}, under identifiers that do not tell which patients they"
            " share: someone in the test data of one may be in the training data of the other."
        )


def _results_section(run: dict[str, Any]) -> str:
    if task := _task(run):
        test = run["identity"]["data"]["splits"]["test"]
        table = result_table(task, run["results"])
        return (
            f"{test['num_windows']:,} windows of {len(test['subjects'])} test subjects, tested once with the checkpoint that was"
            f" best on the validation subjects (one run, seed {run['identity']['training']['seed']}; several seeds were not"
            f" compared here):\n\n{table}\n\nThe first row is this model; the others need no training: `constant` ignores the"
            " signal, and any other is a classical method." + _limits_section(task, run)
        )
    metrics: dict[str, float | str] = {
        name.removeprefix("eval_"): value for name, value in _numbers(run["results"]).items()
    }
    if "codes_in_use" in metrics:
        size = run["identity"]["model"]["codebook_size"]
        metrics["codes_in_use"] = f"{metrics['codes_in_use']:,} of {size:,}"
    rows = {
        name.replace("_", " "): f"{value:.4g}" if isinstance(value, float) else value
        for name, value in metrics.items()
        if not name.endswith(("runtime", "per_second", "epoch"))
    }
    return f"On the validation subjects:\n\n{_table(rows)}\n\n{_stage(run).results_note}"


def _limits_section(task: Task, run: dict[str, Any]) -> str:
    """What the intervals or sets of the answers were worth for the test subjects."""
    limits = run.get("limits")
    if limits is None:
        return ""
    is_regression = task.problem_type == "regression"
    answers, size = ("interval", "mean width") if is_regression else ("set", "mean number of classes")
    error = "mae" if is_regression else "share that is wrong"
    unit = f" ({task.unit})" if task.unit else ""
    coverage = pd.DataFrame(
        {
            f"{answers} of": [f"{row['asked']:.0%}" for row in limits["coverage"]],
            "held the label": [f"{row['covered']:.1%}" for row in limits["coverage"]],
            f"{size}{unit}": [f"{row['width']:.3g}" for row in limits["coverage"]],
        }
    )
    risk = pd.DataFrame(
        {
            "windows answered, surest first": [f"{row['answered']:.0%}" for row in limits["risk"]],
            f"{error}{unit}": [f"{row['error']:.3g}" for row in limits["risk"]],
        }
    )
    return (
        f"\n\n### When not to believe it\n\nAnswers come with a conformal {answers}, calibrated on {limits['num_subjects']} validation"
        " subjects, who also chose the checkpoint. Of the windows of the test subjects, each subject counting once:\n\n"
        f"{coverage.to_markdown(index=False, disable_numparse=True)}\n\n{risk.to_markdown(index=False, disable_numparse=True)}\n\n"
        "That holds for people, sensors and activities like these, and for no others: calibrate the model on recordings of your own"
        " (`cmssl_hf.training.calibration.calibrate`)."
    )


def _training_section(run: dict[str, Any]) -> str:
    identity = run["identity"]
    # Either counts, and `max_steps` overrides.
    unused = "num_train_epochs" if identity["training"]["max_steps"] > 0 else "max_steps"
    rows = {f"`{name}`": value for name, value in identity["training"].items() if name != unused}
    rows |= {f"`{name}`": value for name, value in identity.get("objective", {}).items()}
    rows |= {f"augmentation: `{name}`": value for name, value in identity.get("augmentation", {}).items()}
    versions = {name: version for name, version in run["environment"].items() if version is not None}
    versions.pop("platform", None)
    return f"{_table(rows)}\n\nSoftware: {', '.join(f'{name} {version}' for name, version in versions.items())}."


def _numbers(results: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in results.items() if isinstance(value, (int, float)) and math.isfinite(value)}


def _eval_results(run: dict[str, Any]) -> Iterator[EvalResult]:
    """Entries of the `model-index`: test metrics of a fine-tuned model, validation metrics of a pre-trained one."""
    identity = run["identity"]
    data = identity["data"]
    if task := _task(run):
        # The model's own row; the others are baselines and stand in the text.
        metrics, split = next(iter(run["results"].values())), "test"
        task_type, task_name = _pipeline(task), task.name
    else:
        metrics = {name.removeprefix("eval_"): value for name, value in run["results"].items()}
        split, task_type, task_name = "validation", "feature-extraction", _stage(run).learns
    entry = describe_training_data(data)
    for name, value in _numbers(metrics).items():
        if name.endswith(("runtime", "per_second", "epoch")):
            continue
        yield EvalResult(
            task_type=task_type,
            task_name=task_name,
            dataset_type=data["dataset"],
            dataset_name=entry.title,
            dataset_config=entry.config,
            dataset_split=split,
            dataset_args=data.get("options") or None,
            metric_type=name,
            metric_name=name.replace("_", " "),
            metric_value=value,
        )
