"""One file per finished combination of task, split, row, share of labels and seed, so that nothing is computed twice."""

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout


@dataclass(frozen=True, order=True)
class Combination:
    """One thing to compute.

    Attributes:
        task: name of the task.
        row: row of the benchmark, such as `"joint_frozen"`.
        fraction: share of the training subjects whose labels are used.
        seed: of everything random.
        fold: test fold of the cross-validation, or `None` for the published split.
    """

    task: str
    row: str
    fraction: float
    seed: int
    fold: int | None = None

    @property
    def split(self) -> str:
        return "paper" if self.fold is None else "folds"

    @property
    def name(self) -> str:
        """A file name that is its own."""
        part = "paper" if self.fold is None else f"fold{self.fold}"
        return re.sub(r"[^\w.+-]+", "_", f"{self.task}-{part}-{self.row}-{self.fraction:g}-seed{self.seed}")


@dataclass
class Outcome:
    """What came of a combination: predictions for the rows of its test split, or why there are none.

    Attributes:
        details: JSON-serialisable notes: what was chosen on validation subjects, seconds, model.
        rows: index of each predicted window among all windows of the task, `(windows,)`.
        predictions: `(windows, outputs)`, physical units or one score per class; `None` if refused.
        refusal: the reason, or `None`.
    """

    details: dict[str, Any]
    rows: np.ndarray | None = None
    predictions: np.ndarray | None = None
    refusal: str | None = None


class ResultsStore:
    """Outcomes in a folder.

    Args:
        folder: where they are kept; created if need be.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, combination: Combination) -> Path:
        return self.folder / f"{combination.name}.npz"

    def is_finished(self, combination: Combination, identity: str) -> bool:
        """Whether there are predictions under this identity. Refusals are cheap and may have been cured, so that they are
        tried again.

        Raises:
            ValueError: if the combination was computed with something else (another model, recipe or data).
        """
        path = self.path(combination)
        if not path.exists():
            return False
        outcome = self.load(combination)
        if outcome.refusal is not None:
            return False
        if outcome.details["identity"] != identity:
            raise ValueError(
                f"{path} holds results of another model, recipe or data. Choose another `--output_dir`, or delete the file if"
                " it is not wanted any more."
            )
        return True

    @contextlib.contextmanager
    def claim(self, combination: Combination) -> Iterator[bool]:
        """Whether the combination is this process's to compute: no other one holds it. A process that ends, however it does,
        gives its claims back."""
        lock = FileLock(self.folder / f".{combination.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def save(self, combination: Combination, outcome: Outcome) -> None:
        """Writes an outcome; a process that is killed meanwhile leaves no part of it."""
        content = {"combination": asdict(combination), "details": outcome.details, "refusal": outcome.refusal}
        description = np.array(json.dumps(content))
        temporary = self.folder / f".{combination.name}.tmp.npz"
        if outcome.rows is None or outcome.predictions is None:
            np.savez_compressed(temporary, description=description)
        else:
            np.savez_compressed(temporary, description=description, rows=outcome.rows, predictions=outcome.predictions)
        temporary.replace(self.path(combination))

    def load(self, combination: Combination) -> Outcome:
        """The outcome of a combination.

        Raises:
            ValueError: if the file is damaged.
        """
        return self._read(self.path(combination))[1]

    def all(self) -> dict[Combination, Outcome]:
        """Every outcome there is, in the order of the combinations' names."""
        return dict(self._read(path) for path in sorted(self.folder.glob("[!.]*.npz")))

    @staticmethod
    def _read(path: Path) -> tuple[Combination, Outcome]:
        try:
            with np.load(path, allow_pickle=False) as file:
                content = json.loads(str(file["description"]))
                arrays = {name: file[name] for name in ("rows", "predictions") if name in file.files}
            combination = Combination(**content["combination"])
            return combination, Outcome(content["details"], refusal=content["refusal"], **arrays)
        # Zip files, JSON and arrays have an exception each for damage.
        except Exception as error:
            raise ValueError(f"{path} is damaged ({error}); delete it to have it computed again.") from error
