"""A small release of each dataset, as its publisher has it."""

import numpy as np
import pandas as pd

from helpers.pulsedb_release import simulated_segments, write_info_file, write_segment_file, write_subset_file
from helpers.releases import (
    CSN_CODES,
    write_bidmc_recording,
    write_csn_recording,
    write_dalia_subject,
    write_physionet2017_release,
    write_ptb_xl_release,
    write_uci_fold,
    write_wfdb_frames,
    write_wfdb_record,
)


def write_bidmc(folder):
    for subject in (1, 8, 11):
        write_bidmc_recording(folder, subject)


def write_csn(folder):
    for number in range(30):
        codes = CSN_CODES[number % 6 if number % 5 == 0 else number % 3]
        write_csn_recording(folder, number, codes, date=" 11:59:61 31/02/2020" if number % 7 == 0 else "")


def write_physionet2017(folder):
    write_physionet2017_release(folder, "NAO~" * 10)


def write_ppg_dalia(folder):
    for number in range(1, 5):
        write_dalia_subject(folder, number)


def write_ptb_xl(folder):
    write_ptb_xl_release(folder)


def write_pulsedb(folder):
    people = {f"p{number:06d}{number % 2}": simulated_segments(3, number) for number in range(1, 9)}
    for subject, fields in people.items():
        write_segment_file(folder, subject, fields)
    for name, chosen in (("Train", [*people][:6]), ("CalFree_Test", [*people][6:])):
        write_subset_file(folder, name, {subject: people[subject] for subject in chosen})
        write_info_file(folder, name, [(subject, segment) for subject in sorted(chosen) for segment in (1, 2, 3)])


def write_uci_bp(folder):
    for fold in range(3):
        write_uci_fold(folder, fold)


def write_wfdb_pairs(folder):
    times = np.arange(3750) / 125
    gap, flat = np.sin(9 * times), np.cos(8 * times)
    gap[400], flat[1300:2400] = np.nan, 0.2
    for person, channels in enumerate(
        ({"II": None, "PLETH": gap}, {"V": flat, "PPG": None}, {"ECG": None, "BVP": None})
    ):
        write_wfdb_record(folder / f"p{person}", "s0", channels)
        write_wfdb_record(folder / f"p{person}", "s1", channels, fs=125.0)
    # Frames of three samples of the ECG and two of the PPG.
    write_wfdb_frames(folder / "p3", "s0", frame_rate=50, ecg=3, ppg=2, seconds=30)


def write_signalfolder(folder):
    times = np.arange(1500) / 50
    labels = []
    for person in range(4):
        write_wfdb_record(folder / f"p{person}", "s0", {"II": None, "PLETH": None}, seconds=30)
        gap = np.cos((8 + person) * times)
        gap[[100, 101, 900]], gap[1200:1300] = np.nan, np.nan
        table = {"time": times, "ecg": np.sin((9 + person) * times), "ppg": gap}
        pd.DataFrame(table).to_csv(folder / f"p{person}" / "s1.csv", index=False)
        labels += [
            (f"p{person}/s0", person, 60 + person, "AF"),
            (f"p{person}/s1.csv", person, 70.5 + person, "SR;PVC"),
        ]
    columns = ["file_name", "subject_id", "rate", "codes"]
    pd.DataFrame(labels, columns=columns).to_csv(folder / "metadata.csv", index=False)


#: Writes the release of a builder into a folder; the simulation has none.
WRITERS = {
    "bidmc": write_bidmc,
    "csn": write_csn,
    "physionet2017": write_physionet2017,
    "ppg_dalia": write_ppg_dalia,
    "ptb_xl": write_ptb_xl,
    "pulsedb": write_pulsedb,
    "signalfolder": write_signalfolder,
    "uci_bp": write_uci_bp,
    "wfdb_pairs": write_wfdb_pairs,
}
