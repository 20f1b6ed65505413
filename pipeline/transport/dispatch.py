"""The giving side of the frame hop: workers, their credits, their leases. Pure; the caller owns socket and clock.

Capture drives one for its ring; preprocess drives one for its tiles when infer runs in another process.
"""

from collections.abc import Callable
from pathlib import Path

from pipeline.core.errors import ProtocolError
from pipeline.transport.leases import LeaseTable, Slot, holder_id, same_worker
from pipeline.transport.messages import Ack, End, Frame, Message, Ready

MAX_ATTEMPTS = 2
"""A frame over which this many workers died is poison."""
LOST_NS = 2_000_000_000
"""A lease older than this that its worker does not report as held was lost on the way."""
SILENT_NS = 15_000_000_000
"""A worker not heard of for this long is gone; the supervisor notices far earlier, this is the backstop."""


def process_lives(pid: int) -> bool:
    """Whether there is such a process, and more of it than a line in the table."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


class _Worker:
    def __init__(self, address: bytes, ready: Ready) -> None:
        self.address, self.boot, self.pid, self.credits = address, ready.boot, ready.pid, ready.credits
        self.holder = holder_id(ready.worker, ready.boot)
        self.seen_ns = 0
        self.ended: tuple[str, ...] = ()
        self.since: dict[int, int] = {}  # slot -> when it was leased


class Dispatcher:
    """Grants frames of ``table`` to workers against their credits.

    ``send(address, message)`` transmits; ``done(slot, invalid)`` is called for each frame that ended: acknowledged (``invalid``
    holds the reason or is empty) or poison. It releases the slot, or settles it first. ``lives(pid)``: whether a worker's
    process is there still; nobody else gets its name then.

    Frames of a table that was adopted stay with the workers that have them: these are known again by their first heartbeat.
    """

    def __init__(
        self,
        table: LeaseTable,
        send: Callable[[bytes, Message], None],
        done: Callable[[Slot, str], None],
        lives: Callable[[int], bool] = process_lives,
    ) -> None:
        self.table, self._send, self._done, self._lives = table, send, done, lives
        self._workers: dict[str, _Worker] = {}
        self._begun_ns: int | None = None

    @property
    def has_worker(self) -> bool:
        return bool(self._workers)

    def receive(self, address: bytes, message: Ready | Ack, now_ns: int) -> None:
        """Take what ``messages.from_worker`` let pass. Raises ``ProtocolError`` if the worker of that name is another process."""
        if isinstance(message, Ready):
            self._ready(address, message, now_ns)
        elif (slot := self.table.find(message.held)) is not None:
            self._done(slot, message.invalid)

    def grant(self, now_ns: int) -> None:
        """Lease waiting frames while credits last. A frame that a worker died over travels alone."""
        for name, worker in self._workers.items():
            while (attempt := self.table.next_attempt()) is not None:
                leased = self.table.leased_to(name)
                suspect = attempt > 1 or any(s.attempt > 1 for s in leased)
                if len(leased) >= worker.credits or (suspect and leased):
                    break
                slot = self.table.lease(name, worker.holder)
                worker.since[slot.number] = now_ns
                self._send(worker.address, Frame(ref=slot.ref()))

    def expire(self, now_ns: int) -> None:
        """Give up workers that have been silent for ``SILENT_NS``, also those that were never heard of."""
        if self._begun_ns is None:
            self._begun_ns = now_ns
        if now_ns - self._begun_ns > SILENT_NS and (unclaimed := self.table.unclaimed()):
            self._revoke(unclaimed)
        for name, worker in list(self._workers.items()):
            if now_ns - worker.seen_ns > SILENT_NS:
                self.forget(name)

    def forget(self, name: str) -> None:
        """The worker is gone: its frames go to another, or are poison."""
        del self._workers[name]
        self._revoke(self.table.leased_to(name))

    def end(self, epoch: str) -> bool:
        """Tell every worker that the epoch is over; True once each has said that it has nothing left of it."""
        for worker in self._workers.values():
            self._send(worker.address, End(epoch=epoch))
        return all(epoch in w.ended for w in self._workers.values())

    def _ready(self, address: bytes, message: Ready, now_ns: int) -> None:
        worker = self._workers.get(message.worker)
        if worker is not None and worker.boot != message.boot:
            if self._lives(worker.pid):
                raise ProtocolError(f"worker {message.worker!r} lives, and somebody else says to be it")
            self.forget(message.worker)
            worker = None
        if worker is None:
            worker = self._workers[message.worker] = _Worker(address, message)
            self._recognise(message.worker, worker, now_ns)
        worker.address, worker.credits = address, message.credits
        worker.seen_ns, worker.ended = now_ns, message.ended
        holds = {h.slot: h.generation for h in message.held}
        lost = [
            s
            for s in self.table.leased_to(message.worker)
            if holds.get(s.number) != s.generation and now_ns - worker.since.get(s.number, 0) > LOST_NS
        ]
        for slot in lost:
            slot.attempt -= 1  # nobody died over it
        self.table.revoke(lost)

    def _recognise(self, name: str, worker: _Worker, now_ns: int) -> None:
        """Give a worker back what it had before the table was adopted; what an earlier life of it had is nobody's."""
        mine = [s for s in self.table.unclaimed() if same_worker(s.holder, worker.holder)]
        for slot in mine:
            if slot.holder == worker.holder:
                self.table.claim(slot, name)
                worker.since[slot.number] = now_ns
        self._revoke([s for s in mine if s.holder != worker.holder])

    def _revoke(self, slots: list[Slot]) -> None:
        poison = [s for s in slots if s.attempt >= MAX_ATTEMPTS]
        self.table.revoke(slots)
        for slot in poison:
            self._done(slot, "poison")
