"""A line in one process, of real parts but for sockets, clock and disk: whatever happens in it comes from a seed.

``World.run`` lets a seeded history happen, kills capture at the k-th store into the ring's memory, lets the next one adopt it,
and runs to the end. ``World.check`` is the oracle: what publish has on its disk, and nothing that capture says of itself.
"""

import logging
import os
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import pipeline.transport.frame_receiver
from nodes.capture.camera_watch import CameraWatch
from nodes.capture.frame_outcomes import FrameOutcomes
from nodes.capture.sources.source import READY, Awaited
from pipeline.core.frame import Alarm, FrameMeta, FrameRef, Gap, Publishable, Verdict
from pipeline.transport.dispatch import SILENT_NS, Dispatcher
from pipeline.transport.frame_receiver import FrameReceiver
from pipeline.transport.leases import LeaseTable, holder_id
from pipeline.transport.messages import Ack, Durable, Frame, Message, Ready, Submit
from pipeline.transport.outbox import Outbox, Then
from pipeline.transport.ring import Ring, new_memfd
from pipeline.transport.ring_state import NO_EPOCH, RingState

SLOTS = 4
LOG = logging.getLogger("crash")
LOG.addFilter(lambda _: False)


class KilledError(BaseException):
    """SIGKILL: nothing catches it."""


class Knife:
    """Counts stores, over all lives of capture; a life ends in place of each store whose number is in ``at``."""

    def __init__(self, at: tuple[int, ...]) -> None:
        self._at, self.stores = at, 0
        self.after: Callable[[], None] = lambda: None

    def cut(self) -> None:
        self.stores += 1
        if self.stores in self._at:
            raise KilledError


class CutWords:
    """The words of a ring: each store is one at which the process can die."""

    def __init__(self, words: Any, knife: Knife) -> None:
        self._words, self._knife = words, knife

    def __getitem__(self, index: Any) -> Any:
        return self._words[index]

    def __setitem__(self, index: int, value: int) -> None:
        self._knife.cut()
        self._words[index] = value
        self._knife.after()


class CutBytes(CutWords):
    """The same for its bytes: a copy can also break off in its middle."""

    def __setitem__(self, index: Any, value: Any) -> None:
        self._knife.cut()
        half = len(value) // 2
        self._words[index.start : index.start + half] = value[:half]
        self._knife.cut()
        self._words[index] = value


class Wire:
    """In the place of a Dealer: ``arrived`` waits for its owner, ``left`` for the peer."""

    refused = 0

    def __init__(self, _: str) -> None:
        self.arrived: deque[Message] = deque()
        self.left: deque[Message] = deque()

    def receive(self) -> Iterator[tuple[Message, list[memoryview]]]:
        while self.arrived:
            yield self.arrived.popleft(), []

    def deliver(self, take: Callable[[Message, list[memoryview]], None]) -> None:
        for message, payload in self.receive():
            take(message, payload)

    def send(self, message: Message) -> None:
        self.left.append(message)


class Publish:
    """The disk: the first record of each key stays."""

    def __init__(self) -> None:
        self.records: dict[str, Publishable] = {}

    def serve(self, wire: Wire) -> None:
        while wire.left:
            message = wire.left.popleft()
            assert isinstance(message, Submit)
            if message.after and message.after not in self.records:
                continue
            key, stands = message.record.key, {}
            if key not in self.records:
                self.records[key] = message.record
            elif isinstance(found := self.records[key], Verdict):
                stands = {key: found.invalid}
            wire.arrived.append(Durable(keys=(key,), stands=stands))


class Worker:
    """One life of a worker: judges what it is sent by the frame's number, as its slot has it."""

    def __init__(self, name: str, boot: str, fd: int, rng: random.Random) -> None:
        self.name, self.boot, self._ring, self._rng = name, boot, Ring.attach(fd), rng
        self.outbox = Outbox("")
        self.receiver = FrameReceiver("", name, 2, self._take)
        self.wire: Wire = self.receiver.dealer  # type: ignore[assignment]
        self.todo: list[FrameRef] = []
        self.heard_ns = 0
        self.had: set[int] = set()
        """Frames leased to it, whether or not it got them: who is to blame is not known better."""

    def _take(self, message: Frame, _: list[memoryview]) -> None:
        self.todo.append(message.ref)

    def turn(self, now_ns: int, most: int) -> None:
        pipeline.transport.frame_receiver.BOOT = self.boot  # type: ignore[attr-defined]
        self.receiver.turn(now_ns)
        self.outbox.turn(now_ns)
        for _ in range(min(most, len(self.todo))):
            self._judge(self.todo.pop(0), now_ns)

    def _judge(self, ref: FrameRef, now_ns: int) -> None:
        pixel = int(self._ring.pixels(ref).reshape(-1)[:4].view(np.uint32)[0])
        if not self._ring.is_current(ref):
            self.receiver.forget(ref)
            return
        assert pixel == ref.meta.frame, "another frame's pixels"
        invalid = self._rng.choice(["", "", "truncated", "model"])  # of two workers, each may see it otherwise
        verdict = Verdict(meta=ref.meta, attempt=ref.attempt, model=None, invalid=invalid)
        self.outbox.submit(verdict, now_ns, lambda stands: self.receiver.ack(ref, stands))


class Capture:
    """One life of a capture node, with the ring that it finds."""

    def __init__(
        self, fd: int, epoch: str, knife: Knife, *, live: bool, leasing: Callable[[int, int], None], found: dict[int, str]
    ) -> None:
        """``leasing`` is told who is about to get which frame; ``found`` takes the epoch that was there, by the next frame's number."""
        self.leasing = leasing
        ring = Ring.adopt(fd)
        assert ring is not None
        self.live, self.epoch, self.ring, self.heard = live, epoch, ring, deque[tuple[bytes, Message]]()
        real = ring.state
        self.state = RingState(CutWords(real.words, knife), CutBytes(real._data, knife), SLOTS)  # type: ignore[arg-type]
        self.state.recover()
        self.table = LeaseTable(SLOTS)
        self.outbox = Outbox("")
        self.sent: list[tuple[str, Message]] = []
        self.now_ns = 0
        self.outcomes = FrameOutcomes(self.state, self.table, "top", self._submit, LOG)
        self.watch = CameraWatch("top", self.state, self.outcomes, self._submit, LOG)
        self.dispatcher = Dispatcher(self.table, self._send, self.outcomes.done, lives=lambda _: False)
        self.begun = False
        if self.state.epoch != NO_EPOCH:
            found.setdefault(self.state.next_frame, self.state.epoch)

    def _submit(self, record: Publishable, then: Then | None) -> None:
        self.outbox.submit(record, self.now_ns, then)

    def _send(self, address: bytes, message: Message) -> None:
        if isinstance(message, Frame):
            slot = self.table.slots[message.ref.slot]
            self.leasing(slot.holder, message.ref.meta.frame)
            self.outcomes.leased(slot)
            self.sent.append((address.decode(), message))

    def turn(self, now_ns: int) -> None:
        self.now_ns = now_ns
        while self.heard:
            address, message = self.heard.popleft()
            assert isinstance(message, Ready | Ack)
            self.dispatcher.receive(address, message, now_ns)
        self.dispatcher.expire(now_ns)
        self.begin()
        self.dispatcher.grant(now_ns)
        self.outbox.turn(now_ns)
        self.outcomes.send_gaps(everything=False)

    def begin(self) -> bool:
        self.begun = self.begun or self.outcomes.begin(self.epoch, live=self.live)
        return self.begun

    def acquire(self, awaited: Awaited = READY) -> None:
        """As the node does it: the source's next frame, for which a full ring makes room, or waits."""
        if not self.begin() or not self.watch.admit(awaited, None):
            return
        if self.table.free == 0:
            if not self.live or self.outcomes.gaps_full:
                return
            self.outcomes.drop_oldest()
        number = self.state.next_frame
        slot, about = self.outcomes.writing(), {"shape": None, "length": 4, "arrived_ns": 0, "captured_ns": 0}
        meta = FrameMeta(camera="top", epoch=self.epoch, frame=number, **about)  # type: ignore[arg-type]
        if slot is None:
            self.outcomes.drop_next(meta)
            return
        self.ring.slot(slot.number)[:4] = np.array([number], np.uint32).view(np.uint8)
        self.outcomes.acquired(slot, meta)


class World:
    """A history of ``steps`` from ``seed``; capture is killed at these of its stores."""

    def __init__(self, seed: int, steps: int, cuts: tuple[int, ...]) -> None:
        self.rng, self._steps, self.knife = random.Random(seed), steps, Knife(cuts)
        self.live, self.hurry = seed % 4 != 0, seed % 5 == 1
        self.device, self.number = random.Random(seed) if seed % 3 == 0 else None, 0
        self.publish, self.now_ns, self.boots, self.epochs = Publish(), 1, 0, 0
        self.fd = new_memfd("crash")
        Ring.create(self.fd, SLOTS, 4)
        self.view = Ring.attach(self.fd).state
        self.deaths: Counter[int] = Counter()
        self.found: dict[int, str] = {}
        self.workers = [self._worker("a"), self._worker("b")]
        self.capture: Capture | None = None

    def run(self) -> "World":
        try:
            for _ in range(self._steps):
                self._alive(self._step)
            while self._unfinished():
                self.now_ns += 600_000_000
                self._alive(self._drain)
        finally:
            pipeline.transport.frame_receiver.BOOT = "none"  # type: ignore[attr-defined]
        return self

    def close(self) -> None:
        os.close(self.fd)

    def _worker(self, name: str) -> Worker:
        self.boots += 1
        worker = Worker(name, f"boot {self.boots}", self.fd, self.rng)
        worker.heard_ns = self.now_ns
        return worker

    def _alive(self, step: Callable[[Capture], None]) -> None:
        """Do something with capture, or see it die over it."""
        try:
            if self.capture is None:
                self.epochs += 1
                self.capture = Capture(self.fd, f"{self.epochs:032x}", self.knife, live=self.live, leasing=self._leasing, found=self.found)
            step(self.capture)
        except KilledError:
            self.watch()
            self._forget_capture()

    def _forget_capture(self) -> None:
        if self.capture is not None:
            for name, message in self.capture.sent:
                if self.rng.random() < 0.5:
                    self._deliver(name, message)
            for message in self.capture.outbox.dealer.left:  # type: ignore[attr-defined]
                if self.rng.random() < 0.5:  # it was with publish already
                    wire = Wire("")
                    wire.left.append(message)
                    self.publish.serve(wire)
        for worker in self.workers:
            if self.rng.random() < 0.5:
                worker.wire.left.clear()
        self.capture = None

    def watch(self) -> None:
        """As the supervisor looks, at whatever moment."""
        account = self.view.account()
        assert 0 <= account.in_flight <= SLOTS, account

    def _leasing(self, holder: int, frame: int) -> None:
        found = [w for w in self.workers if holder_id(w.name, w.boot) == holder]
        for worker in found:
            worker.had.add(frame)
        if not found:  # it has died, which capture does not know yet
            self.deaths[frame] += 1

    def _deliver(self, name: str, message: Message) -> None:
        for worker in self.workers:
            if worker.name == name:
                worker.wire.arrived.append(message)

    def _step(self, capture: Capture) -> None:
        action = self.rng.choice("aaaaaaccccwwwwwwwppppkltsxg")
        worker = self.rng.choice(self.workers)
        self.now_ns += self.rng.choice([0, 1_000_000, 400_000_000])
        if action == "a":
            capture.acquire(self._look())
        elif action == "c":
            self._turn_capture(capture, delayed=True)
        elif action == "w":
            worker.turn(self.now_ns, self.rng.randrange(3))
        elif action == "p":
            self.publish.serve(self.rng.choice([worker.outbox, worker.outbox, capture.outbox]).dealer)  # type: ignore[arg-type]
        elif action == "k":
            self._kill(worker)
        elif action == "l":  # a message is lost
            queue = self.rng.choice([worker.wire.left, worker.wire.arrived, worker.outbox.dealer.left])  # type: ignore[attr-defined]
            if queue:
                queue.pop()
        elif action == "t":
            self.now_ns += 3_000_000_000
        elif action == "s" and self.rng.random() < 0.3:
            self.now_ns += SILENT_NS + 1
            self._turn_capture(capture)
        elif action == "x" and self.rng.random() < 0.2:  # killed between two steps
            raise KilledError
        elif action == "g" and self.hurry:
            capture.outcomes.give_up()

    def _look(self) -> Awaited:
        """What the camera says: of every third seed it is a live one, that loses frames, and is lost itself."""
        if self.device is None:
            return READY
        self.number += self.device.choice((1, 1, 1, 1, 3))
        return Awaited(lost="gone") if self.device.random() < 0.15 else Awaited(ready=True, number=self.number)

    def _turn_capture(self, capture: Capture, *, delayed: bool = False) -> None:
        """``delayed``: some of what was sent arrives only next time."""
        for worker in self.workers:
            left = self.rng.randrange(3) if delayed else 0
            while len(worker.wire.left) > left:
                message = worker.wire.left.popleft()
                worker.heard_ns = self.now_ns if isinstance(message, Ready) else worker.heard_ns
                capture.heard.append((worker.name.encode(), message))
            if self.now_ns - worker.heard_ns > SILENT_NS:
                self.deaths.update(worker.had)
        capture.turn(self.now_ns)
        while capture.sent:
            self._deliver(*capture.sent.pop(0))

    def _kill(self, worker: Worker) -> None:
        self.deaths.update(worker.had)
        submitted = worker.outbox.dealer
        if self.rng.random() < 0.5:
            self.publish.serve(submitted)  # type: ignore[arg-type]
        self.workers[self.workers.index(worker)] = self._worker(worker.name)

    def _unfinished(self) -> bool:
        assert self.now_ns < 10**13, "it never ends"
        capture = self.capture
        return capture is None or not capture.begun or bool(capture.table.in_flight or len(capture.outbox) or capture.outcomes.unsent)

    def _drain(self, capture: Capture) -> None:
        if self.hurry:
            capture.outcomes.give_up()
        for worker in self.workers:
            worker.turn(self.now_ns, 9)
            self.publish.serve(worker.outbox.dealer)  # type: ignore[arg-type]
            worker.turn(self.now_ns, 9)
        self._turn_capture(capture)
        capture.outcomes.send_gaps(everything=True)
        self.publish.serve(capture.outbox.dealer)  # type: ignore[arg-type]

    def check(self) -> None:
        """Every frame that was acquired has exactly one fate on the disk, and the ledger counts just these."""
        assert self.capture is not None
        outcomes: dict[int, list[str]] = {}
        for record in self.publish.records.values():
            if isinstance(record, Verdict):
                outcomes.setdefault(record.meta.frame, []).append(record.invalid)
            elif isinstance(record, Gap) and record.last is not None:
                for frame in range(record.first, record.last + 1):
                    outcomes.setdefault(frame, []).append(record.reason)
        assert {k: f for k, f in outcomes.items() if len(f) > 1} == {}, "frames with two outcomes"
        account = self.view.account()
        assert sorted(outcomes) == list(range(account.acquired)), "frames without a fate"
        counted = {"": account.inspected, **account.dropped, **account.invalid}
        assert {k: n for k, n in counted.items() if n} == Counter(f for (f,) in outcomes.values())
        assert account.in_flight == 0
        poison = {k for k, f in outcomes.items() if f == ["poison"]}
        assert not {k for k in poison if self.deaths[k] < 2}, "poison, though two workers did not die over it"
        told = {r.epoch for r in self.publish.records.values() if isinstance(r, Gap) and r.reason == "capture_died"}
        assert told == (set(self.found.values()) if self.live else set()), "deaths of nodes that had a frame, each told"
        alarms = sorted((r.at_ns, r.active) for r in self.publish.records.values() if isinstance(r, Alarm))
        assert [active for _, active in alarms] == [k % 2 == 0 for k in range(len(alarms))], "an alarm begins and ends, each once"
        assert sum(active for _, active in alarms) == sum(
            isinstance(r, Gap) and r.reason == "camera_lost" for r in self.publish.records.values()
        ), "a lost camera is a gap and an alarm"
        assert not self.view.camera_lost[1], "a camera that is back is told"
