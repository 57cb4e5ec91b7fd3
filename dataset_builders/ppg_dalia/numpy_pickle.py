"""Reading pickles that hold numpy arrays and plain containers, and nothing else.

Loading a pickle runs whatever it names. The files of PPG-DaLiA, written by Python 2, name only the functions below.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np


def _encode_latin1(text: str, encoding: str) -> bytes:
    """`_codecs.encode` as Python 3 writes bytes into pickles of protocol 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes text as {encoding!r}")
    return text.encode("latin1")


_RECONSTRUCT_ARRAY = np.empty(0).__reduce__()[0]
_RECONSTRUCT_SCALAR = np.float64(0).__reduce__()[0]
# numpy 2 writes `numpy._core` where numpy 1 wrote `numpy.core`.
_ADMITTED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT_ARRAY,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT_ARRAY,
    ("numpy.core.multiarray", "scalar"): _RECONSTRUCT_SCALAR,
    ("numpy._core.multiarray", "scalar"): _RECONSTRUCT_SCALAR,
    ("_codecs", "encode"): _encode_latin1,
    ("__builtin__", "bytes"): bytes,
}


class _NumpyUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}; only numpy arrays and plain containers are read, because others can run code"
            )
        return _ADMITTED[module, name]


def load_numpy_pickle(path: str | Path) -> Any:
    """Reads a pickle of numpy arrays, numbers, texts and plain containers; texts of Python 2 are decoded as Latin-1.

    Raises:
        pickle.UnpicklingError: if the file names anything else, which is then neither imported nor called.
    """
    with open(path, "rb") as file:
        return _NumpyUnpickler(file, encoding="latin1").load()
