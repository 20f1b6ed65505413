"""The files of a ``folder:`` source. They are listed once in a run, and kept for a capture process that comes after."""

import contextlib
import logging
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

import msgspec

from nodes.capture.run_file import SHORTAGES, recall, remember
from pipeline.errors import ConfigError
from pipeline.source_url import FOLDER_SUFFIXES

log = logging.getLogger(__name__)
_SUFFIXES = tuple(suffix.encode() for suffix in FOLDER_SUFFIXES)
Entries = Iterable[os.DirEntry[bytes]]


class FileList(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to read, by name; a name may hold any bytes but the slash."""

    names: list[bytes]
    largest: int
    """Bytes of the largest file."""

    @classmethod
    def make(cls, path: str) -> Self:
        """List the folder, and log what is skipped. Raises ``ConfigError`` for a folder without images, or that cannot be listed."""
        with _listing(path) as entries:
            sizes = _sizes(path, entries)
        if not sizes:
            raise _empty(path)
        return cls(names=sorted(sizes), largest=max(sizes.values()))


def list_of_run(path: str, kept: Path, *, first: bool) -> FileList:
    """The list that the run's first capture process makes and keeps in the file ``kept``; the others go on with that one.

    Raises ``ConfigError`` while the folder is not there.
    """
    found = None if first else recall(kept, FileList)
    if found is not None:
        check_folder(path)
        return found
    found = FileList.make(path)
    if not first:
        text = "%s, the list of this run's files, is lost; made anew: if files came or went since, some are skipped or inspected twice"
        log.warning(text, kept)
    _keep(found, kept)
    return found


def check_folder(path: str) -> None:
    """Raises ``ConfigError`` if the folder cannot be listed or holds no image, as where a mount is gone or was never made again."""
    with _listing(path) as entries:
        if not any(_is_image(entry.name) for entry in entries):
            raise _empty(path)


def _keep(found: FileList, kept: Path) -> None:
    try:
        remember(kept, found)
    except OSError as exc:
        text = "the list of this run's files cannot be kept in %s (%s): if capture dies and files have come or gone, "
        text += "some are skipped or inspected twice"
        log.warning(text, kept, exc.strerror)


@contextlib.contextmanager
def _listing(path: str) -> Iterator[Entries]:
    """The entries of a folder. Raises ``ConfigError`` where they cannot be read, or looked at."""
    try:
        with os.scandir(os.fsencode(path)) as entries:
            yield entries
    except (FileNotFoundError, NotADirectoryError, ValueError) as exc:
        raise ConfigError(f"folder:{path}: no such folder") from exc
    except OSError as exc:
        if exc.errno in SHORTAGES:
            raise
        raise ConfigError(f"folder:{path}: cannot be listed: {exc.strerror}") from exc


def _sizes(path: str, entries: Entries) -> dict[bytes, int]:
    """Bytes of each image by name; logs how many other files there are. Folders are passed over."""
    sizes: dict[bytes, int] = {}
    others = odd = 0
    for name, found in _looked_at(entries):
        if found is not None and stat.S_ISDIR(found.st_mode):
            continue
        if not _is_image(name):
            others += 1
        elif found is None or not stat.S_ISREG(found.st_mode):
            odd += 1
        else:
            sizes[name] = found.st_size
    if others:
        log.warning("%d files skipped in %s: not %s", others, path, " ".join(FOLDER_SUFFIXES))
    if odd:
        log.warning("%d files skipped in %s: no plain files (pipes, sockets, devices, links that lead nowhere)", odd, path)
    return sizes


def _looked_at(entries: Entries) -> Iterator[tuple[bytes, os.stat_result | None]]:
    """Names, and what each is; None: a link that leads nowhere, in a circle, or where this user may not go."""
    for entry in entries:
        try:
            yield entry.name, entry.stat()
        except OSError as exc:
            if entry.is_symlink():
                yield entry.name, None
            elif not isinstance(exc, FileNotFoundError):  # else it has just gone
                raise


def _is_image(name: bytes) -> bool:
    return os.path.splitext(name)[1].lower() in _SUFFIXES


def _empty(path: str) -> ConfigError:
    return ConfigError(f"folder:{path}: holds no JPEG, PNG or BMP file")
