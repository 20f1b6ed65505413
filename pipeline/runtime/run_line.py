"""``linepipe run``: starts a line's processes, watches them, restarts what dies, stops them in order.

Start: Redis (if embedded), publish, the inspecting nodes, the captures; a capture begins to read when a worker asks for frames.
Stop:  captures (each drains: its last frame is durable before it ends), then the inspecting nodes, then publish (which waits for
Redis), then Redis. A node that dies while others drain is still restarted, because they wait for it.
"""

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from pipeline.config import Config
from pipeline.config.topology import PUBLISH, Endpoints, Process, is_finite, processes
from pipeline.core.errors import LinepipeError
from pipeline.core.events import AlarmKind
from pipeline.core.frame import Alarm, Gap
from pipeline.core.status import LineStatus, NodeState, Phase, Summary
from pipeline.redis.server import EmbeddedServer
from pipeline.runtime.folders import RunFolder, StateFolder
from pipeline.runtime.node import DRAIN_S
from pipeline.runtime.node_process import AwakeClock, NodeProcess, program
from pipeline.runtime.summary import SUMMARY, RunTime, prepare_summary, shortcoming, status, summary, write_summary
from pipeline.runtime.supervisor import Alarms, NodeWatch, ServerWatch, StopSignals, finished
from pipeline.system.files import keep_private, write_private
from pipeline.transport.messages import Heartbeat, from_child
from pipeline.transport.outbox import Outbox
from pipeline.transport.ring import LineRings
from pipeline.transport.sockets import Router, Waiter

TURN_MS = 50.0
STATUS_NS = 500_000_000
STOP_S = DRAIN_S + 10.0
LAST_WORDS_S = 2.0
OUTBOX_S = 5.0
"""The longest that publish is kept running at the end for alarms of the supervisor that it has not confirmed."""
Say = Callable[[str], None]


class LineRun:
    """One run of a line, for one call of ``run``.

    ``for_s``: seconds from its first frame; ``frames``: of each camera; ``say`` gets sentences for a person. The constructor sets the
    umask and takes the folders; raises ``ConfigError`` if a folder, file or the model cannot be used, ``NodeError`` if no port is free.
    """

    def __init__(
        self, config: Config, *, for_s: float | None = None, frames: int | None = None, say: Say, summary_path: Path | None = None
    ) -> None:
        self.config, self._for_s, self._frames, self._say = config, for_s, frames, say
        keep_private()
        self._state = StateFolder(config)
        if self._state.changed:
            say(self._state.changed)
        self._summary_paths = [config.state / SUMMARY, *([summary_path] if summary_path is not None else [])]
        for path in self._summary_paths:
            prepare_summary(path)
        self.summary: Summary | None = None
        """None until the line has ended, in whatever way."""
        self._folder = RunFolder(config)
        endpoints = Endpoints(self._folder.path)
        self._router = Router(endpoints.supervisor)
        self._outbox = Outbox(endpoints.publish)
        self._waiter = Waiter(self._router, self._outbox.dealer)
        self._server = EmbeddedServer(config, self._redis_damaged) if config.publish.redis == "embedded" else None
        self._rings = LineRings(config.cameras)
        self._children = [self._child(p, frames) for p in processes(config)]
        self._stages = _stop_order(self._children)
        self._time = RunTime()
        self._next_status_ns = 0
        self._stop_at_ns = self._waits_since_ns = 0
        self._signals = StopSignals()
        self._said_all: set[str] = set()
        self._folder_news: dict[str, str] = {}
        self._mute = False
        self._clock = AwakeClock()
        self._alarms = Alarms(self._send_alarm)
        self._watch = NodeWatch(self._children, say, self._alarms)
        self._server_watch = ServerWatch(self._server, say, self._alarms) if self._server is not None else None
        self._phase = Phase.STARTING

    def _child(self, process: Process, frames: int | None) -> NodeProcess:
        began = self._state.snapshot
        command = [*program(), "node", process.name, str(began.line), "--sockets", str(self._folder.path)]
        command += ["--line", began.digests[began.line], "--model", began.digests[began.model]]
        camera = process.camera
        if camera is None:
            return NodeProcess(process, command, left=lambda: process.name == PUBLISH)
        fd = self._rings.fds[camera]
        command += ["--ring-fd", str(fd)] + (["--frames", str(frames)] if frames is not None else [])
        return NodeProcess(
            process,
            command,
            (fd,),
            may_end=lambda: self._rings.ended(camera),
            left=lambda: self._rings.exists(camera),
        )

    @property
    def url(self) -> str:
        """Address of the line's Redis for clients; that of the embedded server may change while the line runs."""
        return self._server.url if self._server is not None else self.config.publish.redis

    def run(self, tick: Callable[[LineStatus], None] = lambda _: None) -> Summary:
        """Run until the sources end, the time is up, or a signal comes; returns the summary, which is on disk then.

        ``tick`` gets the status about twice a second. Raises ``LinepipeError`` if the line could not run, ``KeyboardInterrupt`` after a
        second signal, both after the summary was written. Only for the main thread; signal handlers stay, so a late signal does nothing.
        """
        self._signals.listen()
        error: str | None = None
        try:
            if self._server is not None:
                self._server.start(lambda: self._signals.at_once)
            self._say(f"line {self.config.line}: events go to {self.url}, stream {self.config.stream}")
            if self._server is not None:
                self._say(f"to read them: {self._server.how_to_read}")
            for child in self._children:
                child.start(self._clock.turn())
            while self._turn(tick):
                self._waiter.wait(TURN_MS)
            self._hear_last_words()
            error = shortcoming(self.config, self._children, self._rings.accounts(), self.url, told=self._signals.asked)
        except KeyboardInterrupt:
            error = "stopped at once by a second signal"
            raise
        except Exception as exc:
            error = str(exc) if isinstance(exc, LinepipeError) else f"{type(exc).__name__}: {exc}"
            raise
        finally:
            found = self._finish(error, tick)
        return found

    def _turn(self, tick: Callable[[LineStatus], None]) -> bool:
        """One pass; returns False when every process has ended."""
        now, awake = time.monotonic_ns(), self._clock.turn()
        self._hear(awake)
        self._outbox.turn(now)
        self._watch.turn(awake, started=bool(self._time.first_ns))
        if self._server_watch is not None:
            self._server_watch.turn(awake)
        if self._signals.at_once:
            raise KeyboardInterrupt
        self._progress(now, awake)
        if now >= self._next_status_ns:
            self._next_status_ns = now + STATUS_NS
            self._publish_status(tick)
            self._keep_folders()
        return bool(self._stages)

    def _keep_folders(self) -> None:
        """Restore the folders of sockets and state if something was changed in them."""
        for name, what, text in (
            (AlarmKind.SOCKETS_REMOVED, "the sockets are", self._folder.turn()),
            (AlarmKind.STATE_REMOVED, "the line's files are", self._state.turn()),
        ):
            if text and self._folder_news.get(name) != text:  # what cannot be restored stays so, and is said once
                self._say(text)
            self._folder_news[name] = text
            self._alarms.set(name, bool(text), text or f"{what} there again")

    def _hear(self, awake: int) -> None:
        pids = {c.name: c.pids for c in self._children}
        self._router.deliver(lambda _, message: self._take(from_child(message, pids), awake))

    def _take(self, message: Heartbeat, awake: int) -> None:
        self._watch.hear(message, awake)
        if message.state is NodeState.ENDED:
            self._said_all.add(message.node)

    def _progress(self, now: int, awake: int) -> None:
        """Note the first frame; begin to stop when it is time; stop the next group of processes when one has ended."""
        self._rings.note_epochs()
        accounts = self._rings.accounts().values()
        self._time.note(now, sum(a.acquired for a in accounts), sum(a.acquired - a.in_flight for a in accounts))
        if self._phase is Phase.STARTING and self._time.first_ns:
            self._phase = Phase.RUNNING
        due = self._for_s is not None and self._time.first_ns and self._time.duration_s(now) >= self._for_s
        captures = [c for c in self._children if c.process.camera is not None]
        ended = finished(captures, self._finite, awake)
        if self._phase is not Phase.STOPPING and (due or ended or self._signals.asked):
            self._phase = Phase.STOPPING
            for child in captures if ended else ():
                child.cut_short = child.exit_code is None
            self._time.stop(now)
            self._stop_next(awake)
        if self._phase is not Phase.STOPPING:
            return
        if all(c.exit_code is not None for c in self._stages[0]):
            if self._publish_must_wait(awake):
                return
            self._stages.pop(0)
            if self._stages:
                self._stop_next(awake)
        elif awake >= self._stop_at_ns:
            for child in self._stages[0]:
                if child.exit_code is None:
                    self._give_up(child)
            self._stop_at_ns = awake + int(STOP_S * 1e9)

    def _publish_must_wait(self, awake: int) -> bool:
        """Whether publish, the next to end, has yet to take what the supervisor itself has to say."""
        if not self._stages[1:] or self._stages[1][0].name != PUBLISH or not len(self._outbox):
            return False
        self._waits_since_ns = self._waits_since_ns or awake
        return awake - self._waits_since_ns < OUTBOX_S * 1e9

    def _finite(self, child: NodeProcess) -> bool:
        return self._frames is not None or is_finite(self.config.cameras[child.process.camera or ""])

    def _give_up(self, child: NodeProcess) -> None:
        """Kill a process that took too long. Frames that a capture leaves may have been inspected or not: a gap without an end says so."""
        self._say(f"{child.name} did not finish within {STOP_S:.0f} s; killed")
        child.give_up()
        camera = child.process.camera
        held = self._rings.held(camera) if camera is not None else []
        if camera is None or not held:
            return
        first = min(held, key=lambda meta: meta.frame)
        text = f"camera {camera}: {len(held)} frames from number {first.frame} on stay in flight; whether they were inspected is not known"
        self._say(text)
        self._alarms.set(AlarmKind.FRAMES_UNACCOUNTED.of(camera), True, text)
        gap = Gap(camera=camera, epoch=first.epoch, first=first.frame, last=None, reason="capture_died", at_ns=time.time_ns())
        self._outbox.submit(gap, time.monotonic_ns())

    def _stop_next(self, awake: int) -> None:
        self._stop_at_ns = awake + int(STOP_S * 1e9)
        for child in self._stages[0]:
            if child.exit_code is None:
                child.stop(awake)

    def _seconds(self) -> tuple[float, float]:
        """For the duration and for the rates."""
        now = time.monotonic_ns()
        return self._time.duration_s(now), self._time.rate_s(now)

    def _publish_status(self, tick: Callable[[LineStatus], None]) -> None:
        awake = self._clock.turn()
        now = status(self.config, self._children, self._rings.accounts(), *self._seconds(), self.url, self._phase, awake)
        now.refused = self._router.refused + self._outbox.dealer.refused
        try:
            write_private(self.config.state / "status.json", msgspec.json.encode(now))
        except OSError as exc:
            if not self._mute:
                self._say(f"status.json cannot be written: {exc.strerror}; `linepipe status` shows what was")
            self._mute = True
        else:
            self._mute = False
        tick(now)

    def _send_alarm(self, name: str, active: bool, text: str) -> None:
        alarm = Alarm(name=name, active=active, text=text, at_ns=time.time_ns())
        self._outbox.submit(alarm, time.monotonic_ns())

    def _redis_damaged(self, text: str) -> None:
        self._say(text)
        self._send_alarm(AlarmKind.REDIS_DAMAGED, True, text)

    def _hear_last_words(self) -> None:
        """Take publish's last heartbeat, which may still be on its way when the process has ended."""
        deadline = time.monotonic() + LAST_WORDS_S
        while PUBLISH not in self._said_all and time.monotonic() < deadline:
            self._waiter.wait(TURN_MS)
            self._hear(self._clock.turn())

    def _finish(self, error: str | None, tick: Callable[[LineStatus], None]) -> Summary:
        """Kill what still runs, write the summary before anything is said, then end Redis."""
        try:
            for child in self._children:
                child.kill()
                child.wait()
            self._hear(self._clock.turn())
            self._phase = Phase.ENDED if error is None else Phase.FAILED
            accounts = self._rings.accounts()
            self.summary = summary(self.config, self._children, accounts, self._rings.epochs, *self._seconds(), self.url, error)
            for path in self._summary_paths:
                try:
                    write_summary(path, self.summary, mode=0o600 if path.parent == self.config.state else 0o666)
                except OSError as exc:
                    self._say(text := f"the summary {path} cannot be written: {exc.strerror}")
                    self.summary.error = error or text
            self._publish_status(tick)
            return self.summary
        finally:
            self._close()

    def _close(self) -> None:
        if self._server is not None:
            self._server.stop()
        self._router.close()
        self._outbox.dealer.close()
        self._folder.close()
        self._state.close()


def _stop_order(children: list[NodeProcess]) -> list[list[NodeProcess]]:
    """Groups of processes that are stopped together: captures, then the others one by one, last started first."""
    captures = [c for c in children if c.process.camera is not None]
    return [captures, *[[c] for c in reversed(children) if c.process.camera is None]]
