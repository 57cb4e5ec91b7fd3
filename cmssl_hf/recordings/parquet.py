"""Tables in Parquet files, by pyarrow."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmssl_hf.models.cmssl.files_cmssl import Table

from .errors import naming_the_extra


_MAGIC = b"PAR1"
#: Rows that a file of any size may have, and for each of its bytes: constant columns take next to no room.
_LARGEST_TABLE, _LARGEST_COMPRESSION = 2**22, 64


@dataclass(frozen=True)
class ParquetTable:
    """The form of a Parquet file, as `TableFile` is of one of text."""

    path: Path
    names: tuple[str, ...]
    units: tuple[str, ...] = ()
    sampling_rate: float | None = None
    description: str = ""

    def columns(self, positions: Sequence[int]) -> list[np.ndarray]:
        """Columns as numbers, times, or objects.

        Raises:
            ValueError: if the file cannot be read.
        """
        import pyarrow.parquet

        try:
            table = pyarrow.parquet.read_table(
                self.path,
                columns=[self.names[position] for position in positions],
                partitioning=None,
                use_threads=False,
            )
            return [table.column(self.names[position]).to_pandas().to_numpy() for position in positions]
        # Parsers of damaged files raise almost anything.
        except Exception as error:
            raise ValueError(f"{self.path} cannot be read as Parquet: {error}") from error


def recognises(path: Path, head: bytes) -> bool:
    return head.startswith((_MAGIC, b"PARE")) or path.suffix.lower() in (".parquet", ".pq")


def open_parquet(path: Path) -> Table:
    """Reads the names of the columns.

    Raises:
        ValueError: if the file is damaged, encrypted, or states more rows than it can hold.
        ImportError: if pyarrow is not installed.
    """
    with naming_the_extra():
        import pyarrow.parquet
    try:
        metadata = pyarrow.parquet.read_metadata(path)
        names = tuple(metadata.schema.to_arrow_schema().names)
        num_rows, size = metadata.num_rows, path.stat().st_size
        if num_rows > max(_LARGEST_TABLE, _LARGEST_COMPRESSION * size):
            raise ValueError(f"it states {num_rows:,} rows, but has only {size:,} bytes.")
        if not num_rows or not names:
            raise ValueError("it is empty.")
        if len(set(names)) < len(names):
            raise ValueError(f"several columns have one name: {', '.join(names)}.")
    # Parsers of damaged files raise almost anything.
    except Exception as error:
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from error
    return ParquetTable(path, names)
