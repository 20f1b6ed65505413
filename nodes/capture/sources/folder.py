"""``folder:``: the JPEG, PNG and BMP files of a folder, in the order of their names. Frames stay encoded; preprocess decodes them."""

import contextlib
import logging
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from nodes.capture.sources.kinds import FOLDER_SUFFIXES
from nodes.capture.sources.source import ENDED, READY, SHORTAGES, Awaited, SourceFrame, recall, remember
from pipeline.core.errors import ConfigError
from pipeline.system.files import open_plain

log = logging.getLogger(__name__)
_SUFFIXES = tuple(suffix.encode() for suffix in FOLDER_SUFFIXES)
Entries = Iterable[os.DirEntry[bytes]]


class FileList(msgspec.Struct, frozen=True, kw_only=True):
    """The files to read, sorted by name; a name may contain any bytes but the slash."""

    names: list[bytes]
    largest: int
    """Size of the largest file, bytes."""

    @classmethod
    def make(cls, path: str) -> Self:
        """List the folder, and log which files are skipped.

        Raises ``ConfigError`` for a folder that has no images or cannot be listed, ``OSError`` if no descriptors are left.
        """
        with _listing(path) as entries:
            sizes = _sizes(path, entries)
        if not sizes:
            raise _empty(path)
        return cls(names=sorted(sizes), largest=max(sizes.values()))


def list_of_run(path: str, kept: Path, *, first: bool) -> FileList:
    """The run's list of files. The first capture process makes it and stores it in the file ``kept``; later ones read it there.

    If ``kept`` is lost or cannot be written, that is logged. Raises ``ConfigError`` while the folder cannot be listed or has no
    image, ``OSError`` if no descriptors are left.
    """
    found = None if first else recall(kept, FileList)
    if found is not None:
        check_folder(path)
        return found
    found = FileList.make(path)
    if not first:
        text = (
            "%s, the list of this run's files, is lost; the folder was listed again."
            " If files were added or removed since the run began, some are skipped or inspected twice"
        )
        log.warning(text, kept)
    _keep(found, kept)
    return found


def check_folder(path: str) -> None:
    """Raises ``ConfigError`` if the folder cannot be listed or has no image, for instance because its disk is not mounted.

    Raises ``OSError`` if no descriptors are left.
    """
    with _listing(path) as entries:
        if not any(_is_image(entry.name) for entry in entries):
            raise _empty(path)


def _keep(found: FileList, kept: Path) -> None:
    try:
        remember(kept, found)
    except OSError as exc:
        text = "the list of this run's files cannot be kept in %s (%s): if capture dies and files were added or removed, "
        text += "some are skipped or inspected twice"
        log.warning(text, kept, exc.strerror)


@contextlib.contextmanager
def _listing(path: str) -> Iterator[Entries]:
    """The entries of a folder. Raises ``ConfigError`` if they cannot be read or examined, ``OSError`` if no descriptors are left."""
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
    """Size of each image in bytes, by name; logs how many other files there are. Sub-folders are ignored."""
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
    """Names with their status; None for a link whose target is missing, circular, or closed to this user."""
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


class FolderSource:
    """Reads each file straight into its slot, as a ``Source``. ``files``: the run's list; None: the folder is listed now.

    A file that is gone or cannot be read gives an invalid frame, ``unreadable``; one over ``max_bytes``, or that has grown beyond
    its slot, ``too_large``. Constructor and ``read`` raise ``ConfigError`` if the folder cannot be listed or has no image, and
    ``OSError`` if no descriptors are left.
    """

    def __init__(self, path: str, *, loop: bool, max_bytes: int, files: FileList | None = None) -> None:
        self._path, self._folder = path, os.fsencode(path)
        self._files = files or FileList.make(path)
        self._loop, self._max_bytes = loop, max_bytes
        self.size: tuple[int, int] | None = None
        self.fps: float | None = None
        self.live = False
        # One byte more than the largest file, so that a file that has grown since is noticed.
        self.slot_bytes = min(max_bytes, self._files.largest) + 1

    def fileno(self) -> int | None:
        return None

    def look(self, frame: int) -> Awaited:
        return READY if self.has(frame) else ENDED

    def skip(self, frame: int) -> None:
        pass

    def has(self, frame: int) -> bool:
        """Whether there is a frame number ``frame``; always true with ``loop``."""
        return self._loop or frame < len(self._files.names)

    def read(self, frame: int, into: NDArray[np.uint8]) -> SourceFrame | None:
        if not self.has(frame):
            return None
        name = self._files.names[frame % len(self._files.names)]
        source = name.decode("utf-8", "replace")  # a name may contain any bytes; an event is UTF-8
        length = self._read(name, into)
        if length is None:
            return SourceFrame(shape=None, length=0, source=source, reason="unreadable")
        if length == 0:
            return SourceFrame(shape=None, length=0, source=source, reason="empty")
        if length == len(into) or length > self._max_bytes:
            return SourceFrame(shape=None, length=0, source=source, reason="too_large")
        return SourceFrame(shape=None, length=length, source=source)

    def _read(self, name: bytes, into: NDArray[np.uint8]) -> int | None:
        """Read a file into ``into``; returns the bytes read, None if it cannot be read though its folder is there."""
        path = os.path.join(self._folder, name)
        for _ in range(2):  # a folder that has just come back has its files again
            try:
                return _read_into(path, into)
            except OSError as exc:
                if exc.errno in SHORTAGES:
                    raise
                check_folder(self._path)
        return None

    def close(self) -> None:
        pass


def _read_into(path: bytes, into: NDArray[np.uint8]) -> int:
    """Read at most ``len(into)`` bytes and return how many. The kernel writes them straight to the ring."""
    fd = open_plain(path)
    try:
        view, done = into.data, 0
        while done < len(view) and (count := os.readv(fd, [view[done:]])) > 0:
            done += count
        return done
    finally:
        os.close(fd)
