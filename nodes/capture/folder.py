"""``folder:``: the JPEG, PNG and BMP files of a folder, by name. They travel encoded and are decoded in preprocess."""

import logging
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nodes.capture.source import Shot
from pipeline.errors import ConfigError
from pipeline.source_url import FOLDER_SUFFIXES

log = logging.getLogger(__name__)


class FolderSource:
    """Reads each file straight into its slot. The list is made once, at the start."""

    def __init__(self, path: str, *, loop: bool, max_bytes: int) -> None:
        folder = Path(path)
        if not folder.is_dir():
            raise ConfigError(f"folder:{path}: no such folder")
        found = [p for p in folder.iterdir() if p.is_file()]
        self._files = sorted(p for p in found if p.suffix.lower() in FOLDER_SUFFIXES)
        if not self._files:
            raise ConfigError(f"folder:{path}: holds no JPEG, PNG or BMP file")
        if skipped := len(found) - len(self._files):
            log.warning("%d files skipped in %s: not %s", skipped, path, " ".join(FOLDER_SUFFIXES))
        self._loop, self._max_bytes = loop, max_bytes
        self.size: tuple[int, int] | None = None
        self.fps: float | None = None
        # One byte more than the largest file, so that a file that has grown since is noticed.
        self.slot_bytes = min(max_bytes, max(p.stat().st_size for p in self._files)) + 1

    def has(self, frame: int) -> bool:
        return self._loop or frame < len(self._files)

    def read(self, frame: int, into: NDArray[np.uint8]) -> Shot | None:
        if not self.has(frame):
            return None
        path = self._files[frame % len(self._files)]
        name = os.fsencode(path.name).decode("utf-8", "replace")  # a name may hold any bytes; an event is UTF-8
        try:
            length = _read_into(path, into)
        except OSError:
            return Shot(shape=None, length=0, source=name, reason="unreadable")
        if length == 0:
            return Shot(shape=None, length=0, source=name, reason="empty")
        if length == len(into) or length > self._max_bytes:
            return Shot(shape=None, length=0, source=name, reason="too_large")
        return Shot(shape=None, length=length, source=name)

    def close(self) -> None:
        pass


def _read_into(path: Path, into: NDArray[np.uint8]) -> int:
    """Bytes read, at most ``len(into)``; the kernel writes them to the ring, nothing lies between."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        view, done = into.data, 0
        while done < len(view) and (count := os.readv(fd, [view[done:]])) > 0:
            done += count
        return done
    finally:
        os.close(fd)
