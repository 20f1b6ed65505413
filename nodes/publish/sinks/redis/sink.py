"""The events into Redis: in order, one group at a time, the same ids however often.

A group is sent only onto a stream that was just compared with the spool (``reconcile``): WATCH, look, MULTI ... EXEC.
If anything touches the stream in between, nothing of the group is written, and it is looked at again. Beside somebody who
writes all the time nothing is watched: the group itself asks whether the last confirmed event is there, and gets ids far
ahead, of which the server takes all or none. If the server refuses one entry it refuses the group. So nothing overtakes
what was refused, and nothing is written behind a loss. No EVAL is needed.
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
"""So often may somebody else write between look and group; then a group goes without WATCH, which needs no quiet moment."""
AHEAD_MS = 1000  # how far ahead of such a writer stream ids are put
LEAST_STEP, MOST_STEP, LARGEST = 1 << 32, 1 << 40, 1 << 62  # and, within one millisecond, how far ahead in their second part
FOREIGN_S = 60.0  # nobody else having written for so long ends that alarm
_TOO_SMALL = "equal or smaller"  # of an id, behind somebody else's


class RedisSink:
    """The line's Redis, as a ``Sink``. ``lifted(id)`` is told how far the ids of the stream have come.

    ``keep_bytes``: how much memory the stream may take there; None: it is not looked at.
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
        """Begin with a connection of which nothing is believed."""
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
        """Trim, compare, send a group: whether there may be more to do at once. Raises what says why Redis is away."""
        try:
            return self._turn(self._client)
        except (redis.RedisError, OSError, RefusedError) as exc:
            raise LinepipeError(reason(exc)) from exc
        except LinepipeError:
            raise
        except Exception as exc:
            raise LinepipeError(f"it answers as no Redis does ({type(exc).__name__}: {exc})") from exc

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
            if isinstance(exc.__context__, redis.RedisError):  # so redis-py tells of a connection lost while watching
                raise exc.__context__ from exc
            self._contended += 1
            return True
        if time.monotonic() - self._foreign_at >= FOREIGN_S:
            self._alarms.set(AlarmKind.FOREIGN_ENTRIES, False, f"nobody else writes to {self._stream} any more")
        self._note_lost(0)
        self._tell_listeners(client, sent)
        return bool(events)

    def _compare(self, reader: StreamReader) -> Finding:
        """Hold the stream against the spool, and say what was found."""
        new = self._feed.spool.fact("head") == 0
        found = self._reconciler.compare(reader)
        if found.confirmed:
            self._calm_down()
        self._note_lost(found.lost)
        if found.unwanted:
            text = f"somebody deletes the newest entries of {self._stream} again and again; they are not sent any more"
            self._alarms.set(AlarmKind.ENTRIES_DELETED, True, text)
        if found.top is not None and new:
            self._lifted(found.top.last)  # a stream from an earlier spool: stay behind it
        return found

    def _send(self, pipe: Any, found: Finding, events: list[Spooled]) -> list[Spooled]:
        """One group, all or nothing. Raises ``redis.WatchError`` if the stream is not as it was when it was looked at."""
        top, seen = found.top, found.seen
        if top is None and not pipe.watching:
            self._contended = 0
            raise redis.WatchError("nobody writes to a stream that is not there")
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
                raise redis.WatchError("others were faster") if _TOO_SMALL in str(reply) else reply
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
                f"somebody else writes to {self._stream}; events get new stream ids behind {last[0]}-{last[1]}",
            )
        return lifted

    def _calm_down(self) -> None:
        self._contended = max(0, self._contended - 1)

    def _tell_listeners(self, client: Any, events: list[Spooled]) -> None:
        """Pub/Sub, for those who only listen."""
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
    """A place far ahead of a stream's end: whatever somebody else adds meanwhile, all ids behind it are taken or none."""
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
