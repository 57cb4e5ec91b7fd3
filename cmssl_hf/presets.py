"""The YAML files that come with the package, by name: settings of the stages, and configurations of `accelerate`."""

from importlib.resources import files
from pathlib import Path


_FOLDERS = {"configs": "", "accelerate": "accelerate/"}


def preset_names() -> list[str]:
    """Names of all files, with those of the folders that they are in, such as `accelerate/gpu_1`."""
    return sorted(_presets())


def find_preset(name: str, command: str | None = None) -> Path:
    """The file called `name`.

    Args:
        name: with or without `.yaml`.
        command: such as `"pretrain_encoder"`, whose name may be left out at the beginning: `"small-data"` is
            `pretrain_encoder_small-data`.

    Raises:
        ValueError: if there is none; the message lists those there are.
    """
    presets = _presets()
    stem = name.removesuffix(".yaml")
    for candidate in (f"{command}_{stem}", stem):
        if candidate in presets:
            return presets[candidate]
    fitting = [known for known in presets if command is None or known.startswith(command)]
    short = [known.removeprefix(f"{command}_") for known in sorted(fitting)]
    raise ValueError(f"There is no file, no folder and no preset {name!r}. Presets: {', '.join(short)}.")


def _presets() -> dict[str, Path]:
    scripts = Path(str(files("cmssl_hf.scripts")))
    return {
        f"{prefix}{file.relative_to(scripts / folder).with_suffix('').as_posix()}": file
        for folder, prefix in _FOLDERS.items()
        for file in (scripts / folder).rglob("*.yaml")
    }
