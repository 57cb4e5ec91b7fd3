"""A run's folder: what it is a run of, where it continues, and that nothing else is overwritten."""

import json
import logging
import platform
import subprocess
from dataclasses import asdict, fields, is_dataclass
from datetime import datetime, timezone
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .checkpoints import last_whole_checkpoint, sha256_of


logger = logging.getLogger(__name__)

RUN_FILE = "run.json"

#: The `initialisation` of a run that takes the architecture of a model's folder and none of its weights.
RANDOM_WEIGHTS = "random weights"

#: The `mixed_precision` of a run that is computed in what each processor has.
ANY_PRECISION = "auto"

_PACKAGES = (
    "cmssl_hf",
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "safetensors",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "pyarrow",
    "wfdb",
    "h5py",
)

#: Training arguments that may change between restarts. What is not named here decides the result, whatever transformers may
#: add: a run that goes on under other settings would be neither of two runs.
_MAY_DIFFER = {
    # where files go, what is logged, kept and uploaded
    "output_dir", "logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node",
    "logging_nan_inf_filter", "log_level",
    "log_level_replica", "disable_tqdm", "report_to", "run_name", "project", "trackio_space_id", "trackio_bucket_id",
    "trackio_static_space_id",
    "include_num_input_tokens_seen", "skip_memory_metrics", "debug", "perplexity_floor",
    "save_total_limit", "save_on_each_node", "save_only_model", "enable_jit_checkpoint", "resume_from_checkpoint",
    "push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push",
    "hub_revision",
    # where and how fast it is computed; rounding apart, the numbers are the same
    "use_cpu", "cpu_kernels", "compile_layers", "full_determinism", "local_rank", "torch_empty_cache_steps",
    "activation_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
    "torch_compile", "torch_compile_backend", "torch_compile_mode",
    "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph", "ddp_backend",
    "ddp_timeout",
    "fsdp", "fsdp_config", "parallelism_config", "average_tokens_across_devices",
    "per_device_eval_batch_size", "eval_accumulation_steps",
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context",
    # what a stage does anyway
    "do_train", "do_eval", "do_predict", "restore_callback_states_from_checkpoint",
}  # fmt: skip
#: Training arguments that decide through another entry of the identity.
_NOTED_OTHERWISE = frozenset(
    [
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "fp16",
        "bf16",
        "precision",
        "save_strategy",
        "save_steps",
    ]
)
#: Decisive arguments that are always noted, for the reader of a card; others only where they are not the default, which is
#: what a record stands for that lacks them.
_ALWAYS_NOTED = (
    "learning_rate",
    "head_learning_rate",
    "layerwise_lr_decay",
    "weight_decay",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "num_train_epochs",
    "max_steps",
    "optim",
    "optim_args",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "eval_strategy",
    "eval_steps",
    "metric_for_best_model",
    "load_best_model_at_end",
    "early_stopping_patience",
    "warm_start_steps",
    "kmeans_windows",
    "kmeans_iterations",
    "quantized_encoder_lr",
    "revival_steps",
    "revival_usage",
    "soft_target_temperature",
    "seed",
)


def training_identity(arguments: TrainingArguments) -> dict[str, Any]:
    """The training arguments that decide a run's result, the global batch size and the precision among them."""
    defaults = type(arguments)(output_dir=arguments.output_dir, use_cpu=arguments.use_cpu, report_to="none")
    names = [field.name for field in fields(arguments) if field.name not in _MAY_DIFFER | _NOTED_OTHERWISE]
    identity = {name: _plain(getattr(arguments, name)) for name in _ALWAYS_NOTED if name in names}
    identity |= {
        name: value
        for name in names
        if name not in identity and (value := _plain(getattr(arguments, name))) != _plain(getattr(defaults, name))
    }
    saved, evaluated = (
        steps if strategy == "steps" else _plain(strategy)
        for strategy, steps in (
            (arguments.save_strategy, arguments.save_steps),
            (arguments.eval_strategy, arguments.eval_steps),
        )
    )
    # The best of the checkpoints is chosen, which are fewer than the evaluations.
    if arguments.load_best_model_at_end and saved != evaluated:
        identity["saved"] = saved
    batch_size = arguments.train_batch_size * arguments.world_size * arguments.gradient_accumulation_steps
    # Not `bf16` and `fp16`: launchers set the precision too.
    precision = ANY_PRECISION if getattr(arguments, "precision", None) == ANY_PRECISION else arguments.mixed_precision
    return {**identity, "global_batch_size": batch_size, "mixed_precision": precision}


def _plain(value: Any) -> Any:
    """What JSON can hold of a training argument."""
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value if value is None or isinstance(value, (bool, int, float, str, list, tuple, dict)) else repr(value)


def model_identity(config: PreTrainedConfig) -> dict[str, Any]:
    """The fields of a model's config that decide what it computes."""
    volatile = ("transformers_version", "architectures", "dtype", "auto_map", "custom_pipelines", "_name_or_path")
    return {name: value for name, value in config.to_dict().items() if name not in volatile}


class RunFolder:
    """The output folder of one run.

    `run.json` in it holds the run's identity (stage, data, model, training arguments), its provenance (versions, commit, and
    the runs it builds on), and later its results. It travels with the model, so that a model can say what it was trained on.

    Args:
        path: the folder.
        identity: JSON-serialisable description of what is run.
        provenance: further entries for `run.json` that do not make it another run.
        model_defaults: what fields of the model stand at if nobody sets them: a record that lacks one is older than the field.
    """

    def __init__(
        self,
        path: str | Path,
        identity: dict[str, Any],
        provenance: dict[str, Any] | None = None,
        model_defaults: dict[str, Any] | None = None,
    ):
        self.path = Path(path)
        self._model_defaults = json.loads(json.dumps(model_defaults or {}))
        # Tuples and the like become what they will be when they are read back.
        self.identity = json.loads(json.dumps(identity))
        self.provenance = provenance or {}

    def open(self) -> str | None:
        """Claims the folder for this run.

        Returns:
            The checkpoint to continue from, or `None` for a fresh run.

        Raises:
            FileExistsError: if the folder holds a different run or something else; the message names the differences.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        stored = read_run(self.path)
        if stored is None:
            others = [entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")]
            if others:
                raise FileExistsError(
                    f"The output folder {self.path} holds no run but is not empty ({', '.join(sorted(others)[:5])}). Choose"
                    " another `--output_dir`; nothing was changed."
                )
            self._claim()
            return None
        differences = _differences(self._with_what_was_not_noted(stored["identity"]), self.identity)
        # Another stage or task says more than the settings that come with it.
        differences = sorted(differences, key=lambda difference: difference.partition(" ")[0].count("."))
        if differences and not self._holds_work(stored):
            # A run that was refused or killed before its first checkpoint has nothing to lose but its claim.
            self._claim()
            return None
        if differences:
            raise FileExistsError(
                f"The output folder {self.path} already holds a different run. It differs in "
                + "; ".join(differences[:8])
                + ". Choose another `--output_dir` or repeat that run's settings; nothing was changed."
            )
        checkpoint = last_whole_checkpoint(self.path)
        if checkpoint is not None:
            logger.info("Continuing the run from %s.", checkpoint)
        return checkpoint

    @property
    def results(self) -> dict[str, Any] | None:
        """Results of the run if it is finished."""
        run = read_run(self.path)
        if run is None or "results" not in run:
            return None
        # Version 0.1.0 noted the validation metrics of a fine-tuning before its test.
        is_before_test = "finished" not in run and "task" in run["identity"] and "constant" not in run["results"]
        return None if is_before_test else run["results"]

    def note(self, name: str, content: Any) -> None:
        """Adds an entry to `run.json` that does not make it another run."""
        self._write({**parse_run(self.path / RUN_FILE), name: content})

    def note_results(self, results: dict[str, Any]) -> None:
        """Adds the results of the finished run to `run.json`, when it was finished, and of which weights they are: a model that is
        saved here later has other ones."""
        notes = {
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "weights": {file.name: sha256_of(file) for file in sorted(self.path.glob("*.safetensors"))},
            "results": results,
        }
        self._write({**parse_run(self.path / RUN_FILE), **notes})

    def _with_what_was_not_noted(self, stored: dict[str, Any]) -> dict[str, Any]:
        """The identity in a record. Fields that its model lacks were at their defaults; training arguments that version 0.1.0 did
        not note are taken to be as they are now, and a warning says so."""
        if "model" in stored:
            stored = {**stored, "model": {**self._model_defaults, **stored["model"]}}
        training = stored.get("training")
        if training is None:
            return stored
        if "mixed_precision" in training:
            # Who leaves the precision to the processor continues a run of any.
            if self.identity.get("training", {}).get("mixed_precision") == ANY_PRECISION:
                training = {**training, "mixed_precision": ANY_PRECISION}
            return {**stored, "training": training}
        missing = {name: value for name, value in self.identity.get("training", {}).items() if name not in training}
        if unsure := {name: value for name, value in missing.items() if (name, value) != ("mixed_precision", "no")}:
            logger.warning(
                "The record of %s is of an older version, which did not note %s; they are taken to be the same.",
                self.path,
                ", ".join(f"{name}={value}" for name, value in unsure.items()),
            )
        return {**stored, "training": {**training, **missing}}

    def _claim(self) -> None:
        self._write({"identity": self.identity, "environment": _environment(), **self.provenance})

    def _holds_work(self, stored: dict[str, Any]) -> bool:
        return (
            "results" in stored
            or any(self.path.glob(f"{PREFIX_CHECKPOINT_DIR}-*"))
            or any(self.path.glob("*.safetensors"))
        )

    def _write(self, content: dict[str, Any]) -> None:
        # Written beside and moved over: a run that is killed here leaves the old file whole.
        temporary = self.path / f".{RUN_FILE}.tmp"
        temporary.write_text(json.dumps(content, indent=2) + "\n")
        temporary.replace(self.path / RUN_FILE)


def read_run(folder: str | Path) -> dict[str, Any] | None:
    """Content of the `run.json` of a folder, or of the run that a checkpoint belongs to; `None` if there is none.

    Raises:
        ValueError: if the file is damaged.
    """
    folder = Path(folder)
    if folder.name.startswith(PREFIX_CHECKPOINT_DIR):
        folder = folder.parent
    file = folder / RUN_FILE
    return parse_run(file) if file.is_file() else None


def parse_run(file: Path) -> dict[str, Any]:
    """Content of a `run.json`.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        run = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    if not isinstance(run, dict) or not isinstance(run.get("identity"), dict):
        raise ValueError(f"{file} is damaged: it does not say what was run.")
    return run


def check_model_name(name: str) -> None:
    """Refuses what is meant to be a folder and is none, before it is looked for on the Hub.

    Raises:
        FileNotFoundError: if `name` is no folder with a model and cannot be a Hub id.
    """
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"The folder {name} holds no model: a finished run has a config.json.")
        return
    is_path = path.is_absolute() or len(path.parts) != 2 or path.parent.is_dir()
    if is_path:
        raise FileNotFoundError(
            f"There is no folder {name}. A model is the folder of a finished run or a Hub id (`owner/name`); the published sizes"
            " small, base and large start from random weights."
        )


def _differences(stored: Any, wanted: Any, name: str = ""):
    if isinstance(stored, dict) and isinstance(wanted, dict):
        for key in sorted({*stored, *wanted}):
            yield from _differences(stored.get(key), wanted.get(key), f"{name}.{key}" if name else key)
    elif stored != wanted:
        yield f"{name} ({stored!r} there, {wanted!r} now)"


def _environment() -> dict[str, Any]:
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **versions,
        "commit": commit_of(__file__),
    }


def commit_of(file: str | Path) -> str | None:
    """Commit of the checkout that a file of this package is in, with `-dirty` where something was changed since; `None` where
    the package is installed, also if that is within a repository of something else."""
    git = ["git", "-C", str(Path(file).parent)]
    tracked = [*git, "ls-files", "--error-unmatch", Path(file).name]
    # By its hash: the name of a tag would be shorter, but tags can be moved.
    describe = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        for command in (tracked, describe):
            answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return answer
