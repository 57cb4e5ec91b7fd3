"""The augmentation of [`Augmentation`] for whole batches of tensors, on the device where they are."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .augmentation import Augmentation


#: What a batch carries until it is augmented: epoch and position in the dataset of each window, `(windows, 2)`.
KEYS = "augmentation_keys"

_KNOTS, _SINUSOIDS = 5, 4
_WORD = 0xFFFFFFFF
# Without them the fifth number of the sixth window would be the sixth of the fifth, where the seed is 0.
_WINDOWS, _COLUMNS = 0x9E3779B9, 0x5BF03635


@dataclass(frozen=True)
class Draws:
    """What is drawn for the windows of a batch: numbers between 0 and 1 unless it is said otherwise.

    Attributes:
        speed, place: where between its limits the playing speed lies, and where a slower window begins, `(windows,)`.
        knots: standard normal logarithms of the gain, `(windows, 5)`.
        noise, wander: share of the largest level, `(windows,)`.
        frequencies, phases: of the drift, `(windows, 4)`.
        motion: share of the largest level, `(windows,)`.
        motion_frequencies, motion_phases: of the movement, `(windows, 4)`.
        motion_knots: standard normal logarithms of its gain, `(windows, 5)`.
        flip: `(windows,)`; up to `polarity_flip` the window is turned.
        spans: where the hidden spans begin, `(windows, spans)`.
        white: standard normal, `(windows, channels, samples)`.
    """

    speed: torch.Tensor
    place: torch.Tensor
    knots: torch.Tensor
    noise: torch.Tensor
    wander: torch.Tensor
    frequencies: torch.Tensor
    phases: torch.Tensor
    motion: torch.Tensor
    motion_frequencies: torch.Tensor
    motion_phases: torch.Tensor
    motion_knots: torch.Tensor
    flip: torch.Tensor
    spans: torch.Tensor
    white: torch.Tensor


@dataclass(frozen=True)
class BatchedAugmentation:
    """Changes batches as `augmentation` changes windows, with other random numbers of the same distributions.

    Seed, epoch and position of a window in the dataset decide what happens to it, on every device alike up to rounding: numbers
    are hashes of these, since a generator of a device would go on with what came before.
    """

    augmentation: Augmentation
    seed: int

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Changes `input_values (windows, channels, samples)` and, where they are rates, `labels`; an `attention_mask` is added
        where playing speed makes windows shorter. The keys are taken out.

        Args:
            inputs: a batch of [`WindowsCollator`] with its `augmentation_keys`.
        """
        inputs = dict(inputs)
        keys, values, mask = inputs.pop(KEYS), inputs["input_values"], inputs.get("attention_mask")
        windows, _, samples = values.shape
        lengths = keys.new_full((windows,), samples) if mask is None else mask.sum(-1)
        draws = self.draw(keys, values.shape)
        values, lengths, speed = self.apply(values, lengths, draws)
        inputs["input_values"] = values
        if mask is not None or self.augmentation.time_stretch > 1:
            inputs["attention_mask"] = (torch.arange(samples, device=keys.device) < lengths[:, None]).long()
        if self.augmentation.scales_labels and "labels" in inputs:
            labels = inputs["labels"]
            inputs["labels"] = labels * speed.to(labels.dtype).view(-1, *[1] * (labels.ndim - 1))
        return inputs

    def draw(self, keys: torch.Tensor, shape: torch.Size) -> Draws:
        """The random numbers of windows of a shape `(windows, channels, samples)` with `keys (windows, 2)`."""
        of_window = _hash(keys[:, 1] ^ _hash(keys[:, 0] ^ _hash(keys.new_full((), self.seed & _WORD ^ _WINDOWS))))
        _, channels, samples = shape
        spans = self._num_spans(samples)
        # One stretch of the hashes for all that is drawn once per window.
        of_gain, of_oscillation = (_KNOTS, _KNOTS), (1, _SINUSOIDS, _SINUSOIDS)
        sizes = (1, 1, *of_gain, 1, *of_oscillation, *of_oscillation, *of_gain, 1, spans)
        drawn = iter(_uniform(of_window, 0, sum(sizes)).split(sizes, dim=1))
        speed, place, radii, angles, noise, wander, frequencies, phases = (next(drawn) for _ in range(8))
        motion, motion_frequencies, motion_phases = (next(drawn) for _ in range(3))
        motion_knots = _normal(next(drawn), next(drawn))
        flip, starts = drawn
        half = -(-channels * samples // 2) if self.augmentation.noise > 0 else 0
        white_radii, white_angles = (
            _uniform(of_window, sum(sizes), 2 * half).split(half, dim=1) if half else (radii, radii)
        )
        white = torch.cat((_normal(white_radii, white_angles), _normal(white_radii, white_angles + 0.75)), dim=1)
        return Draws(
            speed=speed[:, 0],
            place=place[:, 0],
            knots=_normal(radii, angles),
            noise=noise[:, 0],
            wander=wander[:, 0],
            frequencies=frequencies,
            phases=phases,
            motion=motion[:, 0],
            motion_frequencies=motion_frequencies,
            motion_phases=motion_phases,
            motion_knots=motion_knots,
            flip=flip[:, 0],
            spans=starts,
            white=white[:, : channels * samples].reshape(-1, channels, samples) if half else white[:, :0],
        )

    def apply(
        self, values: torch.Tensor, lengths: torch.Tensor, draws: Draws
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The changes that were drawn.

        Args:
            values: `(windows, channels, samples)`; after the first `lengths (windows,)` samples there is padding.
            draws: what was drawn for these windows.

        Returns:
            Standardised float32 windows of the same shape, with zeros as padding; their lengths; their playing speeds.
        """
        augmentation = self.augmentation
        exact = torch.float32 if values.device.type == "mps" else torch.float64
        speed = torch.ones_like(draws.speed, dtype=exact)
        if augmentation.time_stretch > 1:
            limit = math.log(augmentation.time_stretch)
            speed = (limit * (2 * draws.speed.to(exact) - 1)).exp()
            values, lengths = self._stretch(values, lengths, speed, draws.place.to(exact))
        samples = torch.arange(values.shape[-1], device=values.device)
        if augmentation.amplitude_jitter > 0:
            values = values * self._gain(samples, lengths, augmentation.amplitude_jitter * draws.knots)[:, None]
        if augmentation.noise > 0:
            values = values + (augmentation.noise * draws.noise)[:, None, None] * draws.white
        if augmentation.baseline_wander > 0:
            drift = self._oscillation(samples, 0.05 + 0.45 * draws.frequencies, draws.phases)
            values = values + ((augmentation.baseline_wander * draws.wander)[:, None] * drift)[:, None]
        if augmentation.motion > 0:
            movement = self._oscillation(samples, 0.5 * 8**draws.motion_frequencies, draws.motion_phases)
            movement = movement * self._gain(samples, lengths, draws.motion_knots)
            values = values + ((augmentation.motion * draws.motion)[:, None] * movement)[:, None]
        if augmentation.polarity_flip > 0:
            values = torch.where((draws.flip <= augmentation.polarity_flip)[:, None, None], -values, values)
        real = (samples < lengths[:, None])[:, None]
        values = _standardize(values, real, lengths[:, None, None])
        if augmentation.masked_share > 0:
            values = values.masked_fill(self._hidden(samples, lengths, draws.spans)[:, None], 0.0)
        return values.float(), lengths, speed

    def _stretch(
        self, values: torch.Tensor, lengths: torch.Tensor, speed: torch.Tensor, place: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        last_sample = (lengths - 1).clamp(min=0)
        last = last_sample.to(speed.dtype)
        stretched = torch.minimum(lengths, (last / speed).long() + 1)
        latest_start = (last - (stretched - 1) * speed).clamp(min=0)
        steps = torch.arange(values.shape[-1], device=values.device)
        positions = (place * latest_start)[:, None] + speed[:, None] * steps
        # Beyond its end a window is padding, whatever is there.
        positions = torch.minimum(positions, last[:, None])
        before = positions.long()
        after = torch.minimum(before + 1, last_sample[:, None])
        share = (positions - before).to(values.dtype)[:, None]
        left, right = (values.gather(-1, index[:, None].expand_as(values)) for index in (before, after))
        return left + share * (right - left), stretched

    def _gain(self, samples: torch.Tensor, lengths: torch.Tensor, knots: torch.Tensor) -> torch.Tensor:
        positions = samples * ((_KNOTS - 1) / (lengths - 1).clamp(min=1))[:, None]
        positions = positions.clamp(max=_KNOTS - 1)
        before = positions.long().clamp(max=_KNOTS - 2)
        left, right = knots.gather(1, before), knots.gather(1, before + 1)
        return (left + (positions - before) * (right - left)).exp()

    def _oscillation(self, samples: torch.Tensor, hertz: torch.Tensor, phases: torch.Tensor) -> torch.Tensor:
        times = samples / self.augmentation.sampling_rate
        angles = 2 * math.pi * (hertz[:, :, None] * times + phases[:, :, None])
        return angles.sin().sum(1) / math.sqrt(2)

    def _num_spans(self, samples: int) -> int:
        span = min(round(0.5 * self.augmentation.sampling_rate), samples)
        return round(self.augmentation.masked_share * samples / span)

    def _hidden(self, samples: torch.Tensor, lengths: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        span = lengths.clamp(max=round(0.5 * self.augmentation.sampling_rate))
        number = (self.augmentation.masked_share * lengths / span.clamp(min=1)).round()
        # The largest number below 1 may be rounded up.
        starts = (places * (lengths - span + 1)[:, None]).long().minimum((lengths - span)[:, None])
        counts = torch.arange(places.shape[1], device=places.device) < number[:, None]
        after_start = samples >= starts[..., None]
        before_end = samples < (starts + span[:, None])[..., None]
        return (after_start & before_end & counts[..., None]).any(1)


def _standardize(values: torch.Tensor, real: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    mean = (values * real).sum(-1, keepdim=True) / lengths.clamp(min=1)
    centred = (values - mean) * real
    deviation = (centred.square().sum(-1, keepdim=True) / lengths.clamp(min=1)).sqrt()
    return torch.where(deviation > 0, centred / deviation, 0.0)


def _hash(numbers: torch.Tensor) -> torch.Tensor:
    """A permutation of 32-bit numbers that looks random: `lowbias32` of Wellons (2018, "Prospecting for hash functions")."""
    numbers = numbers & _WORD
    numbers = numbers ^ (numbers >> 16)
    numbers = (numbers * 0x7FEB352D) & _WORD
    numbers = numbers ^ (numbers >> 15)
    numbers = (numbers * 0x846CA68B) & _WORD
    return numbers ^ (numbers >> 16)


def _uniform(keys: torch.Tensor, first: int, number: int) -> torch.Tensor:
    """Numbers in (0, 1] `(keys, number)`, those from `first` on of the endless row that each key has."""
    columns = _hash(torch.arange(first, first + number, device=keys.device) ^ _COLUMNS)
    return (_hash(keys[:, None] ^ columns).float() + 1.0) / 2**32


def _normal(radii: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Standard normal numbers of uniform ones (Box and Muller 1958)."""
    return (-2 * radii.log()).sqrt() * (2 * math.pi * angles).cos()
