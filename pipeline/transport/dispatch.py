"""The giving side of the frame hop: workers, their credits, their leases. Pure; the caller owns socket and clock.

Capture has one for its ring; preprocess has one for its tiles when infer runs in another process. Times are monotonic, in ns.
"""

from collections.abc import Callable
from pathlib import Path

from pipeline.core.errors import ProtocolError
from pipeline.transport.leases import LeaseTable, Slot, holder_id, same_worker
from pipeline.transport.messages import Ack, End, Frame, Message, Ready

MAX_ATTEMPTS = 2
"""A frame over which this many workers died is poison."""
LOST_NS = 2_000_000_000
"""A frame leased longer ago than this that its worker does not report as held was lost on the way."""
SILENT_NS = 15_000_000_000
"""A worker that has sent nothing for this long is gone. The supervisor notices far earlier; this is for the case that it does not."""


def process_lives(pid: int) -> bool:
    """Whether a process with this id runs; False also for a zombie, which has ended and is still in the process table."""
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
    """Leases frames of ``table`` to workers, as far as their credits go.

    ``send(address, message)`` transmits; it must not block. ``done(slot, invalid)`` is called for each frame that ended: it was
    acknowledged (``invalid`` is the reason of an invalid verdict, or empty), or is ``"poison"``. It must release the slot, or
    settle it and release it later. ``lives(pid)`` says whether a worker's process still runs; while it does, no other process may
    use the worker's name.

    Frames of a table that was adopted stay with the workers that have them; a worker is recognised by its first heartbeat.
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
        """Whether there is a worker that has sent a heartbeat and has not been given up since."""
        return bool(self._workers)

    def receive(self, address: bytes, message: Ready | Ack, now_ns: int) -> None:
        """Take a message that ``messages.from_worker`` has checked; ``address`` is its sender's, for answers.

        An Ack for a frame that is not held any more is ignored and counted in ``table.stale``. Raises ``ProtocolError`` for a Ready
        with the name of a worker whose process is another one and still runs.
        """
        if isinstance(message, Ready):
            self._ready(address, message, now_ns)
        elif (slot := self.table.find(message.held)) is not None:
            self._done(slot, message.invalid)

    def grant(self, now_ns: int) -> None:
        """Lease waiting frames to workers that have credits left, and send them.

        A frame over which a worker died is sent to a worker that holds nothing else, and nothing is sent to it meanwhile.
        """
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
        """Give up workers that have sent nothing for ``SILENT_NS``; also those that had frames of an adopted table and never appeared.

        To be called in each turn; the time of the latter begins with the first call.
        """
        if self._begun_ns is None:
            self._begun_ns = now_ns
        if now_ns - self._begun_ns > SILENT_NS and (unclaimed := self.table.unclaimed()):
            self._revoke(unclaimed)
        for name, worker in list(self._workers.items()):
            if now_ns - worker.seen_ns > SILENT_NS:
                self.forget(name)

    def forget(self, name: str) -> None:
        """Give up the worker ``name``: its frames wait for another one, or are poison. Raises ``KeyError`` if there is none."""
        del self._workers[name]
        self._revoke(self.table.leased_to(name))

    def end(self, epoch: str) -> bool:
        """Send every worker the message that the epoch is over; to be called repeatedly.

        Returns whether each of them has confirmed that it has no frame of this epoch left; True if there is no worker.
        """
        for worker in self._workers.values():
            self._send(worker.address, End(epoch=epoch))
        return all(epoch in w.ended for w in self._workers.values())

    def _ready(self, address: bytes, message: Ready, now_ns: int) -> None:
        worker = self._workers.get(message.worker)
        if worker is not None and worker.boot != message.boot:
            if self._lives(worker.pid):
                raise ProtocolError(f"worker {message.worker!r} is still running, and another process uses its name")
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
        """Give a worker back the frames that it had before the table was adopted; those of an earlier life of it are revoked."""
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
