"""Registering datasets, tasks and objectives in a test, for that test alone."""

import contextlib
import sys
from collections.abc import Iterator

from cmssl_hf import tasks
from cmssl_hf.data import loading
from cmssl_hf.training import stage


@contextlib.contextmanager
def registrations_forgotten() -> Iterator[None]:
    """What is registered or imported inside the block is forgotten after it."""
    registries = [tasks.TASKS, loading._REGISTERED, stage._STAGES, stage._OBJECTIVES]
    before, modules = [dict(registry) for registry in registries], set(sys.modules)
    try:
        yield
    finally:
        for registry, content in zip(registries, before):
            registry.clear()
            registry.update(content)
        for name in set(sys.modules) - modules:
            if name.startswith("my_"):
                del sys.modules[name]
