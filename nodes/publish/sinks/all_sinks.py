"""The sinks of a line: Redis, and those of ``publish.sinks``; a sender feeds each."""

import queue
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from nodes.publish.sinks.redis.sink import RedisSink
from nodes.publish.sinks.sender import STOP_S, Sender
from nodes.publish.sinks.sink import Sink, SinkOpening
from nodes.publish.spool.open_alarms import SINK_ALARMS
from nodes.publish.spool.spool import FIRST_SINK, Spool, Spooled, Stamp
from pipeline.config import Config
from pipeline.config.urls import SinkUrl
from pipeline.core.status import SinkFacts
from pipeline.redis.login import Login
from pipeline.runtime.supervisor import Alarm

GIVE_UP_NS = 5_000_000_000  # at the end: how long a sink may be away before the rest stays in the spool
GIVE_UP_EMBEDDED_NS = 18_000_000_000  # the supervisor replaces an embedded server that hangs, which takes as long


class Sinks:
    """All sinks of a line: starts a sender for each. Used from the thread that appends to the spool."""

    def __init__(
        self, config: Config, login: Login, path: Path, spool: Spool, *, confirmed: Callable[[list[Spooled]], None], alarm: Alarm
    ) -> None:
        self._spool, self._embedded = spool, config.publish.redis == "embedded"
        self._lifted: queue.SimpleQueue[Stamp] = queue.SimpleQueue()
        on = spool.open_alarms.names()
        _end_alarms_of_removed(config, on, alarm)
        redis = partial(
            RedisSink,
            url=login.url,
            password=login.password,
            stream=config.stream,
            keep_ms=int(config.publish.keep_days * 86_400_000),
            keep_bytes=int(config.publish.keep_mib * (1 << 20)) if self._embedded else None,
            lifted=self._lifted.put,
        )
        self.redis = Sender(FIRST_SINK, f"Redis at {login.url}", path, redis, alarm=alarm, confirmed=confirmed, on=on)
        self._others = [
            Sender(name, f"The sink {name} ({text.partition(':')[0]})", path, partial(_open, text), alarm=alarm, on=on)
            for name, text in config.publish.sinks.items()
        ]
        self._all = [self.redis, *self._others]
        self.url = login.url
        self.backlog = {sender.name: 0 for sender in self._all}
        """Number of events that each sink has not confirmed, as last counted."""
        self._away_since_ns: dict[str, int] = {}

    def turn(self, *, ending: bool) -> None:
        """Look after the threads. Raises the exception that ended one of them, ``SpoolDamagedError`` for instance."""
        for sender in self._all:
            if sender.failed is not None:
                raise sender.failed
            sender.ending = ending
        for sender in self._others:  # Redis has time limits of its own
            sender.look()
        while not self._lifted.empty():
            self._spool.raise_floor(self._lifted.get())

    def wake(self) -> None:
        """Have all threads look at once for events to send."""
        for sender in self._all:
            sender.wake()

    def count(self) -> None:
        """Count the unconfirmed events into ``backlog``. Raises ``SpoolTroubleError`` and ``SpoolDamagedError``."""
        for name in self.backlog:
            self.backlog[name] = self._spool.count_behind(self._spool.watermark(name))

    @property
    def trouble(self) -> str:
        """Why one of the threads cannot use the spool now; an empty string if all can."""
        return next((sender.trouble for sender in self._all if sender.trouble), "")

    @property
    def complete(self) -> bool:
        """Whether each sink has all events, as last counted, and none is away."""
        return not any(map(self._lacks, self._all))

    def given_up(self, now_ns: int) -> bool:
        """At the end: whether all sinks that lack events have been away too long to wait for. ``now_ns``: monotonic."""
        gone = [self._gone(sender, now_ns) for sender in self._all if self._lacks(sender)]
        return bool(gone) and all(gone)

    def _lacks(self, sender: Sender) -> bool:
        return bool(self.backlog[sender.name]) or not sender.settled

    def _gone(self, sender: Sender, now_ns: int) -> bool:
        if not sender.state.startswith("away"):
            self._away_since_ns.pop(sender.name, None)
            return False
        patience = GIVE_UP_EMBEDDED_NS if sender is self.redis and self._embedded else GIVE_UP_NS
        return now_ns - self._away_since_ns.setdefault(sender.name, now_ns) > patience

    def facts(self) -> dict[str, SinkFacts]:
        """State and backlog of each sink beside Redis, by name."""
        return {s.name: SinkFacts(state=s.state, backlog=self.backlog[s.name]) for s in self._others}

    def stop(self) -> None:
        """End the threads, waiting ``STOP_S`` at most for all; unsent events stay in the spool."""
        for sender in self._all:
            sender.stop()
        deadline = time.monotonic() + STOP_S
        for sender in self._all:
            sender.join(max(0.0, deadline - time.monotonic()))


def _open(text: str, opening: SinkOpening) -> Sink:
    url = SinkUrl.parse(text)
    sink: Sink = url.kind.open(url, opening)
    return sink


def _end_alarms_of_removed(config: Config, on: set[str], alarm: Alarm) -> None:
    for name in on:
        kind, _, sink = name.partition(":")
        if kind.startswith(SINK_ALARMS) and sink not in config.publish.sinks:
            alarm(name, False, f"the configuration has no sink {sink} any more")
