"""One node's process as its supervisor sees it: start, watch, restart with back-off, stop."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.backoff import Backoff
from pipeline.topology import Process
from pipeline.wire import Status

SILENT_S = 10.0
"""A node whose work loop has not turned for this long is hung; the engine runs in a thread of its own."""
START_S = 600.0
"""How long a node may take to load before that; compiling the network takes minutes on a small, busy machine."""


class Child:
    """A node that should be running until it is told to stop."""

    def __init__(
        self, process: Process, command: list[str], fds: tuple[int, ...] = (), may_end: Callable[[], bool] = lambda: False
    ) -> None:
        self.process, self._command, self._fds, self._may_end = process, command, fds, may_end
        self._popen: subprocess.Popen[bytes] | None = None
        self._backoff = Backoff()
        self._start_at_ns = 0
        self._seen_ns = 0
        self._progress = -1
        self._stopping = self._given_up = False
        self.restarts = 0
        self.state = "stopped"
        self.facts: dict[str, Any] = {}
        self.lives: dict[str, dict[str, Any]] = {}
        """Last facts of each life, by boot id."""
        self.exit_code: int | None = None
        """Set once the node has ended for good."""

    @property
    def name(self) -> str:
        return self.process.name

    @property
    def alive(self) -> bool:
        return self._popen is not None and self._progress > 1

    @property
    def pid(self) -> int | None:
        return self._popen.pid if self._popen is not None else None

    def start(self) -> None:
        command = [*self._command, "--drain"] if self._stopping else self._command
        self._popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2, start_new_session=True, pass_fds=self._fds, close_fds=True)
        self.state = "starting"
        self._seen_ns = time.monotonic_ns()
        self._progress = -1

    def hear(self, status: Status) -> None:
        """Take a heartbeat; only a work loop that turns counts as life."""
        self.lives[status.boot] = self.facts = status.facts
        self.state = status.state
        if status.progress != self._progress:
            self._progress = status.progress
            self._seen_ns = time.monotonic_ns()

    def check(self, now_ns: int) -> str | None:
        """Reap, restart, kill what hangs. Returns what a person should know, if anything happened."""
        if self.exit_code is not None:
            return None
        if self._popen is None:
            if now_ns >= self._start_at_ns:
                self.start()
            return None
        code = self._popen.poll()
        if code is None:
            return self._kill_if_hung(now_ns)
        self._popen = None
        ended = code == 0 and (self._stopping or self._may_end())
        if ended or code == 2 or self._given_up:
            self.exit_code, self.state = code, "ended" if code == 0 else "failed"
            return None
        wait_s = self._backoff.died(now_ns)
        self.restarts += 1
        self.state = "restarting"
        self._start_at_ns = now_ns + int(wait_s * 1e9)
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        storm = "; it keeps dying, see its messages above" if self._backoff.storm else ""
        return f"{self.name} was {how}; starting it again in {wait_s:.1f} s{storm}"

    def _kill_if_hung(self, now_ns: int) -> str | None:
        limit = START_S if self._progress <= 1 else SILENT_S
        silent_s = (now_ns - self._seen_ns) / 1e9
        if silent_s < limit:
            return None
        self.kill()
        self._seen_ns = now_ns
        return f"{self.name} has not turned its work loop for {silent_s:.0f} s; killed"

    def stop(self) -> None:
        """Ask it to finish. If it dies over that it is started again, to finish what it left."""
        self._stopping = True
        if self._popen is not None:
            self._popen.send_signal(signal.SIGTERM)

    def give_up(self) -> None:
        """Kill it and let it be."""
        self._given_up = True
        self.kill()
        if self._popen is None and self.exit_code is None:
            self.exit_code, self.state = 1, "failed"

    def kill(self) -> None:
        if self._popen is not None:
            self._popen.kill()

    def wait(self) -> None:
        """Reap a process that was killed."""
        if self._popen is not None:
            self._popen.wait()


def program() -> list[str]:
    """How to start linepipe again, so that a process list reads ``linepipe node NAME``."""
    beside = Path(sys.executable).parent / "linepipe"
    found = str(beside) if beside.exists() else shutil.which("linepipe")
    return [sys.executable, found] if found and os.access(found, os.R_OK) else [sys.executable, "-m", "pipeline"]
