"""Answers that know their limits: prediction intervals and sets, from what the model got wrong on people it was not trained on.

Split conformal prediction (Vovk et al. 2005; Papadopoulos et al. 2002, doi:10.1007/3-540-36755-1_29): `config.calibration` holds
quantiles of its errors. A regression's errors are counted in units of how much the answer to a window varies with where the window
is cut, so that intervals are wide where the answer is uncertain (normalised conformal prediction, Lei et al. 2018,
doi:10.1080/01621459.2017.1307116). Classes are those whose probability is high enough (Sadinle et al. 2019,
doi:10.1080/01621459.2017.1395341).
"""

import math
import numbers
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn


#: Crops of a window whose answers are compared, and their share of it.
NUM_CROPS = 3
CROP_SHARE = 0.9
#: Of so few windows crops and wholes go through the model together: it takes hardly longer. Crops of more go without padding.
_FEW_WINDOWS = 4
#: Durations that differ by this share are those of the calibration: rates round.
_DURATION_TOLERANCE = 0.01


@dataclass(frozen=True)
class Calibration:
    """What `config.calibration` holds.

    Attributes:
        quantiles: for each coverage, e.g. `"0.9"`, the quantile of the scores of each label (regression) or of all (classes).
        floors: for each label of a regression, what is added to the spread of a window's answers, in the label's unit; none for
            classes.
        window_seconds: shortest and longest window that it was made of; others get no interval.
        num_subjects: people that it was made of.
        num_windows: windows that it was made of.
    """

    quantiles: dict[str, list[float]]
    floors: list[float]
    window_seconds: list[float]
    num_subjects: int
    num_windows: int

    @classmethod
    def from_config(cls, config: Any) -> "Calibration | None":
        """That of a model; `None` if it has none.

        Raises:
            ValueError: if `config.calibration` is not what [`Calibration.to_dict`] gives, for a model of as many labels.
        """
        stored = getattr(config, "calibration", None)
        if stored is None:
            return None
        try:
            calibration = cls(**stored)
            widths = {len(quantiles) for quantiles in calibration.quantiles.values()}
            values = [*calibration.floors, *calibration.window_seconds, *chain(*calibration.quantiles.values())]
            coverages = [float(coverage) for coverage in calibration.quantiles]
            is_regression = config.problem_type == "regression" or (
                config.problem_type is None and config.num_labels == 1
            )
            good = (
                config.problem_type != "multi_label_classification"
                and len(calibration.floors) == (config.num_labels if is_regression else 0)
                and widths == {len(calibration.floors) or 1}
                and len(calibration.window_seconds) == 2
                and all(isinstance(value, numbers.Real) and math.isfinite(value) and value >= 0 for value in values)
                and all(0 < coverage < 1 for coverage in coverages)
            )
        except (TypeError, ValueError, AttributeError):
            good = False
        if not good:
            raise ValueError(
                f"`config.calibration` is damaged: {stored!r}. Set it to None, or calibrate the model anew."
            )
        return calibration

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def choose(self, coverage: float | None) -> str:
        """The key of a coverage; by default 0.9, or the largest that there were people enough for.

        Raises:
            ValueError: if it is another one than those stored.
        """
        stored = sorted(self.quantiles, key=float)
        if coverage is None:
            return max((key for key in stored if float(key) <= 0.9), key=float, default=stored[0])
        for key in stored:
            if isinstance(coverage, numbers.Real) and math.isclose(float(key), coverage):
                return key
        raise ValueError(
            f"`coverage` must be one of {', '.join(stored)}, for which the model was calibrated on {self.num_subjects} people,"
            f" but is {coverage!r}."
        )

    def covers(self, seconds: float) -> bool:
        """Whether windows of this duration are like those that it was made of."""
        low, high = self.window_seconds
        return low * (1 - _DURATION_TOLERANCE) <= seconds <= high * (1 + _DURATION_TOLERANCE)

    def intervals(self, predictions: np.ndarray, spreads: np.ndarray, coverage: str) -> np.ndarray:
        """Intervals `(windows, labels, 2)` around `predictions (windows, labels)`, in the labels' unit."""
        widths = np.array(self.quantiles[coverage]) * (spreads + np.array(self.floors))
        return np.stack([predictions - widths, predictions + widths], axis=-1)

    def sets(self, probabilities: np.ndarray, coverage: str) -> np.ndarray:
        """Whether each class belongs to the set `(windows, classes)`; the most likely one always does."""
        chosen = 1 - probabilities <= self.quantiles[coverage][0] + 1e-9
        return chosen | (probabilities == probabilities.max(axis=-1, keepdims=True))


def outputs_and_spreads(
    model: Any, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Answers of a regression to windows, and how much they vary with where these are cut: the root mean square difference of the
    answers to `NUM_CROPS` crops of `CROP_SHARE` of the window, at evenly spaced times, from that to the whole.

    Args:
        model: [`CMSSLEncoderForSequenceClassification`].
        input_values: `(batch, channels, samples)`.
        attention_mask: `(batch, samples)`.

    Returns:
        `logits` and spreads, both `(batch, labels)`.
    """
    batch, _, num_samples = input_values.shape
    device, patch_size = input_values.device, model.config.patch_size
    lengths = torch.full((batch,), num_samples, device=device) if attention_mask is None else attention_mask.sum(-1)
    kept = (CROP_SHARE * lengths / patch_size).floor().clamp(min=1).long() * patch_size
    times = torch.arange(int(kept.max()), device=device)
    is_real = times < kept[:, None]
    crops = []
    for crop in range(NUM_CROPS):
        starts = (lengths - kept).clamp(min=0) * crop // (NUM_CROPS - 1)
        places = (starts[:, None] + times).clamp(max=num_samples - 1)
        values = input_values.gather(-1, places[:, None].expand(-1, input_values.shape[1], -1))
        crops.append(values * is_real[:, None])
    values, masks = torch.cat(crops), is_real.long().repeat(NUM_CROPS, 1)
    if batch <= _FEW_WINDOWS:
        padding = (0, num_samples - values.shape[-1])
        whole = values.new_ones(batch, num_samples, dtype=torch.long) if attention_mask is None else attention_mask
        masks = torch.cat([whole, nn.functional.pad(masks, padding)])
        values = torch.cat([input_values, nn.functional.pad(values, padding)])
        answers = model(values, attention_mask=masks).logits.float()
    else:
        cropped = model(values, attention_mask=None if is_real.all() else masks)
        answers = torch.cat([model(input_values, attention_mask=attention_mask).logits, cropped.logits]).float()
    logits, *others = answers.split(batch)
    return logits, torch.stack([other - logits for other in others]).square().mean(0).sqrt()


def abstains(answer: Mapping[str, Any], max_width: float) -> str | None:
    """Why an answer is withheld, `"too wide"` or `"no interval"`; `None` if it is not.

    Args:
        answer: with the `interval` of each label, or a `set`; the width of a set is its number of classes.
        max_width: the largest that is accepted.
    """
    limits = answer.get("interval", answer.get("set"))
    if limits is None:
        return "no interval"
    widths = [high - low for low, high in limits.values()] if isinstance(limits, Mapping) else [len(limits)]
    return "too wide" if max(widths) > max_width else None


__all__ = ["CROP_SHARE", "NUM_CROPS", "Calibration", "outputs_and_spreads"]
