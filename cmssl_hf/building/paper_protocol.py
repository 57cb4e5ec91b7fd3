"""The published protocol where it differs from ours, for the configurations named `paper`. numpy only."""

import numpy as np


#: Every window of the published experiments has 1250 samples, whatever its duration...
PAPER_SAMPLES = 1250
#: ...and is shown to a model that was trained at this rate (Hz). The rows of a `paper` configuration state this rate, which
#: is not the true one.
PAPER_SAMPLING_RATE = 125.0


def stretch(signals: np.ndarray, num_samples: int = PAPER_SAMPLES) -> np.ndarray:
    """Stretches or squeezes signals of shape `(..., samples)` to `num_samples` by linear interpolation, without a filter
    against aliasing: `torch.nn.functional.interpolate(..., mode="linear", align_corners=False)` of the published code."""
    length = signals.shape[-1]
    positions = (np.arange(num_samples) + 0.5) * (length / num_samples) - 0.5
    rows = signals.reshape(-1, length)
    stretched = [np.interp(positions, np.arange(length), row) for row in rows]
    return np.reshape(stretched, (*signals.shape[:-1], num_samples)).astype(signals.dtype)
