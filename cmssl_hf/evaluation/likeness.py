"""What recordings of synchronous ECG and PPG are like: measurements by which simulated and real ones are compared."""

import numpy as np
import pandas as pd
from datasets import Dataset
from scipy import signal as scipy_signal
from scipy.stats import mannwhitneyu

from ..baselines import RR_INTERVAL_FEATURES, rr_interval_features
from ..signals import PASS_BANDS, band_pass, bridge_gaps, detect_pulse_peaks, detect_r_peaks, standardize


#: Bands in Hz whose shares of the power are measured, by signal.
BANDS = {
    "ecg": ((0.5, 4.0), (4.0, 10.0), (10.0, 20.0), (20.0, 40.0)),
    "ppg": ((0.5, 1.5), (1.5, 3.0), (3.0, 5.0), (5.0, 8.0)),
}
_RHYTHM = ("mean_rate", "std", "rmssd", "turning_point_ratio", "regular_share", "beat_correlation", "kurtosis")


def measure_windows(windows: Dataset) -> pd.DataFrame:
    """One row per window of `ecg` and `ppg` at `sampling_rate` (Hz), NaN where there are too few beats or nothing varies:

    - the rhythm, by features of `rr_interval_features` of the ECG (times in s);
    - `delay_ms`: median time from an R-peak to the pulse peak that follows it;
    - `ppg_kurtosis`: how peaked the PPG is;
    - `ecg_0.5-4_hz`...: shares of the power in `BANDS`, of what the feature extractor lets through.
    """
    measured = []
    for row in windows.select_columns(["ecg", "ppg", "sampling_rate"]):
        rate = float(row["sampling_rate"])
        # Across gaps there is a line, as in the baselines.
        whole = {name: bridge_gaps(np.asarray(row[name])) for name in BANDS}
        signals = {name: standardize(band_pass(signal, rate, PASS_BANDS[name])) for name, signal in whole.items()}
        rhythm = dict(zip(RR_INTERVAL_FEATURES, rr_interval_features(np.asarray(row["ecg"]), rate)))
        values = {name: rhythm[name] for name in _RHYTHM}
        values["delay_ms"] = _delay(signals["ecg"], signals["ppg"], rate)
        values["ppg_kurtosis"] = float(np.mean(signals["ppg"] ** 4))
        for name, signal in signals.items():
            values |= _shares(name, signal, rate)
        measured.append(values)
    return pd.DataFrame(measured)


def compare_windows(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Medians with quartiles of two results of [`measure_windows`], and `overlap`: how often a window of the first is above one of
    the second, 0.5 where both are alike, 0 or 1 where they do not meet (the area under a ROC curve)."""
    lines = []
    for name in first:
        one, other = first[name].dropna(), second[name].dropna()
        lines.append(
            {
                "": name,
                **{f"first {share:.0%}": one.quantile(share) for share in (0.25, 0.5, 0.75)},
                **{f"second {share:.0%}": other.quantile(share) for share in (0.25, 0.5, 0.75)},
                "overlap": mannwhitneyu(one, other).statistic / (len(one) * len(other)),
            }
        )
    return pd.DataFrame(lines).set_index("")


def _delay(ecg: np.ndarray, ppg: np.ndarray, sampling_rate: float) -> float:
    beats, pulses = detect_r_peaks(ecg, sampling_rate), detect_pulse_peaks(ppg, sampling_rate)
    following = np.searchsorted(pulses, beats, side="right")
    known = following < len(pulses)
    if known.sum() < 3:
        return float("nan")
    return float(1000 / sampling_rate * np.median(pulses[following[known]] - beats[known]))


def _shares(name: str, signal: np.ndarray, sampling_rate: float) -> dict[str, float]:
    frequencies, power = scipy_signal.welch(signal, sampling_rate, nperseg=min(len(signal), round(4 * sampling_rate)))
    low, high = PASS_BANDS[name]
    total = power[(frequencies >= low) & (frequencies < high)].sum()
    return {
        f"{name}_{start:g}-{stop:g}_hz": float(power[(frequencies >= start) & (frequencies < stop)].sum() / total)
        for start, stop in BANDS[name]
    }
