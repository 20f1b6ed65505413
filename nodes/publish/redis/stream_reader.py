"""A stream, asked through one connection of redis-py, in bounded memory: others decide how long their entries are."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nodes.publish.redis.reconcile import Top
from nodes.publish.redis.retention import parse_id
from nodes.publish.spool.spool import StreamId
from pipeline.core.errors import LinepipeError
from pipeline.redis.replies import RefusedError, Replies

_LARGEST = (1 << 63) - 2


@contextmanager
def open_reader(client: Any, pipe: Any, key: str) -> Iterator["StreamReader"]:
    """A look through the connection that a pipeline watches with, or through any of the client's."""
    if pipe.watching:
        yield StreamReader(pipe.connection, key)
        return
    connection = client.connection_pool.get_connection()
    try:
        yield StreamReader(connection, key)
    finally:
        client.connection_pool.release(connection)


class StreamReader:
    """What the comparison asks. Raises what redis-py does, ``OSError``, ``RefusedError``, and anything for odd replies."""

    def __init__(self, connection: Any, key: str) -> None:
        self._connection, self._key = connection, key

    def top(self) -> Top | None:
        try:
            told = self._ask("XINFO", "STREAM", self._key)
        except RefusedError as exc:
            if "no such key" in str(exc):
                return None
            raise
        found = dict(told) if told and isinstance(told[0], list) else dict(zip(told[::2], told[1::2], strict=True))
        first, newest, last = found[b"first-entry"], found[b"last-entry"], parse_id(found[b"last-generated-id"])
        if max(last) > _LARGEST:
            raise LinepipeError(f"the newest id of {self._key} is so large that nothing can follow it; delete the stream")
        return Top(last, parse_id(first[0]) if first else None, _entry(newest) if newest else None)

    def between(self, first: StreamId, last: StreamId, count: int) -> list[tuple[StreamId, str]]:
        return self._entries("XRANGE", "{}-{}".format(*first), "{}-{}".format(*last), count)

    def before(self, last: StreamId, count: int) -> list[tuple[StreamId, str]]:
        return self._entries("XREVRANGE", "{}-{}".format(*last), "-", count)

    def _entries(self, command: str, start: str, end: str, count: int) -> list[tuple[StreamId, str]]:
        return [_entry(e) for e in self._ask(command, self._key, start, end, "COUNT", count)]

    def _ask(self, *command: str | int) -> Any:
        self._connection.send_command(*command)
        try:
            return Replies(self._connection._sock).read()
        except Exception as exc:
            problem = exc.with_traceback(None)  # which would keep the reader, and so the socket, open
        if not isinstance(problem, RefusedError):
            self._connection.disconnect()  # the rest of the reply may still come
        try:
            raise problem
        finally:
            del problem  # it leads to this frame


def _entry(entry: Any) -> tuple[StreamId, str]:
    fields = entry[1] or []
    identity = dict(zip(fields[::2], fields[1::2], strict=True)).get(b"id", b"")
    return parse_id(entry[0]), identity.decode(errors="replace")
