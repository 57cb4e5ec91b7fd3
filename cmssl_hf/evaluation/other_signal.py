"""What an encoder of the PPG knows of the ECG: the codes it expects, decoded to an ECG by the tokenizer, whose R-peaks are compared
with the real ones. Only tokens of both signals make this possible."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..models.cmssl.modeling_cmssl_encoder import CMSSLEncoderForPreTraining
from ..models.cmssl.modeling_cmssl_tokenizer import CMSSLTokenizerModel
from ..signals import detect_pulse_onsets, detect_r_peaks
from ..training.reconstruction import MATCH_SECONDS, match_beats
from .intervals import bootstrap


#: A pulse arrives at the finger within this time of its R-peak (s).
LONGEST_DELAY = 0.6


@torch.no_grad()
def expected_ecg(
    encoder: CMSSLEncoderForPreTraining, tokenizer: CMSSLTokenizerModel, ppg: torch.Tensor
) -> torch.Tensor:
    """The ECG `(batch, samples)` that the tokenizer's decoder makes of the codes that an encoder expects for a PPG.

    Of each patch it takes the code that is nearest to the mean of all codes under the encoder's probabilities: near-identical codes
    share a probability that the likeliest single code may not have.

    Args:
        encoder: of the PPG, pre-trained on the tokenizer's codes.
        tokenizer: of ECG and PPG.
        ppg: `(batch, 1, samples)` as the feature extractor gives it; whole patches.
    """
    probabilities = encoder(ppg).logits.float().softmax(-1)
    mean = nn.functional.normalize(probabilities @ tokenizer.codebook.weight, dim=-1)
    signals = tokenizer.decode(tokenizer.codebook.nearest(mean))
    return signals[:, list(tokenizer.config.channels).index("ecg")]


def pulse_delays(r_peaks: np.ndarray, onsets: np.ndarray, sampling_rate: float) -> np.ndarray:
    """From each R-peak to the next pulse onset, in s; those of more than `LONGEST_DELAY` are left out."""
    following = np.searchsorted(onsets, r_peaks, side="right")
    known = following < len(onsets)
    delays = (onsets[following[known]] - r_peaks[known]) / sampling_rate
    return delays[delays <= LONGEST_DELAY]


def compare_r_peaks(
    ecg: Sequence[np.ndarray],
    ppg: Sequence[np.ndarray],
    expected: Mapping[str, Sequence[np.ndarray]],
    subjects: Sequence[str],
    sampling_rate: float,
    num_resamples: int = 1000,
) -> pd.DataFrame:
    """How near R-peaks of expected ECGs are to the real ones, beside those that pulse onsets give.

    Args:
        ecg: real windows `(samples,)`.
        ppg: of the same windows, for the row `pulse onsets`: each onset less the mean delay of the *other* subjects.
        expected: windows of ECG by the name of the encoder that expects them.
        subjects: of each window.
        sampling_rate: in Hz.
        num_resamples: of the bootstrap over subjects.

    Returns:
        A row each with `error_ms`, the mean absolute distance of matched R-peaks (within `MATCH_SECONDS`), and `f1`, with the 95 %
        interval of a bootstrap over subjects.
    """
    peaks = [detect_r_peaks(window, sampling_rate) for window in ecg]
    onsets = [detect_pulse_onsets(window, sampling_rate) for window in ppg]
    delays = [pulse_delays(*pair, sampling_rate) for pair in zip(peaks, onsets)]
    names = np.asarray(subjects)
    shift = {
        subject: np.concatenate([delay for delay, name in zip(delays, names) if name != subject]).mean()
        for subject in np.unique(names)
    }
    found = {
        "pulse onsets": [onset - shift[name] * sampling_rate for onset, name in zip(onsets, names)],
        **{row: [detect_r_peaks(window, sampling_rate) for window in windows] for row, windows in expected.items()},
    }
    lines = []
    for row, beats in found.items():
        matched = [match_beats(*pair, MATCH_SECONDS * sampling_rate) for pair in zip(peaks, beats)]
        # Per window: sum of distances, matched beats, real beats, found beats.
        sums = np.array(
            [
                (np.abs(distances).sum(), len(distances), len(real), len(others))
                for distances, real, others in zip(matched, peaks, beats)
            ]
        )

        def error_ms(drawn: np.ndarray, sums: np.ndarray = sums) -> float:
            distance, number, _, _ = sums[drawn].sum(0)
            return float(1000 * distance / sampling_rate / number) if number else float("nan")

        def f1(drawn: np.ndarray, sums: np.ndarray = sums) -> float:
            _, number, real, others = sums[drawn].sum(0)
            return float(2 * number / max(real + others, 1))

        line: dict[str, float | str] = {"row": row}
        for name, metric in (("error_ms", error_ms), ("f1", f1)):
            interval = bootstrap(metric, list(subjects), num_resamples=num_resamples)
            line |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
        lines.append(line)
    return pd.DataFrame(lines)
