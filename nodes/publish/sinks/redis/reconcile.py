"""Compares what Redis has with what, by the spool, it had confirmed: before every group that is sent, and every second.

The last confirmed event must still be there. If it is not, Redis lost data (emptied, restored from a backup, its newest
entries deleted): all events after the newest one that is left count as unsent again. Entries missing at the old end are no
loss: streams are trimmed there, by linepipe or by a person.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise, takewhile
from typing import Any

import msgspec

from nodes.publish.sinks.sink import Feed
from nodes.publish.spool.spool import Spooled
from pipeline.core.errors import LinepipeError
from pipeline.redis.replies import RefusedError, Replies

StreamId = tuple[int, int]
"""``12-3`` as (12, 3)."""


class StreamIds:
    """Looks up events of the spool by stream id. All methods raise ``SpoolTroubleError`` and ``SpoolDamagedError``."""

    def __init__(self, feed: Feed) -> None:
        self._feed, self._db = feed, feed.spool.database

    def confirmed_at(self, place: StreamId, identity: str) -> int:
        """``seq`` of the confirmed event with this stream id and event id; 0 if there is none."""
        row = self._db.row("SELECT seq FROM events WHERE ms = ? AND n = ? AND id = ? AND seq <= ?", (*place, identity, self._feed.sent))
        return int(row[0]) if row else 0

    def first_confirmed_from(self, place: StreamId) -> int:
        """``seq`` of the first confirmed event at or after a stream id; if there is none, the ``seq`` after the last confirmed one."""
        sql, sent = "SELECT seq FROM events WHERE (ms, n) >= (?, ?) AND seq <= ? ORDER BY ms, n LIMIT 1", self._feed.sent
        row = self._db.row(sql, (*place, sent))
        return int(row[0]) if row else sent + 1

    def first_confirmed_behind(self, seq: int) -> StreamId | None:
        """Stream id of the first confirmed event after ``seq``; None if there is none."""
        row = self._db.row("SELECT ms, n FROM events WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT 1", (seq, self._feed.sent))
        return (row[0], row[1]) if row else None

    def holds(self, place: StreamId) -> bool:
        """Whether an event in the spool has this stream id."""
        return self._db.row("SELECT 1 FROM events WHERE ms = ? AND n = ?", place) is not None

    def lift(self, events: list[Spooled], behind: StreamId) -> list[Spooled]:
        """Give the events growing stream ids, all after ``behind``, and store them; an id that is large enough stays."""
        lifted, last = [], behind
        for event in events:
            last = event.stamp if event.stamp > last else (last[0], last[1] + 1)
            lifted.append(event if event.stamp == last else msgspec.structs.replace(event, ms=last[0], n=last[1]))
        with self._db.writing():
            self._db.changes("UPDATE events SET ms = ?, n = ? WHERE seq = ?", [(e.ms, e.n, e.seq) for e in lifted])
        return lifted


def parse_id(text: bytes | str) -> StreamId:
    """``b"12-3"`` -> ``(12, 3)``. Raises ``ValueError``."""
    ms, n = (text.decode() if isinstance(text, bytes) else text).split("-")
    return int(ms), int(n)


PAGE = 500
DELETED_AGAIN = 3
"""How often entries may be deleted after they were sent again; then they are not sent any more."""


class Top(msgspec.Struct, frozen=True):
    """A stream at one moment. ``last``: the largest id it ever had; ``first``: the id of its oldest entry; ``newest``: its newest entry."""

    last: StreamId
    first: StreamId | None
    newest: tuple[StreamId, str] | None
    """Stream id and event id; None, like ``first``, for an empty stream."""


class Finding(msgspec.Struct, frozen=True):
    """What a comparison found."""

    top: Top | None
    """None if there is no stream."""
    confirmed: list[Spooled]
    """Events that were sent earlier, and are only now known to be there."""
    seen: Spooled | None = None
    """The newest confirmed event, which was found there; None if none is expected."""
    lost: int = 0
    """Confirmed events that Redis no longer has; they count as unsent now."""
    unwanted: int = 0
    """Events that were deleted again after they had been sent again: somebody does not want them there."""


class Reconciler:
    """Compares a stream with the spool; one for each connection. Methods raise what ``StreamReader`` raises, and the spool's errors."""

    def __init__(self, feed: Feed, ids: StreamIds) -> None:
        self._feed, self._spool, self._ids = feed, feed.spool, ids
        self._first: StreamId | None = None

    def compare(self, stream: "StreamReader") -> Finding:
        """Compare, and move the spool's watermark to what the stream really has; returns what was found."""
        top, newest, seen, lost, unwanted = stream.top(), self._feed.newest_sent(), None, 0, 0
        if newest is not None and top is not None and _has(stream, top, newest):
            seen = newest
            self._note_head(top)
        elif newest is not None and (head := self._spool.fact("head")) <= self._feed.sent:  # else nothing confirmed is expected
            kept = max(self._kept(stream, newest) if top is not None else 0, head - 1)
            if top is not None and top.last == newest.stamp and self._deleted_on_purpose(kept):
                self._spool.set_fact("head", newest.seq + 1)
                unwanted = newest.seq - kept
            else:
                lost = self._feed.rewind(kept)
        confirmed = [] if lost else self._already_there(stream, top)  # after a loss they prove nothing
        return Finding(top, confirmed, confirmed[-1] if confirmed else seen, lost, unwanted)

    def unchanged(self, stream: "StreamReader") -> bool:
        """Whether the newest confirmed event is still there. That is enough while there is nothing to send."""
        newest = self._feed.newest_sent()
        return newest is None or stream.between(newest.stamp, newest.stamp, 1) == [(newest.stamp, newest.id)]

    def _already_there(self, stream: "StreamReader", top: Top | None) -> list[Spooled]:
        """Confirm events that are there already: their confirmation was lost with a connection or a killed process."""
        found: list[Spooled] = []
        while top is not None and _growing(self._feed.unsent(1), top.last):
            events = _growing(self._feed.unsent(PAGE), top.last)
            there = dict(stream.between(events[0].stamp, events[-1].stamp, 2 * PAGE))
            done = list(takewhile(lambda e, there=there: there.get(e.stamp) == e.id, events))  # type: ignore[misc]
            if done:
                self._feed.confirm(done)
                found += done
            if len(done) < len(events):
                break
        return found

    def _kept(self, stream: "StreamReader", newest: Spooled) -> int:
        """``seq`` of the newest confirmed event that is still there; 0 if there is none."""
        last: StreamId | None = newest.stamp
        while last is not None:
            page = stream.before(last, PAGE)
            for place, identity in page:
                if seq := self._ids.confirmed_at(place, identity):
                    return seq
            last = _below(page[-1][0]) if len(page) == PAGE else None
        return 0

    def _deleted_on_purpose(self, kept: int) -> bool:
        """Whether somebody deletes the newest entries on purpose: ``DELETED_AGAIN`` times after they had been sent again.

        Without this, a consumer that deletes what it has read would get the same events for ever.
        """
        again = self._spool.fact("deleted_again") + (kept < self._spool.fact("sent_again"))
        self._spool.set_fact("deleted_again", again)
        if again >= DELETED_AGAIN:
            return True
        self._spool.set_fact("sent_again", self._feed.sent)
        return False

    def _note_head(self, top: Top) -> None:
        """Store where the stream begins: entries before that were trimmed."""
        if top.first is not None and top.first != self._first:
            self._first = top.first
            self._spool.set_fact("head", self._ids.first_confirmed_from(top.first))


def _has(stream: "StreamReader", top: Top, event: Spooled) -> bool:
    if top.newest == (event.stamp, event.id):
        return True
    return top.last >= event.stamp and stream.between(event.stamp, event.stamp, 1) == [(event.stamp, event.id)]


def _growing(events: list[Spooled], last: StreamId) -> list[Spooled]:
    """The leading events whose ids grow and are not larger than ``last``: those that can be in the stream."""
    count = next((k for k, (a, b) in enumerate(pairwise(events), 1) if b.stamp <= a.stamp), len(events))
    return list(takewhile(lambda e: e.stamp <= last, events[:count]))


def _below(place: StreamId) -> StreamId | None:
    ms, n = place
    if n:
        return ms, n - 1
    return (ms - 1, (1 << 64) - 1) if ms else None


_LARGEST = (1 << 63) - 2


@contextmanager
def open_reader(client: Any, pipe: Any, key: str) -> Iterator["StreamReader"]:
    """A reader of the stream ``key`` for the block, on the connection that ``pipe`` watches with, or on another of the client's."""
    if pipe.watching:
        yield StreamReader(pipe.connection, key)
        return
    connection = client.connection_pool.get_connection()
    try:
        yield StreamReader(connection, key)
    finally:
        client.connection_pool.release(connection)


class StreamReader:
    """Reads a stream, in bounded memory. Each method sends one request and waits for the reply.

    They raise what redis-py raises, ``OSError``, ``RefusedError`` if the server refuses, and any exception for a malformed reply;
    except after ``RefusedError`` the connection is closed then.
    """

    def __init__(self, connection: Any, key: str) -> None:
        self._connection, self._key = connection, key

    def top(self) -> Top | None:
        """Both ends of the stream; None if there is no stream. Raises ``LinepipeError`` if its last id leaves no room for more."""
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
        """(stream id, event id) of the oldest ``count`` entries from ``first`` to ``last``, inclusive, oldest first."""
        return self._entries("XRANGE", "{}-{}".format(*first), "{}-{}".format(*last), count)

    def before(self, last: StreamId, count: int) -> list[tuple[StreamId, str]]:
        """(stream id, event id) of the newest ``count`` entries up to ``last``, inclusive, newest first."""
        return self._entries("XREVRANGE", "{}-{}".format(*last), "-", count)

    def _entries(self, command: str, start: str, end: str, count: int) -> list[tuple[StreamId, str]]:
        return [_entry(e) for e in self._ask(command, self._key, start, end, "COUNT", count)]

    def _ask(self, *command: str | int) -> Any:
        self._connection.send_command(*command)
        try:
            return Replies(self._connection._sock).read()
        except Exception as exc:
            problem = exc.with_traceback(None)  # a traceback would keep the reader, and so the socket, open
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
