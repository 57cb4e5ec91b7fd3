"""The simulated dataset: labels that can be measured in the signals, the same whatever prepares them."""

import numpy as np
import pytest

from cmssl_hf.building.simulation import draw_subject, simulate_recording
from cmssl_hf.data.loading import load_dataset
from cmssl_hf.signals import detect_pulse_peaks, detect_r_peaks


FEW = {"num_subjects": 10, "seconds_per_subject": 60}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def test_pairs_have_the_documented_columns(cache):
    data = load_dataset("simulated", cache_dir=cache, **FEW)
    assert data.num_rows == {"train": 48, "validation": 6, "test": 6}
    assert data["train"].column_names == ["ecg", "ppg", "sampling_rate", "subject_id", "record_id", "start_time"]
    subjects = [subject for rows in data.values() for subject in set(rows["subject_id"])]
    assert len(subjects) == len(set(subjects)) == 10
    row = data["train"][1]
    assert len(row["ecg"]) == len(row["ppg"]) == 1250
    assert (row["sampling_rate"], row["start_time"]) == (125.0, 10.0)


@pytest.mark.parametrize("modality", ["ecg", "ppg"])
def test_heart_rate_can_be_measured(cache, modality):
    options = FEW | {"arrhythmia_share": 0.0, "modality": modality}
    data = load_dataset("simulated", "hr", cache_dir=cache, split="train", **options)
    detect = detect_r_peaks if modality == "ecg" else detect_pulse_peaks
    measured = []
    for signal in data["signal"]:
        peaks = detect(np.array(signal), 125)
        measured.append(60 * 125 * (len(peaks) - 1) / (peaks[-1] - peaks[0]))
    assert np.median(np.abs(np.array(measured) - data["label"])) < 1.5


def test_labels_are_those_of_the_simulation(cache):
    options = FEW | {"seed": 3, "arrhythmia_share": 1.0}
    labels = {}
    for config in ("hr", "rr", "bp", "rhythm"):
        data = load_dataset("simulated", config, cache_dir=cache, split="train", **options)
        labels[config] = data["label"][:6]
    number = int(data["subject_id"][0])
    rng = np.random.default_rng([3, number])
    recording = simulate_recording(draw_subject(rng, 1.0), 60, 125, rng)
    for index in range(6):
        window = (10 * index, 10 * index + 10)
        beats = recording.beat_times[(recording.beat_times >= window[0]) & (recording.beat_times < window[1])]
        assert labels["hr"][index] == pytest.approx(60 / np.diff(beats).mean(), rel=1e-5)
        assert labels["rr"][index] == pytest.approx(recording.respiratory_rate(*window), rel=1e-5)
        assert labels["bp"][index] == pytest.approx(recording.blood_pressure(*window), rel=1e-5)
        assert labels["rhythm"][index] == recording.rhythm(*window)
    assert data.features["label"].names == ["sinus_rhythm", "ectopic_beats", "atrial_fibrillation"]


def test_every_rhythm_is_in_every_split(cache):
    data = load_dataset("simulated", "rhythm", cache_dir=cache, num_subjects=40)
    for rows in data.values():
        assert set(rows["label"]) == {0, 1, 2}


def test_streaming_and_processes_give_the_same_rows(cache, tmp_path):
    data = load_dataset("simulated", "bp", cache_dir=cache, **FEW)
    streamed = load_dataset("simulated", "bp", cache_dir=cache, streaming=True, **FEW)
    parallel = load_dataset("simulated", "bp", cache_dir=tmp_path, num_proc=2, **FEW)
    for split, rows in data.items():
        assert list(streamed[split]) == rows.to_list() == parallel[split].to_list()


def test_a_person_does_not_depend_on_how_many_there_are(cache):
    def rows_of_person_3(num_subjects):
        data = load_dataset("simulated", cache_dir=cache, num_subjects=num_subjects, seconds_per_subject=60)
        return [row for rows in data.values() for row in rows if row["subject_id"] == "00003"]

    assert rows_of_person_3(5) == rows_of_person_3(12) != []


def test_sampling_rate_leaves_labels_alone(cache):
    fast = load_dataset("simulated", "hr", cache_dir=cache, split="test", **FEW)
    slow = load_dataset("simulated", "hr", cache_dir=cache, split="test", sampling_rate=64.0, **FEW)
    assert slow["label"] == fast["label"]
    assert len(slow["signal"][0]) == 640


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modality": "abp"}, "`modality` must be 'ecg' or 'ppg', but is 'abp'"),
        ({"num_subjects": 2}, "too few"),
        ({"sampling_rate": -1.0}, "`seconds` and `sampling_rate` must be positive"),
        ({"stride_seconds": 0.0}, "`window_seconds` and `stride_seconds` must be positive"),
        ({"seconds_per_subject": 5}, "The train split of the simulation would be empty"),
        ({"num_people": 3}, "simulated has no option 'num_people'"),
    ],
)
def test_impossible_options(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        load_dataset("simulated", cache_dir=tmp_path, **FEW | options)


def test_data_dir_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`simulated` reads no data, but `data_dir` is"):
        load_dataset("simulated", data_dir=tmp_path, cache_dir=tmp_path)
