"""Annotated ECGs of HL7 version 3 (FDA XML)."""

import math
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from cmssl_hf.models.cmssl.files_cmssl import SignalFile


_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


class _Builder(ElementTree.TreeBuilder):
    def doctype(self, name: str, pubid: str, system: str) -> None:
        # It may define entities that grow without end.
        raise ValueError("it has a DOCTYPE, which such files have no use for.")


def recognises(path: Path, head: bytes) -> bool:
    return b"AnnotatedECG" in head.replace(b"\0", b"")


def open_aecg(path: Path) -> SignalFile:
    """Reads the leads of the recorded series; beats that were derived from them are left out.

    Raises:
        ValueError: if the file is damaged, or holds no waveform.
    """
    try:
        root = ElementTree.parse(path, ElementTree.XMLParser(target=_Builder())).getroot()
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""
        sets = root.findall("component/series/component/sequenceSet")
        signals: list[tuple[str, float, str, np.ndarray]] = []
        start = None
        for sequences in sets:
            read, begin = _signals(sequences)
            signals += read
            start = start or begin
        if not signals:
            raise ValueError("it holds no waveform.")
    except (ElementTree.ParseError, ValueError, LookupError, ArithmeticError, RecursionError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as an annotated ECG: {error}") from error
    names, rates, units, samples = zip(*signals)
    return SignalFile(str(path), names, rates, units, lambda position: samples[position], path.name, start)


def _signals(
    sequences: ElementTree.Element,
) -> tuple[list[tuple[str, float, str, np.ndarray]], datetime | None]:
    """Name, rate, unit and samples of each lead, and the time of the first sample."""
    signals: list[tuple[str, str, np.ndarray]] = []
    start: datetime | None = None
    rate: float | None = None
    for sequence in sequences.findall("component/sequence"):
        code, value = _child(sequence, "code").get("code", ""), _child(sequence, "value")
        if code.startswith("TIME_"):
            increment = _child(value, "increment")
            rate = 1 / (_number(increment) * _SECONDS[increment.get("unit", "s")])
            start = _time(_child(value, "head").get("value", "")) if code == "TIME_ABSOLUTE" else None
        elif value.find("digits") is not None:
            origin, scale = _child(value, "origin"), _child(value, "scale")
            unit = scale.get("unit", "")
            if origin.get("unit", unit) != unit:
                raise ValueError(f"{code} has its origin in {origin.get('unit')}, its scale in {unit}.")
            digits = np.array((_child(value, "digits").text or "").split(), np.float64)
            signals.append((_name(code), unit, digits * _number(scale) + _number(origin)))
    if rate is None:
        raise ValueError("it states no times.")
    rate = float(round(rate)) if abs(rate - round(rate)) < 1e-6 * rate else rate
    return [(name, rate, unit, samples) for name, unit, samples in signals], start


def _child(element: ElementTree.Element, tag: str) -> ElementTree.Element:
    found = element.find(tag)
    if found is None:
        raise ValueError(f"a {element.tag} has no {tag}.")
    return found


def _number(element: ElementTree.Element) -> float:
    number = float(element.get("value", ""))
    if not math.isfinite(number) or (element.tag == "increment" and number <= 0):
        raise ValueError(f"the {element.tag} is {number}.")
    return number


def _name(code: str) -> str:
    """The name of a lead in WFDB: `II` of `MDC_ECG_LEAD_II`; those that are called after an axis are said to be of an ECG."""
    name = code.removeprefix("MDC_ECG_LEAD_").replace("AV", "aV")
    return f"ECG {name}" if name in ("X", "Y", "Z") else name


def _time(text: str) -> datetime | None:
    for form in ("%Y%m%d%H%M%S.%f", "%Y%m%d%H%M%S", "%Y%m%d%H%M%S.%f%z", "%Y%m%d%H%M%S%z"):
        try:
            return datetime.strptime(text, form)
        except ValueError:
            pass
    return None
