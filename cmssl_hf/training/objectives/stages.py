"""What the stages of all objectives here have in common."""

from collections.abc import Callable
from typing import Any

from ..encoder import ENCODER
from ..stage import Stage, register_objective


#: How to read the results of an objective that tells the windows of a batch apart.
CONTRAST_NOTE = "The loss is that of batches of validation windows, and larger for larger batches."
#: How to read those of an objective whose loss is least where all projections are the same.
COLLAPSE_NOTE = (
    "The last checkpoint was kept: the loss, which is least where all projections are the same, says nothing about the encoder."
    " `projection_std` is 1 where the projections are spread evenly and 0 where they are the same."
)


def objective_stage(
    name: str,
    method: str,
    *,
    learns: str,
    task: str,
    results_note: str,
    arguments: tuple[type, ...],
    function: Callable[..., dict[str, Any]],
) -> Stage:
    """A registered stage; see [`Stage`] for what is not said here.

    Args:
        name: of objective and stage.
        method: what the objective is called.
        learns: as in `Stage`.
        task: what the encoder was pre-trained to do, after "to".
        results_note: as in `Stage`.
        arguments: as in `Stage`.
        function: as in `Stage`.
    """
    stage = Stage(
        name=name,
        label=f"pre-trained by {method}",
        learns=learns,
        title=f"encoder of {{signals}} ({method})",
        method=(
            f"{{architecture}} and was pre-trained, without labels, to {task}. It is made to be fine-tuned, or to extract"
            " features."
        ),
        usage=ENCODER.usage,
        results_note=results_note,
        arguments=arguments,
        function=function,
    )
    return register_objective(name, stage)
