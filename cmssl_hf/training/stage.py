"""What a stage is to the commands, run folders and cards, and the objectives that encoders can be pre-trained with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from .engine.arguments import StageArguments
from .engine.run_folder import RunFolder, model_identity, training_identity


@dataclass(frozen=True)
class Stage:
    """A stage of training, or one objective of pre-training.

    Texts are templates of a model card: see `model_card` for what may stand in braces.

    Attributes:
        name: how `run.json` calls it; no other stage has it.
        label: how cards of later stages call it, e.g. `"stage 1"`.
        learns: what is learnt, for the `model-index`, e.g. `"reconstruction"`.
        title: title of the card; `{signals}`, `{predicted}`, `{series}`.
        method: what was done, in a paragraph; `{architecture}`, `{series}`, `{initialisation}`.
        usage: Python code that loads and uses the model; `{arrays}`, `{arguments}`, `{items}`, `{hidden_size}`, `{pipeline}`.
        results_note: what must be known to read the validation metrics.
        arguments: the dataclasses that a command parses for it: of the model, of the data, of the training.
        function: runs the stage, called with one instance of each, and returns its results.
    """

    name: str
    label: str
    learns: str
    title: str
    method: str
    usage: str
    results_note: str
    arguments: tuple[type, ...]
    function: Callable[..., dict[str, Any]]

    def open_run(
        self,
        training_arguments: StageArguments,
        config: PreTrainedConfig,
        data: Mapping[str, Any],
        *,
        builds_on: Mapping[str, Any] | None = None,
        **decisive: Any,
    ) -> tuple[RunFolder, str | None]:
        """Claims the run's folder.

        Args:
            training_arguments: of the run.
            config: of the model.
            data: description of the data by `describe_data`.
            builds_on: record of the run whose model this one starts from or learns from.
            decisive: what else makes this another run than one with other values; JSON-serialisable.

        Returns:
            The folder, and the checkpoint to continue from, if there is one.

        Raises:
            FileExistsError: if the folder holds another run, or something else.
        """
        identity = {
            "stage": self.name,
            "data": data,
            "model": model_identity(config),
            "training": training_identity(training_arguments),
            **decisive,
        }
        run = RunFolder(
            training_arguments.output_dir,
            identity,
            provenance={"builds_on": builds_on},
            model_defaults=model_identity(type(config)()),
        )
        with training_arguments.main_process_first(local=False, desc="opening the run's folder"):
            return run, run.open()


_STAGES: dict[str, Stage] = {}
_OBJECTIVES: dict[str, Stage] = {}


def register_stage(stage: Stage) -> Stage:
    """Makes a stage known to model cards.

    Raises:
        ValueError: if another stage has its name.
    """
    if _STAGES.setdefault(stage.name, stage) != stage:
        raise ValueError(f"There is another stage called {stage.name!r}.")
    return stage


def register_objective(name: str, stage: Stage) -> Stage:
    """Makes an objective of encoder pre-training known to `scripts/pretrain_encoder.py --objective`, and its stage to cards.

    Raises:
        ValueError: if another objective or stage has the name.
    """
    if _OBJECTIVES.setdefault(name, stage) != stage:
        raise ValueError(f"There is another objective called {name!r}.")
    return register_stage(stage)


def get_stage(name: str) -> Stage:
    """The stage called `name`.

    Raises:
        ValueError: if there is none; the message lists those there are.
    """
    if name not in _STAGES:
        raise ValueError(
            f"Unknown stage {name!r}. Stages: {', '.join(_STAGES)}. One of your own is known once its module is imported."
        )
    return _STAGES[name]


def get_objective(name: str) -> Stage:
    """The stage that pre-trains with the objective called `name`.

    Raises:
        ValueError: if there is none; the message lists those there are.
    """
    if name not in _OBJECTIVES:
        raise ValueError(f"Unknown objective {name!r}. Objectives: {', '.join(_OBJECTIVES)}.")
    return _OBJECTIVES[name]
