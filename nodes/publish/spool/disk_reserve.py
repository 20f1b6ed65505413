"""Keeps room on the disk in reserve. On a full disk it is given back, so that gaps and alarms still become durable."""

import os
from contextlib import suppress
from pathlib import Path

from nodes.publish.spool.database import free_bytes

LEAST_BYTES, MOST_BYTES = 1 << 20, 16 << 20


class DiskReserve:
    """A file that only occupies space: an eighth of the free space, but 1 to 16 MiB, or the size that it has already.

    The constructor makes no file; it raises ``OSError`` if the disk cannot be examined.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bytes = path.stat().st_size if path.exists() else 0
        if not LEAST_BYTES <= self._bytes <= MOST_BYTES:
            self._bytes = max(LEAST_BYTES, min(MOST_BYTES, free_bytes(path.parent) // 8))

    def take(self, *, spare: bool = False) -> bool:
        """Reserve the room; returns whether it is reserved now. Never raises.

        ``spare``: only if twice the room is free, so that the disk really has room again beyond the reserve itself.
        """
        try:
            if spare and free_bytes(self._path.parent) < 2 * self._bytes:
                return False
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, self._bytes)
            finally:
                os.close(fd)
        except OSError:  # no room: the caller tries again later
            self.release()
            return False
        return True

    def release(self) -> None:
        """Give the room back to the disk. A file without blocks stays; its size tells the next publish node how much. Never raises."""
        with suppress(OSError):  # a folder that is gone or may not be written: no room is kept there
            os.truncate(self._path, 0)
            os.truncate(self._path, self._bytes)
