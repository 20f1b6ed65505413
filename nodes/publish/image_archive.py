"""Keeps the crops of defects as PNG files, within a quota: the oldest are deleted first."""

from collections import deque
from pathlib import Path


class ImageArchive:
    """Files under ``folder`` (``CAMERA/LABEL/ID.png``), together at most ``quota_bytes``.

    The constructor lists the folder. It raises ``OSError`` if that fails.
    """

    def __init__(self, folder: Path, quota_bytes: int) -> None:
        self._folder, self._quota = folder, quota_bytes
        found = sorted((p.stat().st_mtime_ns, p, p.stat().st_size) for p in folder.glob("*/*/*.png"))
        self._files = deque((path, size) for _, path, size in found)
        self._bytes = sum(size for _, size in self._files)

    def keep(self, name: str, png: bytes) -> None:
        """Write one crop, after deleting the oldest ones for room; does nothing if it is there already. No fsync. Raises ``OSError``."""
        path, part = self._folder / name, self._folder / f"{name}.part"
        if path.exists():
            return
        while self._files and self._bytes + len(png) > self._quota:
            oldest, size = self._files.popleft()
            oldest.unlink(missing_ok=True)
            self._bytes -= size
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(png)
            part.rename(path)
        finally:
            part.unlink(missing_ok=True)
        self._files.append((path, len(png)))
        self._bytes += len(png)
