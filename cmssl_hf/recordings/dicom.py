"""Waveforms in DICOM files (PS3.3, C.10.9), by pydicom."""

import io
import zlib
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cmssl_hf.models.cmssl.files_cmssl import SignalFile
from cmssl_hf.models.cmssl.tables_cmssl import largest_unpacked

from .errors import naming_the_extra


if TYPE_CHECKING:
    from pydicom import Dataset


_DEFLATED = "1.2.840.10008.1.2.1.99"
#: In front of the length of the group of elements that is never deflated (PS3.10, 7.1).
_PREAMBLE_BYTES = 128 + 4 + 12
_TAGS = ["SpecificCharacterSet", "Modality", "AcquisitionDateTime", "StudyDate", "StudyTime", "WaveformSequence"]


def recognises(path: Path, head: bytes) -> bool:
    return head[128:132] == b"DICM" or path.suffix.lower() == ".dcm"


def open_dicom(path: Path) -> SignalFile:
    """Reads a file; what is about the patient stays in it. The leads of a resting ECG have the names of WFDB (`II`); those of a
    second group of waveforms, such as averaged beats, its label in front.

    Raises:
        ValueError: if the file is none of this kind, damaged, or holds no waveform.
        ImportError: if pydicom is not installed.
    """
    with naming_the_extra():
        import pydicom
    try:
        meta = pydicom.filereader.read_file_meta_info(path)
        # Of the patient nothing is read that a warning of pydicom could tell.
        file = (
            _inflated(path, meta)
            if meta.get("TransferSyntaxUID") == _DEFLATED
            else pydicom.dcmread(path, specific_tags=_TAGS)
        )
        groups = list(file.get("WaveformSequence") or [])
        if not groups:
            raise ValueError(f"it holds no waveform ({file.get('Modality') or 'no modality'}).")
        signals = [signal for number, group in enumerate(groups) for signal in _signals(group, number)]
    # Parsers of damaged files raise almost anything.
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a DICOM waveform: {error}") from error
    names, rates, units, samples = zip(*signals)
    return SignalFile(str(path), names, rates, units, lambda position: samples[position], path.name, _start(file))


def _inflated(path: Path, meta: "Dataset") -> "Dataset":
    """The elements of a deflated file (PS3.5, A.5), which pydicom would unpack to any size."""
    from pydicom.filereader import read_dataset
    from pydicom.tag import Tag

    packed = path.read_bytes()[_PREAMBLE_BYTES + int(meta.FileMetaInformationGroupLength) :]
    limit = largest_unpacked(len(packed))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    content = inflater.decompress(packed, limit)
    if not inflater.eof:
        raise ValueError(f"it unpacks to more than {limit:,} bytes." if len(content) == limit else "it is cut off.")
    return read_dataset(io.BytesIO(content), False, True, specific_tags=[Tag(name) for name in _TAGS])


def _signals(group: "Dataset", number: int) -> list[tuple[str, float, str, np.ndarray]]:
    """Name, rate, unit and samples of the channels of one group, by PS3.3 C.10.9.1.5: nominal values are the stored ones times
    the sensitivity and its correction, plus the baseline."""
    from pydicom.waveforms.numpy_handler import WAVEFORM_DTYPES

    channels = list(group.ChannelDefinitionSequence)
    bits, interpretation = int(group.WaveformBitsAllocated), str(group.WaveformSampleInterpretation)
    if (bits, interpretation) not in WAVEFORM_DTYPES or interpretation not in ("SB", "UB", "SS", "US", "SL", "UL"):
        raise ValueError(f"samples of {bits} bits ({interpretation}) are not read.")
    stored = np.frombuffer(group.WaveformData, WAVEFORM_DTYPES[bits, interpretation])
    length = int(group.NumberOfWaveformSamples)
    if length * len(channels) > len(stored) or int(group.NumberOfWaveformChannels) != len(channels):
        raise ValueError(
            f"it states {length:,} samples of {group.NumberOfWaveformChannels} channels, but holds {len(stored):,} of"
            f" {len(channels)}."
        )
    stored = stored[: length * len(channels)].reshape(length, len(channels))
    padding = group.get("WaveformPaddingValue")
    if isinstance(padding, bytes):
        padding = np.frombuffer(padding[: stored.dtype.itemsize], stored.dtype)[0]
    rate = float(group.SamplingFrequency)
    label = "" if number == 0 else f"{group.get('MultiplexGroupLabel') or f'group {number + 1}'} "
    signals = []
    for position, channel in enumerate(channels):
        samples = stored[:, position].astype(np.float64)
        if padding is not None:
            samples[stored[:, position] == padding] = np.nan
        unit = ""
        if "ChannelSensitivity" in channel:
            samples *= float(channel.ChannelSensitivity) * float(
                channel.get("ChannelSensitivityCorrectionFactor") or 1
            )
            samples += float(channel.get("ChannelBaseline") or 0)
            unit = str(channel.ChannelSensitivityUnitsSequence[0].CodeValue)
        signals.append((f"{label}{_name(channel)}", rate, unit, samples))
    return signals


def _name(channel: "Dataset") -> str:
    sources = channel.get("ChannelSourceSequence")
    name = str((sources[0].get("CodeMeaning") if sources else None) or channel.get("ChannelLabel") or "").strip()
    for start in ("ECG Lead ", "Lead "):
        name = name.removeprefix(start)
    # "II (Einthoven)"
    return name.partition(" (")[0]


def _start(file: Any) -> datetime | None:
    told = str(file.get("AcquisitionDateTime") or f"{file.get('StudyDate') or ''}{file.get('StudyTime') or ''}")
    for form in ("%Y%m%d%H%M%S.%f", "%Y%m%d%H%M%S"):
        try:
            return datetime.strptime(told.strip(), form)
        except ValueError:
            pass
    return None
