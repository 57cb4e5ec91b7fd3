"""Arguments that every run has."""

import os
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from transformers import TrainingArguments

from .precision import MIXED_PRECISION, PRECISIONS, Precision, fitting_precision
from .unsupported import refuse_unsupported


@dataclass
class StageArguments(TrainingArguments):
    """`TrainingArguments` with the defaults that all stages share."""

    # Where `--help` shows them: a stage's own arguments come before the hundred of transformers.
    _argument_group_name = "training, with all arguments of transformers.TrainingArguments"

    output_dir: str = field(default="runs/run", metadata={"help": "Folder of the run; a run that is there continues."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: `steps` or `epoch`."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save; the same as `eval_strategy`."})
    hub_strategy: str = field(
        default="end",
        metadata={"help": "With `push_to_hub`: `end` uploads the finished run, `every_save` each save too."},
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept; the best one stays."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best checkpoint."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning-rate schedule."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Warm-up steps, or their share if below 1."})
    logging_steps: float = field(default=10, metadata={"help": "Steps between two log lines."})
    # In the order of `TrainingArguments`: `HfArgumentParser` reads flags as the second kind.
    report_to: None | str | list[str] = field(  # noqa: RUF036
        default="tensorboard", metadata={"help": "Where to log; several are possible, or `none`.", "nargs": "+"}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "A loss that is not finite ends the training; here it would be hidden."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "The collator chooses the columns."})
    # Codebooks are kept equal by summing over processes; sending buffers around at each step would only cost time.
    ddp_broadcast_buffers: bool | None = field(default=False, metadata={"help": "See `TrainingArguments`."})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "See `TrainingArguments`."})
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "Early stopping goes on counting after an interruption."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after this many evaluations without a better one."}
    )
    layerwise_lr_decay: float = field(
        default=1.0, metadata={"help": "Each layer of the encoder learns this much slower than the one above it."}
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] | None = field(
        default=None,
        metadata={
            "help": "Number format of the training; `auto`: the one that the processor gains by, which may be another where the run"
            " continues. If left out, what `bf16`, `fp16` or the launcher say."
        },
    )
    compile_layers: bool = field(
        default=False,
        metadata={
            "help": "Compile the layers of the model, which are alike, in place of the whole of it (`torch_compile`); for GPUs."
        },
    )
    augment_on_device: bool = field(
        default=False,
        metadata={
            "help": "Change training windows as whole batches where the model is, in place of one by one where they are read; other"
            " random numbers of the same distributions."
        },
    )
    cpu_kernels: Literal["auto", "off"] = field(
        default="auto",
        metadata={
            "help": "`auto`: on a CPU, faster routes through the model, see `cmssl_hf.models.cpu_kernels`; `off`: plain torch."
        },
    )

    def __post_init__(self):
        refuse_unsupported(self)
        # Launched processes on a machine without accelerator find each other only if they are told that there is none.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        if self.precision is not None and (self.bf16 or self.fp16):
            raise ValueError(f"`precision` is {self.precision}: leave `bf16` and `fp16` out, which say the same.")
        super().__post_init__()
        if self.precision is not None:
            chosen = fitting_precision(self.device)[0] if self.precision == "auto" else self.precision
            self.mixed_precision = MIXED_PRECISION[chosen]
        if int(os.environ.get("WORLD_SIZE", 1)) > 1 and self.world_size == 1:
            raise ValueError(
                f"{os.environ['WORLD_SIZE']} processes were launched, but they are not connected: each would train by itself in"
                " the same folder. On a machine with GPUs that are not to be used, give `--use_cpu true`."
            )
        if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" and self.device.type == "cpu":
            raise ValueError(
                "FSDP needs GPUs: on CPUs accelerate would train whole copies without a word. Launch with"
                " `scripts/accelerate/cpu_2.yaml`, or without a configuration."
            )
        if self.eval_strategy == "epoch" and self.save_strategy == "steps":
            raise ValueError(
                "With `save_strategy` steps and `eval_strategy` epoch a checkpoint may be saved at the end of an epoch but before"
                " its evaluation, and a run that continues from it would leave that out. Evaluate by steps, too, or save by"
                " epochs."
            )
        if self.early_stopping_patience is not None and (
            self.eval_strategy == "no" or self.metric_for_best_model is None
        ):
            raise ValueError(
                "`early_stopping_patience` needs evaluations (`eval_strategy`) and a `metric_for_best_model`, by which they are"
                " compared."
            )
        # On a CPU there is nothing to pin for, and torch warns at every epoch.
        self.dataloader_pin_memory = self.dataloader_pin_memory and self.device.type != "cpu"

    @property
    def computed_in(self) -> Precision:
        """The number format of the products, however it was chosen."""
        return PRECISIONS[self.mixed_precision]


def refuse_idle(arguments: Any, name: str, needed: str, is_on: bool) -> None:
    """Refuses an argument that would do nothing: it was changed, but what it belongs to is off.

    Args:
        arguments: a dataclass.
        name: its field that may be idle.
        needed: what switches it on, for the message.
        is_on: whether that is the case.
    """
    default = next(field.default for field in fields(arguments) if field.name == name)
    if not is_on and getattr(arguments, name) != default:
        raise ValueError(f"`{name}` ({getattr(arguments, name)}) does nothing without {needed}.")
