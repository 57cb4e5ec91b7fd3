"""The rows of the benchmark: how each comes to its predictions for the test subjects."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import AutoConfig, set_seed

import cmssl_hf

from ..baselines import CLASSICAL_FEATURES, CLASSICAL_METHODS
from ..models.cmssl.configuration_cmssl import ENCODER_SIZES, CMSSLEncoderConfig
from ..models.cmssl.feature_extraction_cmssl import CMSSLFeatureExtractor
from ..models.cmssl.modeling_cmssl_encoder import CMSSLEncoderModel
from ..training.engine.checkpoints import remove_checkpoints
from ..training.engine.provenance import refuse_seen_test_subjects
from ..training.finetuning import FinetuningArguments, TaskArguments, finetune
from ..training.results import constant_predictions
from .embeddings import embed_windows
from .results_store import Combination, Outcome
from .shallow import fit_and_predict
from .task_windows import TaskWindows


CONSTANT_ROWS = ("mean", "median", "majority")
FROZEN_ROWS = {"random_frozen": None, "own_frozen": "own", "joint_frozen": "joint"}
FULL_ROWS = {"scratch": None, "own_full": "own", "joint_full": "joint"}
ROWS = (*CONSTANT_ROWS, "classical", *FROZEN_ROWS, *FULL_ROWS)


@dataclass
class TaskBenchmark:
    """Everything needed to compute the combinations of one task.

    Attributes:
        windows: the task's data.
        encoders: folders of pre-trained encoders by kind, `"own"` and `"joint"`; one per seed of pre-training.
        architecture: published size for encoders with random weights where no folder gives the architecture.
        recipe: fields of `TaskArguments` for full fine-tuning.
        training: fields of `FinetuningArguments`.
        spectrum: whether frozen features describe variation at respiratory frequencies too.
        work_dir: for embeddings and runs.
    """

    windows: TaskWindows
    encoders: Mapping[str, Sequence[str]]
    architecture: str = "small"
    recipe: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    spectrum: bool = False
    work_dir: Path = Path("benchmark_work")

    def encoder_of(self, combination: Combination) -> str:
        """Folder or size that a row starts from; with several seeds of pre-training, each seed has its own.

        Raises:
            ValueError: if no encoder of that kind was given.
        """
        kind = {**FROZEN_ROWS, **FULL_ROWS}[combination.row]
        if kind is not None:
            folders = self.encoders.get(kind) or ()
            if not folders:
                raise ValueError(f"No {kind} encoder for {self.windows.task.channel} was given.")
        else:
            folders = self.encoders.get("joint") or self.encoders.get("own") or (self.architecture,)
        return folders[combination.seed % len(folders)]

    def run(self, combination: Combination) -> Outcome:
        """Predictions for the test subjects of a combination, or the reason why there are none."""
        details: dict[str, Any] = {}
        try:
            division = self.windows.division(combination.fraction, combination.seed, combination.fold)
            details |= {
                f"{split}_subjects": len(np.unique(self.windows.subjects[rows])) for split, rows in division.items()
            }
            if combination.row in CONSTANT_ROWS:
                predictions = self._constant(combination.row, division)
            elif combination.row == "classical":
                predictions, notes = self._classical(division, combination.seed)
                details |= notes
            elif combination.row in FROZEN_ROWS:
                predictions, notes = self._frozen(combination, division)
                details |= notes
            else:
                return self._full(combination, details)
        except ValueError as error:
            return Outcome(details, refusal=str(error))
        return Outcome(details, rows=division["test"], predictions=predictions)

    def _constant(self, row: str, division: Mapping[str, np.ndarray]) -> np.ndarray:
        labels, number = self.windows.labels[division["train"]], len(division["test"])
        if row == "median":
            return np.tile(np.median(labels.reshape(len(labels), -1), axis=0), (number, 1))
        return constant_predictions(self.windows.task, labels, number, len(self.windows.output_names))

    def _classical(self, division: Mapping[str, np.ndarray], seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        task, labels = self.windows.task, self.windows.labels
        if task.classical_method is not None:
            predictions = self._classical_values(CLASSICAL_METHODS[task.classical_method])[division["test"]]
            failed = ~np.isfinite(predictions)
            fallback = float(labels[division["train"]].mean())
            predictions = np.where(failed, fallback, predictions)[:, None]
            return predictions, {"model": task.classical_method, "failed_windows": int(failed.sum())}
        if task.classical_features is None:
            raise ValueError(f"There is no classical method for {task.name}.")
        features = {task.classical_features: self._classical_values(CLASSICAL_FEATURES[task.classical_features])}
        return fit_and_predict(task, features, labels, division, seed=seed, with_trees=True)

    def _classical_values(self, method: Callable[[np.ndarray, float], float | np.ndarray]) -> np.ndarray:
        """The classical method's answer, or the classical features, of every window; computed once and kept on disk."""
        # Another release of this package may compute them otherwise.
        key = zlib.crc32(f"{self.windows.fingerprint} {method.__name__} {cmssl_hf.__version__}".encode())
        path = self.work_dir / "classical" / f"{self.windows.task.name}-{key:08x}.npy"
        if path.exists():
            return np.load(path)
        rows = self.windows.raw_windows.select_columns(["signal", "sampling_rate"]).with_format("numpy")
        values = np.array([method(row["signal"], float(row["sampling_rate"])) for row in rows])
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.stem}-{np.random.default_rng().integers(2**62)}.npy")
        np.save(temporary, values)
        temporary.replace(path)
        return values

    def _frozen(
        self, combination: Combination, division: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, Any]]:
        source = self.encoder_of(combination)
        pretrained = FROZEN_ROWS[combination.row] is not None
        if pretrained:
            self._refuse_leak(source, division)
        config, extractor = architecture_of(source, self.windows.task.channel)
        if pretrained:
            encoder = CMSSLEncoderModel.from_pretrained(source)
        else:
            set_seed(combination.seed)
            encoder = CMSSLEncoderModel(config)
        features = embed_windows(
            encoder,
            self.windows.features(extractor),
            spectrum=self.spectrum,
            piece_seconds=self.recipe.get("config_overrides", {}).get("piece_seconds"),
            cache_dir=self.work_dir / "embeddings",
        )
        predictions, notes = fit_and_predict(
            self.windows.task, features, self.windows.labels, division, seed=combination.seed
        )
        return predictions, {"encoder": Path(source).name, **notes}

    def _full(self, combination: Combination, details: dict[str, Any]) -> Outcome:
        source = self.encoder_of(combination)
        task = self.windows.task
        run_dir = self.work_dir / "runs" / combination.name
        arguments = FinetuningArguments(
            output_dir=str(run_dir), seed=combination.seed, report_to="none", disable_tqdm=True, **self.training
        )
        start: dict[str, Any] = {"from_scratch": source}
        if not _is_size(source):
            start = {"model_name_or_path": source, "random_weights": FULL_ROWS[combination.row] is None}
        if combination.fold is not None:
            start |= {"fold": combination.fold, "num_folds": self.windows.num_folds}
        results = finetune(
            TaskArguments(task=task.name, **start, label_fraction=combination.fraction, **self.recipe),
            self.windows.data_arguments,
            arguments,
        )
        table = pd.read_csv(run_dir / "predictions.csv", dtype={"record_id": str})
        rows = np.array(
            [self.windows.keys[pair] for pair in zip(table["record_id"], table["start_time"].astype(float).round(4))]
        )
        predictions = table[[name for name in table.columns if name.startswith("prediction")]].to_numpy()
        # What remains is the best model; the optimizer's state is three times as large.
        remove_checkpoints(run_dir)
        metrics = next(iter(results.values()))
        return Outcome(
            {**details, "encoder": Path(source).name, "finetuning": metrics}, rows=rows, predictions=predictions
        )

    def _refuse_leak(self, source: str, division: Mapping[str, np.ndarray]) -> None:
        test = sorted(np.unique(self.windows.subjects[division["test"]]).tolist())
        refuse_seen_test_subjects(
            source,
            {"dataset": self.windows.task.dataset, "splits": {"test": {"subjects": test}}},
            self.recipe.get("accept_unknown_provenance", False),
        )


def _is_size(source: str) -> bool:
    return source in ENCODER_SIZES and not Path(source).is_dir()


def architecture_of(source: str, channel: str) -> tuple[CMSSLEncoderConfig, CMSSLFeatureExtractor]:
    """Config and feature extractor of an encoder's folder or of a published size.

    Raises:
        ValueError: if it reads another signal than `channel`.
    """
    if _is_size(source):
        config = CMSSLEncoderConfig.from_size(source, channels=(channel,))
        return config, CMSSLFeatureExtractor(
            channels=config.channels, sampling_rate=config.sampling_rate, patch_size=config.patch_size
        )
    config = AutoConfig.from_pretrained(source)
    if tuple(config.channels) != (channel,):
        raise ValueError(f"The task reads {channel}, but {source} reads {' and '.join(config.channels)}.")
    return config, CMSSLFeatureExtractor.from_pretrained(source)
