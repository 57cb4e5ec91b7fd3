"""The tests that transformers runs on every model of its own, from the source distribution of the installed version.

They are no part of the transformers wheel. The source distribution is fetched once per version with pip from the configured
package index and kept in the user's cache folder. It lacks a few modules of the repository; stand-ins take their place.
"""

import importlib
import os
import subprocess
import sys
import tarfile
import tempfile
import types
from pathlib import Path

import pytest
import transformers


PACKAGE = "transformers_common_tests"

# What the modules that the source distribution lacks would define, as far as the common tests need it. Neither generation nor
# transformers' own exporters apply to models that do not generate; `torch.export` is tested by `test_modeling_*.py`.
STAND_INS = {
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "utils.test_configuration_utils": {
        # Fields that every `PreTrainedConfig` takes, with values that are not their defaults.
        "config_common_kwargs": {
            "return_dict": False,
            "output_hidden_states": True,
            "dtype": "float16",
            "chunk_size_feed_forward": 5,
            "architectures": ["SomeModel"],
            "id2label": {0: "label"},
            "label2id": {"label": 0},
            "problem_type": "regression",
        }
    },
}


def fetch_tests() -> Path:
    """Folder `tests` of the source distribution of the installed transformers version.

    Raises:
        RuntimeError: if the package index does not give it.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cmssl_hf"
    folder = cache / f"transformers-{transformers.__version__}-tests"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        command = [sys.executable, "-m", "pip", "download", f"transformers=={transformers.__version__}"]
        command += ["--no-deps", "--no-binary", ":all:", "--retries", "1", "--timeout", "30", "--dest", temporary]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"pip download failed: {result.stderr.strip().splitlines()[-1]}")
        (archive,) = Path(temporary).glob("transformers-*.tar.gz")
        with tarfile.open(archive) as source:
            members = [member for member in source.getmembers() if Path(member.name).parts[1:2] == ("tests",)]
            source.extractall(temporary, members, filter="data")
        tests = Path(temporary) / archive.name.removesuffix(".tar.gz") / "tests"
        (tests / "__init__.py").touch()
        try:
            tests.rename(folder)
        except OSError:
            # Another process was faster.
            if not folder.is_dir():
                raise
    return folder


def import_common(name: str) -> types.ModuleType:
    """Module `name` of transformers' common tests, e.g. `"test_modeling_common"`.

    Where the package index cannot be reached, the tests of the calling module are skipped, or fail if `CI` is set.
    """
    if PACKAGE not in sys.modules:
        try:
            folder = fetch_tests()
        except RuntimeError as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"transformers' common tests cannot be fetched ({error})", allow_module_level=True)
        _add_package(PACKAGE, [str(folder)])
        for path, content in STAND_INS.items():
            _add_package(f"{PACKAGE}.{path.split('.')[0]}", [])
            module = types.ModuleType(f"{PACKAGE}.{path}")
            module.__dict__.update(content)
            sys.modules[module.__name__] = module
    return importlib.import_module(f"{PACKAGE}.{name}")


def _add_package(name: str, path: list[str]) -> None:
    package = types.ModuleType(name)
    package.__path__ = path
    sys.modules[name] = package
