"""Recordings and tables of releases, as their publishers have them, with a few people and seconds each."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.io
import wfdb


BIDMC_SECONDS = 30
BIDMC_BREATHS = {"ann1": [100, 700, 1300, 1900, 2500, 3100, 3600], "ann2": [105, 705, 1305, 2505, 3105]}


def write_bidmc_recording(folder: Path, subject: int, *, heart_rate=None, ppg=None) -> None:
    """Writes one recording of `BIDMC_SECONDS` seconds as the release has it."""
    times = np.arange(BIDMC_SECONDS * 125 + 1) / 125
    ecg = np.sin(2 * np.pi * 1.5 * times + subject)
    ppg = 0.5 + 0.3 * np.sin(2 * np.pi * 1.5 * times) if ppg is None else ppg
    heart_rate = np.arange(BIDMC_SECONDS + 1.0) + 60 if heart_rate is None else heart_rate
    name = f"bidmc{subject:02d}"
    wfdb.wrsamp(
        name,
        fs=125,
        units=["pm", "NU", "mV"],
        sig_name=["RESP,", "PLETH,", "II,"],
        p_signal=np.stack([ppg, ppg, ecg], axis=1),
        fmt=["16"] * 3,
        comments=["<age>: 90+ <sex>: F <location>: micu"],
        write_dir=str(folder),
    )
    wfdb.wrsamp(
        f"{name}n",
        fs=1,
        units=["bpm", "bpm"],
        sig_name=["HR,", "PULSE,"],
        p_signal=np.stack([heart_rate, np.full(BIDMC_SECONDS + 1, 50.0)], axis=1),
        fmt=["16"] * 2,
        write_dir=str(folder),
    )
    marks = sorted((sample, annotator) for annotator, samples in BIDMC_BREATHS.items() for sample in samples)
    wfdb.wrann(
        name,
        "breath",
        sample=np.array([sample for sample, _ in marks]),
        symbol=['"'] * len(marks),
        aux_note=[annotator for _, annotator in marks],
        write_dir=str(folder),
    )


CSN_LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
CSN_SINUS_BRADYCARDIA, CSN_SINUS_RHYTHM, CSN_ATRIAL_FLUTTER, CSN_INVERTED_T = (
    "426177001",
    "426783006",
    "164890007",
    "59931005",
)
CSN_CODES = [
    [CSN_SINUS_BRADYCARDIA],
    [CSN_SINUS_RHYTHM, CSN_INVERTED_T],
    [CSN_ATRIAL_FLUTTER],
    [CSN_SINUS_BRADYCARDIA, CSN_ATRIAL_FLUTTER],
    [CSN_INVERTED_T],
    [],
]


def csn_signals(number):
    times = np.arange(5000) / 500
    return np.round(np.stack([1000 * np.sin(3 * times + number + lead) for lead in range(12)])).astype(np.int16)


def write_csn_recording(folder, number, codes, date="", comment="#"):
    """Writes one recording as the release has it: a MATLAB 4 file that WFDB reads behind its 24 bytes of header."""
    name = f"JS{number:05d}"
    folder.mkdir(parents=True, exist_ok=True)
    signals = csn_signals(number)
    scipy.io.savemat(folder / f"{name}.mat", {"val": signals}, format="4")
    lines = [f"{name} 12 500 5000{date}"]
    lines += [
        f"{name}.mat 16+24 1000/mV 16 0 {lead[0]} {int(lead.sum(dtype=np.int16))} 0 {label}"
        for lead, label in zip(signals, CSN_LEADS)
    ]
    lines += [
        f"{comment}Age: {number + 20 if number % 2 else 'NaN'}",
        f"{comment}Sex: {'Male' if number % 2 else 'Unknown'}",
    ]
    lines += [f"{comment}Dx: {','.join(codes)}", f"{comment}Rx: Unknown"]
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")


def write_physionet2017_release(folder, labels, seconds=9):
    """Writes one recording per label, each a little longer than the one before, as the release has them."""
    (folder / "training2017").mkdir(parents=True)
    for number, _ in enumerate(labels, start=1):
        wfdb.wrsamp(
            f"A{number:05d}",
            fs=300,
            units=["mV"],
            sig_name=["ECG"],
            p_signal=np.sin(np.arange(300 * seconds + number) / 20)[:, None] * number / 100,
            fmt=["16"],
            adc_gain=[1000],
            baseline=[0],
            write_dir=str(folder / "training2017"),
        )
    lines = [f"A{number:05d},{label}\n" for number, label in enumerate(labels, start=1)]
    (folder / "REFERENCE-v3.csv").write_text("".join(lines))
    return folder


DALIA_SECONDS = 60


def dalia_content(number, seconds=DALIA_SECONDS):
    """One subject: PPG and ECG at 1.2 Hz, breathing at 15 or 21 per minute, walking in the second half."""
    chest_times, wrist_times = np.arange(700 * seconds) / 700, np.arange(64 * seconds) / 64
    breathing = 0.25 if number % 2 else 0.35
    return {
        "signal": {
            "chest": {
                "ECG": np.sin(2 * np.pi * 1.2 * chest_times + number)[:, None].astype(np.float32),
                "Resp": np.sin(2 * np.pi * breathing * chest_times)[:, None].astype(np.float32),
            },
            "wrist": {"BVP": 50 * np.sin(2 * np.pi * 1.2 * wrist_times + number)[:, None]},
        },
        "label": np.arange((seconds - 8) // 2 + 1) + 70.0 + number,
        "activity": np.repeat([1.0, 7.0], 2 * seconds)[:, None],
        "questionnaire": {"AGE": 20 + number, "Gender": " f" if number % 2 else " m"},
        "subject": f"S{number}",
    }


def write_dalia_subject(folder, number, content=None, protocol=2):
    path = folder / f"PPG_FieldStudy/S{number}/S{number}.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(dalia_content(number) if content is None else content, protocol=protocol))
    return path


PTB_XL_LEADS = ["I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6"]
PTB_XL_STATEMENTS = pd.DataFrame(
    {
        "diagnostic": [1, 1, 1, np.nan, np.nan],
        "form": [np.nan, 1, np.nan, np.nan, 1],
        "rhythm": [np.nan, np.nan, np.nan, 1, np.nan],
        "diagnostic_class": ["NORM", "STTC", "MI", np.nan, np.nan],
        "diagnostic_subclass": ["NORM", "STTC", "IMI", np.nan, np.nan],
    },
    index=["NORM", "NDT", "IMI", "SR", "PVC"],
)
# ecg_id: (patient, age, sex, statements, fold)
PTB_XL_RECORDINGS = {
    1: (10.0, 56.0, 1, {"NORM": 100.0, "SR": 0.0}, 1),
    2: (10.0, 300.0, 0, {"NDT": 0.0, "IMI": 35.0}, 8),
    3: (11.0, np.nan, 0, {"SR": 0.0, "PVC": 100.0}, 9),
    4: (12.0, 30.0, 1, {"IMI": 100.0, "PVC": 0.0}, 10),
}


def ptb_xl_signals(ecg_id, rate):
    times = np.arange(10 * rate) / rate
    return np.stack([np.sin(times + ecg_id + lead) for lead in range(12)], axis=1)


def write_ptb_xl_release(folder, rates=(100, 500)):
    PTB_XL_STATEMENTS.to_csv(folder / "scp_statements.csv")
    rows = []
    for ecg_id, (patient, age, sex, statements, fold) in PTB_XL_RECORDINGS.items():
        names = {}
        for rate, kind in ((100, "lr"), (500, "hr")):
            names[kind] = f"records{rate}/00000/{ecg_id:05d}_{kind}"
            if rate in rates:
                path = folder / names[kind]
                path.parent.mkdir(parents=True, exist_ok=True)
                wfdb.wrsamp(
                    path.name,
                    fs=rate,
                    units=["mV"] * 12,
                    sig_name=PTB_XL_LEADS,
                    p_signal=ptb_xl_signals(ecg_id, rate),
                    fmt=["16"] * 12,
                    adc_gain=[1000] * 12,
                    baseline=[0] * 12,
                    write_dir=str(path.parent),
                )
        rows.append([ecg_id, patient, age, sex, str(statements), fold, names["lr"], names["hr"]])
    columns = ["ecg_id", "patient_id", "age", "sex", "scp_codes", "strat_fold", "filename_lr", "filename_hr"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "ptbxl_database.csv", index=False)
    return folder


def write_uci_fold(folder, fold, rows=6, **changes):
    """Writes one fold as the release has it: two recordings, texts padded with spaces."""
    generator = np.random.default_rng(fold)
    content = {
        "patient": np.array([f"Part_{fold}_{index // 4:<4}" for index in range(rows)])[:, None],
        "trial": np.array([f"Part_{fold}_{index // 4}_{index % 4:<4}" for index in range(rows)])[:, None],
        "SP": 120.0 + np.arange(rows)[:, None] + 10 * fold,
        "DP": 70.0 + np.arange(rows)[:, None] / 2,
        "signal": generator.normal(size=(rows, 625)),
        "abp_signal": generator.normal(size=(rows, 625)),
    } | changes
    scipy.io.savemat(
        folder / f"signal_fold_{fold}.mat", {name: value for name, value in content.items() if value is not None}
    )
    return content


def write_wfdb_record(folder, name, channels, *, fs=125.0, seconds=30):
    """Writes a WFDB record whose channels are `{name: samples}` or, for `None`, sines that tell the channels apart."""
    folder.mkdir(parents=True, exist_ok=True)
    times = np.arange(int(seconds * fs)) / fs
    signals = [
        np.sin(2 * np.pi * (1 + index) * times) if samples is None else samples
        for index, samples in enumerate(channels.values())
    ]
    wfdb.wrsamp(
        name,
        fs=fs,
        units=["mV"] * len(channels),
        sig_name=list(channels),
        p_signal=np.stack(signals, axis=1),
        fmt=["16"] * len(channels),
        write_dir=str(folder),
    )


def write_wfdb_frames(folder, name, *, frame_rate, ecg, ppg, seconds):
    """Writes a record with one file per channel, whose frames hold `ecg` and `ppg` samples of sines of 1.5 Hz."""
    folder.mkdir(parents=True, exist_ok=True)
    number = round(seconds * frame_rate)
    lines = [f"{name} 2 {frame_rate:.12g} {number}"]
    for channel, count, kind in (("II", ecg, "ecg"), ("PLETH", ppg, "ppg")):
        samples = np.sin(2 * np.pi * 1.5 * np.arange(number * count) / (frame_rate * count))
        (10000 * samples).round().astype("<i2").tofile(folder / f"{name}_{kind}.dat")
        lines.append(f"{name}_{kind}.dat 16x{count} 10000/mV 16 0 0 0 0 {channel}")
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
