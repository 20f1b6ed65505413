"""How far the spool was, in a small file beside it, which shows what a damaged or vanished spool has lost.

Rewritten after every commit, never synced: it may fall behind the spool, and never runs ahead of what was durable.
"""

import errno
import os
import struct
import zlib
from pathlib import Path

import msgspec

from nodes.publish.spool.database import SpoolTroubleError
from pipeline.system.files import read_plain

_HEAD, _SENT = struct.Struct("<QQQ"), struct.Struct("<Q")
_SENT_AT, _SIZE = 64, 128


class Progress(msgspec.Struct, frozen=True):
    """How far a spool was when this was written; all 0 if nothing is known."""

    commits: int = 0
    """Number of transactions."""
    seq: int = 0
    """Number of the newest event."""
    wall_ms: int = 0
    """Time of the last transaction, wall clock."""
    sent: int = 0
    """Number of the newest event that Redis has confirmed."""


class ProgressFile:
    """Writes the progress file of the spool ``spool``, in two halves: one for the thread that appends, one for the one that sends.

    The constructor makes the file. It raises ``OSError`` if the file cannot be opened, ``SpoolTroubleError`` if the disk has no
    room for it. Writing later raises nothing; see ``trouble``.
    """

    def __init__(self, spool: Path) -> None:
        self._fd = os.open(progress_path(spool), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.trouble = ""
        """Why the last write failed, so that the file is behind the spool; an empty string if it succeeded."""
        try:
            os.posix_fallocate(self._fd, 0, _SIZE)
        except OSError as exc:
            os.close(self._fd)
            text = f"the note beside the spool cannot be written: {exc.strerror}"
            raise SpoolTroubleError(text, full=exc.errno in (errno.ENOSPC, errno.EDQUOT)) from exc

    def note(self, commits: int, seq: int, wall_ms: int) -> None:
        """Write how far the spool is after a transaction, without fsync. Never raises; for the thread that appends."""
        self._write(_HEAD.pack(commits, seq, wall_ms), 0)

    def note_sent(self, seq: int) -> None:
        """Write the number of the newest event that Redis has confirmed. Never raises; for the thread that sends to Redis."""
        self._write(_SENT.pack(seq), _SENT_AT)

    def close(self) -> None:
        os.close(self._fd)

    def _write(self, data: bytes, place: int) -> None:
        try:
            os.pwrite(self._fd, data + zlib.crc32(data).to_bytes(4, "little"), place)
        except OSError as exc:  # the transaction itself is complete, and stays so
            self.trouble = str(exc.strerror)
        else:
            self.trouble = ""


def read_progress(spool: Path) -> Progress:
    """Read the progress file of a spool. Values are 0 if the file is missing, or their half is damaged.

    Raises ``OSError`` if the file is there and cannot be read.
    """
    try:
        found = read_plain(progress_path(spool))
    except FileNotFoundError:
        return Progress()
    head, sent = _checked(found, 0, _HEAD), _checked(found, _SENT_AT, _SENT)
    return Progress(*(head or (0, 0, 0)), *(sent or (0,)))


def progress_path(spool: Path) -> Path:
    """Path of a spool's progress file, in the same folder."""
    return spool.with_name("reached")


def _checked(found: bytes, place: int, part: struct.Struct) -> tuple[int, ...] | None:
    data, end = found[place : place + part.size], place + part.size
    crc = zlib.crc32(data).to_bytes(4, "little")
    return part.unpack(data) if len(data) == part.size and found[end : end + 4] == crc else None
