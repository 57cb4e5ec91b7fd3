"""The programs in `scripts/` as modules."""

import importlib.util
import sys
from types import ModuleType

from helpers.checkout import ROOT


def load_script(name: str) -> ModuleType:
    """The module of `scripts/<name>.py`, without running it as a program."""
    specification = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    # Dataclasses look their module up.
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module
