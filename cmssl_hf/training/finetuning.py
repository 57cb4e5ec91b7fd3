"""Stage 3: a pre-trained (or random) model for one task, tested on subjects that no stage has seen."""

import logging
from dataclasses import replace
from pathlib import Path

import torch
from transformers import EvalPrediction, set_seed

from ..data.batches import WindowsCollator, WindowsDataset
from ..data.features import ids_of
from ..data.subjects import cross_validation_fold, labelled_share
from ..models.cmssl.modeling_cmssl_classification import SignalClassificationMixin
from ..tasks import Task, get_task, record_of_task
from .adapters import Adapter
from .arguments import DataArguments
from .calibration import calibrate, measure_limits
from .data import (
    describe_data,
    label_names,
    load_raw_data,
    load_stage_data,
    median_window_seconds,
    raw_windows_of,
)
from .engine.provenance import known_run_of_model, refuse_seen_test_subjects
from .engine.run_folder import RUN_FILE, parse_run
from .engine.trainer import StageTrainer
from .finetuning_arguments import FinetuningArguments, TaskArguments
from .labels import class_weights, describe_labels, labels_of
from .model_card import write_model_card
from .own_labels import task_of_labels
from .results import append_summary, classical_predictions, constant_predictions, save_predictions, score
from .stage import Stage, register_stage
from .starting_model import initialisation, starting_model, starting_parts


logger = logging.getLogger(__name__)


class FinetuningTrainer(StageTrainer):
    """Stage 3: labels in physical units, judged by the metric module of the problem type.

    Args:
        task: what is learnt.
        adapter: of the model, if not all of it is trained.
    """

    model: SignalClassificationMixin

    def __init__(self, *args, task: Task, adapter: Adapter | None = None, **kwargs):
        super().__init__(*args, compute_metrics=self._metrics, **kwargs)
        if adapter is not None and self.is_fsdp_enabled:
            raise ValueError("`lora_rank` does not go with FSDP, which spreads weights over devices: use DDP.")
        self.task = task
        self.adapter = adapter

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        loss = outputs.loss * self.shares(inputs)[0] if model.training else outputs.loss
        return (loss, outputs) if return_outputs else loss

    def loss_terms(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        weights = self.model.config.class_weights
        if weights is None:
            return super().loss_terms(inputs)
        # By numbers: a tensor of them would be a copy to the device, for which each step would wait.
        of_classes = [weight * (inputs["labels"] == index).sum() for index, weight in enumerate(weights)]
        return torch.stack(of_classes).sum()[None]

    def report(self, folder: Path) -> dict[str, float]:
        """Calibrates the best model on the validation subjects."""
        batch_size = self.args.per_device_eval_batch_size
        self.model.config.calibration = calibrate(self.model, self.eval_dataset.dataset, batch_size=batch_size)
        return {}

    def load_weights(self, folder: str) -> None:
        # Of a finished run they are merged.
        if self.adapter is not None and Path(folder) == Path(self.args.output_dir):
            self.adapter.merge()
        super().load_weights(folder)

    def store_model(self) -> None:
        if self.adapter is not None:
            if self.args.should_save:
                self.adapter.save(Path(self.args.output_dir))
            self.adapter.merge()
        super().store_model()

    def _metrics(self, evaluation: EvalPrediction) -> dict[str, float]:
        return score(self.task, evaluation.predictions, evaluation.label_ids)


def finetune(
    task_arguments: TaskArguments,
    data_arguments: DataArguments,
    training_arguments: FinetuningArguments,
) -> dict[str, dict[str, float]]:
    """Fine-tunes on the training subjects, chooses the checkpoint on the validation subjects, and tests once.

    The validation subjects also calibrate the best model (`calibrate`): its answers come with intervals or sets, and the test says
    what these are worth. They have chosen the checkpoint, too, which makes intervals a little too narrow.

    The run's folder receives the best model with its feature extractor, `predictions.csv` (one row per test window with
    label, prediction and subject), checkpoints, logs and `run.json`; with `lora_rank` the adapter is merged into the model, and
    stands by itself in `adapter/`.

    Returns:
        Test metrics of each row of the result table: the model, predicting a constant, and the task's classical method if
        it has one.

    Raises:
        ValueError: if the model reads another signal than the task offers, or has seen test subjects in pre-training, or it is
            not known whom it has seen; if the training labels are all the same, or there are too few subjects; if `lora_rank` is given for
            a model without linear layers to adapt.
    """
    set_seed(training_arguments.seed)
    if task_arguments.task is not None:
        task = get_task(task_arguments.task)
        data_arguments = _data_of_task(task, data_arguments)
    else:
        task, data_arguments = task_of_labels(
            task_arguments.label,
            data_arguments,
            model=task_arguments.model_name_or_path,
            channels=task_arguments.config_overrides.get("channels"),
        )
    if task_arguments.model_name_or_path is None and task_arguments.from_scratch is None:
        task_arguments = replace(task_arguments, model_name_or_path=f"{task.channel}-encoder")
    _refuse_idle_arguments(task, task_arguments, training_arguments)
    training_arguments.choose_best_by(task)
    config, feature_extractor = starting_parts(task, task_arguments, data_arguments)
    splits = load_stage_data(data_arguments, feature_extractor, training_arguments, ("train", "validation", "test"))
    if task_arguments.fold is not None:
        splits = cross_validation_fold(splits, task_arguments.fold, task_arguments.num_folds)
    splits["train"] = labelled_share(splits["train"], task_arguments.label_fraction, training_arguments.seed)
    # A prepared folder holds no raw signals, and the raw test split is not the fold.
    has_raw = data_arguments.prepared_dir is None or data_arguments.data_dir
    raw_test = None
    if task.classical_method is not None and has_raw and task_arguments.fold is None:
        with training_arguments.main_process_first(desc="reading the test windows"):
            raw_test = raw_windows_of(splits["test"], load_raw_data(data_arguments)["test"])
    data = describe_data(splits, data_arguments)
    pretrained = None if task_arguments.random_weights else task_arguments.model_name_or_path
    if pretrained is not None:
        refuse_seen_test_subjects(pretrained, data, task_arguments.accept_unknown_provenance)
    ids = ids_of(feature_extractor)
    # How long windows were, their heartbeats do not say.
    config.window_seconds = None if ids else median_window_seconds(splits["train"], config.sampling_rate)
    crop = task_arguments.crop_seconds
    if crop is not None and config.window_seconds is not None:
        config.window_seconds = min(crop, config.window_seconds)
    train_labels = labels_of(splits["train"])
    names = label_names(data_arguments) or task.label_names
    describe_labels(config, task, names, train_labels)
    if task_arguments.balance_classes > 0:
        config.class_weights = class_weights(train_labels, len(names), task_arguments.balance_classes)
    augmentation = task_arguments.augmentation(config.sampling_rate, scales_labels=task.label_is_rate)
    if ids and (augmentation.active or task_arguments.crop_seconds):
        raise ValueError(
            f"{task_arguments.source} reads heartbeats, which are cut before the training: no signal is left that could be changed."
            " Leave the options of augmentation and `crop_seconds` out."
        )
    model = starting_model(task_arguments, config)
    weights = initialisation(task_arguments, model)
    adapter = Adapter(model, task_arguments.lora_rank) if task_arguments.lora_rank else None
    run, checkpoint = FINETUNING.open_run(
        training_arguments,
        config,
        data,
        builds_on=None if pretrained is None else known_run_of_model(pretrained),
        task=record_of_task(task),
        initialisation=weights,
        freeze_encoder=task_arguments.freeze_encoder,
        # Older records lack it.
        lora_rank=task_arguments.lora_rank or None,
        crop_seconds=crop,
        augmentation=vars(augmentation),
    )
    columns = ["input_values", *ids, "label"]
    trainer = FinetuningTrainer(
        model=model,
        args=training_arguments,
        data_collator=WindowsCollator(config.patch_size, label_column="label", id_columns=ids),
        train_dataset=WindowsDataset(
            splits["train"],
            columns,
            augmentation=augmentation,
            seed=training_arguments.seed,
            longest=None if crop is None else max(1, round(crop * config.sampling_rate)),
        ),
        eval_dataset=WindowsDataset(splits["validation"], columns),
        processing_class=feature_extractor,
        task=task,
        adapter=adapter,
    )

    def test() -> dict[str, dict[str, float]]:
        predicted = trainer.predict(WindowsDataset(splits["test"], columns), metric_key_prefix="test")
        results = {_model_name(task_arguments): score(task, predicted.predictions, predicted.label_ids)}
        if not trainer.is_world_process_zero():
            return results
        test_labels = labels_of(splits["test"])
        constant = constant_predictions(task, train_labels, len(test_labels), len(names))
        results["constant"] = score(task, constant, test_labels)
        if task.classical_method is not None and raw_test is not None:
            predictions, num_failed = classical_predictions(task, raw_test, float(constant[0, 0]))
            results[task.classical_method] = score(task, predictions, test_labels)
            if num_failed:
                logger.warning("%s failed on %d test windows, which got the mean.", task.classical_method, num_failed)
        limits = measure_limits(model, splits["test"], batch_size=training_arguments.per_device_eval_batch_size)
        if limits is not None:
            run.note("limits", limits)
        save_predictions(
            run.path / "predictions.csv",
            splits["test"],
            predicted.predictions,
            test_labels,
            names,
        )
        return results

    results = trainer.run(run, checkpoint, test)
    if task_arguments.summary_file is not None and trainer.is_world_process_zero():
        append_summary(
            task_arguments.summary_file,
            {
                "task": task.name,
                "model": _model_name(task_arguments),
                "seed": training_arguments.seed,
                "test_windows": data["splits"]["test"]["num_windows"],
                "test_subjects": len(data["splits"]["test"]["subjects"]),
                **next(iter(results.values())),
                "output_dir": str(run.path),
                "finished": parse_run(run.path / RUN_FILE).get("finished"),
            },
        )
    trainer.publish(write_model_card)
    return results


def _refuse_idle_arguments(task: Task, arguments: TaskArguments, training_arguments: FinetuningArguments) -> None:
    if arguments.time_stretch > 1 and task.problem_type == "regression" and not task.label_is_rate:
        raise ValueError(f"The labels of {task.name} are no rates: `time_stretch` would change what they should be.")
    if arguments.balance_classes > 0 and task.problem_type != "single_label_classification":
        raise ValueError(f"`balance_classes` weights classes, but {task.name} does not predict one of several.")
    if arguments.freeze_encoder and training_arguments.layerwise_lr_decay != 1:
        raise ValueError("`layerwise_lr_decay` does nothing with `freeze_encoder`: no layer is trained.")


def _data_of_task(task: Task, arguments: DataArguments) -> DataArguments:
    if arguments.additional_data:
        raise ValueError("`additional_data` are for pre-training: a task reads its own dataset.")
    if arguments.dataset not in (None, task.dataset):
        raise ValueError(f"The task {task.name} reads the dataset {task.dataset}, not {arguments.dataset}.")
    modality = arguments.dataset_options.get("modality", task.channel)
    if modality != task.channel:
        raise ValueError(f"The task {task.name} reads {task.channel}, but `dataset_options` ask for {modality}.")
    return replace(arguments, dataset=task.dataset, dataset_config=arguments.dataset_config or task.config_name)


def _model_name(arguments: TaskArguments) -> str:
    name = Path(arguments.source).name
    if arguments.from_scratch or arguments.random_weights:
        name = f"{name} from scratch"
    if arguments.lora_rank:
        return f"{name}, LoRA of rank {arguments.lora_rank}"
    return f"{name}, frozen" if arguments.freeze_encoder else name


FINETUNING = register_stage(
    Stage(
        name="finetuning",
        label="fine-tuned before",
        learns="a task",
        title="{predicted} from {signals} ({series})",
        method="{architecture}, fine-tuned with labels ({series}, stage 3). {initialisation}",
        usage="""
from transformers import pipeline

name = ""
predict = pipeline("{pipeline}", model=name, trust_remote_code=True)

# {arrays}: a 1-d array of any length, here at 125 Hz
answer = predict({{{items}, "sampling_rate": 125}})
print(answer["value"], answer["usable_share"])
for window in answer["windows"]:
    print(window["start"], window["end"], window["value"])
""",
        results_note="",
        arguments=(TaskArguments, DataArguments, FinetuningArguments),
        function=finetune,
    )
)
