"""What a tokenizer keeps of its signals: errors, use of the codebook, beats, and a figure."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from ..data.batches import WindowsCollator, WindowsDataset
from ..models.cmssl.modeling_cmssl_tokenizer import CMSSLTokenizerModel
from ..signals import detect_pulse_onsets, detect_r_peaks


def reconstruction_statistics(
    reconstruction: torch.Tensor, signals: torch.Tensor, attention_mask: torch.Tensor | None
) -> torch.Tensor:
    """Sums over real samples from which the metrics of any set of windows follow: `(batch, channels, 5)` with the number of
    samples, absolute error, squared error, signal and squared signal.

    They are gathered in place of whole reconstructions, and add up exactly over batches and processes.
    """
    mask = torch.ones_like(signals[:, :1]) if attention_mask is None else attention_mask[:, None].to(signals.dtype)
    error = (reconstruction - signals) * mask
    signals = signals * mask
    sums = (mask.expand_as(signals), error.abs(), error**2, signals, signals**2)
    return torch.stack([values.double().sum(-1) for values in sums], dim=-1)


def reconstruction_metrics(statistics: np.ndarray, channels: tuple[str, ...]) -> dict[str, float]:
    """Per channel the mean absolute error `<channel>_l1` and the share of variance explained
    `<channel>_explained_variance` (1 - squared error / variance), from statistics `(windows, channels, 5)`."""
    totals = np.asarray(statistics, dtype=np.float64).sum(0)
    metrics = {}
    for channel, (count, absolute, squared, signal, squared_signal) in zip(channels, totals):
        metrics[f"{channel}_l1"] = absolute / count
        metrics[f"{channel}_explained_variance"] = 1 - squared / (squared_signal - signal**2 / count)
    return metrics


def codebook_metrics(codes: np.ndarray, codebook_size: int) -> dict[str, float]:
    """Use of the codebook from codes of any shape, negative ones left out: `codes_in_use`, `perplexity` (exponential of the
    entropy of their frequencies) and, as the published code logs them, `unused_code_ratio` and the smallest, largest and
    mean usage."""
    counts = np.bincount(codes[codes >= 0].astype(np.int64), minlength=codebook_size)
    frequencies = counts[counts > 0] / counts.sum()
    return {
        "codes_in_use": int((counts > 0).sum()),
        "perplexity": float(np.exp(-(frequencies * np.log(frequencies)).sum())),
        "unused_code_ratio": float((counts == 0).mean()),
        "code_usage_min": int(counts.min()),
        "code_usage_max": int(counts.max()),
        "code_usage_mean": float(counts.mean()),
    }


#: Beats within this time of each other are the same beat (ANSI/AAMI EC57).
MATCH_SECONDS = 0.15

_BEATS = {"ecg": ("r_peak", detect_r_peaks), "ppg": ("pulse_onset", detect_pulse_onsets)}
_UNITS = "standard deviations"


def match_beats(reference: np.ndarray, found: np.ndarray, tolerance: float) -> np.ndarray:
    """Signed distances `found - reference` of beats that belong together: each is the other's nearest, at most `tolerance`
    apart.

    Args:
        reference: positions, increasing.
        found: positions, increasing, in the same unit as `tolerance`.
    """
    if len(reference) == 0 or len(found) == 0:
        return np.empty(0)
    distance = np.subtract.outer(found, reference).astype(float)
    nearest_found = np.abs(distance).argmin(0)
    nearest_reference = np.abs(distance).argmin(1)
    columns = np.arange(len(reference))
    mutual = nearest_reference[nearest_found] == columns
    matched = distance[nearest_found[mutual], columns[mutual]]
    return matched[np.abs(matched) <= tolerance]


def beat_metrics(
    signals: Sequence[np.ndarray],
    reconstructions: Sequence[np.ndarray],
    channels: Sequence[str],
    sampling_rate: float,
) -> dict[str, float]:
    """How well beats survive tokenisation, by the same detector on the signal and on its reconstruction.

    Args:
        signals: windows `(channels, samples)`.
        reconstructions: of the same shapes.
        channels: `"ecg"` or `"ppg"` each.
        sampling_rate: in Hz.

    Returns:
        For R-peaks of the ECG and pulse onsets of the PPG: `<channel>_<beat>_error_ms`, the mean absolute distance of matched
        beats (NaN if none is), and `<channel>_<beat>_f1`, the harmonic mean of the shares of beats found and of found beats
        that are right.
    """
    metrics = {}
    for index, channel in enumerate(channels):
        name, detect = _BEATS[channel]
        distances, num_reference, num_found = [], 0, 0
        for signal, reconstruction in zip(signals, reconstructions):
            reference, found = detect(signal[index], sampling_rate), detect(reconstruction[index], sampling_rate)
            distances.append(match_beats(reference, found, MATCH_SECONDS * sampling_rate))
            num_reference, num_found = num_reference + len(reference), num_found + len(found)
        matched = np.concatenate(distances)
        error = float(np.abs(matched).mean() / sampling_rate * 1000) if len(matched) else float("nan")
        metrics[f"{channel}_{name}_error_ms"] = error
        metrics[f"{channel}_{name}_f1"] = 2 * len(matched) / max(num_reference + num_found, 1)
    return metrics


@torch.no_grad()
def reconstruction_report(
    model: CMSSLTokenizerModel, dataset: WindowsDataset, figure_file: Path, *, num_windows: int = 500
) -> dict[str, float]:
    """Beat metrics over windows spread evenly over a dataset, and a figure of some reconstructions.

    Args:
        model: the tokenizer; it is put into evaluation mode.
        dataset: validation windows.
        figure_file: where the figure goes.
        num_windows: how many windows are judged; all if there are fewer.

    Returns:
        See [`beat_metrics`].
    """
    config = model.config
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(num_windows, len(dataset))).astype(int))
    collate = WindowsCollator(config.patch_size)
    model.eval()
    signals, reconstructions = [], []
    for part in np.array_split(chosen, -(-len(chosen) // 100)):
        inputs = {name: values.to(model.device) for name, values in collate(dataset.__getitems__(part)).items()}
        output = model(**inputs).reconstruction.float().cpu().numpy()
        lengths = inputs["attention_mask"].sum(-1).tolist() if "attention_mask" in inputs else [None] * len(part)
        for window, reconstruction, length in zip(inputs["input_values"].cpu().numpy(), output, lengths):
            signals.append(window[:, :length])
            reconstructions.append(reconstruction[:, :length])
    shown = np.linspace(0, len(signals) - 1, min(6, len(signals))).astype(int)
    figure = draw_reconstructions(
        [signals[i] for i in shown], [reconstructions[i] for i in shown], config.channels, config.sampling_rate
    )
    figure.savefig(figure_file, dpi=110)
    return beat_metrics(signals, reconstructions, config.channels, config.sampling_rate)


def draw_reconstructions(
    signals: Sequence[np.ndarray],
    reconstructions: Sequence[np.ndarray],
    channels: Sequence[str],
    sampling_rate: float,
) -> Figure:
    """A row per window and a column per channel: the signal `(channels, samples)` and what is left of it."""
    figure = Figure(figsize=(7 * len(channels), 1.5 * len(signals) + 0.8), layout="constrained")
    axes = figure.subplots(len(signals), len(channels), squeeze=False, sharex=True)
    for row, (signal, reconstruction) in enumerate(zip(signals, reconstructions)):
        seconds = np.arange(signal.shape[-1]) / sampling_rate
        for column in range(len(channels)):
            explained = 1 - np.mean((signal[column] - reconstruction[column]) ** 2) / np.var(signal[column])
            axes[row, column].plot(seconds, signal[column], color="0.6", linewidth=1.2, label="signal")
            axes[row, column].plot(
                seconds, reconstruction[column], color="tab:red", linewidth=0.9, label="reconstruction"
            )
            axes[row, column].set_title(f"explained variance {explained:.2f}", fontsize=8, loc="right")
    for column, channel in enumerate(channels):
        axes[0, column].set_title(f"{channel.upper()} ({_UNITS})", loc="left")
        axes[-1, column].set_xlabel("time (s)")
    axes[0, 0].legend(loc="upper right", fontsize=8, ncols=2)
    return figure
