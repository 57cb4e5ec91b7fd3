"""The error of a recording that cannot be read, and how whatever a parser raises becomes one."""

from types import TracebackType

from datasets.exceptions import DatasetGenerationError


class PreparationError(DatasetGenerationError, ValueError):
    """What is wrong with a release or an option, said when rows are made. `datasets` replaces any other error by one that says
    nothing."""


class DamagedRecordError(PreparationError):
    """A file or recording that cannot be read; the message names it."""


class damaged_if_unreadable:
    """Context that turns whatever a parser raises inside it into a `DamagedRecordError` that names a file.

    Args:
        path: the file, or anything whose text names it.
    """

    def __init__(self, path: object):
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        # Parsers of damaged files raise almost anything: IndexError, struct.error, UnicodeDecodeError, zlib.error... A generator
        # that is dropped is closed by an exception too, perhaps when this module is gone already.
        if not isinstance(error, Exception) or isinstance(error, DamagedRecordError):
            return
        raise DamagedRecordError(f"{self._path} cannot be read: {type(error).__name__}: {error}") from error
