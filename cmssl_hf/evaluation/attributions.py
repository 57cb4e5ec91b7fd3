"""What in a recording an answer rests on: integrated gradients over time (Sundararajan et al. 2017, arXiv:1703.01365), by captum."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from .. import naming_the_extra
from ..models.cmssl.pipeline_base_cmssl import PhysiologicalSignalPipeline


@dataclass(frozen=True)
class Attribution:
    """What the answer to one window rests on.

    Attributes:
        start: of the window, in s.
        sampling_rate: of the arrays, that of the model, in Hz.
        label: name of the label or class.
        output: what the model says of it: a value in its unit, or the logit of a class.
        signals: per channel what the model is given `(samples,)`, in standard deviations.
        attributions: per channel what each of its samples adds to the output, compared with a flat signal `(samples,)`; their sum is
            about the difference. What a model's `interval_head` makes of the intervals between beats is not among them.
    """

    start: float
    sampling_rate: int
    label: str
    output: float
    signals: dict[str, np.ndarray]
    attributions: dict[str, np.ndarray]

    def times(self) -> np.ndarray:
        """Of the samples, in s since the start of the recording."""
        return self.start + np.arange(len(next(iter(self.signals.values())))) / self.sampling_rate


def attribute(
    predict: PhysiologicalSignalPipeline,
    recording: Any,
    *,
    label: str | None = None,
    num_steps: int = 64,
    **reading: Any,
) -> list[Attribution]:
    """Attributes the answers to the windows of a recording to its samples.

    ```python
    predict = pipeline("physiological-signal-regression")
    for window in attribute(predict, ppg, sampling_rate=64):
        print(window.output, window.times()[np.abs(window.attributions["ppg"]).argmax()])
    ```

    Args:
        predict: pipeline for regression or classification.
        recording: anything that it takes, but a list.
        label: name of the label or class; the first label or, of classes, for each window the one that it answers.
        num_steps: between a flat signal and the recording.
        reading: parameters of the pipeline that say how it is read and cut: `sampling_rate`, `column`, `window_seconds`,
            `stride_seconds`.

    Raises:
        ValueError: if the recording cannot be read or has no usable window, the model has no such label, or reads something else
            than samples.
        ImportError: if captum is not installed.
    """
    with naming_the_extra("attributions"):
        from captum.attr import IntegratedGradients

    model, config = predict.model, cast(Any, predict.model.config)
    if not {"input_values"} <= {*predict.feature_extractor.model_input_names} <= {"input_values", "attention_mask"}:
        raise ValueError(f"A {config.model_type} is given beats, not the samples of a signal.")
    names = [config.id2label[number] for number in range(config.num_labels)]
    if label not in (None, *names):
        raise ValueError(f"The model has no label {label!r}; it has {', '.join(names)}.")

    def output(signals: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return model(input_values=signals, attention_mask=mask).logits.float()

    method = IntegratedGradients(output)
    found = []
    for window in predict.preprocess(recording, **reading):
        signals, mask = (window[name].to(model.device) for name in ("input_values", "attention_mask"))
        with torch.no_grad():
            outputs = output(signals, mask)[0]
        likeliest = 0 if config.problem_type == "regression" else int(outputs.argmax())
        index = likeliest if label is None else names.index(label)
        values = method.attribute(
            signals, target=index, additional_forward_args=(mask,), n_steps=num_steps, internal_batch_size=num_steps
        )
        length = int(mask.sum())
        arrays = [
            dict(zip(predict.feature_extractor.channels, part[0, :, :length].detach().float().cpu().numpy()))
            for part in (signals, values)
        ]
        found.append(
            Attribution(window["window"].start, config.sampling_rate, names[index], float(outputs[index]), *arrays)
        )
    return found
