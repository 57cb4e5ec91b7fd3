"""Simulated people with synchronous ECG and PPG, whose heart rate, breathing, blood pressure and rhythm are known."""

from dataclasses import dataclass

import datasets
import numpy as np

from cmssl_hf.building.dataset_builder import SignalDatasetBuilder, WindowedConfig, labelled_features, pair_features
from cmssl_hf.building.simulation import RHYTHMS, SimulatedRecording, draw_subject, simulate_recording
from cmssl_hf.building.windows import cut_windows, usable_windows, window_starts


@dataclass
class SimulatedConfig(WindowedConfig):
    """Options of `simulated`, beside those of `WindowedConfig`.

    Args:
        num_subjects: number of people.
        seconds_per_subject: length of each recording.
        seed: of the simulation. A person depends on it and on their number only.
        sampling_rate: of both signals, Hz.
        arrhythmia_share: probability that a person has premature beats and episodes of atrial fibrillation.
        modality: signal of the labelled rows, `"ppg"` or `"ecg"`.
    """

    num_subjects: int = 100
    seconds_per_subject: float = 300.0
    seed: int = 0
    sampling_rate: float = 125.0
    arrhythmia_share: float = 0.2
    modality: str = "ppg"


#: Per configuration the method of `SimulatedRecording` that labels a window, and the type of its answer.
_LABELS = {
    "hr": (SimulatedRecording.heart_rate, datasets.Value("float32")),
    "rr": (SimulatedRecording.respiratory_rate, datasets.Value("float32")),
    "bp": (SimulatedRecording.blood_pressure, datasets.Sequence(datasets.Value("float32"))),
    "rhythm": (SimulatedRecording.rhythm, datasets.ClassLabel(names=list(RHYTHMS))),
}


class Simulated(SignalDatasetBuilder):
    """Needs no data: the recordings are the numbers of the people."""

    BUILDER_CONFIG_CLASS = SimulatedConfig
    BUILDER_CONFIGS = [
        SimulatedConfig(name="pairs", description="ECG and PPG, for pre-training"),
        SimulatedConfig(name="hr", description="heart rate from the mean interval between beats (beats/min)"),
        SimulatedConfig(name="rr", description="mean respiratory rate (breaths/min)"),
        SimulatedConfig(name="bp", description="mean systolic and diastolic pressure (mmHg)"),
        SimulatedConfig(name="rhythm", description="rhythm of the window", arrhythmia_share=1.0),
    ]
    DEFAULT_CONFIG_NAME = "pairs"
    TITLE = "the simulation"

    def _info(self):
        if self.config.name == "pairs":
            features = pair_features()
        else:
            features = labelled_features(_LABELS[self.config.name][1])
        return datasets.DatasetInfo(description=__doc__, features=features, license="Apache-2.0")

    def _list_records(self, dl_manager):
        if self.config.data_dir is not None:
            raise ValueError(f"`simulated` reads no data, but `data_dir` is {self.config.data_dir}.")
        if self.config.modality not in ("ecg", "ppg"):
            raise ValueError(f"`modality` must be 'ecg' or 'ppg', but is {self.config.modality!r}.")
        return self.config.divide({number: [number] for number in range(self.config.num_subjects)})

    def _record_tables(self, record, counter):
        config = self.config
        rng = np.random.default_rng([config.seed, record])
        subject = draw_subject(rng, config.arrhythmia_share)
        recording = simulate_recording(subject, config.seconds_per_subject, config.sampling_rate, rng)
        window, stride = config.window_and_stride(config.sampling_rate)
        starts = np.array(window_starts(len(recording.ppg), window, stride))
        modalities = ("ecg", "ppg") if config.name == "pairs" else (config.modality,)
        windows = [cut_windows(getattr(recording, modality), starts, window) for modality in modalities]
        times = starts / config.sampling_rate
        if config.name == "pairs":
            kept = usable_windows(windows, counter)
            columns = {modality: cut[kept] for modality, cut in zip(modalities, windows)}
        else:
            label = _LABELS[config.name][0]
            labels = np.array([label(recording, time, time + config.window_seconds) for time in times])
            kept = usable_windows(windows, counter, labels if labels.dtype.kind == "f" else None)
            columns = {"signal": windows[0][kept], "label": labels[kept]}
        yield self.to_table(
            **columns,
            sampling_rate=config.sampling_rate,
            subject_id=f"{record:05d}",
            record_id=f"simulated{record:05d}",
            start_time=times[kept],
        )
