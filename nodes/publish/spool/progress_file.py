"""How far the spool was, in a small file beside it: shows what a damaged or vanished spool has lost.

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
    """Where a spool was: transactions, newest event, its time on the wall clock, newest event that Redis has confirmed."""

    commits: int = 0
    seq: int = 0
    wall_ms: int = 0
    sent: int = 0


class ProgressFile:
    """The file; writer of its first half is the thread that appends, of its second the one that sends.

    Raises ``SpoolTroubleError`` if it cannot be made; a note that cannot be written later raises nothing.
    """

    def __init__(self, spool: Path) -> None:
        self._fd = os.open(progress_path(spool), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.trouble = ""
        """Why the last note could not be written, so that the file has fallen behind; empty: it was."""
        try:
            os.posix_fallocate(self._fd, 0, _SIZE)
        except OSError as exc:
            os.close(self._fd)
            text = f"the note beside the spool cannot be written: {exc.strerror}"
            raise SpoolTroubleError(text, full=exc.errno in (errno.ENOSPC, errno.EDQUOT)) from exc

    def note(self, commits: int, seq: int, wall_ms: int) -> None:
        self._write(_HEAD.pack(commits, seq, wall_ms), 0)

    def note_sent(self, seq: int) -> None:
        self._write(_SENT.pack(seq), _SENT_AT)

    def close(self) -> None:
        os.close(self._fd)

    def _write(self, data: bytes, place: int) -> None:
        try:
            os.pwrite(self._fd, data + zlib.crc32(data).to_bytes(4, "little"), place)
        except OSError as exc:  # what it tells of is done already, and stays done
            self.trouble = str(exc.strerror)
        else:
            self.trouble = ""


def read_progress(spool: Path) -> Progress:
    """What the progress file of a spool says; zeros where it is missing or unreadable."""
    try:
        found = read_plain(progress_path(spool))
    except FileNotFoundError:
        return Progress()
    head, sent = _checked(found, 0, _HEAD), _checked(found, _SENT_AT, _SENT)
    return Progress(*(head or (0, 0, 0)), *(sent or (0,)))


def progress_path(spool: Path) -> Path:
    """Where the progress file of a spool lies."""
    return spool.with_name("reached")


def _checked(found: bytes, place: int, part: struct.Struct) -> tuple[int, ...] | None:
    data, end = found[place : place + part.size], place + part.size
    crc = zlib.crc32(data).to_bytes(4, "little")
    return part.unpack(data) if len(data) == part.size and found[end : end + 4] == crc else None
