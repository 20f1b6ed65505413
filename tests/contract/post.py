"""A spool with its sender, and the alarms that it raised."""

import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import redis

from nodes.publish.sinks.redis.sink import RedisSink
from nodes.publish.sinks.sender import Sender
from nodes.publish.sinks.sink import SinkOpening
from nodes.publish.spool.spool import Spool, Stamp
from pipeline.client import Events
from tests.conftest import Server
from tests.contract.test_spool import event, to_redis

STREAM = "linepipe:test:events"


def redis_sender(url: str, path: Path, opened: Callable[[RedisSink], None], *, lifted: Callable[[Stamp], None], **told: Any) -> Sender:
    """A sender to that Redis; ``opened`` is handed its sink."""

    def open_sink(opening: SinkOpening) -> RedisSink:
        sink = RedisSink(opening, url, None, STREAM, keep_ms=1_000_000, lifted=lifted)
        opened(sink)
        return sink

    return Sender("redis", f"Redis at {url}", path, open_sink, **told)


class Post:
    """A spool with its sender, and the alarms it raised."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.server = server
        self._path = folder / "events.db"
        self.spool = Spool(self._path, durable=True)
        self.alarms: list[tuple[str, bool]] = []
        self.told_lost: list[int] = []
        """Numbers of events in the alarms ``redis_lost``."""
        self.texts: dict[str, str] = {}
        """Of each alarm the newest text."""
        self._changed = threading.Event()
        self._next = 0
        self.redis: RedisSink
        self.start()

    def start(self, on: Collection[str] = ()) -> None:
        """A sender, as a publish node starts it; ``on``: the alarms that an earlier one left on."""
        self.sink = redis_sender(
            self.server.url,
            self._path,
            lambda sink: setattr(self, "redis", sink),
            confirmed=lambda _: self._changed.set(),
            alarm=self._alarm,
            lifted=self.spool.raise_floor,
            on=on,
        )

    def stop(self) -> None:
        """End the sender."""
        self.sink.stop()
        self.sink.join()

    def _alarm(self, name: str, active: bool, text: str) -> None:
        self.alarms.append((name, active))
        self.texts[name] = text
        if name == "redis_lost":
            self.told_lost.append(int(text.partition(" had lost ")[2].split()[0]))
        self._changed.set()

    def add(self, count: int) -> None:
        self.spool.append([(f"k{k}", [event(k)]) for k in range(self._next, self._next + count)])
        self._next += count
        self.sink.wake()

    def wait(self, condition: Callable[[], bool]) -> None:
        for _ in range(200):
            if condition():
                return
            self._changed.wait(0.1)
            self._changed.clear()
        raise AssertionError((self.sink.state, self.sink.failed, self.alarms, self.told_lost))

    def wait_sent(self) -> None:
        self.wait(lambda: to_redis(self.spool).backlog == 0)

    @property
    def client(self) -> Any:
        """Somebody else at the same server."""
        return redis.Redis.from_url(self.server.url)

    def wait_stream(self, expected: list[str] | None = None) -> None:
        """Until the stream holds exactly these events of ours, in this order."""
        wanted = self.expected() if expected is None else expected
        self.wait(lambda: self.stream() == wanted)

    def stream(self) -> list[str]:
        with Events(self.server.url, STREAM) as events:
            return [e["id"] for e in events.read() if e["id"] != "foreign"]

    def expected(self) -> list[str]:
        return [f"id{k}" for k in range(self._next)]
