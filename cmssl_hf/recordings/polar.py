"""Text files of the Polar Sensor Logger, which records from the H10, OH1 and Verity Sense."""

import dataclasses
import re
from pathlib import Path

from cmssl_hf.models.cmssl.files_cmssl import Table
from cmssl_hf.models.cmssl.tables_cmssl import read_table


_FIRST_COLUMN = b"Phone timestamp"


def recognises(path: Path, head: bytes) -> bool:
    return head.removeprefix(b"\xef\xbb\xbf").startswith(_FIRST_COLUMN)


def open_polar(path: Path) -> Table:
    """Reads the header. The clock of the sensor states the times, not that of the phone, to which samples come in packets.

    Raises:
        ValueError: if the file is damaged, or holds heart rates or intervals, which are no waveform.
    """
    table = read_table(path)
    if not any("sensor" in name.lower() for name in table.names):
        raise ValueError(f"{path} holds no waveform, but {', '.join(table.names[1:])}.")
    return dataclasses.replace(table, names=tuple(map(_name, table.names)))


def _name(column: str) -> str:
    # Not called a time any more.
    if column.lower().startswith("phone"):
        return "phone"
    # The channels of an optical sensor, one per light.
    column = re.sub(r"^channel (?=\d)", "PPG ", column, flags=re.IGNORECASE)
    return re.sub(r"^ecg\b", "ECG", column)
