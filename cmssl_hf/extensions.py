"""Datasets, tasks and objectives from outside this package: every command takes `--import_module`."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence


IMPORT_HELP = (
    "`--import_module NAME` (may be repeated) imports a module first, which may register datasets, tasks and objectives; it is"
    " looked for in the current folder, too."
)


def import_extensions(arguments: Sequence[str]) -> list[str]:
    """Imports the modules that `--import_module` names.

    Args:
        arguments: of the command line.

    Returns:
        The other arguments.

    Raises:
        ValueError: if a module cannot be imported.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--import_module", "--import-module", action="append", default=[])
    options, others = parser.parse_known_args(list(arguments))
    if options.import_module and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for name in options.import_module:
        try:
            importlib.import_module(name)
        except Exception as error:
            raise ValueError(f"`--import_module {name}`: {type(error).__name__}: {error}") from error
    return others
