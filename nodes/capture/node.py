"""The capture node: takes one camera's frames into a ring, leases them against credits, sends gaps and coverage to publish."""

import time
import uuid

from nodes.capture.camera_watch import CameraWatch
from nodes.capture.frame_outcomes import FrameOutcomes
from nodes.capture.sources.source import ENDED, CheckedSource, NoSource, Source, SourceFrame
from pipeline.config import Camera
from pipeline.config.plugins import SOURCES
from pipeline.config.topology import frame_rate, workers
from pipeline.config.urls import Opening, SourceUrl
from pipeline.core.frame import Alarm, Coverage, FrameMeta, Gap, Verdict
from pipeline.core.status import Facts, NodeState
from pipeline.runtime.node import NodeContext, run_loop
from pipeline.transport.dispatch import Dispatcher
from pipeline.transport.leases import LeaseTable
from pipeline.transport.messages import Frame, Message, from_worker
from pipeline.transport.outbox import Outbox, Then
from pipeline.transport.ring import Ring, RingServer, new_memfd
from pipeline.transport.sockets import Router, Waiter

COVERAGE_NS = 1_000_000_000
TURN_FRAMES = 8  # frames acquired before the sockets are looked at again
IDLE_MS = 50.0
LOOK_MS = 2.0
"""Time between two looks at a live source that has no descriptor."""


def capture(node: NodeContext) -> None:
    """Entry point: runs until the source ends or the node is asked to stop, and then until every frame in the ring has ended.

    After a stop that takes ``DRAIN_S`` at most; frames left then are given up with the reason ``shutdown``. Raises ``ConfigError``
    if the source cannot work or memory is short for the ring, ``NodeError`` for an error of another package's source,
    ``ProtocolError`` for a ring of another version, ``OSError``, and what ``Source.look`` and ``Source.read`` raise.
    """
    assert node.process.camera is not None
    camera = node.config.cameras[node.process.camera]
    fd = new_memfd("linepipe-ring") if node.ring_fd is None else node.ring_fd
    left = Ring.adopt(fd)
    epoch = uuid.uuid4().hex
    if left is not None and node.stopping:
        source: Source = NoSource()
    else:
        source = open_source(node, camera, epoch, None if left is None else left.state.next_frame)
    work = _Capture(node, source, left or Ring.create(fd, camera.slots, source.slot_bytes), epoch)
    run_loop(node, work)


def open_source(node: NodeContext, camera: Camera, epoch: str, left_at: int | None) -> Source:
    """Open the source that ``camera.source`` names. ``epoch``: that of this capture process.

    ``left_at``: number of the frame at which an earlier capture process of this run stopped; None if this process is the
    first. Raises ``ConfigError`` if the source cannot work, ``NodeError`` for an error of another package's source, and
    ``OSError`` if no file descriptors are left. May take long: ``video:`` reads through the whole file.
    """
    url = SourceUrl.parse(camera.source)
    name = node.process.camera or ""
    opening = Opening(name, node.config, epoch, node.endpoints.files(name), left_at, node.log)
    blame = "" if SOURCES.is_own(url.scheme) else f"the source {url.scheme}: of camera {name}"
    return CheckedSource(lambda: url.kind.open(url, opening), blame)


class _Capture:
    """The capture node as the ``Work`` of ``run_loop``."""

    def __init__(self, node: NodeContext, source: Source, ring: Ring, epoch: str) -> None:
        self._node, self._source, self._ring, self._epoch = node, source, ring, epoch
        self._name = node.process.camera or ""
        self._camera = node.config.cameras[self._name]
        self._workers = workers(node.config, "preprocess")
        self._live = self._camera.when_full == "drop_oldest"
        rate = frame_rate(self._camera, source.size and source.size[0]) or (source.fps if self._live else None)
        self._rate = None if source.live else rate
        self._table = LeaseTable(ring.slots)
        self._outbox = Outbox(node.endpoints.publish)
        self._router = Router(node.endpoints.frames(self._name))
        self._server = RingServer(node.endpoints.ring(self._name), ring)
        self._outcomes = FrameOutcomes(ring.state, self._table, self._name, self._submit, node.log)
        self._dispatcher = Dispatcher(self._table, self._send, self._outcomes.done)
        silent_s = SourceUrl.parse(self._camera.source).kind.silent_s
        self._watch = CameraWatch(self._name, ring.state, self._outcomes, self._submit, node.log, silent_s)
        news = source.fileno()
        self._has_news = news is not None
        sockets = (self._router, self._server.fileno(), self._outbox.dealer)
        self._without_source = Waiter(*sockets)
        self.waiter = Waiter(*sockets, *([] if news is None else [news]))
        self._more = False  # whether the source may have further frames at once
        self._blocked = False  # whether a frame waits that cannot be taken yet
        self._first_ns = 0  # when the first frame of this epoch was due; 0: not armed
        self._first_frame = 0
        self._ended = False
        self._covered = 0
        self._next_coverage_ns = 0
        self._ledger_waits = False  # whether a coverage record waits for publish; the next one includes all that it says
        self._last_seen = (-1, -1)
        self._begun = False  # whether the epoch has begun
        self._nothing = False  # whether the source had no frame when it was asked last

    def turn(self) -> bool:
        """Do one pass; returns False when there is nothing left to do."""
        now = time.monotonic_ns()
        self._router.deliver(lambda address, message: self._dispatcher.receive(address, from_worker(message, self._workers), now))
        self._dispatcher.expire(now)
        self._server.serve()
        self._ended = self._ended or self._node.stopping
        self._begun = self._begun or self._outcomes.begin(self._epoch, live=self._live or self._source.live)
        if (
            self._begun and not self._ended and (self._first_ns or self._dispatcher.has_worker)
        ):  # once armed, it does not wait for workers any more
            self._acquire()
        self._dispatcher.grant(now)
        self._outbox.turn(now)
        draining = self._begun and self._ended and self._drained()
        self._report(now, last=draining)
        if not draining:
            return True
        heard = self._dispatcher.end(self._outcomes.epoch) or self._node.out_of_time
        return not (heard and len(self._outbox) == 0 and self._outcomes.unsent == 0)

    @property
    def state(self) -> NodeState:
        return NodeState.RUNNING if self._first_ns else NodeState.WAITING

    def wait_ms(self) -> float:
        """Milliseconds until something is due, ``IDLE_MS`` at most."""
        if self._ended or not self._first_ns:
            return 5.0 if self._ended else IDLE_MS
        if self._full:
            return IDLE_MS
        if self._source.live or self._nothing:
            return 0.0 if self._more else IDLE_MS if self._has_news else LOOK_MS
        return min(IDLE_MS, (self._due_ns() - time.monotonic_ns()) / 1e6)

    def wait(self) -> None:
        """Wait until something is due or arrives. The source's descriptor is left out while there is no room for its frames."""
        (self._without_source if self._ended or self._full or not self._first_ns else self.waiter).wait(self.wait_ms())

    @property
    def _full(self) -> bool:
        """Whether no frame can be taken: there is no room for it, or for the gap that must be recorded before it."""
        return self._blocked or (self._table.free == 0 and not self._may_drop)

    @property
    def _may_drop(self) -> bool:
        """Whether a frame may be dropped for a newer one."""
        return self._live and not self._outcomes.gaps_full

    def _due_ns(self) -> int:
        """When the next frame is due, monotonic ns; 0 if no rate is set."""
        if self._rate is None:
            return 0
        return self._first_ns + int((self._ring.state.next_frame - self._first_frame) / self._rate * 1e9)

    def _acquire(self) -> None:
        """Take the frames that are due; stops at a full ring or after ``TURN_FRAMES``."""
        self._more = self._nothing = False
        if not self._first_ns:
            self._first_ns, self._first_frame = time.monotonic_ns(), self._ring.state.next_frame
        for _ in range(TURN_FRAMES):
            number = self._ring.state.next_frame
            remaining = None if self._node.frames is None else self._node.frames - number
            awaited = ENDED if remaining == 0 else self._source.look(number)
            if awaited.ended:
                self._end()
                return
            self._nothing = not awaited.ready
            admitted = self._watch.admit(awaited, remaining)
            if awaited.ready and self._watch.resting:
                self._source.skip(number)
                continue
            self._blocked = awaited.ready and not admitted
            if not admitted or time.monotonic_ns() < self._due_ns():
                return
            if self._ring.state.next_frame != number:  # frames before it were lost
                continue
            if self._table.free == 0:
                if not self._may_drop:
                    return
                self._outcomes.drop_oldest()
            self._take(number)
        self._more = True

    def _end(self) -> None:
        """Note that there is no further frame."""
        self._ended = True
        self._ring.state.end()

    def _take(self, number: int) -> None:
        slot = self._outcomes.writing()
        if slot is None:  # every frame is or was leased: the one that arrives is dropped
            self._outcomes.drop_next(self._describe(number, SourceFrame(shape=None, length=0)))
            self._source.skip(number)
            return
        shot = self._source.read(number, self._ring.slot(slot.number))
        if shot is None:
            self._table.abandon(slot)
            self._end()
            return
        self._outcomes.acquired(slot, self._describe(number, shot))

    def _describe(self, number: int, shot: SourceFrame) -> FrameMeta:
        now = time.monotonic_ns()
        arrived = shot.arrived_ns or now
        return FrameMeta(
            camera=self._name,
            epoch=self._outcomes.epoch,
            frame=number,
            shape=shot.shape,
            length=shot.length,
            arrived_ns=arrived,
            captured_ns=time.time_ns() - (now - arrived),
            source=shot.source,
            reason=shot.reason,
        )

    def _send(self, address: bytes, message: Message) -> None:
        if isinstance(message, Frame):
            self._outcomes.leased(self._table.slots[message.ref.slot])
        self._router.send(address, message)

    def _drained(self) -> bool:
        """Whether every frame has ended. Once time is out, the remaining frames are given up, and recorded as such."""
        if self._node.out_of_time:
            self._outcomes.give_up()
        return self._table.in_flight == 0

    def _report(self, now: int, *, last: bool) -> None:
        """Send complete gaps and, at most once a second, the ledger if it has changed and publish has the one before."""
        self._outcomes.send_gaps(everything=last)
        if not self._begun or self._ledger_waits or (now < self._next_coverage_ns and not last):
            return
        account = self._ring.state.account()
        state = (account.acquired, account.in_flight)
        if state != self._last_seen:
            self._next_coverage_ns, self._last_seen = now + COVERAGE_NS, state
            record = Coverage(
                camera=self._name,
                epoch=self._outcomes.epoch,
                number=self._covered,
                account=account,
                at_ns=time.time_ns(),
            )
            self._covered += 1
            self._ledger_waits = True
            self._submit(record, self._ledger_taken)

    def _ledger_taken(self, _: str) -> None:
        self._ledger_waits = False

    def _submit(self, record: Gap | Coverage | Verdict | Alarm, then: Then | None = None) -> None:
        self._outbox.submit(record, time.monotonic_ns(), then)

    def facts(self) -> Facts:
        return Facts(
            camera=self._name,
            epoch=self._outcomes.epoch,
            stale=self._table.stale,
            refused=self._router.refused + self._outbox.dealer.refused,
            waiting=self._table.waiting,
        )

    def close(self) -> None:
        self._server.close()
        self._router.close(flush_ms=200)
        self._outbox.dealer.close(flush_ms=200)
        self._source.close()
