"""Finding the files of a release wherever people keep it: behind links, in another case, among what operating systems leave."""

import os
import re
from collections.abc import Iterable
from pathlib import Path


#: Folders that file managers, archivers and network drives leave; names that begin with a dot are passed over likewise.
_FOREIGN_FOLDERS = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"}


def all_files(folder: str | Path, leave_out: str | Path | None = None) -> list[Path]:
    """The files of a folder and of its subfolders, sorted by path, but for hidden ones and those of operating systems.

    Links are followed, except to what `folder` lies in. No folder is entered twice, however many links lead to it: under its own
    path if it lies in `folder`, else under the first link. A link to a file that is found anyway, or to nowhere, is passed over.

    Args:
        folder: where to look.
        leave_out: a subfolder that is not looked into.
    """
    root = Path(folder).resolve()
    found: list[Path] = []
    linked_files: list[Path] = []
    linked_folders: list[Path] = []
    entered = {_identity(Path(leave_out))} if leave_out is not None and Path(leave_out).exists() else set()
    folders = [Path(folder)]
    while folders or linked_folders:
        # What is no link comes first, so that a folder has its own path.
        current = folders.pop() if folders else linked_folders.pop(0)
        if _identity(current) in entered:
            continue
        entered.add(_identity(current))
        with os.scandir(current) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower() in _FOREIGN_FOLDERS:
                    continue
                path, is_link = current / entry.name, entry.is_symlink()
                if entry.is_file():
                    (linked_files if is_link else found).append(path)
                elif entry.is_dir() and not (is_link and root.is_relative_to(path.resolve())):
                    (linked_folders if is_link else folders).append(path)
        linked_folders.sort()
    present = {path.resolve() for path in found} if linked_files else set()
    return sorted([*found, *(path for path in linked_files if path.resolve() not in present)])


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def matching_files(folder: str | Path, pattern: str) -> list[Path]:
    """Those of `all_files` whose whole name matches a regular expression, whatever its case."""
    matches = re.compile(pattern, re.IGNORECASE).fullmatch
    return [path for path in all_files(folder) if matches(path.name)]


def first_by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    """Files by the upper case of their name without extension; of a copy in another folder the first is taken."""
    first: dict[str, Path] = {}
    for path in paths:
        first.setdefault(path.stem.upper(), path)
    return first


def beside(path: Path, name: str) -> Path:
    """The file of this name in the folder of `path`: as it is spelled or else in another case. If there is neither, the path
    that it should have."""
    wanted = path.with_name(name)
    if wanted.exists() or not path.parent.is_dir():
        return wanted
    return next((other for other in sorted(path.parent.iterdir()) if other.name.lower() == name.lower()), wanted)
