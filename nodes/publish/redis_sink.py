"""The spool's events into Redis, in a thread: in order, one group at a time, the same ids however often.

What a reply means (redis-py's own retries are off):
    confirmed                     the watermark moves
    "equal or smaller" id         XRANGE settles it: our event is there (a repeat), or a foreign one, then the unsent
                                  events get ids behind it
    any other error, no reply     nothing moves; the connection is made anew after a pause, and the first thing it does
                                  is compare the stream's newest id with the watermark and send again what is missing
Nothing is ever dropped. Redis 6.2 and Valkey suffice; no EVAL.
"""

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from nodes.publish.spool import Spool, Spooled, SpoolError
from pipeline.client import reason
from pipeline.errors import NodeError

GROUP = 200
TIMEOUT_S = 2.0
PAUSE_MIN_S, PAUSE_MAX_S = 0.05, 2.0
TRIM_S = 60.0
Alarm = Callable[[str, bool, str], None]


class RedisSink:
    """Sends until stopped. ``confirmed(events)`` and ``alarm(name, active, text)`` are called in its thread."""

    def __init__(
        self,
        url: str,
        password: str | None,
        stream: str,
        spool: Path,
        *,
        keep_ms: int,
        confirmed: Callable[[list[Spooled]], None],
        alarm: Alarm,
        lifted: Callable[[int, int], None],
    ) -> None:
        self._make = lambda: redis.Redis.from_url(
            url,
            password=password,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            redis_connect_func=_connect_once(),
        )
        self.url, self._stream, self._spool_path, self._keep_ms = url, stream, spool, keep_ms
        self._confirmed, self._alarm, self._lifted = confirmed, alarm, lifted
        self._wake = threading.Event()
        self._stopping = False
        self.state = "connecting"
        """``connecting``, ``up``, or ``away: <why>``."""
        self.failed: Exception | None = None
        """What ended the thread, if anything did."""
        self._thread = threading.Thread(target=self._run, name="redis", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is something to send."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread; what is unsent stays in the spool."""
        self._stopping = True
        self._wake.set()
        self._thread.join(2 * TIMEOUT_S)

    def _run(self) -> None:
        try:
            self._spool = Spool(self._spool_path, durable=False)
            failures = 0
            while not self._stopping:
                try:
                    with self._make() as client:
                        self._connect(client)
                        failures = 0
                        self._serve(client)
                except redis.RedisError as exc:
                    failures += 1
                    self._away(exc)
                    most = min(PAUSE_MAX_S, PAUSE_MIN_S * 2**failures)
                    self._sleep(random.uniform(PAUSE_MIN_S, most))
            self._spool.close()
        except SpoolError as exc:
            self.failed = NodeError(f"the spool cannot be read ({exc}): is the disk of state_dir full?")
        except Exception as exc:  # handed to the node's main loop, which ends the process
            self.failed = exc

    def _connect(self, client: Any) -> None:
        """Compare what the server has with what was sent."""
        try:
            newest = client.xinfo_stream(self._stream)["last-generated-id"].decode()
        except redis.ResponseError as exc:
            if "no such key" not in str(exc):
                raise
            newest = "0-0"
        ms, n = map(int, newest.split("-"))
        lost = self._spool.rewind(ms, n)
        if self.state.startswith("away"):
            self._alarm("redis_away", False, f"Redis at {self.url} answers again")
        self.state = "up"
        if lost:
            self._alarm("redis_lost", True, f"Redis at {self.url} had lost {lost} events; they are sent again")
        if self._spool.sent == 0 and ms:  # a stream from an earlier spool: stay behind it
            self._spool.lift_floor(ms, n)
            self._lifted(ms, n)

    def _serve(self, client: Any) -> None:
        trim_at = time.monotonic() + TRIM_S
        while not self._stopping:
            events = self._spool.unsent(GROUP)
            if events:
                self._send(client, events)
            elif time.monotonic() > trim_at:
                trim_at = time.monotonic() + TRIM_S
                self._trim(client)
            else:
                self._wake.wait(TRIM_S)
                self._wake.clear()

    def _send(self, client: Any, events: list[Spooled]) -> None:
        pipe = client.pipeline(transaction=False)
        for e in events:
            fields = {"type": e.type, "id": e.id, "v": 1, "data": e.data}
            pipe.xadd(self._stream, fields, id=f"{e.ms}-{e.n}")
            pipe.publish(self._stream, e.data)
        replies = pipe.execute(raise_on_error=False)[::2]
        done = 0
        for event, reply in zip(events, replies, strict=True):
            if isinstance(reply, redis.ResponseError) and "equal or smaller" in str(reply):
                if not self._is_there(client, event):
                    break
            elif isinstance(reply, Exception):
                break
            done += 1
        if done:
            self._spool.mark_sent(events[done - 1].seq)
            self._confirmed(events[:done])
        if done < len(events):
            self._settle(client, replies[done])

    def _is_there(self, client: Any, event: Spooled) -> bool:
        found = client.xrange(self._stream, f"{event.ms}-{event.n}", f"{event.ms}-{event.n}")
        return bool(found) and found[0][1].get(b"id") == event.id.encode()

    def _settle(self, client: Any, reply: Exception) -> None:
        """A group stopped at an event: a foreign entry holds its id or a later one, or the server refused."""
        if "equal or smaller" not in str(reply):
            raise reply
        newest = client.xinfo_stream(self._stream)["last-generated-id"].decode()
        ms, n = map(int, newest.split("-"))
        count = self._spool.lift(ms, n)
        self._lifted(ms, n + count)
        self._alarm("foreign_entries", True, f"somebody else writes to {self._stream}; {count} events got new stream ids behind {newest}")

    def _trim(self, client: Any) -> None:
        """Forget entries older than ``keep_ms`` that every consumer group has acknowledged."""
        limits = [(time.time_ns() // 1_000_000 - self._keep_ms, 0)]
        for group in client.xinfo_groups(self._stream):
            pending = client.xpending(self._stream, group["name"])
            first = pending["min"] if pending["pending"] else group["last-delivered-id"]
            ms, n = map(int, first.decode().split("-"))
            limits.append((ms, n))
        ms, n = min(limits)
        client.xtrim(self._stream, minid=f"{ms}-{n}", approximate=True)

    def _away(self, exc: redis.RedisError) -> None:
        if not self.state.startswith("away"):
            self._alarm("redis_away", True, f"Redis at {self.url} does not take events ({reason(exc)}); they wait in the spool")
        self.state = f"away: {reason(exc)}"

    def _sleep(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._stopping and (left := deadline - time.monotonic()) > 0:
            self._wake.wait(left)
            self._wake.clear()


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
