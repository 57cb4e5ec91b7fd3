"""Reading pickles that hold numpy arrays and plain containers, and nothing else.

Loading a pickle runs whatever it names, and numpy rebuilds arrays from whatever state it is given: a damaged one can crash
the process. So nothing that is named here is imported, and arrays are made from their shape, type and bytes once those are
known to fit together. The files of PPG-DaLiA were written by Python 2; saved again by numpy 2 they may have any protocol up to 5.
"""

import math
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


# Booleans, integers and floating-point numbers, as numpy names them in pickles; "O" is any object.
_DTYPE = re.compile(r"b1|i[1248]|u[1248]|f[248]|O8?")


class _Named:
    """What stands for a function or class that a pickle names. A pickle cannot change it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable):
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError("it changes what it names")


class _Dtype:
    """A type whose state is being read."""

    __slots__ = ("_name", "dtype")
    __hash__ = None

    def __init__(self, name: Any, align: Any = False, copy: Any = True):
        if not isinstance(name, str) or not _DTYPE.fullmatch(name):
            raise pickle.UnpicklingError(f"it holds an array of type {name!r}; only numbers and objects are read")
        self._name = name
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, sub-array, names, fields, size, alignment, flags): of a plain type only the order says anything.
        plain = isinstance(state, tuple) and len(state) == 8 and state[2:7] == (None, None, None, -1, -1)
        if not plain or state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("it holds a type that is not that of plain numbers or objects")
        self.dtype = np.dtype(self._name).newbyteorder(state[1])


class _Array:
    """An array whose state is being read."""

    __slots__ = ("array",)
    __hash__ = None

    def __init__(self, array_type: Any, shape: Any, kind: Any):
        if array_type is not _ARRAY_TYPE:
            raise pickle.UnpicklingError("it holds an array of a class of its own")
        self.array = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], _Dtype)):
            raise pickle.UnpicklingError("it holds an array without shape, type and values")
        _, shape, kind, by_columns, values = state
        self.array = _shaped(kind.dtype, values, shape, "F" if by_columns else "C")


def _shaped(dtype: np.dtype, values: Any, shape: Any, order: str) -> np.ndarray:
    if not (isinstance(shape, tuple) and len(shape) <= 32 and all(type(n) is int and n >= 0 for n in shape)):
        raise pickle.UnpicklingError(f"it holds an array of shape {shape!r}")
    return _values(dtype, values, math.prod(shape)).reshape(shape, order=order)


def _values(dtype: np.dtype, values: Any, number: int) -> np.ndarray:
    """A new array `(number,)` of the bytes or objects of a pickle.

    Raises:
        pickle.UnpicklingError: if they are not that many.
    """
    if dtype.hasobject:
        if not isinstance(values, list) or len(values) != number:
            raise pickle.UnpicklingError("it holds an array with other objects than its shape says")
        return _objects(values)
    # Texts of Python 2 are bytes.
    values = values.encode("latin1") if isinstance(values, str) else values
    values = bytes(values) if isinstance(values, bytearray) else values
    if not isinstance(values, bytes) or len(values) != number * dtype.itemsize:
        raise pickle.UnpicklingError("it holds an array with other bytes than its shape and type say")
    if dtype.kind == "b":
        return np.frombuffer(values, np.uint8) != 0
    return np.frombuffer(values, dtype).copy()


def _objects(items: list) -> np.ndarray:
    array = np.empty(len(items), dtype=object)
    # Assigned at once, items that are lists themselves would be taken for further dimensions.
    for position, item in enumerate(items):
        array[position] = item
    return array


def _from_buffer(values: Any, kind: Any, shape: Any, order: Any, axes: Any = None) -> _Array:
    """`numpy._core.numeric._frombuffer`, as which protocol 5 writes an array: its values lie as `order` says, or, if that is `"K"`,
    as in an array of which it is the transpose by `axes`."""
    if not isinstance(kind, _Dtype) or kind.dtype.hasobject:
        raise pickle.UnpicklingError("it holds an array without a type")
    made = _Array(_ARRAY_TYPE, None, None)
    if order == "K" and axes is not None:
        array = _shaped(kind.dtype, values, shape, "C")
        if not (
            isinstance(axes, tuple) and all(type(n) is int for n in axes) and sorted(axes) == [*range(array.ndim)]
        ):
            raise pickle.UnpicklingError(f"it holds an array with axes {axes!r}")
        made.array = array.transpose(axes)
    elif order in ("C", "F"):
        made.array = _shaped(kind.dtype, values, shape, order)
    else:
        raise pickle.UnpicklingError(f"it holds an array in the order {order!r}")
    return made


def _scalar(kind: Any, value: Any) -> np.generic:
    if not isinstance(kind, _Dtype) or kind.dtype.hasobject:
        raise pickle.UnpicklingError("it holds a number without a type")
    return _values(kind.dtype, value, 1)[0]


def _encode_latin1(text: str, encoding: str) -> bytes:
    """`_codecs.encode` as Python 3 writes bytes into pickles of protocol 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes text as {encoding!r}")
    return text.encode("latin1")


def _no_bytes(*arguments: Any) -> bytes:
    """`bytes` as Python 3 writes `b""` into pickles of protocol 2."""
    if arguments:
        raise pickle.UnpicklingError("it makes bytes of something else")
    return b""


_ARRAY_TYPE = _Named(_Array)
# numpy 2 writes `numpy._core` where numpy 1 wrote `numpy.core`.
_ADMITTED = {
    ("numpy", "ndarray"): _ARRAY_TYPE,
    ("numpy", "dtype"): _Named(_Dtype),
    ("numpy.core.multiarray", "_reconstruct"): _Named(_Array),
    ("numpy._core.multiarray", "_reconstruct"): _Named(_Array),
    ("numpy.core.multiarray", "scalar"): _Named(_scalar),
    ("numpy._core.multiarray", "scalar"): _Named(_scalar),
    ("numpy.core.numeric", "_frombuffer"): _Named(_from_buffer),
    ("numpy._core.numeric", "_frombuffer"): _Named(_from_buffer),
    ("_codecs", "encode"): _Named(_encode_latin1),
    ("__builtin__", "bytes"): _Named(_no_bytes),
}


# The one in C allocates as much memory as a damaged index asks for.
class _NumpyUnpickler(pickle._Unpickler):
    def _load_bytearray(self):
        (number,) = struct.unpack("<Q", self.read(8))
        content = self.read(number)
        if len(content) != number:
            raise pickle.UnpicklingError("it ends within an array")
        self.append(bytearray(content))

    # That of the base class takes the memory before it looks for the content.
    dispatch = pickle._Unpickler.dispatch | {pickle.BYTEARRAY8[0]: _load_bytearray}

    def find_class(self, module, name):
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}; only numpy arrays and plain containers are read, because others can run code"
            )
        return _ADMITTED[module, name]


def load_numpy_pickle(path: str | Path) -> Any:
    """Reads a pickle of numpy arrays, numbers, texts and plain containers; texts of Python 2 are decoded as Latin-1.

    Raises:
        pickle.UnpicklingError: if the file is damaged or names anything else, which is then neither imported nor called.
    """
    with open(path, "rb") as file:
        try:
            return _with_arrays(_NumpyUnpickler(file, encoding="latin1").load(), set())
        except (pickle.UnpicklingError, MemoryError):
            raise
        # What a damaged file makes of the unpickler: EOFError, KeyError, struct.error, RecursionError...
        except Exception as error:
            raise pickle.UnpicklingError(f"it is damaged ({type(error).__name__}: {error})") from error


def _with_arrays(value: Any, seen: set[int]) -> Any:
    """The same containers with arrays in the place of what was read for them."""
    if isinstance(value, _Array):
        value = value.array
        if value.dtype.hasobject and id(value) not in seen:
            seen.add(id(value))
            for position, item in enumerate(value.flat):
                value.flat[position] = _with_arrays(item, seen)
    elif isinstance(value, tuple):
        return tuple(_with_arrays(item, seen) for item in value)
    elif isinstance(value, (list, dict)) and id(value) not in seen:
        seen.add(id(value))
        for key in value if isinstance(value, dict) else range(len(value)):
            value[key] = _with_arrays(value[key], seen)
    elif isinstance(value, (_Dtype, _Named)):
        raise pickle.UnpicklingError("it holds the type of an array, but no array")
    return value
