"""What a supervisor does about processes that die: say so, raise one alarm, start them again. Also the signals that stop a line."""

import signal
import time
from collections import Counter
from collections.abc import Callable, Collection

from pipeline.core.errors import ConfigError, LinepipeError
from pipeline.core.events import AlarmKind
from pipeline.redis.server import EmbeddedServer
from pipeline.runtime.node_process import Backoff, NodeProcess
from pipeline.transport.messages import Heartbeat

TELL_S = 10.0
"""An alarm that has no end is raised at most this often, with the sum since the last time."""
Alarm = Callable[[str, bool, str], None]
"""Name, whether it is on, text."""


class Alarms:
    """Knows which alarms are on, and passes each change on once."""

    def __init__(self, alarm: Alarm, on: Collection[str] = ()) -> None:
        """``alarm`` is called for each change; ``on`` are the alarms that an earlier process left on."""
        self._alarm = alarm
        self._on = set(on)
        self._sums: Counter[str] = Counter()
        self._told: dict[str, float] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._on

    def set(self, name: str, active: bool, text: str) -> None:
        """Raise the alarm ``name`` or end it; does nothing if it is already so."""
        if active != (name in self._on):
            self._alarm(name, active, text)  # before the change: a thread that sees an alarm off knows that its end was passed on
            (self._on.add if active else self._on.discard)(name)

    def count(self, name: str, more: int, text: str) -> None:
        """Add ``more`` to the sum of an alarm that has no end, and raise it if that is due (``TELL_S``).

        ``{}`` in ``text`` is replaced by the sum since the last time. To be called repeatedly, with 0 if there is nothing to add.
        """
        self._sums[name] += more
        now = time.monotonic()
        if self._sums[name] and now - self._told.get(name, -TELL_S) >= TELL_S:
            self._told[name] = now
            self._alarm(name, True, text.replace("{}", str(self._sums.pop(name))))

    def named(self, prefix: str) -> list[str]:
        """Names of the alarms that are on and begin with ``prefix``."""
        return [name for name in tuple(self._on) if name.startswith(prefix)]  # a copy: another thread may set one


ASK_NS = 2_000_000_000
HUNG_NS = 10_000_000_000
GONE_S = 30.0
Say = Callable[[str], None]


class NodeWatch:
    """Watches the nodes of a line. It never gives one up: one that cannot work is started again, which status and alarms show."""

    def __init__(self, children: list[NodeProcess], say: Say, alarms: Alarms) -> None:
        self._by_name = {c.name: c for c in children}
        self._say, self._alarms = say, alarms

    def hear(self, status: Heartbeat, now_ns: int) -> None:
        """Take a heartbeat that ``from_child`` has checked, and end the node's alarm if it runs again."""
        child = self._by_name[status.node]
        child.hear(status, now_ns)
        if child.alive and not child.reason:
            self._alarms.set(AlarmKind.NODE_DIED.of(child.name), False, f"{child.name} runs again")

    def turn(self, now_ns: int, *, started: bool) -> None:
        """Check every node: reap it, start it again, kill it if it hangs; raise alarms. To be called in each turn.

        Raises ``ConfigError`` if a node ended with exit code 2 and its work loop has never turned: its configuration is wrong. If that
        was the node's first start, this holds at any time; if it was a later one, only before the line has ``started``.
        """
        for child in self._by_name.values():
            if (news := child.check(now_ns)) is not None:
                self._say(news)
                self._alarms.set(AlarmKind.NODE_DIED.of(child.name), True, news)
            if slow := child.slow_start(now_ns):
                self._say(slow)
            if child.refused and (child.restarts == 1 or not started):
                raise ConfigError(f"{child.name} cannot run; see its message above")
            storm = child.storm(now_ns)
            text = f"{child.name} keeps dying: {child.reason}" if storm else f"{child.name} has run for a minute"
            self._alarms.set(AlarmKind.NODE_STORM.of(child.name), storm, text)


def finished(captures: list[NodeProcess], finite: Callable[[NodeProcess], bool], now_ns: int) -> bool:
    """Whether no camera gives further frames.

    This needs at least one capture process that has ended for good; each other one must have a finite source and must have been down
    for ``GONE_S``. So a replay of many folders ends although one of them was removed, and a line that waits for a live camera goes on.
    """
    going = [c for c in captures if c.exit_code is None]
    return len(going) < len(captures) and all(finite(c) and c.down_s(now_ns) > GONE_S for c in going)


class ServerWatch:
    """Watches the embedded server: starts it again when it dies, kills it when it hangs."""

    def __init__(self, server: EmbeddedServer, say: Say, alarms: Alarms) -> None:
        self._server, self._say, self._alarms = server, say, alarms
        self._backoff = Backoff()
        self._starting = False
        self._wait_s = 0.0
        self._seen_ns = self._asked_ns = self._start_at_ns = 0
        self._since_ns = 0

    def turn(self, now_ns: int) -> None:
        """Ask it every ``ASK_NS`` whether it answers, and start or kill it where needed; does not wait for a start.

        To be called in each turn, with the time of an ``AwakeClock``: time in which the supervisor was stopped does not count against
        the server. What goes wrong is said and tried again. May wait up to ``ANSWER_S`` for an answer, and for the end of a killed one.
        """
        try:
            if not self._server.in_place(up=not self._starting and self._server.alive()):
                self._leave()
            elif self._starting:
                self._look(now_ns)
            elif self._server.alive():
                self._ask(now_ns)
            elif now_ns >= self._start_at_ns:
                self._begin(now_ns)
        except (LinepipeError, OSError) as exc:  # a wrong configuration too: once the line has started, it is a fault like others
            self._starting = False
            self._server.kill()
            self._start_at_ns = now_ns + int(self._wait_s * 1e9)
            self._say(f"{exc}; trying again in {self._wait_s:.1f} s")

    def _leave(self) -> None:
        self._say(f"{self._server.folder} was moved, replaced or emptied; the embedded Redis starts again in the folder that is there now")
        self._server.leave_folder()
        self._starting, self._start_at_ns = False, 0

    def _ask(self, now_ns: int) -> None:
        self._since_ns = self._since_ns or now_ns
        self._seen_ns = self._seen_ns or now_ns
        if now_ns - self._asked_ns <= ASK_NS:
            return
        self._asked_ns = now_ns
        if self._server.answers():
            self._seen_ns = now_ns
            crowded = "takes no more clients, so readers cannot connect: look who holds connections to its port (ss -tp)"
            text = crowded if self._server.crowded else "takes clients again"
            self._alarms.set(AlarmKind.REDIS_CROWDED, self._server.crowded, f"the embedded Redis at {self._server.url} {text}")
        elif now_ns - self._seen_ns > HUNG_NS:
            self._say("the embedded Redis hangs; killed")
            self._server.kill()

    def _begin(self, now_ns: int) -> None:
        self._say("the embedded Redis died; starting it again")
        self._alarms.set(AlarmKind.REDIS_DIED, True, "the embedded Redis died")
        self._wait_s = self._backoff.died(self._seen_ns - self._since_ns)
        self._start_at_ns = now_ns + int(self._wait_s * 1e9)
        self._since_ns = self._seen_ns = 0
        self._server.begin(now_ns)
        self._starting = True

    def _look(self, now_ns: int) -> None:
        before = self._server.url
        if not self._server.is_up(now_ns):
            return
        self._starting = False
        if self._server.url != before:
            self._say(f"somebody took the port of the embedded Redis; it is at {self._server.url} now")
        self._alarms.set(AlarmKind.REDIS_DIED, False, "the embedded Redis runs again")


class StopSignals:
    """SIGINT, SIGTERM and SIGHUP ask a line to drain; a second SIGINT or SIGTERM asks it to stop at once.

    A SIGHUP is never the second: a closed terminal may send it twice, and service managers send it after SIGTERM.
    """

    def __init__(self) -> None:
        self.asked = False
        """Whether any of these signals has come."""
        self._urgent = 0

    @property
    def at_once(self) -> bool:
        """Whether a second SIGINT or SIGTERM has come: the line must stop at once."""
        return self._urgent > 1

    def listen(self) -> None:
        """Handle the signals from now until the process ends. A SIGHUP that is ignored, as by ``nohup``, stays ignored.

        Must be called from the main thread.
        """
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGTERM, self._stop)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._hang_up)

    def _stop(self, *_: object) -> None:
        self.asked = True
        self._urgent += 1

    def _hang_up(self, *_: object) -> None:
        self.asked = True
