"""Fetching a release: continued after an interruption, checked against its checksums, extracted only within its folder."""

import hashlib
import http.client
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock
from tqdm import tqdm

from cmssl_hf.building.release_files import matching_files


CHECKSUM_FILE = "SHA256SUMS.txt"
_BLOCK_BYTES = 1 << 20


class DownloadError(OSError):
    """A release that cannot be downloaded or is not what its publisher says it is."""


def fetch_release(urls: Sequence[str], folder: Path, force: bool = False) -> Path:
    """Downloads the files of a release into one folder, archives extracted, unless the folder is there already.

    Every file that a `SHA256SUMS.txt` among them or in an archive lists is checked. The folder appears only when all is
    complete, and the archives are then removed.

    Args:
        urls: addresses of the archives and files.
        folder: where the release shall be.
        force: whether to download it again if it is there.

    Raises:
        DownloadError: if a file cannot be had, is damaged, or is an archive with members that lie outside of it.
    """
    downloads, incomplete = folder.with_name(f"{folder.name}.downloads"), folder.with_name(f"{folder.name}.incomplete")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if force:
            shutil.rmtree(folder, ignore_errors=True)
        if folder.is_dir():
            return folder
        files = [download(url, downloads) for url in urls]
        shutil.rmtree(incomplete, ignore_errors=True)
        incomplete.mkdir()
        try:
            verify_checksums(downloads)
            for file in files:
                if not _extract(file, incomplete):
                    shutil.copy(file, incomplete)
            # The UCI repository packs the archives of its authors into one of its own.
            for file in matching_files(incomplete, r".*\.zip"):
                _extract(file, file.parent)
                file.unlink()
            verify_checksums(incomplete)
        except DownloadError:
            shutil.rmtree(incomplete)
            shutil.rmtree(downloads)
            raise
        incomplete.rename(folder)
        shutil.rmtree(downloads)
    return folder


def download(url: str, folder: Path) -> Path:
    """Downloads one file, continuing where an earlier attempt was interrupted.

    Returns:
        Its path, `folder` and the last part of the address.

    Raises:
        DownloadError: if the server cannot be reached, refuses, or ends the transfer early.
    """
    target = folder / unquote(urlsplit(url).path.rpartition("/")[2])
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.part")
    present = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={present}-"} if present else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            # A server that cannot continue sends the whole file.
            present = present if response.status == 206 else 0
            remaining = response.headers.get("Content-Length")
            total = present + int(remaining) if remaining else None
            with (
                partial.open("ab" if present else "wb") as file,
                tqdm(initial=present, total=total, unit="B", unit_scale=True, desc=target.name) as progress,
            ):
                while block := response.read(_BLOCK_BYTES):
                    file.write(block)
                    progress.update(len(block))
    except urllib.error.HTTPError as error:
        if error.code == 416:  # there is nothing after what is present: it was complete, or of another file
            partial.unlink()
            return download(url, folder)
        raise DownloadError(f"{url} cannot be downloaded: {error}") from error
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"{url} cannot be downloaded: {error}. Run again to continue.") from error
    size = partial.stat().st_size
    if total is not None and size != total:
        raise DownloadError(f"{url} ended after {size:,} of {total:,} bytes. Run again to continue.")
    return partial.rename(target)


def verify_checksums(folder: Path) -> None:
    """Checks the files in `folder` that a `SHA256SUMS.txt` beside or above them lists.

    Raises:
        DownloadError: if any differ; the message names them.
    """
    for listing in sorted(folder.rglob(CHECKSUM_FILE)):
        damaged = []
        for line in listing.read_text().splitlines():
            expected, _, name = line.partition(" ")
            file = listing.parent / name.strip(" *")
            if file.is_file() and _sha256(file) != expected.lower():
                damaged.append(str(file.relative_to(folder)))
        if damaged:
            raise DownloadError(
                f"{len(damaged)} downloaded file(s) differ from {CHECKSUM_FILE}: {', '.join(damaged[:5])}. Run again to"
                " download them anew."
            )


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        digest = hashlib.sha256()
        while block := content.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _extract(archive: Path, folder: Path) -> bool:
    """Extracts `archive` into `folder`; false if it is none.

    Raises:
        DownloadError: if it is damaged or has a member outside of `folder`.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                for name in file.namelist():
                    if not (folder / name).resolve().is_relative_to(folder.resolve()):
                        raise DownloadError(f"{archive.name} is refused: its member {name!r} lies outside of it.")
                file.extractall(folder)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as file:
                file.extractall(folder, filter="data")
        elif archive.suffix in (".zip", ".tar", ".gz", ".tgz"):
            raise DownloadError(f"{archive.name} is not an archive. Run again to download it anew.")
        else:
            return False
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DownloadError(f"{archive.name} cannot be extracted: {error}. Run again to download it anew.") from error
    return True
