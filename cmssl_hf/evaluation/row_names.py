"""What the rows of a benchmark are called, and in which order they stand."""

from collections.abc import Collection, Iterable

from ..tasks import Task


CONSTANT_ROWS = ("mean", "median", "majority")
CLASSICAL = "classical"
#: Rows of random weights: frozen, trained until it stops improving, and trained for as long as pre-trained ones.
RANDOM_FROZEN, SCRATCH, SCRATCH_SAME_STEPS = RANDOM_ROWS = ("random_frozen", "scratch", "scratch_same_steps")

_WITHOUT_ENCODER = (*CONSTANT_ROWS, CLASSICAL, *RANDOM_ROWS)


def is_frozen(row: str) -> bool:
    """Whether the row is a linear model on the output of an encoder that is not trained."""
    return row.endswith("_frozen")


def is_full(row: str) -> bool:
    """Whether the row trains the whole network."""
    return row in (SCRATCH, SCRATCH_SAME_STEPS) or row.endswith("_full")


def encoder_name(row: str) -> str | None:
    """Name of the encoder of a row; `None` where it has none or random weights."""
    return None if row in _WITHOUT_ENCODER else row.removesuffix("_frozen").removesuffix("_full")


def is_row(row: str) -> bool:
    """Whether a row can have this name, whatever encoders are given."""
    return row in _WITHOUT_ENCODER or is_frozen(row) or is_full(row)


def rows_of_task(task: Task, encoders: Iterable[str]) -> list[str]:
    """The rows that make sense for a task.

    Args:
        task: the task.
        encoders: names of those that read its signal.
    """
    constants = ("mean", "median") if task.problem_type == "regression" else ("majority",)
    rows = [f"{name}_{kind}" for name in encoders for kind in ("frozen", "full")]
    return in_order({*constants, CLASSICAL, *RANDOM_ROWS, *rows})


def in_order(rows: Collection[str]) -> list[str]:
    """Constants, the classical method, frozen rows and full ones; random weights before others, which go by their names."""

    def rank(row: str) -> tuple:
        kind = 2 if is_full(row) else 1 if is_frozen(row) else 0
        known = _WITHOUT_ENCODER.index(row) if row in _WITHOUT_ENCODER else len(_WITHOUT_ENCODER)
        return kind, known, row

    return sorted(rows, key=rank)
