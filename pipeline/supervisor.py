"""``linepipe run``: starts a line's processes, watches them, restarts what dies, stops them in order.

Start: Redis (if embedded), publish, the inspecting nodes, the captures; a capture arms when a worker asks it for frames.
Stop:  captures first (each drains: its last frame is durable before it ends), then the inspecting nodes, then publish
(which waits for Redis), then Redis. A node that dies while others drain is still restarted: they wait for it.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from pipeline.child import Child, program
from pipeline.config import Config
from pipeline.embedded import EmbeddedServer
from pipeline.errors import ConfigError, LinepipeError, NodeError
from pipeline.frame import Alarm
from pipeline.ledger import Account, Ledger
from pipeline.node_main import DRAIN_S
from pipeline.outbox import Outbox
from pipeline.ring import Ring, new_memfd
from pipeline.run_time import RunTime
from pipeline.signals import StopSignals
from pipeline.state_lock import lock_state
from pipeline.summary import shortcoming, status, summary
from pipeline.summary_file import SUMMARY, prepare_summary, write_summary
from pipeline.topology import PUBLISH, Endpoints, processes, runtime_dir
from pipeline.transport import Router, Waiter
from pipeline.wire import Status

TURN_MS = 50.0
STATUS_NS = 500_000_000
SERVER_ASK_NS = 2_000_000_000
SERVER_HUNG_NS = 10_000_000_000
STOP_S = DRAIN_S + 10.0
LAST_WORDS_S = 2.0
Say = Callable[[str], None]


class Supervisor:
    """One run of a line."""

    def __init__(
        self, config: Config, *, for_s: float | None = None, frames: int | None = None, say: Say, summary_path: Path | None = None
    ) -> None:
        self.config, self._for_s, self._say = config, for_s, say
        self._lock = lock_state(config.state)
        self._summary_paths = [config.state / SUMMARY, *([summary_path] if summary_path is not None else [])]
        for path in self._summary_paths:
            prepare_summary(path)
        self.summary: dict[str, Any] | None = None
        """There once the line has ended, in whatever way."""
        snapshot = config.state / "line.json"  # what restarted nodes read, whatever becomes of the file it came from
        try:
            _write_private(snapshot, msgspec.json.encode(config))
            _write_private(config.state / "run.json", msgspec.json.encode({"run": time.time_ns(), "first_id": None}))
        except OSError as exc:
            raise ConfigError(f"state_dir: {config.state} cannot be written: {exc.strerror}") from exc
        endpoints = Endpoints(runtime_dir(config))
        self._router = Router(endpoints.supervisor)
        self._outbox = Outbox(endpoints.publish)
        self._waiter = Waiter(self._router, self._outbox.dealer)
        self._server = EmbeddedServer(config.state) if config.publish.redis == "embedded" else None
        self._rings: dict[str, int] = {}
        self._mapped: dict[str, Ring] = {}
        self._children = [self._child(p, snapshot, frames) for p in processes(config)]
        self._stages = _stop_order(self._children)
        self._epochs: dict[str, list[str]] = {name: [] for name in config.cameras}
        self._time = RunTime()
        self._next_status_ns = 0
        self._stop_at_ns = 0
        self._signals = StopSignals()
        self._said_all: set[str] = set()
        self._mute = False
        self._alarmed: set[str] = set()
        self._server_seen_ns = self._server_asked_ns = time.monotonic_ns()
        self._phase = "starting"

    def _child(self, process: Any, snapshot: Path, frames: int | None) -> Child:
        command = [*program(), "node", process.name, str(snapshot)]
        if process.camera is None:
            return Child(process, command)
        fd = self._rings[process.camera] = new_memfd(f"linepipe-{process.camera}")
        command += ["--ring-fd", str(fd)] + (["--frames", str(frames)] if frames is not None else [])
        return Child(process, command, (fd,), lambda: (ring := self._ring(process.camera)) is not None and ring.ended)

    @property
    def url(self) -> str:
        return self._server.url if self._server is not None else self.config.publish.redis

    def run(self, tick: Callable[[dict[str, Any]], None] = lambda _: None) -> dict[str, Any]:
        """Run until the sources end, the time is up, or a signal comes; returns the summary, which then is on disk.

        ``tick`` is called with the status about twice a second. Raises ``LinepipeError`` if the line could not run, and
        ``KeyboardInterrupt`` when it was told twice to stop, both after the summary was written. Signals stay taken: one
        that comes late ends nothing.
        """
        self._signals.listen()
        error: str | None = None
        try:
            if self._server is not None:
                self._server.start()
            self._say(f"line {self.config.line}: events go to {self.url}, stream {self.config.stream}")
            for child in self._children:
                child.start()
            while self._turn(tick):
                self._waiter.wait(TURN_MS)
            self._hear_last_words()
            error = shortcoming(self.config, self._children, self.accounts(), self.url, told=self._signals.asked)
        except KeyboardInterrupt:
            error = "stopped at once by a second signal"
            raise
        except Exception as exc:
            error = str(exc) if isinstance(exc, LinepipeError) else f"{type(exc).__name__}: {exc}"
            raise
        finally:
            found = self._finish(error, tick)
        return found

    def _turn(self, tick: Callable[[dict[str, Any]], None]) -> bool:
        """One pass; False when every process has ended."""
        now = time.monotonic_ns()
        self._hear()
        self._outbox.turn(now)
        for child in self._children:
            if (news := child.check(now)) is not None:
                self._say(news)
                self._alarm(f"node_died:{child.name}", True, news)
            if child.exit_code == 2:
                raise ConfigError(f"{child.name} cannot run; see its message above")
        self._watch_server()
        if self._signals.at_once:
            raise KeyboardInterrupt
        self._progress(now)
        if now >= self._next_status_ns:
            self._next_status_ns = now + STATUS_NS
            self._publish_status(tick)
        return bool(self._stages)

    def _hear(self) -> None:
        by_name = {c.name: c for c in self._children}
        for _, message, _ in self._router.receive():
            if isinstance(message, Status) and message.node in by_name:
                child = by_name[message.node]
                child.hear(message)
                if message.state == "ended":
                    self._said_all.add(message.node)
                if message.state == "running" and (name := f"node_died:{child.name}") in self._alarmed and child.alive:
                    self._alarm(name, False, f"{child.name} runs again")
                epoch, camera = message.facts.get("epoch"), child.process.camera
                if camera is not None and isinstance(epoch, str) and epoch not in self._epochs[camera]:
                    self._epochs[camera].append(epoch)

    def _watch_server(self) -> None:
        if self._server is None:
            return
        now = time.monotonic_ns()
        if now - self._server_asked_ns > SERVER_ASK_NS:
            self._server_asked_ns = now
            if self._server.answers():
                self._server_seen_ns = now
            elif now - self._server_seen_ns > SERVER_HUNG_NS:
                self._say("the embedded Redis hangs; killed")
                self._server.kill()
        if not self._server.alive():
            self._say("the embedded Redis died; starting it again")
            self._alarm("redis_died", True, "the embedded Redis died")
            try:
                self._server.start()
            except NodeError as exc:
                self._say(str(exc))
                return
            self._server_seen_ns = time.monotonic_ns()
            self._alarm("redis_died", False, "the embedded Redis runs again")

    def _progress(self, now: int) -> None:
        """Note the first frame; begin to stop when it is time; take the next group of processes down when one has ended."""
        accounts = self.accounts().values()
        self._time.note(now, sum(a.acquired for a in accounts), sum(a.acquired - a.in_flight for a in accounts))
        if self._phase == "starting" and self._time.first_ns:
            self._phase = "running"
        due = self._for_s is not None and self._time.first_ns and self._time.duration_s(now) >= self._for_s
        captures = [c for c in self._children if c.process.camera is not None]
        ended = all(c.exit_code is not None for c in captures)
        if self._phase != "stopping" and (due or ended or self._signals.asked):
            self._phase = "stopping"
            self._time.stop(now)
            self._stop_next(now)
        if self._phase != "stopping":
            return
        if all(c.exit_code is not None for c in self._stages[0]):
            self._stages.pop(0)
            if self._stages:
                self._stop_next(now)
        elif now >= self._stop_at_ns:
            for child in self._stages[0]:
                if child.exit_code is None:
                    self._say(f"{child.name} did not finish within {STOP_S:.0f} s; killed")
                    child.give_up()
            self._stop_at_ns = now + int(STOP_S * 1e9)

    def _stop_next(self, now: int) -> None:
        self._stop_at_ns = now + int(STOP_S * 1e9)
        for child in self._stages[0]:
            if child.exit_code is None:
                child.stop()

    def accounts(self) -> dict[str, Account]:
        """Every camera's ledger, read from its ring: true even when its capture node is dead."""
        found = {}
        for camera in self._rings:
            ring = self._ring(camera)
            found[camera] = Ledger(ring.ledger if ring is not None else None).account()  # type: ignore[arg-type]
        return found

    def _ring(self, camera: str) -> Ring | None:
        """A camera's ring; None while its capture node has not made it."""
        fd = self._rings[camera]
        if camera not in self._mapped and os.fstat(fd).st_size:
            try:
                self._mapped[camera] = Ring.attach(fd)
            except LinepipeError:  # its header is being written
                return None
        return self._mapped.get(camera)

    def _seconds(self) -> tuple[float, float]:
        """For the duration and for the rates."""
        now = time.monotonic_ns()
        return self._time.duration_s(now), self._time.rate_s(now)

    def _publish_status(self, tick: Callable[[dict[str, Any]], None]) -> None:
        now = status(self.config, self._children, self.accounts(), *self._seconds(), self.url, self._phase)
        try:
            _write_private(self.config.state / "status.json", msgspec.json.encode(now))
        except OSError as exc:
            if not self._mute:
                self._say(f"status.json cannot be written: {exc.strerror}; `linepipe status` shows what was")
            self._mute = True
        tick(now)

    def _alarm(self, name: str, active: bool, text: str) -> None:
        (self._alarmed.add if active else self._alarmed.discard)(name)
        alarm = Alarm(name=name, active=active, text=text, at_ns=time.time_ns())
        self._outbox.submit(alarm, time.monotonic_ns())

    def _hear_last_words(self) -> None:
        """Take in what publish said last: it may still be on its way when the process has ended."""
        deadline = time.monotonic() + LAST_WORDS_S
        while PUBLISH not in self._said_all and time.monotonic() < deadline:
            self._waiter.wait(TURN_MS)
            self._hear()

    def _finish(self, error: str | None, tick: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """End what still runs, write the summary, and only then say anything; then end Redis."""
        try:
            for child in self._children:
                child.kill()
                child.wait()
            self._hear()
            self._phase = "ended" if error is None else "failed"
            accounts = self.accounts()
            self.summary = summary(self.config, self._children, accounts, self._epochs, *self._seconds(), self.url, error)
            for path in self._summary_paths:
                try:
                    write_summary(path, self.summary, mode=0o600 if path.parent == self.config.state else 0o666)
                except OSError as exc:
                    self._say(text := f"the summary {path} cannot be written: {exc.strerror}")
                    self.summary["error"] = error or text
            self._publish_status(tick)
            return self.summary
        finally:
            self._close()

    def _close(self) -> None:
        if self._server is not None:
            self._server.stop()
        self._router.close()
        self._outbox.dealer.close()
        os.close(self._lock)


def _stop_order(children: list[Child]) -> list[list[Child]]:
    """Groups of processes that are told to stop together: captures, then the others one by one, last started first."""
    captures = [c for c in children if c.process.camera is not None]
    return [captures, *[[c] for c in reversed(children) if c.process.camera is None]]


def _write_private(path: Path, data: bytes) -> None:
    """Replace a file in one step; only its owner may read it."""
    part = path.with_name(f".{path.name}.part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    part.replace(path)
