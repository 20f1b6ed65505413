"""The spool's events into Redis, in a thread: in order, one group at a time, the same ids however often.

A group is sent only onto a stream that was just compared with the spool (``reconcile``): WATCH, look, MULTI ... EXEC.
If anything touches the stream in between, nothing of the group is written, and it is looked at again. Beside somebody who
writes all the time nothing is watched: the group itself asks whether the last confirmed event is there, and gets ids far
ahead, of which the server takes all or none. If the server refuses one entry it refuses the group. So nothing overtakes
what was refused, and nothing is written behind a loss. Whatever else happens, nothing moves: the connection is made anew
after a pause. Nothing is ever dropped; no EVAL is needed.
"""

import random
import threading
import time
from collections.abc import Callable, Collection
from itertools import pairwise
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from nodes.publish.redis.reconcile import Finding, Reconciler
from nodes.publish.redis.retention import Retention
from nodes.publish.redis.stream_reader import StreamReader, open_reader
from nodes.publish.spool.database import SpoolDamagedError, SpoolTroubleError
from nodes.publish.spool.spool import Spool, Spooled, StreamId
from pipeline.client import reason
from pipeline.core.errors import LinepipeError
from pipeline.redis.replies import RefusedError
from pipeline.runtime.supervisor import Alarm, Alarms

GROUP = 200
TIMEOUT_S = 2.0
PAUSE_MIN_S, PAUSE_MAX_S = 0.05, 2.0
LOOK_S = 1.0  # how often the stream is compared with the spool while there is nothing to send
TRIM_S = 60.0
SETTLED_S = 3.0
"""Redis must have taken events for so long before an outage counts as over."""
CONTENDED = 5
"""So often may somebody else write between look and group; then a group goes without WATCH, which needs no quiet moment."""
AHEAD_MS = 1000  # how far ahead of such a writer stream ids are put
LEAST_STEP, MOST_STEP, LARGEST = 1 << 32, 1 << 40, 1 << 62  # and, within one millisecond, how far ahead in their second part
FOREIGN_S = 60.0  # nobody else having written for so long ends that alarm
MOST_WORDS = 500  # characters of an error that are told
_TOO_SMALL = "equal or smaller"  # of an id, behind somebody else's


class RedisSink:
    """Sends until stopped. ``confirmed(events)`` and ``alarm(name, active, text)`` are called in its thread; ``on``: alarms that are on."""

    def __init__(
        self,
        url: str,
        password: str | None,
        stream: str,
        spool: Path,
        *,
        keep_ms: int,
        keep_bytes: int | None = None,
        confirmed: Callable[[list[Spooled]], None],
        alarm: Alarm,
        lifted: Callable[[StreamId], None],
        on: Collection[str] = (),
    ) -> None:
        self._make = lambda: redis.Redis.from_url(
            url,
            password=password,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            redis_connect_func=_connect_once(),
        )
        self.url, self._stream, self._spool_path = url, stream, spool
        self._confirmed, self._alarm, self._lifted = confirmed, alarm, lifted
        self._alarms = Alarms(alarm, on)
        self._retention = Retention(stream, keep_ms=keep_ms, keep_bytes=keep_bytes, alarms=self._alarms)
        self._wake = threading.Event()
        self._stopping = self.ending = False
        """The line is at its end: an outage that is over counts as over at once."""
        self.state = "connecting"
        """``connecting``, ``up``, or ``away: <why>``."""
        self.trouble = ""
        """Why the spool cannot be used by this thread just now; empty: it can."""
        self.failed: Exception | None = None
        """What ended the thread, if anything did."""
        self._failures = self._contended = 0
        self._up_since, self._foreign_at = 0.0, time.monotonic()
        self._trim_at = time.monotonic() + TRIM_S
        self._thread = threading.Thread(target=self._run, name="redis", daemon=True)
        self._thread.start()

    @property
    def settled(self) -> bool:
        """Whether no outage is on that has been told of."""
        return "redis_away" not in self._alarms

    def wake(self) -> None:
        """There is something to send."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread; what is unsent stays in the spool."""
        self._stopping = True
        self._wake.set()
        self._thread.join(2 * TIMEOUT_S)

    def _run(self) -> None:
        spool: Spool | None = None
        try:
            while not self._stopping:
                try:
                    spool = spool or self._open()
                    with self._make() as client:
                        self._serve(client, spool)
                except SpoolDamagedError:
                    raise
                except SpoolTroubleError as exc:
                    self.trouble = str(exc)
                except Exception as exc:  # whatever answers: it may be no Redis at all
                    self._away(exc)
                else:
                    continue
                self._failures += 1
                self._sleep(random.uniform(PAUSE_MIN_S, min(PAUSE_MAX_S, PAUSE_MIN_S * 2 ** min(self._failures, 10))))
        except Exception as exc:  # handed to the node's main loop, which ends the process
            self.failed = exc
        finally:
            if spool is not None:
                spool.close()

    def _open(self) -> Spool:
        try:
            return Spool(self._spool_path, durable=False, create=False)
        except OSError as exc:
            raise SpoolTroubleError(f"{self._spool_path}: {exc}") from exc

    def _serve(self, client: Any, spool: Spool) -> None:
        reconciler, compared = Reconciler(spool), False
        while not self._stopping:
            if time.monotonic() > self._trim_at:
                self._trim_at = time.monotonic() + TRIM_S
                self._trim(client, spool)
            found, sent = None, list[Spooled]()
            try:
                with client.pipeline() as pipe:
                    if self._contended < CONTENDED:
                        pipe.watch(self._stream)
                    with open_reader(client, pipe, self._stream) as reader:
                        if not compared or spool.unsent(1) or not reconciler.unchanged(reader):
                            found = self._compare(reader, reconciler, spool)
                            compared = True
                    if (events := spool.unsent(GROUP)) and found is not None and not found.lost:
                        sent = self._send(pipe, found, events, spool)
            except redis.WatchError as exc:
                if isinstance(exc.__context__, redis.RedisError):  # so redis-py tells of a connection lost while watching
                    raise exc.__context__ from exc
                self._contended += 1
                continue
            self._outage_over()
            self._note_lost(0)
            self._tell_listeners(client, sent)
            if not events:
                self._wake.wait(LOOK_S)
                self._wake.clear()

    def _compare(self, reader: StreamReader, reconciler: Reconciler, spool: Spool) -> Finding:
        """Hold the stream against the spool, and say what was found."""
        new = spool.fact("head") == 0
        found = reconciler.compare(reader)
        if found.confirmed:
            self._count(found.confirmed)
        self._note_lost(found.lost)
        if found.unwanted:
            text = f"somebody deletes the newest entries of {self._stream} again and again; they are not sent any more"
            self._alarms.set("entries_deleted", True, text)
        if found.top is not None and new:
            self._lifted(found.top.last)  # a stream from an earlier spool: stay behind it
        if self.state == "connecting":
            self.state = "up"
        self.trouble = ""
        return found

    def _send(self, pipe: Any, found: Finding, events: list[Spooled], spool: Spool) -> list[Spooled]:
        """One group, all or nothing. Raises ``redis.WatchError`` if the stream is not as it was when it was looked at."""
        top, seen = found.top, found.seen
        if top is None and not pipe.watching:
            self._contended = 0
            raise redis.WatchError("nobody writes to a stream that is not there")
        if top is not None:
            events = self._behind(events, top.last, spool, watched=pipe.watching)
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
        spool.mark_sent(events[-1].seq)
        self._count(events)
        return events

    def _behind(self, events: list[Spooled], last: StreamId, spool: Spool, *, watched: bool) -> list[Spooled]:
        """The events with ids that the stream still takes."""
        if watched and all(a < b for a, b in pairwise([last, *(e.place for e in events)])):
            return events
        ours = spool.holds(last)
        lifted = spool.lift(events, last if watched else _far_ahead(events, last))
        self._lifted(lifted[-1].place)
        if spool.fact("head") and not ours:
            self._foreign_at = time.monotonic()
            self._alarms.set(
                "foreign_entries", True, f"somebody else writes to {self._stream}; events get new stream ids behind {last[0]}-{last[1]}"
            )
        return lifted

    def _count(self, events: list[Spooled]) -> None:
        """Redis has these: the one sign that an outage ends."""
        self._failures, self._contended = 0, max(0, self._contended - 1)
        self.state = "up"
        self._up_since = self._up_since or time.monotonic()
        self._confirmed(events)

    def _tell_listeners(self, client: Any, events: list[Spooled]) -> None:
        """Pub/Sub, for those who only listen."""
        if not events:
            return
        pipe = client.pipeline(transaction=False)
        for e in events:
            pipe.publish(self._stream, e.data)
        wrong = [str(reply) for reply in pipe.execute(raise_on_error=False) if isinstance(reply, Exception)]
        refused = f"takes events but refuses PUBLISH ({wrong[0]})" if wrong else "takes PUBLISH again"
        self._alarms.set("channel_refused", bool(wrong), f"Redis at {self.url} {refused}")

    def _trim(self, client: Any, spool: Spool) -> None:
        try:
            self._retention.trim(client, spool)
        except redis.ResponseError as exc:
            self._alarms.set("stream_not_trimmed", True, f"Redis at {self.url} refuses to trim {self._stream} ({exc}); it grows")
        else:
            self._alarms.set("stream_not_trimmed", False, f"{self._stream} is trimmed again")

    def _away(self, exc: Exception) -> None:
        named = isinstance(exc, redis.RedisError | OSError | RefusedError | LinepipeError)
        why = reason(exc) if named else f"it answers as no Redis does ({type(exc).__name__}: {exc})"
        why = why[:MOST_WORDS]  # a server decides how long its errors are
        self.state = f"away: {why}"
        self._up_since = 0.0
        self._alarms.set("redis_away", True, f"Redis at {self.url} does not take events ({why}); they wait in the spool")

    def _note_lost(self, more: int) -> None:
        text = (
            "had lost {} events, which are sent again; it was emptied or restored, evicts entries (maxmemory-policy), or is another server"
        )
        self._alarms.count("redis_lost", more, f"Redis at {self.url} {text}")

    def _outage_over(self) -> None:
        now = time.monotonic()
        if self.ending or (self._up_since and now - self._up_since >= SETTLED_S):
            self._alarms.set("redis_away", False, f"Redis at {self.url} takes events again")
        if now - self._foreign_at >= FOREIGN_S:
            self._alarms.set("foreign_entries", False, f"nobody else writes to {self._stream} any more")

    def _sleep(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._stopping and (left := deadline - time.monotonic()) > 0:
            self._wake.wait(left)
            self._wake.clear()


def _far_ahead(events: list[Spooled], last: StreamId) -> StreamId:
    """A place far ahead of a stream's end: whatever somebody else adds meanwhile, all ids behind it are taken or none."""
    (ms, n), step = last, random.randrange(LEAST_STEP, MOST_STEP)
    if LEAST_STEP <= n < LARGEST and all(e.place <= (ms, n + step) for e in events):
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
