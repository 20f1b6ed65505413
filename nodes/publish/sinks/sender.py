"""The thread that feeds a sink, with pauses and an alarm of its own. A sink that is away delays no other.

If a sink raises anything, its watermark stays: it is closed, and connected again after a pause. No event is ever dropped.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

from nodes.publish.sinks.sink import Feed, Sink, SinkOpening, told
from nodes.publish.spool.database import SpoolDamagedError, SpoolTroubleError
from nodes.publish.spool.spool import FIRST_SINK, Spool, Spooled
from pipeline.core.events import AlarmKind
from pipeline.runtime.supervisor import Alarm, Alarms

log = logging.getLogger(__name__)
PAUSE_MIN_S, PAUSE_MAX_S = 0.05, 2.0
LOOK_S = 1.0
"""How often a sink has its turn while there is nothing to send."""
SETTLED_S = 3.0
"""How long a sink must have taken events before an outage counts as over."""
STOP_S = 4.0
HUNG_S = 10.0
"""A sink that has been in one call for so long, or says for so long that it works and confirms nothing, counts as away."""
FRUITLESS_S = 0.02
"""Longest pause after a turn that says that there is more to do and has confirmed nothing; it begins with 1 ms."""
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
        self._fruitless_since: float | None = None  # monotonic s since when it returns True and confirms none of those that wait
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
        """Called from another thread: count a sink as away that hangs (``HUNG_S``)."""
        if self.state.startswith("away"):
            return
        if (began := self._called_at) is not None and time.monotonic() - began > HUNG_S:
            self._away(TimeoutError(f"it has not come back for {HUNG_S:.0f} s"))
        elif (since := self._fruitless_since) is not None and time.monotonic() - since > HUNG_S:
            self._away(TimeoutError(f"it says that it works, and has confirmed nothing for {HUNG_S:.0f} s"))

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
            fruitless = 0  # turns in a row
            while not self._stopping:
                before, self._called_at = feed.sent, time.monotonic()
                busy = sink.turn()
                self._called_at = None
                self.trouble = ""
                fruitless = fruitless + 1 if busy and feed.sent == before else 0
                if fruitless:
                    self._fruitless_since = (self._fruitless_since or time.monotonic()) if feed.unsent(1) else None
                    self._wake.wait(min(0.001 * fruitless, FRUITLESS_S))
                    self._wake.clear()
                    continue
                self._fruitless_since = None
                if not busy and not feed.unsent(1):
                    self._well()
                if self.state == "connecting":
                    self.state = "up"
                self._outage_over()
                if not busy:
                    self._wake.wait(LOOK_S)
                    self._wake.clear()
        finally:
            self._fruitless_since = None
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
