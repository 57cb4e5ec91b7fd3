"""The rows of the benchmark: how each comes to its predictions for the test subjects."""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import AutoFeatureExtractor, AutoModel, PreTrainedModel, set_seed
from transformers.trainer import TRAINER_STATE_NAME

import cmssl_hf

from ..baselines import CLASSICAL_FEATURES, CLASSICAL_METHODS
from ..data.features import ids_of
from ..models.cmssl.configuration_cmssl import ENCODER_SIZES, CMSSLEncoderConfig, CMSSLTokenizerConfig
from ..models.cmssl.configuration_cmssl_classification import SignalClassificationConfig
from ..models.cmssl.feature_extraction_cmssl import CMSSLFeatureExtractor
from ..training.arguments import AugmentationArguments
from ..training.engine.checkpoints import remove_checkpoints
from ..training.engine.provenance import refuse_seen_test_subjects
from ..training.finetuning import FinetuningArguments, TaskArguments, finetune
from ..training.results import constant_predictions
from .embeddings import embed_windows
from .encoders import backbone_of, config_of, describe_encoder
from .results_store import Combination, Outcome
from .row_names import CLASSICAL, CONSTANT_ROWS, SCRATCH, encoder_name, is_frozen
from .shallow import fit_and_predict
from .task_windows import TaskWindows


@dataclass
class TaskBenchmark:
    """Everything needed to compute the combinations of one task.

    Attributes:
        windows: the task's data.
        encoders: folders of pre-trained encoders by name; one per seed of pre-training. Random weights have the architecture of
            the first.
        architecture: published size for encoders with random weights where no folder gives the architecture.
        recipe: fields of `TaskArguments` for full fine-tuning. Models of other work get those that they have: no augmentation of
            heartbeats, no options of a config that theirs lacks.
        training: fields of `FinetuningArguments`.
        scratch: those that differ for the row `scratch`.
        spectrum: whether frozen features describe variation at respiratory frequencies too.
        work_dir: for embeddings and runs.
    """

    windows: TaskWindows
    encoders: Mapping[str, Sequence[str]]
    architecture: str = "small"
    recipe: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    scratch: dict[str, Any] = field(default_factory=dict)
    spectrum: bool = False
    work_dir: Path = Path("benchmark_work")

    def encoder_of(self, combination: Combination) -> str:
        """Folder or size that a row starts from; with several seeds of pre-training, each seed has its own.

        Raises:
            ValueError: if there is no encoder of that name.
        """
        name = encoder_name(combination.row)
        if name is None:
            return next((folders[0] for folders in self.encoders.values()), self.architecture)
        folders = self.encoders.get(name)
        if not folders:
            raise ValueError(f"No encoder for {self.windows.task.channel} is called {name}.")
        return folders[combination.seed % len(folders)]

    def training_of(self, row: str) -> dict[str, Any]:
        """Fields of `FinetuningArguments` of a row with full fine-tuning."""
        return {**self.training, **(self.scratch if row == SCRATCH else {})}

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
            elif combination.row == CLASSICAL:
                predictions, notes = self._classical(division, combination.seed)
                details |= notes
            elif is_frozen(combination.row):
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
        config, extractor = architecture_of(source, self.windows.task.channel)
        if isinstance(config, CMSSLTokenizerConfig):
            raise ValueError(
                f"{source} is a tokenizer: it gives codes and no features. Its row with full fine-tuning has a head."
            )
        if encoder_name(combination.row) is not None:
            self._refuse_leak(source, division)
            encoder = _pretrained(source)
        else:
            set_seed(combination.seed)
            encoder = AutoModel.from_config(config)
        features = embed_windows(
            encoder,
            self.windows.features(extractor),
            id_columns=ids_of(extractor),
            spectrum=self.spectrum,
            piece_seconds=self.recipe.get("config_overrides", {}).get("piece_seconds"),
            cache_dir=self.work_dir / "embeddings",
        )
        predictions, notes = fit_and_predict(
            self.windows.task, features, self.windows.labels, division, seed=combination.seed
        )
        return predictions, {**self._described(combination, source), **notes}

    def _described(self, combination: Combination, source: str) -> dict[str, Any]:
        """What the report says of the encoder of a row; random weights have no pre-training."""
        if _is_size(source):
            return {"encoder": source, "backbone": backbone_of(architecture_of(source, self.windows.task.channel)[0])}
        described = describe_encoder(source)
        if encoder_name(combination.row) is None:
            described = {"backbone": described["backbone"]}
        return {"encoder": Path(source).name, **described}

    def _full(self, combination: Combination, details: dict[str, Any]) -> Outcome:
        source, row = self.encoder_of(combination), combination.row
        task = self.windows.task
        recipe = recipe_of(self.recipe, *architecture_of(source, task.channel))
        run_dir = self.work_dir / "runs" / combination.name
        arguments = FinetuningArguments(
            output_dir=str(run_dir),
            seed=combination.seed,
            report_to="none",
            disable_tqdm=True,
            **self.training_of(row),
        )
        start: dict[str, Any] = {"from_scratch": source}
        if not _is_size(source):
            start = {"model_name_or_path": source, "random_weights": encoder_name(row) is None}
        if combination.fold is not None:
            start |= {"fold": combination.fold, "num_folds": self.windows.num_folds}
        results = finetune(
            TaskArguments(task=task.name, **start, label_fraction=combination.fraction, **recipe),
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
        details |= self._described(combination, source)
        details |= {"finetuning": next(iter(results.values())), **_length(run_dir, arguments)}
        return Outcome(details, rows=rows, predictions=predictions)

    def _refuse_leak(self, source: str, division: Mapping[str, np.ndarray]) -> None:
        test = sorted(np.unique(self.windows.subjects[division["test"]]).tolist())
        refuse_seen_test_subjects(
            source,
            {"dataset": self.windows.task.dataset, "splits": {"test": {"subjects": test}}},
            self.recipe.get("accept_unknown_provenance", False),
        )


def _is_size(source: str) -> bool:
    return source in ENCODER_SIZES and not Path(source).is_dir()


def architecture_of(source: str, channel: str) -> tuple[SignalClassificationConfig, CMSSLFeatureExtractor]:
    """Config and feature extractor of a model's folder or of a published size.

    Raises:
        ValueError: if it reads another signal than `channel`.
    """
    if _is_size(source):
        sized = CMSSLEncoderConfig.from_size(source, channels=(channel,))
        return sized, CMSSLFeatureExtractor(
            channels=sized.channels, sampling_rate=sized.sampling_rate, patch_size=sized.patch_size
        )
    config = config_of(source)
    if channel not in config.channels:
        raise ValueError(f"The task reads {channel}, but {source} reads {' and '.join(config.channels)}.")
    return config, AutoFeatureExtractor.from_pretrained(source)


def recipe_of(
    recipe: Mapping[str, Any], config: SignalClassificationConfig, extractor: CMSSLFeatureExtractor
) -> dict[str, Any]:
    """The part of a recipe that a model can follow: heartbeats are not augmented, and each config has its own fields."""
    known = {field.name for field in fields(config)}
    overrides = {name: value for name, value in recipe.get("config_overrides", {}).items() if name in known}
    changes = {field.name for field in fields(AugmentationArguments)} if ids_of(extractor) else set()
    return {**{name: value for name, value in recipe.items() if name not in changes}, "config_overrides": overrides}


def _pretrained(source: str) -> PreTrainedModel:
    encoder, loading = AutoModel.from_pretrained(source, output_loading_info=True)
    if loading["missing_keys"]:
        missing = sorted(loading["missing_keys"])
        raise ValueError(
            f"{source} lacks {len(missing)} weights of the encoder, such as {missing[0]}: it is no whole model."
        )
    return encoder


def _length(run_dir: Path, arguments: FinetuningArguments) -> dict[str, Any]:
    """How many steps a run took and, where it was to stop by itself, whether it did so before the limit."""
    state = json.loads((run_dir / TRAINER_STATE_NAME).read_text())
    steps, limit = state["global_step"], state["max_steps"]
    return {"steps": steps} | ({} if arguments.early_stopping_patience is None else {"converged": steps < limit})
