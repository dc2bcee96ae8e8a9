"""Files from the net, in a cache folder, with checksums."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

from scgpcl._files import replacing

if TYPE_CHECKING:
    from ._sources import File

logger = logging.getLogger(__name__)

#: Environment variable with the cache folder.
CACHE_VARIABLE = "SCGPCL_CACHE"
#: In the cache folder: SHA-256 of each file as it was when it was first there.
RECORD = "checksums.json"
#: Seconds until a silent server counts as absent.
TIMEOUT = 30


class DownloadError(OSError):
    """A file that could not be had; the message names its address and where to put it by other means."""


def cache_folder(cache_dir: str | os.PathLike[str] | None) -> Path:
    """Folder that downloads are kept in: the given one, that of `SCGPCL_CACHE`, or the usual one of the system."""
    import pooch

    if cache_dir is not None and not isinstance(cast("object", cache_dir), str | os.PathLike):
        msg = f"Expected `cache_dir` to be the path of a folder or None, found {cache_dir!r}."
        raise TypeError(msg)
    return Path(cache_dir or os.environ.get(CACHE_VARIABLE) or pooch.os_cache("scgpcl")).expanduser().absolute()


def fetch(file: File, folder: Path) -> Path:
    """Path of a file in the cache, which is downloaded if it is not there or not what it should be.

    A download goes to a temporary name and takes its place when it is complete and right. Where no checksum is known, that
    of `record` is compared.

    Parameters
    ----------
    file
        Address, name and checksum.
    folder
        Cache folder; it is made if necessary.

    Returns
    -------
    Path of the file.

    Raises
    ------
    DownloadError
        If the folder cannot be written to, the address does not answer, the transfer breaks off, or the checksum is not the
        expected one.
    """
    path = folder / file.name
    expected = file.sha256 or _recorded(folder).get(file.name)
    if path.is_file() and (expected is None or _sha256(path) == expected):
        return path
    _make(folder, file)
    _download(file, path, expected)
    return path


def record(file: File, path: Path) -> None:
    """Keep the checksum of a file that has no known one, so that later files are compared with it.

    A folder that cannot be written to is left as it is.

    Parameters
    ----------
    file
        Name and checksum.
    path
        Where `fetch` put it; it has been read without an error.
    """
    folder = path.parent
    recorded = _recorded(folder)
    if file.sha256 is not None or file.name in recorded:
        return
    recorded[file.name] = _sha256(path)
    try:
        with replacing(folder / RECORD) as temporary:
            temporary.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    except OSError:
        logger.info("The checksum of %s could not be recorded in %s.", file.name, folder)
        return
    logger.info("Recorded the checksum of %s: %s", file.name, recorded[file.name])


def _download(file: File, path: Path, expected: str | None) -> None:
    import pooch
    import requests

    found = "" if not path.is_file() else f" The file in the cache has another checksum: {_sha256(path)}."
    try:
        pooch.retrieve(
            file.url,
            known_hash=None if expected is None else f"sha256:{expected}",
            fname=path.name,
            path=path.parent,
            downloader=pooch.HTTPDownloader(timeout=TIMEOUT),
        )
    except ValueError as error:  # pooch: the checksum of what came
        origin = "the known one" if file.sha256 else f"that of its first download, kept in {path.parent / RECORD}"
        msg = (
            f"Expected {file.name} with SHA-256 {expected} ({origin}), found another one at {file.url}. The file there may"
            f" have changed, or the transfer was tampered with.{found} To accept a new file whose checksum was recorded"
            f" here, remove its line in {RECORD}."
        )
        raise DownloadError(msg) from error
    except (requests.RequestException, OSError) as error:
        msg = (
            f"Expected to download {file.url} to the cache folder {path.parent}, found:"
            f" {type(error).__name__}: {error}.{found} Check the connection and try again, or get the file by other means and"
            f" put it at {path}."
        )
        raise DownloadError(msg) from error


def _make(folder: Path, file: File) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(folder)
    except OSError as error:
        msg = (
            f"Expected a cache folder that can be written to for {file.url}, found {folder}: {error}. Pass `cache_dir` or set"
            f" {CACHE_VARIABLE} to another folder."
        )
        raise DownloadError(msg) from error


def _recorded(folder: Path) -> dict[str, str]:
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        msg = (
            f"Expected a table of checksums in {folder / RECORD}, found: {error}. Remove that file to start a new one."
        )
        raise DownloadError(msg) from error


def _sha256(path: Path) -> str:
    import pooch

    return pooch.file_hash(str(path), alg="sha256")
