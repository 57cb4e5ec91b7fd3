"""Contrast of signals: the ECG and the PPG of a window are to find each other among those of all windows (after Radford et al.
2021, CLIP)."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ...models.cmssl.configuration_cmssl_classification import SignalClassificationConfig
from ..arguments import DataArguments
from ..engine.arguments import StageArguments
from ..engine.checkpoints import sha256_of
from ..engine.run_folder import RUN_FILE, RunFolder, model_identity, read_run
from ..pretraining import pretrain_by_loss
from .losses import info_nce, rows_to_contrast
from .models import ObjectiveModel, ObjectiveOutput, new_encoder, projection_head
from .stages import CONTRAST_NOTE, objective_stage
from .trainer import ObjectiveTrainer
from .views import ProjectionArguments, check_batches, check_temperature, refuse_repeated_windows


_BOTH = "both"


@dataclass(kw_only=True)
class CLIPArguments(ProjectionArguments):
    """Pre-training by contrast of ECG and PPG."""

    objective: str = field(default="clip", metadata={"help": "Find the PPG of an ECG and the ECG of a PPG."})
    channel: str = field(default=_BOTH, metadata={"help": "Both signals are read, by an encoder each."})
    temperature: float = field(default=0.07, metadata={"help": "That cosines are divided by."})

    def __post_init__(self):
        if self.channel != _BOTH:
            raise ValueError(
                f"`channel` is {self.channel}, but `clip` trains an encoder of each of two signals: leave it out."
            )
        super().__post_init__()
        check_temperature(self.temperature)

    @property
    def channels(self) -> tuple[str, ...]:
        return ("ecg", "ppg")


class EncodersForCLIP(ObjectiveModel):
    """An encoder and a projection head for each signal, and the loss of windows that have both."""

    def __init__(self, config: SignalClassificationConfig, arguments: CLIPArguments):
        super().__init__(config)
        self.temperature = arguments.temperature
        self.encoders = nn.ModuleDict({name: new_encoder(config, channels=(name,)) for name in config.channels})
        sizes = (config.hidden_size, arguments.projection_hidden_size, arguments.projection_size)
        self.projectors = nn.ModuleDict({name: projection_head(*sizes) for name in config.channels})
        self.post_init()

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> ObjectiveOutput:
        pooled = [
            encoder(signal[:, None], attention_mask).pooler_output
            for encoder, signal in zip(self.encoders.values(), input_values.unbind(1))
        ]
        projections = [projector(rows) for projector, rows in zip(self.projectors.values(), pooled)]
        ecg, ppg = rows_to_contrast(self, *projections)
        loss = (info_nce(ecg, ppg, self.temperature) + info_nce(ppg, ecg, self.temperature)) / 2
        return ObjectiveOutput(loss, projections[1])


class CLIPTrainer(ObjectiveTrainer):
    """Stores each encoder in a folder of its own inside that of the run, with a record and a card of its own."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        refuse_repeated_windows(self)

    def encoders(self) -> dict[str, PreTrainedModel]:
        return dict(self.model.encoders.items())

    def run(
        self, folder: RunFolder, checkpoint: str | None, test: Callable[[], dict[str, Any]] | None = None
    ) -> dict[str, Any]:
        results = super().run(folder, checkpoint, test)
        record = read_run(folder.path)
        if self.is_world_process_zero() and record is not None:
            for name, encoder in self.encoders().items():
                part = folder.path / name
                of_encoder = {
                    **record,
                    "identity": {**record["identity"], "model": model_identity(encoder.config)},
                    "weights": {file.name: sha256_of(file) for file in sorted(part.glob("*.safetensors"))},
                }
                (part / RUN_FILE).write_text(json.dumps(of_encoder, indent=2) + "\n")
        return results

    def publish(self, write_card: Callable[[str, str | None], Any]) -> None:
        if self.is_world_process_zero():
            for name in self.encoders():
                write_card(str(Path(self.args.output_dir, name)), None)


def pretrain_by_clip(
    arguments: CLIPArguments, data_arguments: DataArguments, training_arguments: StageArguments
) -> dict[str, Any]:
    """Trains two encoders, which are stored in the folders `ecg` and `ppg` of the run; see [`pretrain_one_signal`]."""
    check_batches(training_arguments)
    if training_arguments.push_to_hub:
        raise ValueError(
            "`push_to_hub` uploads one model, but `clip` leaves two: load each from its folder and call its `push_to_hub`."
        )
    if training_arguments.layerwise_lr_decay != 1:
        raise ValueError("`layerwise_lr_decay` is not made for two encoders: leave it out.")
    return pretrain_by_loss(
        CLIP,
        lambda config: EncodersForCLIP(config, arguments),
        arguments,
        data_arguments,
        training_arguments,
        trainer_class=CLIPTrainer,
        objective=arguments.options(),
        eval_batch_size=training_arguments.eval_batch_size,
    )


CLIP = objective_stage(
    "clip",
    "contrast of ECG and PPG",
    learns="contrast of signals",
    task=(
        "find, among those of all windows, the other signal of a window, which an encoder of its own reads (after CLIP, Radford et"
        " al. 2021)"
    ),
    results_note=CONTRAST_NOTE,
    arguments=(CLIPArguments, DataArguments, StageArguments),
    function=pretrain_by_clip,
)
