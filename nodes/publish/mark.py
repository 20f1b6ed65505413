"""How far the spool was, in a small file beside it: shows what a damaged or vanished spool has lost.

Rewritten after every commit, never synced: it may fall behind the spool, and never runs ahead of what was durable.
"""

import os
import struct
import zlib
from pathlib import Path

import msgspec

_HEAD, _SENT = struct.Struct("<QQQ"), struct.Struct("<Q")
_SENT_AT = 64


class Reached(msgspec.Struct, frozen=True):
    """Where a spool was: transactions, newest event, its time on the wall clock, newest event that Redis has confirmed."""

    commits: int = 0
    seq: int = 0
    wall_ms: int = 0
    sent: int = 0


class Mark:
    """The file; writer of its first half is the thread that appends, of its second the one that sends."""

    def __init__(self, spool: Path) -> None:
        self._fd = os.open(mark_path(spool), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def note(self, commits: int, seq: int, wall_ms: int) -> None:
        self._write(_HEAD.pack(commits, seq, wall_ms), 0)

    def note_sent(self, seq: int) -> None:
        self._write(_SENT.pack(seq), _SENT_AT)

    def close(self) -> None:
        os.close(self._fd)

    def _write(self, data: bytes, place: int) -> None:
        os.pwrite(self._fd, data + zlib.crc32(data).to_bytes(4, "little"), place)


def read_mark(spool: Path) -> Reached:
    """What the mark of a spool says; zeros where it is missing or unreadable."""
    try:
        found = mark_path(spool).read_bytes()
    except FileNotFoundError:
        return Reached()
    head, sent = _checked(found[:_SENT_AT]), _checked(found[_SENT_AT:])
    commits, seq, wall_ms = _HEAD.unpack(head) if head and len(head) == _HEAD.size else (0, 0, 0)
    return Reached(commits, seq, wall_ms, _SENT.unpack(sent)[0] if sent else 0)


def mark_path(spool: Path) -> Path:
    return spool.with_name("reached")


def _checked(part: bytes) -> bytes | None:
    size = _HEAD.size if len(part) > _SENT.size + 4 else _SENT.size
    data, crc = part[:size], part[size : size + 4]
    return data if len(crc) == 4 and zlib.crc32(data).to_bytes(4, "little") == crc else None
