"""Room on the disk kept for when there is none: given back then, so that gaps and alarms still become durable."""

import os
from contextlib import suppress
from pathlib import Path

from nodes.publish.spool.database import free_bytes

LEAST_BYTES, MOST_BYTES = 1 << 20, 16 << 20


class DiskReserve:
    """A file that does nothing but lie there; on a small disk an eighth of what is free."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bytes = path.stat().st_size if path.exists() else 0
        if not LEAST_BYTES <= self._bytes <= MOST_BYTES:
            self._bytes = max(LEAST_BYTES, min(MOST_BYTES, free_bytes(path.parent) // 8))

    def take(self, *, spare: bool = False) -> bool:
        """Whether the room is kept now. ``spare``: only if as much again is free, so that not just what was given back is taken."""
        try:
            if spare and free_bytes(self._path.parent) < 2 * self._bytes:
                return False
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, self._bytes)
            finally:
                os.close(fd)
        except OSError:  # no room: asked again later
            self.release()
            return False
        return True

    def release(self) -> None:
        """Give the room back to the disk; a file without blocks stays, whose size the next publish node knows."""
        with suppress(OSError):  # a folder that is gone or may not be written: no room is kept there
            os.truncate(self._path, 0)
            os.truncate(self._path, self._bytes)
