"""Sends the events to Redis: in order, one group at a time, with the same ids each time.

A group is sent only to a stream that was just compared with the spool (``reconcile``): WATCH, compare, MULTI ... EXEC. If
anybody changes the stream in between, nothing of the group is written, and the stream is compared again. If another client
writes all the time, WATCH would always fail. Then the group goes without it: it first reads the last confirmed event in the same
transaction, and its ids are so far ahead that the server takes all entries or none. If the server refuses one entry, it refuses
the group. So no event overtakes a refused one, and none is written after a loss. No EVAL is needed.
"""

import random
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from nodes.publish.sinks.redis.reconcile import Finding, Reconciler, StreamId, StreamIds, StreamReader, open_reader
from nodes.publish.sinks.redis.retention import Retention
from nodes.publish.sinks.sink import SinkOpening
from nodes.publish.spool.spool import Spooled
from pipeline.client import reason
from pipeline.core.errors import LinepipeError
from pipeline.core.events import AlarmKind
from pipeline.redis.replies import RefusedError

GROUP = 200
TIMEOUT_S = 2.0
TRIM_S = 60.0
CONTENDED = 5
"""How often another client may write between comparing and sending; after that a group goes without WATCH."""
AHEAD_MS = 1000  # how far stream ids are put ahead of such a client's
LEAST_STEP, MOST_STEP, LARGEST = 1 << 32, 1 << 40, 1 << 62  # the same within one millisecond: steps of the id's second part
FOREIGN_S = 60.0  # time without another client's entries after which their alarm ends
_TOO_SMALL = "equal or smaller"  # in the server's reply: another client's id is larger


class RedisSink:
    """The line's Redis, as a ``Sink``. Calls ``lifted(id)`` with the stream id after which new events must be stamped.

    ``keep_ms``: age up to which entries stay in the stream. ``keep_bytes``: memory that the stream may take in the server; None:
    no limit. ``turn`` raises ``LinepipeError`` if Redis is away, ``SpoolTroubleError`` and ``SpoolDamagedError``.
    """

    def __init__(
        self,
        opening: SinkOpening,
        url: str,
        password: str | None,
        stream: str,
        *,
        keep_ms: int,
        keep_bytes: int | None = None,
        lifted: Callable[[StreamId], None],
    ) -> None:
        self._url, self._password, self._stream, self._lifted = url, password, stream, lifted
        self._feed, self._alarms = opening.feed, opening.alarms
        self._ids = StreamIds(opening.feed)
        self._retention = Retention(stream, self._feed, self._ids, keep_ms=keep_ms, keep_bytes=keep_bytes, alarms=self._alarms)
        self._reconciler = Reconciler(self._feed, self._ids)
        self._client: Any = None
        self._compared = False
        self._contended = 0
        self._foreign_at = time.monotonic()
        self._trim_at = time.monotonic() + TRIM_S

    def connect(self) -> None:
        """Make a client; it connects at the first ``turn``, which compares stream and spool from the beginning."""
        self._compared = False
        self._reconciler = Reconciler(self._feed, self._ids)
        self._client = redis.Redis.from_url(
            self._url,
            password=self._password,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            redis_connect_func=_connect_once(),
        )

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def turn(self) -> bool:
        """Trim, compare, send a group; returns whether there may be more to do at once. Each request waits ``TIMEOUT_S`` at most."""
        try:
            return self._turn(self._client)
        except (redis.RedisError, OSError, RefusedError) as exc:
            raise LinepipeError(reason(exc)) from exc
        except LinepipeError:
            raise
        except Exception as exc:
            raise LinepipeError(f"its replies are not those of a Redis server ({type(exc).__name__}: {exc})") from exc

    def _turn(self, client: Any) -> bool:
        if time.monotonic() > self._trim_at:
            self._trim_at = time.monotonic() + TRIM_S
            self._trim(client)
        found, sent = None, list[Spooled]()
        try:
            with client.pipeline() as pipe:
                if self._contended < CONTENDED:
                    pipe.watch(self._stream)
                with open_reader(client, pipe, self._stream) as reader:
                    if not self._compared or self._feed.unsent(1) or not self._reconciler.unchanged(reader):
                        found = self._compare(reader)
                        self._compared = True
                if (events := self._feed.unsent(GROUP)) and found is not None and not found.lost:
                    sent = self._send(pipe, found, events)
        except redis.WatchError as exc:
            if isinstance(exc.__context__, redis.RedisError):  # how redis-py reports a connection that was lost while watching
                raise exc.__context__ from exc
            self._contended += 1
            return True
        if time.monotonic() - self._foreign_at >= FOREIGN_S:
            self._alarms.set(AlarmKind.FOREIGN_ENTRIES, False, f"nobody else writes to {self._stream} any more")
        self._note_lost(0)
        self._tell_listeners(client, sent)
        return bool(events)

    def _compare(self, reader: StreamReader) -> Finding:
        """Compare the stream with the spool, and raise alarms for what was found."""
        new = self._feed.spool.fact("head") == 0
        found = self._reconciler.compare(reader)
        if found.confirmed:
            self._calm_down()
        self._note_lost(found.lost)
        if found.unwanted:
            text = f"somebody deletes the newest entries of {self._stream} again and again; they are not sent any more"
            self._alarms.set(AlarmKind.ENTRIES_DELETED, True, text)
        if found.top is not None and new:
            self._lifted(found.top.last)  # a stream from an earlier spool: new ids must be larger
        return found

    def _send(self, pipe: Any, found: Finding, events: list[Spooled]) -> list[Spooled]:
        """Send one group, all or nothing. Raises ``redis.WatchError`` if the stream has changed since it was compared."""
        top, seen = found.top, found.seen
        if top is None and not pipe.watching:
            self._contended = 0
            raise redis.WatchError("the stream is missing, so nobody writes to it: use WATCH again")
        if top is not None:
            events = self._behind(events, top.last, watched=pipe.watching)
        if pipe.watching:
            pipe.multi()
        if seen is not None:
            pipe.xrange(self._stream, f"{seen.ms}-{seen.n}", f"{seen.ms}-{seen.n}")
        for e in events:
            fields = {"type": e.type, "id": e.id, "v": 1, "data": e.data}
            pipe.xadd(self._stream, fields, id=f"{e.ms}-{e.n}", nomkstream=top is not None)
        replies = pipe.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, Exception):
                raise redis.WatchError("another client wrote first") if _TOO_SMALL in str(reply) else reply
        if None in replies or (seen is not None and [fields.get(b"id") for _, fields in replies[0]] != [seen.id.encode()]):
            raise redis.WatchError("the stream is gone, or another one")
        self._calm_down()
        self._feed.confirm(events)
        return events

    def _behind(self, events: list[Spooled], last: StreamId, *, watched: bool) -> list[Spooled]:
        """The events with ids that the stream still takes."""
        if watched and all(a < b for a, b in pairwise([last, *(e.stamp for e in events)])):
            return events
        ours = self._ids.holds(last)
        lifted = self._ids.lift(events, last if watched else _far_ahead(events, last))
        self._lifted(lifted[-1].stamp)
        if self._feed.spool.fact("head") and not ours:
            self._foreign_at = time.monotonic()
            self._alarms.set(
                AlarmKind.FOREIGN_ENTRIES,
                True,
                f"somebody else writes to {self._stream}; events get new stream ids after {last[0]}-{last[1]}",
            )
        return lifted

    def _calm_down(self) -> None:
        self._contended = max(0, self._contended - 1)

    def _tell_listeners(self, client: Any, events: list[Spooled]) -> None:
        """Publish the events with PUBLISH too, for clients that only listen."""
        if not events:
            return
        pipe = client.pipeline(transaction=False)
        for e in events:
            pipe.publish(self._stream, e.data)
        wrong = [str(reply) for reply in pipe.execute(raise_on_error=False) if isinstance(reply, Exception)]
        refused = f"takes events but refuses PUBLISH ({wrong[0]})" if wrong else "takes PUBLISH again"
        self._alarms.set(AlarmKind.CHANNEL_REFUSED, bool(wrong), f"Redis at {self._url} {refused}")

    def _trim(self, client: Any) -> None:
        try:
            self._retention.trim(client)
        except redis.ResponseError as exc:
            self._alarms.set(AlarmKind.STREAM_NOT_TRIMMED, True, f"Redis at {self._url} refuses to trim {self._stream} ({exc}); it grows")
        else:
            self._alarms.set(AlarmKind.STREAM_NOT_TRIMMED, False, f"{self._stream} is trimmed again")

    def _note_lost(self, more: int) -> None:
        text = (
            "had lost {} events, which are sent again; it was emptied or restored, evicts entries (maxmemory-policy), or is another server"
        )
        self._alarms.count(AlarmKind.REDIS_LOST, more, f"Redis at {self._url} {text}")


def _far_ahead(events: list[Spooled], last: StreamId) -> StreamId:
    """A stream id far after the stream's end: whatever another client adds meanwhile, the server takes all ids after it or none."""
    (ms, n), step = last, random.randrange(LEAST_STEP, MOST_STEP)
    if LEAST_STEP <= n < LARGEST and all(e.stamp <= (ms, n + step) for e in events):
        return ms, n + step
    return max(ms + AHEAD_MS, *(e.ms + 1 for e in events)), step


def _connect_once() -> Callable[[Any], None]:
    """A connect hook that allows one connection in a client's life.

    redis-py quietly replaces a connection that the server closed. The server behind the new one may have lost what the
    old one had, and must be asked before anything is sent.
    """
    used = False

    def connect(connection: Any) -> None:
        nonlocal used
        if used:
            raise redis.ConnectionError("the connection was closed by the server")
        used = True
        connection.on_connect()

    return connect
