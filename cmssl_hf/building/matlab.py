"""Cell and struct arrays in MATLAB v7.3 files, which are HDF5 files of a certain layout. h5py and numpy only.

MATLAB writes a struct array as a group with one dataset per field, and a cell array as one dataset; either holds an object
reference per element, in shape `(N, 1)` or `(1, N)`. A struct of one element holds the values themselves instead. Text is
an array of UTF-16 code units; an empty array is written as its dimensions, with the attribute `MATLAB_empty`.
"""

import math
import os
from collections.abc import Sequence

import h5py
import numpy as np
from h5py import h5a, h5d, h5i, h5r, h5s, h5t


_ALL = slice(None)


def read_elements(dataset: h5py.Dataset, rows: slice = _ALL) -> np.ndarray:
    """Reads elements of an array of shape `(N, 1)`, `(1, N)` or `(N,)` in the file, as an array of shape `(rows,)`.

    Raises:
        ValueError: if the array has another shape.
    """
    return _read_elements(dataset, rows, dataset.dtype)


def _read_elements(dataset, rows, dtype, memory_type=None) -> np.ndarray:
    shape = dataset.shape
    if len(shape) not in (1, 2) or min(shape) > 1:
        raise ValueError(f"{dataset.name} should be a column or a row, but has shape {shape}.")
    start, stop, _ = rows.indices(max(shape))
    values = np.empty(max(stop - start, 0), dtype)
    if len(values) == 0:
        return values
    # h5py's own indexing takes as long as reading a thousand elements.
    selection = h5s.ALL
    if len(values) < max(shape):
        selection = dataset.id.get_space()
        along = [length == max(shape) for length in shape]
        selection.select_hyperslab(
            tuple(start if axis else 0 for axis in along), tuple(len(values) if axis else 1 for axis in along)
        )
    dataset.id.read(h5s.create_simple(values.shape), selection, values, memory_type)
    return values


class CellArray:
    """Elements of a cell array, or of one field of a struct array.

    Args:
        dataset: the cell array or the field.
        rows: the elements that are wanted.

    Raises:
        ValueError: if it is neither a column nor a row.
    """

    def __init__(self, dataset: h5py.Dataset, rows: slice = _ALL):
        self._file = h5i.get_file_id(dataset.id)
        self._addresses: np.ndarray | None = None
        if dataset.id.get_type().equal(h5t.STD_REF_OBJ):
            self._references = _read_elements(dataset, rows, h5py.ref_dtype)
            self._addresses = _read_elements(dataset, rows, np.uint64, h5t.STD_REF_OBJ)
        else:
            self._references = np.array([dataset.ref], dtype=object)[rows]

    def __len__(self) -> int:
        return len(self._references)

    def vectors(self, length: int, rows: slice | Sequence[int] = _ALL) -> np.ndarray:
        """Reads numeric vectors as a float64 array `(rows, length)`; NaN where an element is empty or of another size."""
        references = self._references[rows]
        values = np.full((len(references), length), np.nan)
        unread: Sequence[int] = range(len(references))
        if self._addresses is not None and len(references):
            unread = self._read_contiguous(values, h5r.dereference(references[0], self._file), self._addresses[rows])
        memory = h5s.create_simple((length,))
        for row in unread:
            element = h5r.dereference(references[row], self._file)
            try:
                element.read(memory, h5s.ALL, values[row], h5t.NATIVE_DOUBLE)
            except (OSError, TypeError, ValueError):
                # Asking every element for its size first would take as long as reading it.
                if math.prod(element.shape) == length:
                    raise
        return values

    def _read_contiguous(self, values: np.ndarray, first: h5d.DatasetID, addresses: np.ndarray) -> list[int]:
        """Reads the elements whose object headers equal that of the first but for the address of the values.

        HDF5 takes several times as long to open an element as to read it. Elements with equal headers have equal types,
        sizes and attributes, so that, where the first one is a plain uncompressed vector, the others are read from the file
        by their addresses.

        Returns:
            The rows of the elements that are still to be read.
        """
        everything = list(range(len(values)))
        offset = first.get_offset()
        plain = first.get_create_plist().get_layout() == h5d.CONTIGUOUS and first.get_type().equal(h5t.NATIVE_DOUBLE)
        if not plain or offset is None or math.prod(first.shape) != values.shape[1]:
            return everything
        descriptor = self._file.get_vfd_handle()
        base = self._file.get_create_plist().get_userblock()
        # A version 1 header tells its size after 8 bytes and begins after 16. Later ones have a checksum, so no two agree.
        size = 16 + int.from_bytes(os.pread(descriptor, 4, base + int(addresses[0]) + 8), "little")
        header = os.pread(descriptor, size, base + int(addresses[0]))
        before, found, after = header.partition((offset - base).to_bytes(8, "little"))
        if header[0] != 1 or not found:
            return everything
        unread = []
        for row, address in enumerate((addresses + np.uint64(base)).tolist()):
            header = os.pread(descriptor, size, address)
            at = len(before)
            offset = base + int.from_bytes(header[at : at + 8], "little")
            same = header.startswith(before) and header[at + 8 :] == after
            if not same or os.preadv(descriptor, [values[row]], offset) != values[row].nbytes:
                unread.append(row)
        return unread

    def numbers(self, rows: slice | Sequence[int] = _ALL) -> np.ndarray:
        """Reads single numbers as a float64 array `(rows,)`; NaN where an element is empty."""
        return self.vectors(1, rows)[:, 0]

    def texts(self, rows: slice | Sequence[int] = _ALL) -> list[str]:
        """Reads text; a number is written out (`"3"` for 3.0), an empty array is `""`."""
        return [self._text(h5r.dereference(reference, self._file)) for reference in self._references[rows]]

    @staticmethod
    def _text(element: h5d.DatasetID) -> str:
        if h5a.exists(element, b"MATLAB_empty"):
            return ""
        values = np.empty(element.shape)
        element.read(h5s.ALL, h5s.ALL, values, h5t.NATIVE_DOUBLE)
        if element.get_type().get_size() == 2:
            return values.astype(np.uint16).tobytes().decode("utf-16").strip("\0 ")
        return f"{values.flat[0]:g}"
