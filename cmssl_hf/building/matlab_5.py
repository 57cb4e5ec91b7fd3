"""Variables of MATLAB v5 files, read by a process of their own: scipy's reader, in C, crashes on some damaged files."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np


_READ = """
import sys
import numpy as np
from scipy.io import loadmat

source, target, *names = sys.argv[1:]
for name, values in loadmat(source, variable_names=names).items():
    if name in names:
        np.save(f"{target}/{name}.npy", values, allow_pickle=False)
"""


def read_variables(path: str | Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Reads numeric and text arrays.

    Args:
        path: a MATLAB file up to version 7, which is not HDF5.
        names: the variables that are wanted; those that the file lacks are left out of the result.

    Raises:
        ValueError: if the file cannot be read, or a variable is of another kind.
        FileNotFoundError: if there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", _READ, str(path), folder, *names]
        reading = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if reading.returncode:
            message = reading.stderr.strip().splitlines()[-1:] or [f"the reader ended with {reading.returncode}"]
            raise ValueError(f"{path} is not a whole MATLAB file: {message[0]}")
        arrays = {name: Path(folder, f"{name}.npy") for name in names}
        return {name: np.load(array) for name, array in arrays.items() if array.is_file()}
