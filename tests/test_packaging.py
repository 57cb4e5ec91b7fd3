"""The installed package holds everything that the repository holds."""

import configparser
from pathlib import Path

from setuptools import find_packages


def test_setup_lists_every_package():
    root = Path(__file__).parents[1]
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    listed = setup["options"]["packages"].split()
    expected = [*find_packages(str(root), include=["cmssl_hf*"])]
    expected += [f"cmssl_hf.{name}" for name in find_packages(str(root), include=["dataset_builders*"])]
    assert sorted(listed) == sorted(expected)
    for builder in (root / "dataset_builders").glob("*/*.py"):
        assert (builder.parent / "__init__.py").is_file(), f"{builder.parent} needs an __init__.py"
