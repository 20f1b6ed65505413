"""``linepipe run``: starts a line's processes, watches them, restarts what dies, stops them in order.

Start: Redis (if embedded), publish, the inspecting nodes, the captures; a capture arms when a worker asks it for frames.
Stop:  captures first (each drains: its last frame is durable before it ends), then the inspecting nodes, then publish
(which waits for Redis), then Redis. A node that dies while others drain is still restarted: they wait for it.
"""

import fcntl
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from pipeline.child import AwakeClock, Child, program
from pipeline.config import Config
from pipeline.embedded import EmbeddedServer
from pipeline.errors import ConfigError, LinepipeError
from pipeline.frame import Alarm, Gap
from pipeline.ledger import Account, Ledger
from pipeline.node_main import DRAIN_S
from pipeline.outbox import Outbox
from pipeline.ring import Ring, new_memfd
from pipeline.run_folder import RunFolder
from pipeline.snapshot import take_snapshot
from pipeline.summary import status, summary
from pipeline.topology import PUBLISH, Endpoints, Process, is_finite, processes
from pipeline.transport import Router, Waiter
from pipeline.watch import Alarms, NodeWatch, ServerWatch, finished
from pipeline.wire import Status

TURN_MS = 50.0
STATUS_NS = 500_000_000
STOP_S = DRAIN_S + 10.0
Say = Callable[[str], None]


class Supervisor:
    """One run of a line."""

    def __init__(self, config: Config, *, for_s: float | None = None, frames: int | None = None, say: Say = print) -> None:
        self.config, self._for_s, self._frames, self._say = config, for_s, frames, say
        self._lock = _lock(config.state)
        snapshot, model = take_snapshot(config)
        try:
            _write_private(config.state / "run.json", msgspec.json.encode({"run": time.time_ns(), "first_id": None}))
        except OSError as exc:
            raise ConfigError(f"state_dir: {config.state} cannot be written: {exc.strerror}") from exc
        self._folder = RunFolder(config)
        endpoints = Endpoints(self._folder.path)
        self._router = Router(endpoints.supervisor)
        self._outbox = Outbox(endpoints.publish)
        self._waiter = Waiter(self._router, self._outbox.dealer)
        self._server = EmbeddedServer(config.state) if config.publish.redis == "embedded" else None
        self._rings: dict[str, int] = {}
        self._mapped: dict[str, Ring] = {}
        self._children = [self._child(p, snapshot, model, frames) for p in processes(config)]
        self._stages = _stop_order(self._children)
        self._epochs: dict[str, list[str]] = {name: [] for name in config.cameras}
        self._first_ns = 0
        self._last_ns = 0
        self._next_status_ns = 0
        self._stop_at_ns = 0
        self._signals = 0
        self._mute = False
        self._clock = AwakeClock()
        self._alarm = Alarms(self._send_alarm)
        self._watch = NodeWatch(self._children, say, self._alarm)
        self._server_watch = ServerWatch(self._server, say, self._alarm) if self._server is not None else None
        self._phase = "starting"

    def _child(self, process: Process, snapshot: Path, model: str, frames: int | None) -> Child:
        command = [*program(), "node", process.name, str(snapshot), "--sockets", str(self._folder.path), "--model", model]
        camera = process.camera
        if camera is None:
            return Child(process, command, left=lambda: process.name == PUBLISH)
        fd = self._rings[camera] = new_memfd(f"linepipe-{camera}")
        command += ["--ring-fd", str(fd)] + (["--frames", str(frames)] if frames is not None else [])
        return Child(
            process,
            command,
            (fd,),
            may_end=lambda: (ring := self._ring(camera)) is not None and ring.ended,
            left=lambda: self._ring(camera) is not None,
        )

    @property
    def url(self) -> str:
        return self._server.url if self._server is not None else self.config.publish.redis

    def run(self, tick: Callable[[dict[str, Any]], None] = lambda _: None) -> dict[str, Any]:
        """Run until the sources end, the time is up, or a signal comes; returns the summary.

        ``tick`` is called with the status about twice a second. Raises ``LinepipeError`` if the line could not run, and
        ``KeyboardInterrupt`` when it was told twice to stop.
        """
        before = {n: signal.signal(n, self._signalled) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            if self._server is not None:
                self._server.start()
            self._say(f"line {self.config.line}: events go to {self.url}, stream {self.config.stream}")
            for child in self._children:
                child.start(self._clock.turn())
            while self._turn(tick):
                self._waiter.wait(TURN_MS)
            return self._finish(tick)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self._close()

    def _signalled(self, *_: object) -> None:
        self._signals += 1

    def _turn(self, tick: Callable[[dict[str, Any]], None]) -> bool:
        """One pass; False when every process has ended."""
        now, awake = time.monotonic_ns(), self._clock.turn()
        self._hear(awake)
        self._outbox.turn(now)
        self._watch.turn(awake, started=bool(self._first_ns))
        if self._server_watch is not None:
            self._server_watch.turn(awake)
        if self._signals > 1:
            raise KeyboardInterrupt
        self._progress(now, awake)
        if now >= self._next_status_ns:
            self._next_status_ns = now + STATUS_NS
            self._publish_status(tick, awake)
            if gone := self._folder.turn():
                self._say(gone)
            self._alarm("sockets_removed", bool(gone), gone or "the sockets are there again")
        return bool(self._stages)

    def _hear(self, awake: int) -> None:
        for _, message, _ in self._router.receive():
            if isinstance(message, Status) and (child := self._watch.hear(message, awake)) is not None:
                epoch, camera = message.facts.get("epoch"), child.process.camera
                if camera is not None and isinstance(epoch, str) and epoch not in self._epochs[camera]:
                    self._epochs[camera].append(epoch)

    def _progress(self, now: int, awake: int) -> None:
        """Note the first frame; begin to stop when it is time; take the next group of processes down when one has ended."""
        accounts = self.accounts()
        if not self._first_ns and any(a.acquired for a in accounts.values()):
            self._first_ns, self._phase = now, "running"
        due = self._for_s is not None and self._first_ns and now - self._first_ns >= self._for_s * 1e9
        captures = [c for c in self._children if c.process.camera is not None]
        ended = finished(captures, self._finite, awake)
        if self._phase != "stopping" and (due or ended or self._signals):
            self._phase = "stopping"
            for child in captures if ended else ():
                child.cut_short = child.exit_code is None
            self._last_ns = now
            self._stop_next(awake)
        if self._phase != "stopping":
            return
        if all(c.exit_code is not None for c in self._stages[0]):
            self._stages.pop(0)
            if self._stages:
                self._stop_next(awake)
        elif awake >= self._stop_at_ns:
            for child in self._stages[0]:
                if child.exit_code is None:
                    self._give_up(child)
            self._stop_at_ns = awake + int(STOP_S * 1e9)

    def _finite(self, child: Child) -> bool:
        return self._frames is not None or is_finite(self.config.cameras[child.process.camera or ""])

    def _give_up(self, child: Child) -> None:
        """Waiting longer is no use. What a capture node leaves then may or may not have been inspected: an open gap says so."""
        self._say(f"{child.name} did not finish within {STOP_S:.0f} s; killed")
        child.give_up()
        camera = child.process.camera
        ring = self._ring(camera) if camera is not None else None
        held = [meta for _, _, meta in ring.rows() if meta is not None] if ring is not None else []
        if camera is None or not held:
            return
        first = min(held, key=lambda meta: meta.frame)
        text = f"camera {camera}: {len(held)} frames from number {first.frame} on stay in flight; whether they were inspected is not known"
        self._say(text)
        self._alarm(f"frames_unaccounted:{camera}", True, text)
        gap = Gap(camera=camera, epoch=first.epoch, first=first.frame, last=None, reason="capture_died", at_ns=time.time_ns())
        self._outbox.submit(gap, time.monotonic_ns())

    def _stop_next(self, awake: int) -> None:
        self._stop_at_ns = awake + int(STOP_S * 1e9)
        for child in self._stages[0]:
            if child.exit_code is None:
                child.stop(awake)

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

    def _duration_s(self) -> float:
        return ((self._last_ns or time.monotonic_ns()) - self._first_ns) / 1e9 if self._first_ns else 0.0

    def _publish_status(self, tick: Callable[[dict[str, Any]], None], awake: int) -> None:
        now = status(self.config, self._children, self.accounts(), self._duration_s(), self.url, self._phase, awake)
        try:
            _write_private(self.config.state / "status.json", msgspec.json.encode(now))
        except OSError as exc:
            if not self._mute:
                self._say(f"status.json cannot be written: {exc.strerror}; `linepipe status` shows what was")
            self._mute = True
        tick(now)

    def _send_alarm(self, name: str, active: bool, text: str) -> None:
        alarm = Alarm(name=name, active=active, text=text, at_ns=time.time_ns())
        self._outbox.submit(alarm, time.monotonic_ns())

    def _finish(self, tick: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        awake = self._clock.turn()
        self._hear(awake)
        self._phase = "ended"
        self._publish_status(tick, awake)
        return summary(self.config, self._children, self.accounts(), self._epochs, self._duration_s(), self.url)

    def _close(self) -> None:
        for child in self._children:
            child.kill()
            child.wait()
        if self._server is not None:
            self._server.stop()
        self._router.close()
        self._outbox.dealer.close()
        self._folder.close()
        os.close(self._lock)


def _stop_order(children: list[Child]) -> list[list[Child]]:
    """Groups of processes that are told to stop together: captures, then the others one by one, last started first."""
    captures = [c for c in children if c.process.camera is not None]
    return [captures, *[[c] for c in reversed(children) if c.process.camera is None]]


def _lock(state: Path) -> int:
    """Take the state folder for this run; the kernel gives it back when the process ends."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        fd = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"state_dir: another line runs on {state}; stop it or choose another state_dir") from None
    except OSError as exc:
        raise ConfigError(f"state_dir: {state} cannot be used: {exc.strerror}") from exc
    return fd


def is_running(state: Path) -> bool:
    """Whether a supervisor holds this state folder."""
    path = state / "lock"
    if not path.exists():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def write_summary(path: Path, found: dict[str, Any]) -> None:
    """Write the summary as JSON for people and programs."""
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _write_private(path: Path, data: bytes) -> None:
    """Replace a file in one step; only its owner may read it."""
    part = path.with_name(f".{path.name}.part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    part.replace(path)
