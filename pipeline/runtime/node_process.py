"""One node's process as its supervisor sees it: start, watch, restart with back-off, stop.

Times (``now_ns``) are those of an ``AwakeClock``, because a supervisor that was stopped itself has not seen what its nodes did.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.config.topology import Process
from pipeline.core.status import Facts, NodeState
from pipeline.system.launch import bound
from pipeline.transport.messages import Heartbeat

STOPPED_S = 2.0
"""A node is killed if its main thread has not run at all for this long while its work loop should turn: it is stopped, or stuck in
one call."""
SILENT_S = 10.0
"""A node is killed if its work loop has not turned for this long, even if its main thread runs, waits for a disk, or waits for another
thread before it ends. These take less: a large image, a slow fsync, a call in another thread."""
START_S = 600.0
"""A node that loads is killed if its work loop has not turned after this long; compiling takes minutes on a small, busy machine."""
LOOK_S = 0.5
"""After two missed heartbeats the supervisor looks at the node's main thread itself."""
SLOW_S = 30.0
"""A start that takes longer is told."""
MOST_WORDS = 1000
LAST_WORDS_NS = 50_000_000
"""How long the last heartbeats of a node that has ended may take to arrive."""
DRAIN_WAIT_S = 1.0
"""The longest wait before a restart while the line stops."""


class AwakeClock:
    """Monotonic time without the time in which its owner did not run: SIGSTOP, a suspended machine, a call that took long."""

    LATE_NS = 500_000_000

    def __init__(self) -> None:
        self._last_ns, self._lost_ns = time.monotonic_ns(), 0

    def turn(self) -> int:
        """The time now, in ns; to be called in each turn of the owner's loop. At most ``LATE_NS`` count since the last call."""
        now = time.monotonic_ns()
        self._lost_ns += max(0, now - self._last_ns - self.LATE_NS)
        self._last_ns = now
        return now - self._lost_ns


class NodeProcess:
    """A node that should run until it is asked to stop. ``start`` starts it; then ``check`` must be called in each turn.

    ``command`` is its command line and ``fds`` are the descriptors that it inherits. ``may_end()``: whether it may end by itself now.
    ``left()``: whether it has left something that only another start of it can finish.
    """

    def __init__(
        self,
        process: Process,
        command: list[str],
        fds: tuple[int, ...] = (),
        may_end: Callable[[], bool] = lambda: False,
        left: Callable[[], bool] = lambda: False,
    ) -> None:
        self.process, self._command, self._fds, self._may_end, self._left = process, command, fds, may_end, left
        self.name = process.name
        """As in ``linepipe node NAME``."""
        self._popen: subprocess.Popen[bytes] | None = None
        self._backoff = Backoff()
        self._start_at_ns = self._seen_ns = self._alive_ns = self._still_ns = self._gone_ns = self._down_ns = self._slow_at_ns = 0
        self._main_thread: tuple[str, int | None] | None = None
        self._progress = -1
        self._boot = self._dead_boot = self._why = ""
        self._stopping = self._given_up = False
        self.restarts = 0
        self.pids: set[int] = set()
        """Process ids of all its lives."""
        self.state = NodeState.STOPPED
        self.reason = ""
        """Why it is not running, until it runs again."""
        self.ran = False
        """Whether its work loop has ever turned."""
        self.refused = False
        """Whether it has ended with exit code 2 before its work loop ever turned: a person must correct the configuration."""
        self.facts = Facts()
        self.lives: dict[str, Facts] = {}
        """Last facts of each life, by boot id."""
        self.cut_short = False
        """Set when the run ends although this node had not done its work: then its exit code is not 0."""
        self.exit_code: int | None = None
        """Set once the node has ended and is not started again; 0 if it ended in order."""

    @property
    def alive(self) -> bool:
        """Whether its work loop turns."""
        return self._popen is not None and self._progress > 1

    @property
    def pid(self) -> int | None:
        """Process id; None while there is no process."""
        return self._popen.pid if self._popen is not None else None

    def retry_in_s(self, now_ns: int) -> float | None:
        """Seconds to the next start; None while it runs or has ended for good."""
        return None if self._popen is not None or self.exit_code is not None else max(0.0, (self._start_at_ns - now_ns) / 1e9)

    def down_s(self, now_ns: int) -> float:
        """Seconds since it died or could not be started; 0 if its work loop has turned since, or it never died."""
        return (now_ns - self._down_ns) / 1e9 if self._down_ns else 0.0

    def storm(self, now_ns: int) -> bool:
        """Whether it keeps dying: ``STORM`` times within a minute of running."""
        return self._backoff.storm(now_ns - self._alive_ns if self.alive else 0)

    def start(self, now_ns: int) -> str | None:
        """Start its process; returns None, or a sentence for a person if that failed: ``check`` tries again later."""
        command = bound([*self._command, "--drain"] if self._stopping else self._command)
        self._seen_ns, self._progress, self._alive_ns, self._why = now_ns, -1, 0, ""
        try:
            self._popen = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=2, start_new_session=True, pass_fds=self._fds, close_fds=True
            )
        except OSError as exc:  # no memory or process left, or the program is being replaced
            return self._retry(f"could not be started: {exc.strerror}", now_ns)
        self.pids.add(self._popen.pid)
        self.state, self._slow_at_ns = NodeState.STARTING, now_ns + int(SLOW_S * 1e9)
        return None

    def slow_start(self, now_ns: int) -> str:
        """A sentence, once for each start, if the work loop has not turned ``SLOW_S`` after it; otherwise an empty string."""
        if self._popen is None or self.alive or not 0 < self._slow_at_ns <= now_ns:
            return ""
        self._slow_at_ns = 0
        return f"{self.name} has been starting for {SLOW_S:.0f} s; it may take {START_S:.0f} s"

    def hear(self, status: Heartbeat, now_ns: int) -> None:
        """Take a heartbeat of this node. It counts as a sign of life only if the work loop has turned since the last one."""
        if status.state is NodeState.FAILED:
            self._why = "failed: " + " ".join(str(status.facts.error).split())[:MOST_WORDS]
            return
        self.lives[status.boot] = self.facts = status.facts
        if status.boot == self._dead_boot:  # it was on its way when the node died
            return
        self._boot, self.state = status.boot, status.state
        if status.progress != self._progress:
            self._progress, self._seen_ns = status.progress, now_ns
            if self.alive:
                self._alive_ns = self._alive_ns or now_ns
                self.ran, self.reason, self._down_ns = True, "", 0

    def check(self, now_ns: int) -> str | None:
        """Reap its process if it ended, start it again when that is due, kill it if it hangs; never blocks.

        Returns a sentence for a person if the process ended or could not be started, otherwise None.
        """
        if self.exit_code is not None:
            return None
        if self._popen is None:
            return self.start(now_ns) if now_ns >= self._start_at_ns else None
        code = self._popen.poll()
        if code is None:
            return self._kill_if_hung(now_ns)
        self._gone_ns = self._gone_ns or now_ns
        return self._gone(code, now_ns) if now_ns - self._gone_ns >= LAST_WORDS_NS else None

    def _gone(self, code: int, now_ns: int) -> str | None:
        self._popen, self._dead_boot, self._gone_ns = None, self._boot, 0
        if self._given_up or (code == 0 and (self._stopping or self._may_end())):
            self._end(code)
            return None
        if self._stopping and not self._left():
            self._end(0)
            return None
        self.refused = code == 2 and not self.ran
        self.restarts += 1
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return self._retry(self._why or how, now_ns)

    def _retry(self, why: str, now_ns: int) -> str:
        self._down_ns = self._down_ns or now_ns
        wait_s = self._backoff.died(self._seen_ns - self._alive_ns if self._alive_ns else 0)
        if self._stopping:
            wait_s = min(wait_s, DRAIN_WAIT_S)
        self.state, self.reason, self._alive_ns = NodeState.RESTARTING, why, 0
        self._start_at_ns = now_ns + int(wait_s * 1e9)
        return f"{self.name} {why}; starting it again in {wait_s:.1f} s"

    def _kill_if_hung(self, now_ns: int) -> str | None:
        """Kill it if its work loop does not turn; sooner if its main thread does not even run."""
        silent_ns = now_ns - self._seen_ns
        if silent_ns < LOOK_S * 1e9:
            self._still_ns, self._main_thread = self._seen_ns, None
            return None
        assert self._popen is not None
        before, self._main_thread = self._main_thread, main_thread(self._popen.pid)
        stopped = self._main_thread is not None and self._main_thread[0] == "T"
        works = self.alive and self.state is not NodeState.ENDED  # else it loads, or waits for a thread before it ends
        stuck = works and self._main_thread == before and before is not None and before[0] == "S" and before[1] is not None
        if not stopped and not stuck:
            self._still_ns = now_ns
        still = now_ns - self._still_ns >= STOPPED_S * 1e9
        if not still and silent_ns < (SILENT_S if self.alive else START_S) * 1e9:
            return None
        self.kill()
        self._why = f"hung: its work loop had not turned for {silent_ns / 1e9:.1f} s"
        return None

    def stop(self, now_ns: int) -> None:
        """Ask it to stop (SIGTERM). If it dies before it has finished, or is dead, it is started again only to finish what it left."""
        self._stopping = True
        if self._popen is not None:
            self._popen.send_signal(signal.SIGTERM)
        elif not self._left():
            self._end(0)
        else:
            self._start_at_ns = now_ns

    def give_up(self) -> None:
        """Kill it and do not start it again; a process that runs is reaped by ``check``."""
        self._given_up = True
        self.kill()
        if self._popen is None and self.exit_code is None:
            self._end(1)

    def _end(self, code: int) -> None:
        code = code or int(self.cut_short)
        self.exit_code, self.state = code, NodeState.ENDED if code == 0 else NodeState.FAILED

    def kill(self) -> None:
        """Kill its process (SIGKILL) with those that it started, a compiler for instance. Does not wait."""
        if self._popen is not None and self._popen.poll() is None:
            os.killpg(self._popen.pid, signal.SIGKILL)

    def wait(self) -> None:
        """Wait until its process has ended, if there is one; for one that was killed."""
        if self._popen is not None:
            self._popen.wait()


def main_thread(pid: int) -> tuple[str, int | None] | None:
    """State of a process's main thread (R, S, D, T, ...), and the ns that it has run, None if the kernel does not say.

    None instead of both if there is no such process.
    """
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # it has just ended
        return None
    try:
        return state, int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    except OSError:  # a kernel without CONFIG_SCHED_INFO
        return state, None


def program() -> list[str]:
    """The beginning of a command line that starts linepipe, such that a process list shows ``linepipe node NAME`` if possible."""
    beside = Path(sys.executable).parent / "linepipe"
    found = str(beside) if beside.exists() else shutil.which("linepipe")
    return [sys.executable, found] if found and os.access(found, os.R_OK) else [sys.executable, "-m", "pipeline"]


WINDOW_NS = 60_000_000_000
FIRST_S, MOST_S = 0.1, 60.0
WORKED_NS, WORKED_MOST_S = 2_000_000_000, 0.5
"""A process that ran for ``WORKED_NS`` did its work: it is started again within ``WORKED_MOST_S``, however often it dies."""
STORM = 5
"""This many deaths within a minute of running are a storm."""
_REMEMBERED = 20


class Backoff:
    """How long to wait before a restart: ``FIRST_S`` at first; each further death within a minute of running doubles it, to ``MOST_S``.

    That minute counts only time in which the process ran: the deaths of one that dies at every start are not forgotten while it waits.
    """

    def __init__(self) -> None:
        self._ran_ns = 0
        self._deaths: list[int] = []

    def died(self, ran_ns: int) -> float:
        """Note a death after ``ran_ns`` of running; returns the seconds to wait before the next start."""
        self._ran_ns += ran_ns
        self._deaths = [*self._recent(0), self._ran_ns][-_REMEMBERED:]
        return float(min(WORKED_MOST_S if ran_ns >= WORKED_NS else MOST_S, FIRST_S * 2 ** (len(self._deaths) - 1)))

    def storm(self, running_ns: int = 0) -> bool:
        """Whether it died ``STORM`` times within the last minute of running; ``running_ns``: how long it has been running now."""
        return len(self._recent(running_ns)) >= STORM

    def _recent(self, running_ns: int) -> list[int]:
        return [at for at in self._deaths if self._ran_ns + running_ns - at < WINDOW_NS]
