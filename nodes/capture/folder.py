"""``folder:``: the JPEG, PNG and BMP files of a folder, by name. They travel encoded and are decoded in preprocess."""

import os

import numpy as np
from numpy.typing import NDArray

from nodes.capture.file_list import FileList, check_folder
from nodes.capture.run_file import SHORTAGES
from nodes.capture.source import Shot
from pipeline.plain_file import open_plain


class FolderSource:
    """Reads each file straight into its slot. ``files``: the run's list; None: what is there now.

    A file that is gone is a frame that is unreadable. If the folder is gone, ``read`` raises ``ConfigError`` as the start does.
    """

    def __init__(self, path: str, *, loop: bool, max_bytes: int, files: FileList | None = None) -> None:
        self._path, self._folder = path, os.fsencode(path)
        self._files = files or FileList.make(path)
        self._loop, self._max_bytes = loop, max_bytes
        self.size: tuple[int, int] | None = None
        self.fps: float | None = None
        # One byte more than the largest file, so that a file that has grown since is noticed.
        self.slot_bytes = min(max_bytes, self._files.largest) + 1

    def has(self, frame: int) -> bool:
        return self._loop or frame < len(self._files.names)

    def read(self, frame: int, into: NDArray[np.uint8]) -> Shot | None:
        if not self.has(frame):
            return None
        name = self._files.names[frame % len(self._files.names)]
        source = name.decode("utf-8", "replace")  # a name may hold any bytes; an event is UTF-8
        length = self._read(name, into)
        if length is None:
            return Shot(shape=None, length=0, source=source, reason="unreadable")
        if length == 0:
            return Shot(shape=None, length=0, source=source, reason="empty")
        if length == len(into) or length > self._max_bytes:
            return Shot(shape=None, length=0, source=source, reason="too_large")
        return Shot(shape=None, length=length, source=source)

    def _read(self, name: bytes, into: NDArray[np.uint8]) -> int | None:
        """Bytes of a file, read into ``into``; None: it cannot be read, though its folder is there."""
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
    """Bytes read, at most ``len(into)``; the kernel writes them to the ring, nothing lies between."""
    fd = open_plain(path)
    try:
        view, done = into.data, 0
        while done < len(view) and (count := os.readv(fd, [view[done:]])) > 0:
            done += count
        return done
    finally:
        os.close(fd)
