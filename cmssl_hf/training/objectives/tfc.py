"""TF-C: a window and its spectrum, each contrasted with a changed copy of itself, and both with each other (Zhang et al. 2022)."""

from dataclasses import dataclass, field

import numpy as np
import torch

from ...data.batches import WindowBatch, WindowsCollator, joined, stack_if_alike
from ...models.cmssl.configuration_cmssl_classification import SignalClassificationConfig
from ...signals import standardize
from .losses import nt_xent, rows_to_contrast
from .models import ObjectiveModel, ObjectiveOutput, new_encoder, projection_head
from .views import ViewsArguments, check_temperature, views_objective


#: Of the bins of a spectrum, how many are changed, and up to which share of the largest one they are raised (code of TF-C).
_CHANGED_BINS = 0.1
_RAISED_TO = 0.1


@dataclass(kw_only=True)
class TFCArguments(ViewsArguments):
    """Pre-training by time-frequency consistency."""

    objective: str = field(default="tfc", metadata={"help": "Find a window's spectrum, and changed copies of both."})
    projection_hidden_size: int = field(default=256, metadata={"help": "Width of the heads' hidden layers."})
    temperature: float = field(default=0.2, metadata={"help": "That cosines are divided by (CM-SSL: 0.1)."})
    within_domain_weight: float = field(
        default=0.2, metadata={"help": "Weight of the contrasts within time and within frequency (CM-SSL: 1)."}
    )

    def __post_init__(self):
        super().__post_init__()
        check_temperature(self.temperature)
        if not self.within_domain_weight >= 0:
            raise ValueError(f"`within_domain_weight` must be at least 0, but is {self.within_domain_weight}.")


def magnitudes(window: np.ndarray) -> np.ndarray:
    """Of the one-sided spectrum of a window `(channels, samples)`."""
    spectrum: np.ndarray = np.abs(np.fft.rfft(window))
    return spectrum


def change_bins(spectrum: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Magnitudes `(channels, bins)` of which a tenth is removed or, as often, raised by up to a tenth of the largest."""
    changed = spectrum.copy()
    bins = generator.random(spectrum.shape) < _CHANGED_BINS
    if generator.random() < 0.5:
        changed[bins] = 0
    else:
        changed[bins] += generator.uniform(0, _RAISED_TO, bins.sum()) * spectrum.max()
    return changed


def _as_window(spectrum: np.ndarray) -> np.ndarray:
    """Magnitudes as an encoder reads them."""
    window: np.ndarray = standardize(np.log1p(spectrum)).astype(np.float32)
    return window


class TimeFrequencyCollator(WindowsCollator):
    """Windows and changed copies of them, `input_values (2 * batch, channels, samples)`, and spectra of the windows and changed
    copies of those, `spectra (2 * batch, channels, bins)`; all windows come before all copies."""

    def __call__(self, batch: WindowBatch | list[WindowBatch]) -> dict[str, torch.Tensor]:
        batch = joined(batch)
        if batch.augmentation is None:
            raise ValueError("Copies of windows are changed by an augmentation: give the dataset one.")
        copies, _ = batch.augmentation(batch.windows, None, batch.generators)
        features = self.pad(stack_if_alike([*batch.windows, *copies]))
        spectra = [magnitudes(window) for window in batch.windows]
        changed = [change_bins(spectrum, generator) for spectrum, generator in zip(spectra, batch.generators)]
        of_spectra = self.pad(stack_if_alike([_as_window(spectrum) for spectrum in (*spectra, *changed)]))
        names = {"input_values": "spectra", "attention_mask": "spectra_mask"}
        return features | {names[name]: values for name, values in of_spectra.items()}


class EncoderForTFC(ObjectiveModel):
    """Encoders of windows and of spectra, projection heads, and the loss of batches of a [`TimeFrequencyCollator`]."""

    def __init__(self, config: SignalClassificationConfig, arguments: TFCArguments):
        super().__init__(config)
        self.temperature, self.within_domain_weight = arguments.temperature, arguments.within_domain_weight
        sizes = (config.hidden_size, arguments.projection_hidden_size, arguments.projection_size)
        self.encoder = new_encoder(config)
        self.projector = projection_head(*sizes)
        self.spectrum_encoder = new_encoder(config)
        self.spectrum_projector = projection_head(*sizes)
        self.post_init()

    def forward(
        self,
        input_values: torch.Tensor,
        spectra: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        spectra_mask: torch.Tensor | None = None,
    ) -> ObjectiveOutput:
        times = self.encoder(input_values, attention_mask).pooler_output
        frequencies = self.spectrum_encoder(spectra, spectra_mask).pooler_output
        within = self._contrast(*times.chunk(2)) + self._contrast(*frequencies.chunk(2))
        # The copies are projected for the statistics of the heads alone.
        of_time, of_frequency = self.projector(times).chunk(2)[0], self.spectrum_projector(frequencies).chunk(2)[0]
        loss = self.within_domain_weight * within + self._contrast(of_time, of_frequency)
        return ObjectiveOutput(loss, of_time)

    def _contrast(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        first, second = rows_to_contrast(self, first, second)
        return nt_xent(first, second, self.temperature)


TFC = views_objective(
    "tfc",
    "TF-C",
    EncoderForTFC,
    TFCArguments,
    learns="contrast of time and frequency",
    task=(
        "find a window's spectrum among those of other windows, and changed copies of both (time-frequency consistency, Zhang et"
        " al. 2022); the encoder of windows is kept"
    ),
    collator_class=TimeFrequencyCollator,
)
