"""Where the checkout is that the tests belong to."""

import shutil
from pathlib import Path


ROOT = Path(__file__).parents[2]


def copy_package(folder: Path) -> Path:
    """A copy of what the package is built from, since building leaves files beside it."""
    for name in ("cmssl_hf", "dataset_builders", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder
