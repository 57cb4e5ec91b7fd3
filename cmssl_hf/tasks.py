"""The downstream tasks: what each reads, predicts, and is judged by."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal


logger = logging.getLogger(__name__)

#: Where the median label of people's recordings lies, by unit. Another one is a sign of another unit: a rate in Hz is 60
#: times smaller than per minute, a pressure in kPa 7.5 times smaller than in mmHg.
PLAUSIBLE_MEDIANS = {"bpm": (30.0, 220.0), "breaths/min": (5.0, 60.0), "mmHg": (35.0, 250.0)}


@dataclass(frozen=True)
class Task:
    """One downstream task.

    Attributes:
        name: public name, e.g. `"bidmc_hr"`.
        dataset: builder that provides it.
        config_name: configuration of the builder.
        channel: the one signal it reads, `"ecg"` or `"ppg"`.
        problem_type: as in `transformers`.
        label_names: names of the regression outputs; empty for classification, where the dataset names its classes.
        unit: unit of the regression outputs.
        label_is_rate: whether the label scales with playing speed, so that stretching time by a factor scales the label too.
        classical_method: name of the method of `cmssl_hf.baselines` that needs no training, if there is one.
        classical_features: name of the features of `cmssl_hf.baselines` from which a linear or tree model predicts the label,
            if there are some.
        metric_for_best_model: validation metric by which the best checkpoint is chosen.
        greater_is_better: its direction.
    """

    name: str
    dataset: str
    config_name: str
    channel: Literal["ecg", "ppg"]
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"]
    label_names: tuple[str, ...] = ()
    unit: str | None = None
    label_is_rate: bool = False
    classical_method: str | None = None
    classical_features: str | None = None

    @property
    def metric_for_best_model(self) -> str:
        return "mae" if self.problem_type == "regression" else "auroc"

    @property
    def selection_metric(self) -> str:
        """Metric that tasks are compared by: as `metric_for_best_model`, but macro F1 for one class per recording, as in the
        challenge of 2017."""
        return "f1_macro" if self.problem_type == "single_label_classification" else self.metric_for_best_model

    @property
    def greater_is_better(self) -> bool:
        return self.problem_type != "regression"


def _regression(name: str, dataset: str, config_name: str, labels: tuple[str, ...], unit: str, **fields: Any) -> Task:
    return Task(name, dataset, config_name, "ppg", "regression", labels, unit, **fields)


_TASKS = (
    _regression("bidmc_hr", "bidmc", "hr", ("heart_rate",), "bpm", label_is_rate=True, classical_method="pulse_peaks"),
    _regression(
        "bidmc_rr",
        "bidmc",
        "rr",
        ("respiratory_rate",),
        "breaths/min",
        label_is_rate=True,
        classical_method="respiratory_spectrum",
    ),
    _regression(
        "ppg_dalia_hr", "ppg_dalia", "hr", ("heart_rate",), "bpm", label_is_rate=True, classical_method="pulse_peaks"
    ),
    _regression(
        "ppg_dalia_rr",
        "ppg_dalia",
        "rr",
        ("respiratory_rate",),
        "breaths/min",
        label_is_rate=True,
        classical_method="respiratory_spectrum",
    ),
    _regression(
        "wfdb_hr", "wfdb_pairs", "hr", ("heart_rate",), "bpm", label_is_rate=True, classical_method="pulse_peaks"
    ),
    _regression("uci_sbp", "uci_bp", "sbp", ("systolic_pressure",), "mmHg"),
    _regression("uci_dbp", "uci_bp", "dbp", ("diastolic_pressure",), "mmHg"),
    _regression("uci_bp", "uci_bp", "bp", ("systolic_pressure", "diastolic_pressure"), "mmHg"),
    Task("csn", "csn", "codes", "ecg", "multi_label_classification"),
    Task(
        "physionet2017",
        "physionet2017",
        "rhythm",
        "ecg",
        "single_label_classification",
        classical_features="rr_intervals",
    ),
    Task("ptb_xl", "ptb_xl", "superclass", "ecg", "multi_label_classification", classical_features="rr_intervals"),
    _regression(
        "simulated_hr", "simulated", "hr", ("heart_rate",), "bpm", label_is_rate=True, classical_method="pulse_peaks"
    ),
    _regression(
        "simulated_rr",
        "simulated",
        "rr",
        ("respiratory_rate",),
        "breaths/min",
        label_is_rate=True,
        classical_method="respiratory_spectrum",
    ),
    _regression("simulated_bp", "simulated", "bp", ("systolic_pressure", "diastolic_pressure"), "mmHg"),
)

#: All tasks by name; [`register_task`] adds to them.
TASKS: dict[str, Task] = {task.name: task for task in _TASKS}

#: Names that tasks had before, and the ones they have.
_FORMER_NAMES = {"ptb-xl": "ptb_xl"}


def register_task(task: Task) -> Task:
    """Makes a task known to `get_task` and so to every command.

    Raises:
        ValueError: if another task has its name.
    """
    if TASKS.setdefault(task.name, task) != task:
        raise ValueError(f"There is another task called {task.name!r}: {TASKS[task.name]}.")
    return task


def get_task(name: str) -> Task:
    """The task called `name`.

    Raises:
        ValueError: if there is none; the message lists those there are.
    """
    if name in _FORMER_NAMES:
        logger.warning("The task %s is now called %s.", name, _FORMER_NAMES[name])
        name = _FORMER_NAMES[name]
    if name not in TASKS:
        raise ValueError(f"Unknown task {name!r}. Tasks: {', '.join(TASKS)}.")
    return TASKS[name]


def record_of_task(task: Task) -> str | dict[str, Any]:
    """What a run notes of its task: the name or, of one that is not registered, all of it."""
    return task.name if TASKS.get(task.name) == task else asdict(task)


def task_of_record(record: str | Mapping[str, Any]) -> Task:
    """The task that `record_of_task` noted.

    Raises:
        ValueError: if it is the name of a task that does not exist.
    """
    if isinstance(record, str):
        return get_task(record)
    return Task(**{**record, "label_names": tuple(record["label_names"])})
