"""``jsonl:PATH``: every event as a line of JSON in a file, which begins anew when it is full.

A group is confirmed once the disk has it. What was written and not confirmed (a kill) is found again by the id in the last
line, and a line that was torn is cut off: each event stands in the files once.
"""

import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from nodes.publish.sinks.sink import SinkOpening
from pipeline.config.urls import SinkKind, SinkUrl
from pipeline.core.errors import ConfigError, LinepipeError
from pipeline.system.user_path import here, look

GROUP = 500
MODE = 0o640  # the plant system's user reads it as a member of the group
TAIL_BYTES = 4 << 20
"""Longest line that is looked for at the end of a file."""


class JsonLinesOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a file of JSON lines."""

    max_mb: Annotated[int, Meta(ge=1, le=100_000, description="a whole number from 1")] = 100
    """Size, in MB, at which the file is put aside as ``PATH.1`` and a new one is begun."""
    keep: Annotated[int, Meta(ge=1, le=10_000, description="a whole number from 1")] = 10
    """How many files are kept beside the one that is written; the oldest goes first."""


class _Line(msgspec.Struct):
    """What every event has."""

    id: str
    type: str


class JsonLinesSink:
    """A file and those put aside, as a ``Sink``. One process at a time writes it."""

    def __init__(self, url: SinkUrl, opening: SinkOpening) -> None:
        self._path, self._feed = Path(os.path.realpath(url.path)), opening.feed
        self._max_bytes, self._keep = url.options.max_mb * 1_000_000, url.options.keep
        self._fd = -1

    def connect(self) -> None:
        """Open the file and see how far it came. Raises ``LinepipeError`` if it is not a file of events, or another writes it."""
        self._fd = self._open()
        last = self._last_id(self._fd, self._path, mend=True) or self._last_id_aside()
        os.fsync(self._fd)
        if (seq := self._feed.find(last)) > self._feed.sent:
            self._feed.move(seq)

    def turn(self) -> bool:
        """Append a group and have the disk take it."""
        if self._moved():
            self.close()
            self.connect()
        if not (events := self._feed.unsent(GROUP)):
            return False
        if os.fstat(self._fd).st_size >= self._max_bytes:
            self._put_aside()
        self._append(memoryview(b"".join(event.data + b"\n" for event in events)))
        self._feed.confirm(events)
        return True

    def _append(self, data: memoryview) -> None:
        """All or nothing: after a failed fsync what was written may be gone although it can be read, so it is written again."""
        before = os.fstat(self._fd).st_size
        try:
            while data:
                data = data[os.write(self._fd, data) :]
            os.fsync(self._fd)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._fd, before)
            raise

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        new = not self._path.exists()
        fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY, MODE)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise LinepipeError(f"{self._path} is no file")
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if new:
                os.fchmod(fd, MODE)
                _sync_folder(self._path)
        except BlockingIOError as exc:
            os.close(fd)
            raise LinepipeError(f"another process writes {self._path}") from exc
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _moved(self) -> bool:
        """Whether somebody moved or removed the file."""
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(self._fd))
        except FileNotFoundError:
            return True

    def _put_aside(self) -> None:
        """``PATH`` becomes ``PATH.1``, which becomes ``PATH.2``, ...; the last of ``keep`` goes."""
        free = next((k for k in range(1, self._keep) if not self._aside(k).exists()), self._keep)
        for k in range(free - 1, 0, -1):
            self._aside(k).replace(self._aside(k + 1))
        self._path.replace(self._aside(1))
        beyond = self._keep + 1
        while self._aside(beyond).exists():  # left by a configuration that kept more
            self._aside(beyond).unlink()
            beyond += 1
        self.close()
        self._fd = self._open()

    def _aside(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _last_id_aside(self) -> str:
        """Of the newest file put aside."""
        try:
            fd = os.open(self._aside(1), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return ""
        try:
            return self._last_id(fd, self._aside(1), mend=False)
        finally:
            os.close(fd)

    def _last_id(self, fd: int, path: Path, *, mend: bool) -> str:
        """Id of the event in the last whole line; empty: there is none. ``mend``: cut off what follows it."""
        size = os.fstat(fd).st_size
        start = max(0, size - TAIL_BYTES)
        tail = os.pread(fd, size - start, start)
        whole = tail[: tail.rfind(b"\n") + 1]
        if size and not whole and start:
            raise LinepipeError(f"{path} is no file of events; move it away")
        line = whole[:-1].rpartition(b"\n")[2]
        try:
            found = msgspec.json.decode(line, type=_Line).id if line else ""
        except ValueError as exc:  # also msgspec's
            raise LinepipeError(f"the last line of {path} is no event; move the file away") from exc
        if not found and tail and not _begins_an_event(tail):
            raise LinepipeError(f"{path} is no file of events; move it away")
        if mend and len(whole) < len(tail):
            os.ftruncate(fd, start + len(whole))
        return found


def _begins_an_event(tail: bytes) -> bool:
    return b'{"type":"'.startswith(tail[:9])


def _sync_folder(path: Path) -> None:
    fd = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _unusable(url: SinkUrl) -> str:
    """Why no such file can be written here, and what to do; empty: nothing is known."""
    path = Path(url.path)
    try:
        found, folder = look(path), look(path.parent)
    except ConfigError as exc:
        return str(exc)
    if folder is None or not stat.S_ISDIR(folder.st_mode):
        return f"no folder {path.parent} (relative paths count from {here()}); make it, or correct the path"
    if found is not None and not stat.S_ISREG(found.st_mode):
        return f"{path} is no file; name one"
    if not os.access(path.parent, os.W_OK | os.X_OK) or (found is not None and not os.access(path, os.R_OK | os.W_OK)):
        return f"{path} cannot be written by this user; have the rights of it and of its folder changed"
    return ""


JSON_LINES = SinkKind(example="jsonl:PATH[?max_mb=N&keep=N]", open=JsonLinesSink, options=JsonLinesOptions, unusable=_unusable)
"""A file with an event a line."""
