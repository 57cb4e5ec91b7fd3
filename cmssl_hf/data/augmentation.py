"""Augmentations of standardised windows. numpy only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..signals import standardize


class WindowAugmentation(Protocol):
    """Random changes of windows."""

    @property
    def active(self) -> bool:
        """Whether anything is changed at all."""

    def __call__(
        self,
        windows: np.ndarray | Sequence[np.ndarray],
        labels: np.ndarray | None,
        generators: Sequence[np.random.Generator],
    ) -> tuple[list[np.ndarray], np.ndarray | None]:
        """Changes windows `(channels, samples)` and, where they follow, their labels; one generator per window."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes that leave a window's label known.

    Attributes:
        sampling_rate: of the windows in Hz; it decides how slow the drift and how long the spans are.
        time_stretch: playing speed is drawn between `1 / time_stretch` and `time_stretch` (log-uniform); 1 switches it off.
            A faster window gets shorter and is masked, a slower one is cut to its old length at a random place.
        scales_labels: whether labels are rates, which playing speed multiplies.
        amplitude_jitter: standard deviation of the logarithm of a smoothly varying gain.
        noise: standard deviation of white noise, in standard deviations of the signal; each window draws its own level
            between 0 and this.
        baseline_wander: largest standard deviation of an added drift below 0.5 Hz, in standard deviations of the signal; each
            window draws its own level between 0 and this. It hides breathing where breathing is what is learnt.
        polarity_flip: probability with which a window is turned upside down: electrodes that are swapped do that to an ECG;
            no sensor does it to a PPG.
        masked_share: share of a window that is set to its mean in spans of half a second, which may overlap: the model has to
            tell from the rest what was there.
    """

    sampling_rate: float
    time_stretch: float = 1.0
    scales_labels: bool = False
    amplitude_jitter: float = 0.0
    noise: float = 0.0
    baseline_wander: float = 0.0
    motion: float = 0.0
    polarity_flip: float = 0.0
    masked_share: float = 0.0

    def __post_init__(self) -> None:
        if not self.sampling_rate > 0:
            raise ValueError(f"`sampling_rate` must be the rate of the windows in Hz, but is {self.sampling_rate}.")
        if not 0 <= self.polarity_flip <= 1:
            raise ValueError(f"`polarity_flip` is a probability, but is {self.polarity_flip}.")
        if not 0 <= self.masked_share < 1:
            raise ValueError(f"`masked_share` must be at least 0 and less than 1, but is {self.masked_share}.")
        for name in ("amplitude_jitter", "noise", "baseline_wander", "motion"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must be at least 0, but is {getattr(self, name)}.")
        if self.time_stretch < 1:
            raise ValueError(f"`time_stretch` must be at least 1, but is {self.time_stretch}.")

    @property
    def active(self) -> bool:
        """Whether anything is changed at all."""
        return (
            self.time_stretch > 1
            or self.amplitude_jitter > 0
            or self.noise > 0
            or self.baseline_wander > 0
            or self.motion > 0
            or self.polarity_flip > 0
            or self.masked_share > 0
        )

    def __call__(
        self,
        windows: np.ndarray | Sequence[np.ndarray],
        labels: np.ndarray | None,
        generators: Sequence[np.random.Generator],
    ) -> tuple[list[np.ndarray], np.ndarray | None]:
        """Changes windows `(channels, samples)` and, where they are rates, their labels; one generator per window."""
        labels = None if labels is None else labels.copy()
        changed = []
        for row, (window, generator) in enumerate(zip(windows, generators)):
            if self.time_stretch > 1:
                window, speed = self._stretch(window, generator)
                if labels is not None and self.scales_labels:
                    labels[row] *= speed
            if self.amplitude_jitter > 0:
                window = window * self._gain(window.shape[-1], generator, self.amplitude_jitter)
            if self.noise > 0:
                window = window + generator.uniform(0, self.noise) * generator.standard_normal(window.shape)
            if self.baseline_wander > 0:
                window = window + generator.uniform(0, self.baseline_wander) * self._drift(window.shape[-1], generator)
            if self.motion > 0:
                window = window + generator.uniform(0, self.motion) * self._movement(window.shape[-1], generator)
            if self.polarity_flip > 0 and generator.random() < self.polarity_flip:
                window = -window
            window = standardize(window).astype(np.float32)
            if self.masked_share > 0:
                window[:, self.hidden_samples(window.shape[-1], generator)] = 0
            changed.append(window)
        return changed, labels

    def _stretch(self, window: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, float]:
        limit = np.log(self.time_stretch)
        speed = float(np.exp(generator.uniform(-limit, limit)))
        num_samples = window.shape[-1]
        length = min(num_samples, int((num_samples - 1) / speed) + 1)
        latest_start = (num_samples - 1) - (length - 1) * speed
        positions = generator.uniform(0, max(latest_start, 0)) + speed * np.arange(length)
        grid = np.arange(num_samples)
        return np.stack([np.interp(positions, grid, channel) for channel in window]), speed

    def _gain(self, num_samples: int, generator: np.random.Generator, spread: float) -> np.ndarray:
        knots = generator.standard_normal(5)
        curve = np.interp(np.linspace(0, 4, num_samples), np.arange(5), knots)
        return np.exp(spread * curve)

    def hidden_samples(self, num_samples: int, generator: np.random.Generator) -> np.ndarray:
        """Which samples `(num_samples,)` of a window `masked_share` hides."""
        hidden = np.zeros(num_samples, dtype=bool)
        span = min(round(0.5 * self.sampling_rate), num_samples)
        for start in generator.integers(0, num_samples - span + 1, round(self.masked_share * num_samples / span)):
            hidden[start : start + span] = True
        return hidden

    def _drift(self, num_samples: int, generator: np.random.Generator) -> np.ndarray:
        """A sum of sinusoids of 0.05-0.5 Hz with random phases and a standard deviation of 1 over long windows."""
        return self._oscillation(generator.uniform(0.05, 0.5, size=4), num_samples, generator)

    def _movement(self, num_samples: int, generator: np.random.Generator) -> np.ndarray:
        """A sum of sinusoids of 0.5-4 Hz (log-uniform) with a standard deviation of 1 over long windows, under a gain that changes
        smoothly and manyfold."""
        frequencies = 0.5 * 8 ** generator.uniform(0, 1, size=4)
        oscillation = self._oscillation(frequencies, num_samples, generator)
        movement: np.ndarray = oscillation * self._gain(num_samples, generator, 1.0)
        return movement

    def _oscillation(self, frequencies: np.ndarray, num_samples: int, generator: np.random.Generator) -> np.ndarray:
        phases = generator.uniform(0, 2 * np.pi, size=len(frequencies))
        times = np.arange(num_samples)[:, None] / self.sampling_rate
        waves = np.sin(2 * np.pi * frequencies * times + phases).sum(1)
        oscillation: np.ndarray = waves * np.sqrt(2 / len(frequencies))
        return oscillation
