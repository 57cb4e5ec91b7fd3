"""The models that come with the package. No torch is needed to ask where they are."""

from pathlib import Path


#: A folder for each model, in the layout of a Hub repository without its code, which is the package itself.
_FOLDER = Path(__file__).with_name("pretrained")


def pretrained_names() -> list[str]:
    """Names that [`pretrained`] knows."""
    return sorted(config.parent.name for config in _FOLDER.glob("*/config.json"))


def pretrained(name: str) -> str:
    """
    Folder of a model that comes with the package, for `from_pretrained`, `pipeline(model=...)` and the commands:

    ```python
    predict = pipeline("physiological-signal-regression", model=cmssl_hf.pretrained("respiration"))
    ```

    What each was trained on, and how far off it is on people it has not seen, is in the `README.md` of its folder.

    Raises:
        ValueError: if there is none of that name; the message lists those there are.
    """
    if name not in pretrained_names():
        raise ValueError(
            f"No model called {name!r} comes with the package; there are {', '.join(pretrained_names())}."
        )
    return str(_FOLDER / name)


def find_model(name: str) -> str:
    """The folder of a model that comes with the package, or `name` itself: a folder of a run or a Hub id."""
    return pretrained(name) if name in pretrained_names() and not Path(name).is_dir() else name
