"""What to install where a package is missing that reads a format."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def naming_the_extra() -> Iterator[None]:
    """Around imports of packages of the extra `[recordings]`."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise ModuleNotFoundError(
            f'{package} is not installed: `pip install "cmssl_hf[recordings]"`.', name=error.name
        ) from None
