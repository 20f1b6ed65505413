"""The sinks of a line, and the thread that feeds each, with pauses and an alarm of its own. One that is away delays no other.

If a sink raises anything, its watermark stays: it is closed, and connected again after a pause. No event is ever dropped.
"""

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from nodes.publish.sinks.redis.sink import RedisSink
from nodes.publish.sinks.sink import Feed, Sink, SinkOpening, told
from nodes.publish.spool.database import SpoolDamagedError, SpoolTroubleError
from nodes.publish.spool.open_alarms import SINK_ALARMS
from nodes.publish.spool.spool import FIRST_SINK, Spool, Spooled, Stamp
from pipeline.config import Config
from pipeline.config.urls import SinkUrl
from pipeline.core.events import AlarmKind
from pipeline.core.status import SinkFacts
from pipeline.redis.login import Login
from pipeline.runtime.supervisor import Alarm, Alarms

log = logging.getLogger(__name__)
PAUSE_MIN_S, PAUSE_MAX_S = 0.05, 2.0
LOOK_S = 1.0
"""How often a sink has its turn while there is nothing to send."""
SETTLED_S = 3.0
"""How long a sink must have taken events before an outage counts as over."""
STOP_S = 4.0
HUNG_S = 10.0
"""A sink that has been in one call for so long counts as away."""
OpenSink = Callable[[SinkOpening], Sink]


class Sender:
    """Feeds a sink until stopped, in a thread of its own, which the constructor starts and which calls ``confirmed(events)``.

    ``alarm(name, active, text)`` is called in that thread, and in the one that calls ``look``. ``on``: names of alarms that an
    earlier process left on. ``where``: the destination, as messages name it.
    """

    def __init__(
        self,
        name: str,
        where: str,
        spool: Path,
        open_sink: OpenSink,
        *,
        alarm: Alarm,
        confirmed: Callable[[list[Spooled]], None] = lambda _: None,
        on: Collection[str] = (),
    ) -> None:
        self.name, self._where, self._spool_path, self._open_sink = name, where, spool, open_sink
        self._confirmed = confirmed
        self._alarms = Alarms(alarm, on)
        self._away_alarm = away_alarm(name)
        self._wake = threading.Event()
        self._stopping = self.ending = False
        """Whether the line is ending: then an outage counts as over at once."""
        self.state = "connecting"
        """``connecting``, ``up``, or ``away: <why>``."""
        self.trouble = ""
        """Why this thread cannot use the spool now; an empty string if it can."""
        self.failed: BaseException | None = None
        """The exception that ended the thread; None if none did."""
        self._failures = 0
        self._up_since = 0.0
        self._called_at: float | None = None  # monotonic s at which the sink was called; None: it is not in a call
        self._thread = threading.Thread(target=self._run, name=f"sink-{name}", daemon=True)
        self._thread.start()

    @property
    def settled(self) -> bool:
        """Whether the alarm that the sink is away is off."""
        return self._away_alarm not in self._alarms

    def wake(self) -> None:
        """Have the thread look at once for events to send."""
        self._wake.set()

    def stop(self) -> None:
        """Ask the thread to end, without waiting; unsent events stay in the spool."""
        self._stopping = True
        self._wake.set()

    def join(self, seconds: float = STOP_S) -> None:
        """After ``stop``: wait for the thread to end, ``seconds`` at most."""
        self._thread.join(seconds)

    def look(self) -> None:
        """Called from another thread: count a sink as away that has not returned from a call for ``HUNG_S``."""
        began = self._called_at
        if began is not None and time.monotonic() - began > HUNG_S and not self.state.startswith("away"):
            self._away(TimeoutError(f"it has not come back for {HUNG_S:.0f} s"))

    def _run(self) -> None:
        spool: Spool | None = None
        sink: Sink | None = None
        try:
            while not self._stopping:
                try:
                    spool = spool or self._open_spool()
                    feed = Feed(spool, self.name, self._count)
                    self._called_at = time.monotonic()
                    sink = sink or self._open_sink(SinkOpening(self.name, feed, self._alarms))
                    self._serve(sink, feed)
                except SpoolDamagedError:
                    raise
                except SpoolTroubleError as exc:
                    self.trouble = str(exc)
                except (Exception, SystemExit) as exc:  # anything that a destination, or another package's code, raises
                    self._away(exc)
                else:
                    continue
                finally:
                    self._called_at = None
                self._failures += 1
                self._sleep(random.uniform(PAUSE_MIN_S, min(PAUSE_MAX_S, PAUSE_MIN_S * 2 ** min(self._failures, 10))))
        except BaseException as exc:  # handed to the node's main loop, which ends the process
            self.failed = exc
        finally:
            if spool is not None:
                spool.close()

    def _open_spool(self) -> Spool:
        try:
            return Spool(self._spool_path, durable=False, create=False)
        except OSError as exc:
            raise SpoolTroubleError(f"{self._spool_path}: {exc}") from exc

    def _serve(self, sink: Sink, feed: Feed) -> None:
        try:
            sink.connect()
            while not self._stopping:
                before, self._called_at = feed.sent, time.monotonic()
                busy = sink.turn()
                self._called_at = None
                self.trouble = ""
                if busy and feed.sent == before:
                    self._wake.wait(0.001)
                    continue
                if not busy and not feed.unsent(1):
                    self._well()
                if self.state == "connecting":
                    self.state = "up"
                self._outage_over()
                if not busy:
                    self._wake.wait(LOOK_S)
                    self._wake.clear()
        finally:
            self._close(sink)

    def _close(self, sink: Sink) -> None:
        """An error in closing is only logged: the one that led here says more."""
        try:
            sink.close()
        except (Exception, SystemExit) as exc:
            log.debug("sink %s: close: %r", self.name, exc)

    def _count(self, events: list[Spooled]) -> None:
        """The sink has confirmed these events."""
        self._well()
        self._confirmed(events)

    def _well(self) -> None:
        """The sink has taken events, or has all: the only sign that an outage ends."""
        self._failures = 0
        self.state = "up"
        self._up_since = self._up_since or time.monotonic()

    def _away(self, exc: BaseException) -> None:
        why = told(exc)
        self.state = f"away: {why}"
        self._up_since = 0.0
        self._alarms.set(self._away_alarm, True, f"{self._where} does not take events ({why}); they wait in the spool")

    def _outage_over(self) -> None:
        if self.ending or (self._up_since and time.monotonic() - self._up_since >= SETTLED_S):
            self._alarms.set(self._away_alarm, False, f"{self._where} takes events again")

    def _sleep(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._stopping and (left := deadline - time.monotonic()) > 0:
            self._wake.wait(left)
            self._wake.clear()


def away_alarm(sink: str) -> str:
    """Name of the alarm that the sink ``sink`` does not take events."""
    return AlarmKind.REDIS_AWAY if sink == FIRST_SINK else AlarmKind.SINK_AWAY.of(sink)


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
