"""Replies of a Redis server, read from a socket in bounded memory: every client that may write to a stream can add very long fields."""

import socket
from typing import Any

LONGEST = 1 << 20
"""Bytes of the longest string that is kept; a longer one is read and thrown away."""
MOST = 64 << 20
"""Bytes of memory that one reply may take, about; the rest of it is read and thrown away."""
DEEPEST = 8
_PART = 64
"""Bytes counted for each part of a reply, besides its text."""


class TooLong(bytes):
    """An empty string in place of one that was too long and was thrown away."""


_TOO_LONG = TooLong()


class RefusedError(Exception):
    """The server's reply is an error."""


class Replies:
    """Reads the replies of one connection, one after the other, from a blocking socket (with its timeout, if it has one)."""

    def __init__(self, sock: socket.socket) -> None:
        self._file = sock.makefile("rb")
        self._left = 0

    @property
    def was_cut(self) -> bool:
        """Whether the last reply exceeded ``MOST``.

        If so, the last element of each list that was open may be incomplete, and those after it are missing.
        """
        return self._left < 0

    def read(self) -> Any:
        """Wait for the next reply, of protocol 2 or 3: int, bytes, None, or a list of such; a map is a list of pairs.

        Raises ``RefusedError`` if the reply is an error, ``OSError`` if the connection breaks or times out, and ``ValueError`` for
        what is no reply. After the last two the connection cannot be used any more.
        """
        self._left = MOST
        return self._reply(0)

    def _reply(self, depth: int) -> Any:
        head = self._file.readline(LONGEST)
        if not head.endswith(b"\r\n"):
            raise ConnectionError("the server has closed the connection" if len(head) < LONGEST else "a line without end")
        kind, rest = head[:1], head[1:-2]
        self._left -= _PART + len(rest)
        if kind in (b"*", b"%", b"~", b">"):
            return self._many(kind, int(rest), depth + 1)
        if kind == b"$":
            return self._string(int(rest))
        if kind == b"-":
            raise RefusedError(rest.decode(errors="replace"))
        if kind == b":":
            return int(rest)
        if kind == b"_":
            return None
        if kind == b"+":
            return rest
        raise ValueError(f"no reply of a Redis server: {head[:40]!r}")

    def _many(self, kind: bytes, count: int, depth: int) -> list[Any] | None:
        if depth > DEEPEST:
            raise ValueError("a reply that is nested too deep")
        if count < 0:
            return None
        found = []
        for _ in range(count):
            within = not self.was_cut
            part = [self._reply(depth), self._reply(depth)] if kind == b"%" else self._reply(depth)
            if within:
                found.append(part)
        return found

    def _string(self, size: int) -> bytes | None:
        if size < 0:
            return None
        keep = size <= LONGEST
        if keep:
            self._left -= size
            keep = not self.was_cut
        data, left = b"", size + 2
        while left:
            part = self._file.read(min(left, LONGEST + 2))
            if not part:
                raise ConnectionError("the server has closed the connection")
            data, left = part if keep else b"", left - len(part)
        return data[:-2] if keep else _TOO_LONG
