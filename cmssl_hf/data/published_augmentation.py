"""The augmentations that published baselines of the field contrast windows with. numpy only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..signals import standardize


@dataclass(frozen=True)
class PublishedAugmentation:
    """Random changes, each made with a probability of its own, in the order of the fields.

    Cropping with resizing changes the heart rate, and shuffling the intervals between beats; they are here to repeat what was
    published (code of CM-SSL, 2026), which changes windows as they are stored. Here they are standardised before and after.

    Attributes:
        jitter: standard deviation of white noise, in standard deviations of the signal.
        jitter_probability: how often it is added.
        scaling: standard deviation of a gain around 1. Standardising undoes it, but for its sign.
        scaling_probability: how often it is applied.
        reversal_probability: how often time runs backwards.
        num_segments: equal parts that are put together in random order.
        shuffling_probability: how often.
        num_cutouts: spans that are set to 0.
        cutout_share: the longest that each may be, of the window.
        cutout_probability: how often.
        crop_share: the least of a window that is kept and stretched to its length.
        crop_probability: how often.
    """

    jitter: float
    jitter_probability: float
    scaling: float
    scaling_probability: float
    reversal_probability: float
    num_segments: int
    shuffling_probability: float
    num_cutouts: int
    cutout_share: float
    cutout_probability: float
    crop_share: float
    crop_probability: float

    @property
    def active(self) -> bool:
        return True

    def __call__(
        self,
        windows: np.ndarray | Sequence[np.ndarray],
        labels: np.ndarray | None,
        generators: Sequence[np.random.Generator],
    ) -> tuple[list[np.ndarray], np.ndarray | None]:
        """Changes windows `(channels, samples)`, whose lengths stay; labels stay as they are. One generator per window."""
        return [self._changed(window, generator) for window, generator in zip(windows, generators)], labels

    def _changed(self, window: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        num_samples = window.shape[-1]
        if generator.random() < self.jitter_probability:
            window = window + self.jitter * generator.standard_normal(window.shape)
        if generator.random() < self.scaling_probability:
            window = window * generator.normal(1.0, self.scaling)
        if generator.random() < self.reversal_probability:
            window = window[:, ::-1]
        if generator.random() < self.shuffling_probability:
            segments = np.array_split(np.arange(num_samples), self.num_segments)
            window = window[:, np.concatenate([segments[i] for i in generator.permutation(self.num_segments)])]
        if generator.random() < self.cutout_probability:
            window = window.copy()
            for _ in range(self.num_cutouts):
                length = int(generator.uniform(0, self.cutout_share) * num_samples)
                start = generator.integers(0, num_samples - length + 1)
                window[:, start : start + length] = 0
        if generator.random() < self.crop_probability:
            length = int(generator.uniform(self.crop_share, 1.0) * num_samples)
            start = generator.integers(0, num_samples - length + 1)
            positions = start + np.linspace(0, length - 1, num_samples)
            window = np.stack([np.interp(positions, np.arange(num_samples), channel) for channel in window])
        changed: np.ndarray = standardize(window).astype(np.float32)
        return changed


#: By SimCLR, TFC and, without cropping, MoCo-v3.
PUBLISHED_A = PublishedAugmentation(
    jitter=0.05,
    jitter_probability=0.8,
    scaling=0.2,
    scaling_probability=0.8,
    reversal_probability=0.5,
    num_segments=8,
    shuffling_probability=0.7,
    num_cutouts=2,
    cutout_share=0.15,
    cutout_probability=0.5,
    crop_share=0.8,
    crop_probability=0.3,
)
#: By SimSiam and, without cutting out and cropping, BYOL.
PUBLISHED_B = PublishedAugmentation(
    jitter=0.03,
    jitter_probability=0.5,
    scaling=0.1,
    scaling_probability=0.5,
    reversal_probability=0.3,
    num_segments=4,
    shuffling_probability=0.7,
    num_cutouts=1,
    cutout_share=0.2,
    cutout_probability=0.3,
    crop_share=0.8,
    crop_probability=0.3,
)
