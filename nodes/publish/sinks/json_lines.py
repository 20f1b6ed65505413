"""``jsonl:PATH``: every event as a line of JSON in a file. A full file is put aside, and a new one begun.

With its watermark the sink stores in the spool which file it wrote and how long that was. What follows in the file is compared
with the next events: lines equal to them stay (the process was killed before it confirmed them), and an incomplete line of the
next event is cut off. Everything else stays, because somebody else wrote it.
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
from nodes.publish.spool.spool import Spooled
from pipeline.config.urls import SinkKind, SinkUrl
from pipeline.core.errors import ConfigError, LinepipeError
from pipeline.core.events import Event
from pipeline.system.files import sync
from pipeline.system.user_path import here, look

GROUP = 500
MODE = 0o640  # the plant system's user reads it as a member of the group
FIRST_LINE_BYTES = 1 << 20
"""Bytes of a file's first line that are examined at most."""


class JsonLinesOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of ``jsonl:``."""

    max_mb: Annotated[int, Meta(ge=1, le=100_000, description="a whole number from 1")] = 100
    """Size, in MB, at which the file is put aside as ``PATH.1`` and a new one is begun."""
    keep: Annotated[int, Meta(ge=1, le=10_000, description="a whole number from 1")] = 10
    """How many files are kept beside the one being written; the oldest is deleted first."""


class JsonLinesSink:
    """A file, and those put aside, as a ``Sink``. One process at a time writes it: it holds a lock on the file.

    All methods raise ``LinepipeError`` or ``OSError`` if the file cannot be used, ``SpoolTroubleError`` and ``SpoolDamagedError``.
    """

    def __init__(self, url: SinkUrl, opening: SinkOpening) -> None:
        self._given, self._feed = Path(url.path), opening.feed
        self._path = self._given
        self._max_bytes, self._keep = url.options.max_mb * 1_000_000, url.options.keep
        self._fd, self._size = -1, 0
        self._rights = (MODE, -1)
        """Mode and group of the file; the next file gets the same. -1: the group stays as it is."""
        self._disks: dict[Path, int] = {}

    def connect(self) -> None:
        """Open and lock the file, making it if it is missing, and find out how far it came.

        Raises ``LinepipeError`` if it is not a file of events, on another disk than before, or another process has locked it.
        """
        self._fd = self._open()
        found = os.fstat(self._fd)
        if found.st_ino == self._feed.note("inode"):
            self._find_own(min(self._feed.note("size"), found.st_size))
        elif not begins_with_an_event(self._fd):
            raise LinepipeError(f"{self._path} is no file of events; move it away")
        os.fsync(self._fd)
        self._confirm([], os.fstat(self._fd).st_size)

    def turn(self) -> bool:
        """Append the next ``GROUP`` events and wait until the disk has them. Opens the file again if somebody moved it."""
        if self._moved():
            self.close()
            self.connect()
        if not (events := self._feed.unsent(GROUP)):
            return False
        if os.fstat(self._fd).st_size >= self._max_bytes:
            self._put_aside()
        if (size := os.fstat(self._fd).st_size) != self._size:  # somebody else appended to it, or cut it
            self._confirm([], size)
        self._append(_begin_of_line(self._fd, size) + b"".join(map(_line, events)))
        self._confirm(events, os.fstat(self._fd).st_size)
        return True

    def close(self) -> None:
        """Close the file, and so end the lock; does nothing if it is closed."""
        if self._fd >= 0:
            found = os.fstat(self._fd)
            self._rights = (stat.S_IMODE(found.st_mode), found.st_gid)
            os.close(self._fd)
            self._fd = -1

    def _confirm(self, events: list[Spooled], size: int) -> None:
        self._size = size
        self._feed.confirm(events, {"inode": os.fstat(self._fd).st_ino, "size": size})

    def _find_own(self, place: int) -> None:
        """Confirm the events that were written after ``place`` without being confirmed; cuts off an incomplete one."""
        for event in iter(lambda: next(iter(self._feed.unsent(1)), None), None):
            line = _line(event)
            there = os.pread(self._fd, len(line), place)
            if there != line:
                if there and line.startswith(there):  # cut short by a kill, and the last in the file
                    os.ftruncate(self._fd, place)
                return
            place += len(line)
            self._confirm([event], place)

    def _append(self, data: bytes) -> None:
        """Append all or nothing. After a failed fsync the data may be lost although it can be read, so it is cut off and written again."""
        before, written = os.fstat(self._fd).st_size, 0
        try:
            while written < len(data):
                written += os.write(self._fd, data[written:])
            os.fsync(self._fd)
        except OSError:
            with suppress(OSError):
                if os.fstat(self._fd).st_size == before + written:
                    os.ftruncate(self._fd, before)
            raise

    def _open(self) -> int:
        self._path = Path(os.path.realpath(self._given))
        disk = os.stat(self._path.parent).st_dev
        if self._disks.setdefault(self._path.parent, disk) != disk:
            raise LinepipeError(f"{self._path.parent} is on another disk than before; mount that one again, or start the line again")
        new = not self._path.exists()
        fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY, MODE)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise LinepipeError(f"{self._path} is no file")
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if new:
                self._make_like_before(fd)
        except BlockingIOError as exc:
            os.close(fd)
            raise LinepipeError(f"another process holds a lock on {self._path}") from exc
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _make_like_before(self, fd: int) -> None:
        mode, group = self._rights
        with suppress(PermissionError):  # of a group that this user is not in
            os.fchown(fd, -1, group)
        os.fchmod(fd, mode)
        sync(self._path.parent)

    def _moved(self) -> bool:
        """Whether somebody moved or removed the file, or changed the link to it."""
        try:
            return not os.path.samestat(os.stat(self._given), os.fstat(self._fd))
        except FileNotFoundError:
            return True

    def _put_aside(self) -> None:
        """Rename ``PATH`` to ``PATH.1``, that to ``PATH.2``, and so on; files beyond ``keep`` are deleted."""
        free = next((k for k in range(1, self._keep) if not self._aside(k).exists()), self._keep)
        self._may_go(self._aside(free))
        for k in range(free - 1, 0, -1):
            self._aside(k).replace(self._aside(k + 1))
        self._path.replace(self._aside(1))
        beyond = self._keep + 1
        while self._may_go(self._aside(beyond)):  # left by a configuration that kept more
            self._aside(beyond).unlink()
            beyond += 1
        self.close()
        self.connect()

    def _may_go(self, path: Path) -> bool:
        """Whether there is a file. Raises ``LinepipeError`` if it is not a file of events: only those may be deleted."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode) or not begins_with_an_event(fd):
                raise LinepipeError(f"{path} is no file of events, and its place is needed; move it away")
        finally:
            os.close(fd)
        return True

    def _aside(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


def _line(event: Spooled) -> bytes:
    return event.data + b"\n"


def _begin_of_line(fd: int, size: int) -> bytes:
    """What must be written before a line: nothing, or a line end after somebody's unfinished line."""
    return b"" if not size or os.pread(fd, 1, size - 1) == b"\n" else b"\n"


def begins_with_an_event(fd: int) -> bool:
    """Whether the first line of an open file is an event; also true for an empty file. Raises ``OSError``."""
    first = os.pread(fd, FIRST_LINE_BYTES, 0).removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")[0]
    try:
        return not first or bool(msgspec.json.decode(first, type=Event).id)
    except ValueError:  # also msgspec's
        return False


def _unusable(url: SinkUrl) -> str:
    """Why no such file can be written here, and what to do; an empty string if nothing is known against it."""
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
    if found is not None:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not begins_with_an_event(fd):
                return f"{path} is no file of events; move it away, or name another"
        finally:
            os.close(fd)
    return ""


JSON_LINES = SinkKind(example="jsonl:PATH[?max_mb=N&keep=N]", open=JsonLinesSink, options=JsonLinesOptions, unusable=_unusable)
"""A file with one event on each line."""
