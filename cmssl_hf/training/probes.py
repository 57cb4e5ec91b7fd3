"""What an encoder has come to know without labels: linear probes for quantities that the windows themselves tell."""

from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import PreTrainedModel

from ..data.batches import WindowsCollator, WindowsDataset
from ..signals import detect_pulse_onsets, detect_pulse_peaks, detect_r_peaks


#: Pulses arrive at a finger between these times after the R-peak, in s.
_TRANSIT_SECONDS = (0.05, 0.6)
_FEWEST_BEATS = 4
_REGULARISATIONS = np.logspace(-1, 5, 13)


def probe_targets(window: np.ndarray, channels: Sequence[str], sampling_rate: float) -> dict[str, float]:
    """What beat detectors read from a window `(channels, samples)`; NaN where there are too few beats.

    Returns:
        `heart_rate` in bpm and `interval_variation`, the standard deviation of the intervals between beats over their mean (in
        atrial fibrillation large), both from R-peaks or, without ECG, pulse peaks; with ECG and PPG also
        `pulse_transit_time` in ms, the median time from an R-peak to the next pulse onset.
    """
    signals = dict(zip(channels, window))
    if "ecg" in signals:
        beats = detect_r_peaks(signals["ecg"], sampling_rate) / sampling_rate
    else:
        beats = detect_pulse_peaks(signals["ppg"], sampling_rate) / sampling_rate
    intervals = np.diff(beats)
    enough = len(beats) >= _FEWEST_BEATS
    targets = {
        "heart_rate": float(60 / np.median(intervals)) if enough else np.nan,
        "interval_variation": float(np.std(intervals) / np.mean(intervals)) if enough else np.nan,
    }
    if {"ecg", "ppg"} <= set(signals):
        onsets = detect_pulse_onsets(signals["ppg"], sampling_rate) / sampling_rate
        transit = np.subtract.outer(onsets, beats)
        transit = transit[(transit > _TRANSIT_SECONDS[0]) & (transit < _TRANSIT_SECONDS[1])]
        targets["pulse_transit_time"] = float(1000 * np.median(transit)) if len(transit) >= _FEWEST_BEATS else np.nan
    return targets


def probe_encoder(
    encoder: PreTrainedModel,
    train: Dataset,
    validation: Dataset,
    *,
    channels: Sequence[str],
    channel: str,
    num_windows: int = 1000,
) -> dict[str, float]:
    """Ridge regressions from the encoder's pooled output to `probe_targets`, fitted on training windows and judged on
    validation windows.

    Args:
        encoder: of either backbone; it is put into evaluation mode.
        train: training windows `input_values (channels, samples)`.
        validation: validation windows, of other people.
        channels: of `input_values`.
        channel: the one that the encoder reads.
        num_windows: how many windows of each are used, spread evenly.

    Returns:
        For each target `probe_<target>_r2`, the share of its variance over the validation windows that is explained; 0 is what
        the mean of the training windows would reach if it were also theirs.
    """
    parts = []
    for dataset in (train, validation):
        rows = np.unique(np.linspace(0, len(dataset) - 1, min(num_windows, len(dataset))).astype(int))
        windows = WindowsDataset(dataset, ["input_values"]).__getitems__(rows)
        rate = encoder.config.sampling_rate
        of_windows = [probe_targets(window, channels, rate) for window in windows.windows]
        seen = WindowsDataset(dataset, ["input_values"], channel=channels.index(channel))
        features = _pooled(encoder, seen, rows)
        parts.append((features, {name: np.array([row[name] for row in of_windows]) for name in of_windows[0]}))
    (train_features, train_targets), (features, targets) = parts
    metrics = {}
    for name in targets:
        fitted, judged = np.isfinite(train_targets[name]), np.isfinite(targets[name])
        if fitted.sum() < 2 or judged.sum() < 2 or np.var(targets[name][judged]) == 0:
            continue
        probe = make_pipeline(StandardScaler(), RidgeCV(_REGULARISATIONS))
        probe.fit(train_features[fitted], train_targets[name][fitted])
        metrics[f"probe_{name}_r2"] = float(probe.score(features[judged], targets[name][judged]))
    return metrics


@torch.no_grad()
def _pooled(encoder: PreTrainedModel, dataset: WindowsDataset, rows: np.ndarray) -> np.ndarray:
    collate = WindowsCollator(encoder.config.patch_size)
    encoder.eval()
    pooled = []
    for part in np.array_split(rows, -(-len(rows) // 100)):
        inputs = {name: values.to(encoder.device) for name, values in collate(dataset.__getitems__(part)).items()}
        pooled.append(encoder(**inputs).pooler_output.float().cpu().numpy())
    return np.concatenate(pooled)
