"""Small recordings in the formats of devices, written byte by byte: what readers make of them is known without a reader."""

import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet


#: Stands in every personal field.
NAME = "Mary Personal"

#: What converters store, 4 s at 100 Hz.
STORED = np.round(900 * np.sin(2 * np.pi * 1.2 * np.arange(400) / 100) + 40 * np.cos(np.arange(400))).astype(np.int16)
OTHER = np.round(500 * np.cos(2 * np.pi * 0.9 * np.arange(400) / 100)).astype(np.int16)


def write_edf(
    path: Path,
    labels=("ECG II", "Pleth"),
    units=("mV", "NU"),
    rates=(100, 50),
    bdf=False,
    reserved="",
    seconds=4,
    onsets=None,
) -> Path:
    """Records of one second; the range of -1000 to 1000 digital is -2 to 2. With `onsets`, texts in seconds, each record says when
    it begins."""
    annotation_bytes = 36
    if onsets is not None:
        reserved = "BDF+D" if bdf else "EDF+D"
        labels, units = (*labels, f"{reserved[:3]} Annotations"), (*units, "")
        rates = (*rates, annotation_bytes // (3 if bdf else 2))
    top, bottom = (8388607, -8388608) if bdf else (1000, -1000)
    fields = [
        ("" if not bdf else "\xff") + ("BIOSEMI" if bdf else "0").ljust(7 if bdf else 8),
        NAME.ljust(80),
        NAME.ljust(80),
    ]
    fields += [
        "17.03.21",
        "08.09.10",
        str(256 * (len(labels) + 1)).ljust(8),
        reserved.ljust(44),
        str(seconds).ljust(8),
        "1".ljust(8),
    ]
    fields += [str(len(labels)).ljust(4)]
    columns = [(labels, 16), ([""] * len(labels), 80), (units, 8), ([-2] * len(labels), 8), ([2] * len(labels), 8)]
    columns += [([bottom] * len(labels), 8), ([top] * len(labels), 8), ([""] * len(labels), 80), (rates, 8)]
    columns += [([""] * len(labels), 32)]
    fields += [str(value).ljust(width) for values, width in columns for value in values]
    content = "".join(fields).encode("latin-1")
    for second in range(seconds):
        for label, rate in zip(labels, rates):
            if label.endswith("Annotations"):
                begin = f"{onsets[second]}\x14\x14\x00{onsets[second]}\x14{NAME}\x14\x00"
                content += begin.encode()[:annotation_bytes].ljust(annotation_bytes, b"\0")
                continue
            stored = np.resize(STORED, seconds * rate)[second * rate : (second + 1) * rate].astype("<i4")
            content += stored.view(np.uint8).reshape(-1, 4)[:, : 3 if bdf else 2].tobytes()
    path.write_bytes(content)
    return path


def write_ishne(path: Path, leads=(6, 11), rate=100, length=None) -> Path:
    num = len(leads)
    head = bytearray(522)
    head[:8] = b"ISHNE1.0"
    struct.pack_into("<iiiih", head, 10, 0, len(STORED) if length is None else length, 522, 522, 1)
    head[28 : 28 + len(NAME)] = head[108 : 108 + len(NAME)] = NAME.encode()
    struct.pack_into("<hhhhh", head, 128, 2, 1, 24, 12, 1970)
    struct.pack_into("<9h", head, 138, 9, 8, 2019, 14, 8, 2019, 10, 5, 0)
    struct.pack_into("<h", head, 156, num)
    struct.pack_into("<12h", head, 158, *leads, *[-9] * (12 - num))
    struct.pack_into("<12h", head, 206, *[2500, 5000, 5000][:num], *[-9] * (12 - num))
    struct.pack_into("<h", head, 272, rate)
    samples = np.stack([STORED, OTHER, OTHER][:num], 1).astype("<i2")
    path.write_bytes(bytes(head) + samples.tobytes())
    return path


def write_aecg(path: Path, leads=("MDC_ECG_LEAD_I", "MDC_ECG_LEAD_II"), unit="uV", before="") -> Path:
    def sequence(code, value):
        return f'<component><sequence><code code="{code}"/><value>{value}</value></sequence></component>'

    lists = [
        f'<origin value="5" unit="{unit}"/><scale value="2.5" unit="{unit}"/><digits>{" ".join(map(str, stored))}</digits>'
        for stored in (STORED, OTHER)
    ]
    times = sequence("TIME_ABSOLUTE", '<head value="20210317080910.500"/><increment value="10" unit="ms"/>')
    sequences = times + "".join(sequence(*pair) for pair in zip(leads, lists))
    beat = sequence("TIME_RELATIVE", '<head value="0" unit="s"/><increment value="0.01" unit="s"/>')
    beat += sequence("MDC_ECG_LEAD_II", lists[0])
    path.write_text(
        f'{before}<AnnotatedECG xmlns="urn:hl7-org:v3"><subject><name>{NAME}</name></subject><component><series><component>'
        f"<sequenceSet>{sequences}</sequenceSet></component><derivation><derivedSeries><component><sequenceSet>{beat}"
        "</sequenceSet></component></derivedSeries></derivation></series></component></AnnotatedECG>"
    )
    return path


def write_dicom(path: Path, leads=("Lead I (Einthoven)", "Lead II"), unit="uV", deflated=False) -> Path:
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, GeneralECGWaveformStorage

    file, group = Dataset(), Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian if deflated else ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = GeneralECGWaveformStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = "1.2.3"
    file.PatientName, file.AcquisitionDateTime, file.Modality = NAME, "20210317080910", "ECG"
    group.NumberOfWaveformChannels, group.NumberOfWaveformSamples, group.SamplingFrequency = len(leads), 400, 100
    group.WaveformBitsAllocated, group.WaveformSampleInterpretation = 16, "SS"
    group.add_new("WaveformPaddingValue", "OW", struct.pack("<h", -32768))
    stored = np.stack([STORED, OTHER], 1)
    stored[:3, 1] = -32768
    group.add_new("WaveformData", "OW", stored.astype("<i2").tobytes())
    channels = []
    for lead in leads:
        channel, source, units = Dataset(), Dataset(), Dataset()
        source.CodeMeaning, units.CodeValue = lead, unit
        channel.ChannelSourceSequence, channel.ChannelSensitivityUnitsSequence = [source], [units]
        channel.ChannelSensitivity, channel.ChannelSensitivityCorrectionFactor, channel.ChannelBaseline = (
            "2.5",
            "2",
            "7",
        )
        channel.WaveformBitsStored = 16
        channels.append(channel)
    group.ChannelDefinitionSequence = channels
    file.WaveformSequence = [group]
    file.save_as(path, enforce_file_format=True)
    return path


def write_parquet(path: Path, rows=None) -> Path:
    columns = {"time [s]": np.arange(400) / 100, "ECG [mV]": STORED / 1000, "who": [NAME] * 400, "resp": OTHER / 100}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


E4_START = 1560279825


def e4_files() -> dict[str, str]:
    def text(rate, rows, start=E4_START):
        return "\n".join([f"{start:.6f}", f"{rate:.6f}", *rows]) + "\n"

    acc = [f"{x},{y},-3" for x, y in zip(STORED[:128], OTHER[:128])]
    files = {
        "BVP.csv": text(64, [f"{x / 100:.2f}" for x in STORED[:256]]),
        "EDA.csv": text(4, [f"{x / 100:.6f}" for x in OTHER[:14]], E4_START + 0.5),
        "TEMP.csv": text(4, ["32.13"] * 16),
        "HR.csv": text(1, ["72.00"] * 4),
        "IBI.csv": f"{E4_START}.000000, IBI\n1.5,0.84\n",
        "tags.csv": "",
        "info.txt": f"a text of {NAME}",
    }
    starts = "\n".join(", ".join([value] * 3) for value in (f"{E4_START}.000000", "32.000000"))
    return {**files, "ACC.csv": f"{starts}\n" + "\n".join(acc) + "\n"}


def write_e4(folder: Path) -> Path:
    folder.mkdir()
    for name, text in e4_files().items():
        (folder / name).write_text(text)
    return folder


def write_e4_zip(path: Path, prefix="") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in e4_files().items():
            archive.writestr(prefix + name, text)
    return path


def write_opensignals(path: Path, sensors=("ECG", "BVP"), frames=None, bits=4) -> Path:
    device = {
        "sensor": list(sensors), "device name": NAME, "column": ["nSeq", "I1", "A1", "A2"], "label": ["A1", "A2"],
        "sampling rate": 100, "resolution": [bits, 1, 10, 10], "date": "2021-3-17", "time": "8:09:10.5", "comments": NAME,
    }  # fmt: skip
    frames = np.arange(400) % 2**bits if frames is None else frames
    rows = [f"{n}\t0\t{a}\t{b}\t" for n, a, b in zip(frames, STORED + 1000, OTHER + 1000)]
    header = ["# OpenSignals Text File Format", "# " + json.dumps({"00:07": device}), "# EndOfHeader"]
    path.write_text("\n".join([*header, *rows]) + "\n")
    return path


APPLE_HEADERS = {
    "English": ["Name", "Date of Birth", "Recorded Date", "Classification", "Sample Rate,512 hertz", "Lead,Lead I", "Unit,µV"],
    "German": ["Name", "Geburtsdatum", "Aufzeichnungsdatum", "Klassifizierung", 'Messrate,"511,886 Hertz"', "Ableitung,Ableitung I", "Einheit,µV"],
    "French": ["Nom", "Date de naissance", "Date d’enregistrement", "Classification", "Taux d’échantillonnage,512 hertz", "Dérivation,Dérivation I", "Unité,μV"],
    "Japanese": ["名前", "生年月日", "記録日", "分類", "サンプルレート,512ヘルツ", "誘導,第I誘導", "単位,µV"],
}  # fmt: skip


def write_apple_ecg(path: Path, language="English", decimal=".", quoted=False) -> Path:
    name, birth, recorded, kind, rate, lead, unit = APPLE_HEADERS[language]
    header = [
        f"{name},{NAME}",
        f'{birth},"Mar 3, 1970"',
        f"{recorded},2021-03-17 08:09:10 +0100",
        f"{kind},Sinus Rhythm",
    ]
    header += ["Symptoms,", "Software Version,1.90", 'Device,"Watch6,1"', rate, "", "", lead, unit, ""]
    mark = '"' if quoted else ""
    samples = [f"{mark}{x / 8:.3f}{mark}".replace(".", decimal) for x in STORED]
    path.write_text("\n".join([*header, *samples]) + "\n", encoding="utf-8")
    return path


def write_polar(path: Path, columns=("timestamp [ms]", "ecg [uV]"), kept=slice(None)) -> Path:
    """By the clock of the sensor samples are 10 ms apart; by that of the phone they come in packets of ten."""
    first = 599618160211312345
    rows = []
    for i, (a, b) in enumerate(zip(STORED, OTHER)):
        phone = f"2021-03-17T08:09:{10 + i // 10 * 0.1:06.3f}"
        cells = {"timestamp [ms]": f"{i * 10:.1f}", "ecg [uV]": a, "channel 0": a, "channel 1": b, "ambient": 3}
        rows.append(";".join([phone, str(first + i * 10_000_000), *(str(cells[column]) for column in columns)]))
    header = ";".join(["Phone timestamp", "sensor timestamp [ns]", *columns])
    path.write_text("\n".join([header, *np.array(rows)[kept]]) + "\n")
    return path
