"""Names, rates, units and samples of recordings in the formats of devices, against what the tests wrote or raw bytes say."""

import gzip
import re
import struct
import xml.etree.ElementTree as ET
import zipfile
import zlib
from datetime import datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
import wfdb

from cmssl_hf.models.cmssl import recordings_cmssl
from cmssl_hf.recordings import read_recording
from helpers import recording_files as files
from helpers.recording_files import NAME, OTHER, STORED


MORNING = datetime(2021, 3, 17, 8, 9, 10)
#: Of four records of a second, the last two later than they would be.
ONSETS = ("+0.25", "+1.25", "+3.45", "+4.45")


def with_gap(samples, rate):
    return np.r_[samples[: 2 * rate], np.full(round(1.2 * rate), np.nan), samples[2 * rate :]]


FORMATS = {
    "EDF": (lambda p: files.write_edf(p / "a.edf"), {
        "ECG II": (STORED / 500, 100, "mV", "ecg"), "Pleth": (STORED[:200] / 500, 50, "NU", "ppg")}, MORNING),
    "BDF": (lambda p: files.write_edf(p / "a.bdf", bdf=True), {
        "ECG II": ((STORED + 0.5) * 4 / 16777215, 100, "mV", "ecg"), "Pleth": ((STORED[:200] + 0.5) * 4 / 16777215, 50, "NU", "ppg")}, MORNING),
    "EDF+ with gaps": (lambda p: files.write_edf(p / "a.edf", onsets=ONSETS), {
        "ECG II": (with_gap(STORED, 100) / 500, 100, "mV", "ecg"), "Pleth": (with_gap(STORED[:200], 50) / 500, 50, "NU", "ppg")},
        MORNING.replace(microsecond=250000)),
    "BDF+ with gaps": (lambda p: files.write_edf(p / "a.bdf", bdf=True, onsets=ONSETS), {
        "ECG II": ((with_gap(STORED, 100) + 0.5) * 4 / 16777215, 100, "mV", "ecg"),
        "Pleth": ((with_gap(STORED[:200], 50) + 0.5) * 4 / 16777215, 50, "NU", "ppg")}, MORNING.replace(microsecond=250000)),
    "ISHNE": (lambda p: files.write_ishne(p / "a.ecg"), {
        "II": (STORED * 0.0025, 100, "mV", "ecg"), "V1": (OTHER * 0.005, 100, "mV", "ecg")}, datetime(2019, 8, 9, 10, 5)),
    "ISHNE that counts all leads": (lambda p: files.write_ishne(p / "a.ecg", length=800), {
        "II": (STORED * 0.0025, 100, "mV", "ecg"), "V1": (OTHER * 0.005, 100, "mV", "ecg")}, datetime(2019, 8, 9, 10, 5)),
    "aECG": (lambda p: files.write_aecg(p / "a.xml"), {
        "I": (STORED * 2.5 + 5, 100, "uV", "ecg"), "II": (OTHER * 2.5 + 5, 100, "uV", "ecg")}, MORNING.replace(microsecond=500000)),
    "DICOM": (lambda p: files.write_dicom(p / "a.dcm"), {
        "I": (STORED * 5.0 + 7, 100, "uV", "ecg"), "II": (np.r_[[np.nan] * 3, OTHER[3:] * 5.0 + 7], 100, "uV", "ecg")}, MORNING),
    "deflated DICOM": (lambda p: files.write_dicom(p / "a.dcm", deflated=True), {
        "I": (STORED * 5.0 + 7, 100, "uV", "ecg"), "II": (np.r_[[np.nan] * 3, OTHER[3:] * 5.0 + 7], 100, "uV", "ecg")}, MORNING),
    "Parquet": (lambda p: files.write_parquet(p / "a.parquet"), {
        "ECG [mV]": (STORED / 1000, 100, "mV", "ecg"), "resp": (OTHER / 100, 100, None, None)}, None),
    "OpenSignals": (lambda p: files.write_opensignals(p / "a.txt"), {
        "ECG": (STORED + 1000, 100, "adu", "ecg"), "BVP": (OTHER + 1000, 100, "adu", "ppg")}, MORNING.replace(microsecond=500000)),
    "Polar ECG": (lambda p: files.write_polar(p / "a.txt"), {"ECG [uV]": (STORED, 100, "uV", "ecg")}, None),
    "Polar PPG": (lambda p: files.write_polar(p / "a.txt", ("channel 0", "channel 1", "ambient")), {
        "PPG 0": (STORED, 100, None, "ppg"), "PPG 1": (OTHER, 100, None, "ppg"), "ambient": (np.full(400, 3), 100, None, None)}, None),
}  # fmt: skip
E4 = {
    "BVP": (STORED[:256] / 100, 64, None, "ppg"),
    "ACC_X": (STORED[:128], 32, "1/64 g", None),
    "ACC_Y": (OTHER[:128], 32, "1/64 g", None),
    "ACC_Z": (np.full(128, -3), 32, "1/64 g", None),
    # It begins half a second later.
    "EDA": (np.r_[np.nan, np.nan, OTHER[:14] / 100], 4, "uS", None),
    "TEMP": (np.full(16, 32.13), 4, "degC", None),
}
E4_START = datetime.fromtimestamp(files.E4_START, timezone.utc)
FORMATS["Empatica E4"] = (lambda p: files.write_e4(p / "session"), E4, E4_START)
FORMATS["Empatica E4, zipped"] = (lambda p: files.write_e4_zip(p / "a.zip"), E4, E4_START)
FORMATS["Empatica E4, a zipped folder"] = (lambda p: files.write_e4_zip(p / "a.zip", "S1/"), E4, E4_START)


def assert_holds(recording, expected):
    assert list(recording.signals) == list(expected)
    for name, (samples, rate, unit, kind) in expected.items():
        signal = recording.signals[name]
        np.testing.assert_allclose(signal.samples, samples, rtol=1e-9, atol=1e-9)
        assert signal.samples.dtype == np.float64
        assert (signal.sampling_rate, signal.unit, signal.kind) == (rate, unit, kind)


@pytest.mark.parametrize(("write", "expected", "start"), FORMATS.values(), ids=FORMATS)
def test_formats(write, expected, start, tmp_path):
    path = write(tmp_path)
    recording = read_recording(path)
    assert_holds(recording, expected)
    assert recording.start == start
    assert NAME not in repr(recording)
    last = list(expected)[-1]
    assert_holds(read_recording(path, last), {last: expected[last]})
    with pytest.raises(ValueError, match=rf"no signal called 'other'; it has .*{re.escape(last)}"):
        read_recording(path, "other")


@pytest.mark.parametrize(("write", "expected", "start"), FORMATS.values(), ids=FORMATS)
def test_pipelines_read_the_same(write, expected, start, tmp_path):
    path = write(tmp_path)
    kind, preferred = "ecg", "II"
    if not any(known == "ecg" for *_, known in expected.values()):
        kind, preferred = "ppg", "BVP"
    names = [name for name, signal in expected.items() if signal[-1] == kind]
    name = preferred if preferred in names else names[0]
    column = name if name == "PPG 0" else None
    found = recordings_cmssl.read_recording(path, (kind,), column=column)
    np.testing.assert_allclose(found.signals[kind], expected[name][0], rtol=1e-9, atol=1e-9)
    assert found.sampling_rates == {kind: expected[name][1]}
    with pytest.raises(ValueError, match="sampling_rate"):
        recordings_cmssl.read_recording(path, (kind,), column=column, sampling_rate=77.0)


@pytest.mark.parametrize(
    ("language", "decimal", "quoted", "rate"),
    [("English", ".", False, 512), ("German", ",", True, 511.886), ("German", ",", False, 511.886), ("French", ",", True, 512),
     ("Japanese", ".", False, 512)],
)  # fmt: skip
def test_apple_health(language, decimal, quoted, rate, tmp_path):
    recording = read_recording(files.write_apple_ecg(tmp_path / "ecg.csv", language, decimal, quoted))
    (name,) = recording.signals
    assert "I" in name
    assert_holds(recording, {name: (np.round(STORED / 8, 3), rate, "uV", "ecg")})
    assert recording.start == MORNING.replace(tzinfo=timezone(timedelta(hours=1)))
    assert NAME not in repr(recording)


def test_lost_frames_of_bitalino_are_gaps(tmp_path):
    kept = np.r_[0:50, 57:457]
    path = files.write_opensignals(tmp_path / "a.txt", frames=kept[:400] % 16)
    samples = read_recording(path, "ECG").signals["ECG"].samples
    assert np.flatnonzero(np.isnan(samples)).tolist() == [*range(50, 57)]
    np.testing.assert_array_equal(samples[57:], STORED[50:] + 1000)


def test_lost_samples_of_polar_are_gaps(tmp_path):
    path = files.write_polar(tmp_path / "a.txt", kept=np.r_[0:100, 150:400])
    samples = read_recording(path).signals["ECG [uV]"].samples
    np.testing.assert_array_equal(np.isnan(samples), np.isin(np.arange(400), range(100, 150)))
    np.testing.assert_allclose(samples[150:], STORED[150:])


def test_tables_give_every_column_of_numbers(tmp_path):
    path = tmp_path / "a.csv"
    rows = [f"{i / 100:.2f};{x / 1000:.3f};{y};ok".replace(".", ",") for i, (x, y) in enumerate(zip(STORED, OTHER))]
    rows[7] = "0,07;;3;ok"
    path.write_text("\n".join(["Zeit [s];EKG [mV];Atmung;Zustand", *rows]), encoding="utf-8-sig")
    ecg, resp = STORED / 1000, OTHER.astype(float)
    ecg[7], resp[7] = np.nan, 3
    assert_holds(read_recording(path), {"EKG [mV]": (ecg, 100, "mV", "ecg"), "Atmung": (resp, 100, None, None)})


def test_tables_without_a_rate_need_one(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("ppg\n" + "\n".join(map(str, STORED)))
    with pytest.raises(ValueError, match=r"`sampling_rate` is required for .*a\.csv"):
        read_recording(path)
    assert_holds(read_recording(path, sampling_rate=100), {"ppg": (STORED, 100, None, "ppg")})


def test_wfdb_records_of_segments_rates_and_gaps(tmp_path):
    for name, stored in (("s1", STORED[:200]), ("s2", STORED[200:])):
        wfdb.wrsamp(name, 100, ["mV"], ["II"], d_signal=stored[:, None].astype(np.int64), fmt=["16"], adc_gain=[400.0], baseline=[0],
                    write_dir=str(tmp_path))  # fmt: skip
    (tmp_path / "m.hea").write_text("m/4 1 100 450\nm_layout 0\ns1 200\n~ 50\ns2 200\n")
    (tmp_path / "m_layout.hea").write_text("m_layout 1 100 0\n~ 0 400/mV 16 0 0 0 0 II\n")
    expected = np.concatenate((STORED[:200], np.full(50, np.nan), STORED[200:])) / 400
    assert_holds(read_recording(tmp_path / "m"), {"II": (expected, 100, "mV", "ecg")})


def test_several_candidates_are_listed(tmp_path):
    path = files.write_ishne(tmp_path / "a.ecg", leads=(1, 1))
    with pytest.raises(ValueError, match=r"several signals that look like ecg: ECG bipolar \(1\), ECG bipolar \(2\)"):
        recordings_cmssl.read_recording(path, ("ecg",))
    found = recordings_cmssl.read_recording(path, ("ecg",), column="ECG bipolar (2)")
    np.testing.assert_allclose(found.signals["ecg"], OTHER * 0.005)


@pytest.mark.parametrize("make", [lambda columns: {**columns, "sampling_rate": 100}, pd.DataFrame])
def test_several_candidates_of_tables_are_listed(make):
    source = make({"ECG1": STORED.astype(float), "ECG2": OTHER.astype(float)})
    with pytest.raises(ValueError, match=r"has several signals that look like ecg: ECG1, ECG2\. `column` names one"):
        recordings_cmssl.read_recording(source, ("ecg",), sampling_rate=100)
    found = recordings_cmssl.read_recording(source, ("ecg",), sampling_rate=100, column="ECG2")
    np.testing.assert_array_equal(found.signals["ecg"], OTHER)


def test_a_file_without_a_signal_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.edf"):
        read_recording(files.write_edf(tmp_path / "a.edf", labels=(), units=(), rates=()))


def test_units_of_another_quantity_are_listed(tmp_path):
    path = files.write_edf(tmp_path / "a.edf", units=("mmHg", "NU"))
    with pytest.raises(
        ValueError, match=r"the unit 'mmHg' of 'ECG II' is none of ecg; it has ECG II \(mmHg\), Pleth \(NU\)"
    ):
        recordings_cmssl.read_recording(path, ("ecg",))
    assert len(recordings_cmssl.read_recording(path, ("ecg",), column="ECG II").signals["ecg"]) == 400


def cut(path, share=0.6):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def written(path, content):
    path.write_bytes(content)
    return path


def zipped(path, name, content, encrypted=False):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    if encrypted:
        packed = bytearray(path.read_bytes())
        for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            packed[packed.index(mark) + offset] |= 1
        path.write_bytes(packed)
    return path


def deflate_bomb(path):
    head = files.write_dicom(path, deflated=True).read_bytes()
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(bytes(2**27)) + packer.flush()
    return written(path, head[: 144 + struct.unpack_from("<I", head, 140)[0]] + packed)


def encrypted_parquet(path):
    return written(path, b"PARE" + bytes(60) + b"PARE")


HOURS = "1560279825.0\n64.0\n" + "0.00\n" * 2**24
REFUSED = {
    "empty EDF": (lambda p: written(p / "a.edf", b""), "empty"),
    "empty ISHNE": (lambda p: written(p / "a.ecg", b""), "empty"),
    "empty Parquet": (lambda p: written(p / "a.parquet", b""), "empty"),
    "truncated EDF": (lambda p: cut(files.write_edf(p / "a.edf")), "states 2 signals in 4 records.*cut off"),
    "truncated BDF": (lambda p: cut(files.write_edf(p / "a.bdf", bdf=True)), "cut off"),
    "truncated ISHNE": (lambda p: cut(files.write_ishne(p / "a.ecg")), "states 400 samples.*cut off"),
    "truncated aECG": (lambda p: cut(files.write_aecg(p / "a.xml")), "cannot be read as an annotated ECG"),
    "truncated DICOM": (lambda p: cut(files.write_dicom(p / "a.dcm")), "cannot be read as a DICOM waveform"),
    "truncated Parquet": (lambda p: cut(files.write_parquet(p / "a.parquet")), "cannot be read as Parquet"),
    "truncated zip": (lambda p: cut(files.write_e4_zip(p / "a.zip")), "cannot be read as a zip file"),
    "EDF+D without times": (lambda p: files.write_edf(p / "a.edf", reserved="EDF+D"), "no annotations, which say when"),
    "EDF+D without one time": (lambda p: files.write_edf(p / "a.edf", onsets=("+0", "+1", "x", "+3")), "record 3 does not say when"),
    "EDF+D that overlaps": (lambda p: files.write_edf(p / "a.edf", onsets=("+0", "+1", "+1.5", "+3")), "record 3 begins before"),
    "EDF+D of years": (lambda p: files.write_edf(p / "a.edf", onsets=("+0", "+1", "+2", "+99999999")), "400 samples are spread over"),
    "text called EDF": (lambda p: written(p / "a.edf", b"time,ppg\n0,1\n"), "begins with"),
    "text called DICOM": (lambda p: written(p / "a.dcm", b"time,ppg\n0,1\n"), "cannot be read as a DICOM waveform"),
    "text called Parquet": (lambda p: written(p / "a.parquet", b"time,ppg\n0,1\n"), "cannot be read as Parquet"),
    "truncated deflated DICOM": (lambda p: cut(files.write_dicom(p / "a.dcm", deflated=True)), "it is cut off"),
    "deflate bomb": (lambda p: deflate_bomb(p / "a.dcm"), "unpacks to more than"),
    "annotations of ISHNE": (lambda p: written(p / "a.ann", b"ANN  1.0" + bytes(600)), "annotations of beats, no waveform"),
    "entities in aECG": (lambda p: files.write_aecg(p / "a.xml", before='<!DOCTYPE a [<!ENTITY b "ha">]>'), "DOCTYPE"),
    "encrypted zip": (lambda p: zipped(p / "a.zip", "BVP.csv", "1", encrypted=True), "encrypted"),
    "encrypted Parquet": (lambda p: encrypted_parquet(p / "a.parquet"), "cannot be read as Parquet"),
    "another zip": (lambda p: zipped(p / "a.zip", "a.txt", "1"), "no session of an Empatica E4"),
    "zip bomb": (lambda p: zipped(p / "a.zip", "BVP.csv", HOURS), "unpacks to more than"),
    "gzip bomb": (lambda p: written(p / "a.csv.gz", gzip.compress(b"ppg\n" + b"0.0\n" * 2**25, 1)), "unpacks to more than"),
    "FIT": (lambda p: written(p / "a.fit", b"\x0e\x10\xd9\x07\x00\x00\x00\x00.FIT\x00\x00"), "heart rates and steps, no waveform"),
    "steps": (lambda p: written(p / "export.xml", b'<?xml version="1.0"?>\n<HealthData locale="de_DE">'), "steps and heart rates, no waveform"),
    "HDF5": (lambda p: written(p / "a.h5", b"\x89HDF\r\n\x1a\n"), "CSV or Parquet"),
    "PDF": (lambda p: written(p / "a.pdf", b"%PDF-1.4"), "picture"),
    "heart rates of Polar": (lambda p: written(p / "HR.txt", b"Phone timestamp;HR [bpm]\n2021-03-17T08:09:10.000;72\n2021-03-17T08:09:11.000;72\n"), "no waveform"),
}  # fmt: skip


@pytest.mark.parametrize(("write", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_files(write, message, tmp_path):
    path = write(tmp_path)
    with pytest.raises(ValueError, match=message) as refusal:
        read_recording(path)
    assert path.name in str(refusal.value)


def test_absurd_lengths_are_refused(tmp_path):
    edf = files.write_edf(tmp_path / "a.edf")
    content = bytearray(edf.read_bytes())
    content[236:244] = b"99999999"
    edf.write_bytes(content)
    ishne = files.write_ishne(tmp_path / "a.ecg", length=2**31 - 1)
    rows = 2**23
    constant = pyarrow.table({"ppg": pyarrow.DictionaryArray.from_arrays(np.zeros(rows, np.int8), [1.5])})
    pyarrow.parquet.write_table(constant, tmp_path / "a.parquet")
    for path in (edf, ishne, tmp_path / "a.parquet"):
        with pytest.raises(ValueError, match=rf"{path.name} .*states"):
            read_recording(path)


def test_missing_files(tmp_path):
    for name in ("a.edf", "a.parquet", "folder"):
        with pytest.raises(FileNotFoundError, match=name):
            read_recording(tmp_path / name)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder cannot be read"):
        read_recording(tmp_path / "folder")


def test_sample_of_opensignals(test_data):
    path = test_data / "readers/opensignals/ecg_sample.txt"
    expected = np.loadtxt(path, comments="#", usecols=2)
    assert_holds(read_recording(path), {"ECG": (expected, 200, "adu", "ecg")})


def test_sample_of_ishne(test_data):
    path = test_data / "readers/ishne/holter.ecg"
    raw = path.read_bytes()
    resolution, rate = struct.unpack_from("<h", raw, 206)[0], struct.unpack_from("<h", raw, 272)[0]
    stored = np.frombuffer(raw[522:], "<i2").reshape(-1, 3).astype(float)
    signals = read_recording(path).signals
    assert len(signals) == 3 and rate == 128
    for number, signal in enumerate(signals.values()):
        np.testing.assert_allclose(signal.samples, stored[:, number] * resolution * 1e-6, rtol=1e-12)
        assert (signal.sampling_rate, signal.unit, signal.kind) == (128, "mV", "ecg")


def test_sample_of_aecg(test_data):
    path = test_data / "readers/aecg/subject1_0.xml"
    ns = {"h": "urn:hl7-org:v3"}
    sequences = (
        ET.parse(path).getroot().findall("h:component/h:series/h:component/h:sequenceSet/h:component/h:sequence", ns)
    )
    digits = {s.find("h:code", ns).get("code"): s.findtext("h:value/h:digits", None, ns) for s in sequences[1:]}
    recording = read_recording(path)
    assert len(recording.signals) == len(digits) == 12
    np.testing.assert_allclose(
        recording.signals["II"].samples, 2.5 * np.array(digits["MDC_ECG_LEAD_II"].split(), float)
    )
    # Einthoven: I + III = II, to the resolution.
    leads = {name: signal.samples for name, signal in recording.signals.items()}
    np.testing.assert_allclose(leads["I"] + leads["III"], leads["II"], atol=5.1)
    assert "Clark" not in repr(recording) and recording.signals["aVR"].sampling_rate == 500


def test_samples_of_the_empatica_e4(test_data):
    session = test_data / "stress-predict/S01"
    start, rate, *samples = np.loadtxt(session / "BVP.csv")
    recording = read_recording(session)
    np.testing.assert_array_equal(recording.signals["BVP"].samples[-len(samples) :], samples)
    assert recording.signals["BVP"].sampling_rate == rate == 64
    assert abs(recording.start.timestamp() - start) < 60


def test_sample_of_a_skewed_wfdb_record(test_data):
    folder = test_data / "readers/wfdb_varieties"
    raw = np.fromfile(folder / "100.dat", np.uint8, 3 * 1000).reshape(-1, 3).astype(int)
    first = raw[:, 0] + ((raw[:, 1] & 15) << 8)
    second = raw[:, 2] + ((raw[:, 1] >> 4) << 8)
    signals = read_recording(folder / "100skew").signals
    np.testing.assert_allclose(signals["MLII"].samples[:990], (first[:990] - 1024) / 200)
    np.testing.assert_allclose(signals["V5"].samples[:990], (second[3:993] - 1024) / 200)
