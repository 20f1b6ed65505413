"""The lease table: which slot holds which frame, and who has it. Pure; no clock, no sockets, no memory.

    FREE --write--> WRITING --ready--> READY --lease--> LEASED --release--> FREE
                       |                 |                 |
                       +--abandon--> FREE+--release--> FREE+--revoke--> READY (attempt + 1)

    READY, LEASED --settle--> SETTLING --release--> FREE

The generation of a slot grows each time it is written; a message with an older one is refused and counted. The verdict of a
frame that was ever leased may be durable, even if no worker has the frame now: so the frame is never dropped. Capture asks publish
instead, and the frame is SETTLING until publish has said which verdict is the frame's.
"""

import enum
import hashlib
from collections import deque
from collections.abc import Sequence

import msgspec

from pipeline.core.errors import LinepipeError
from pipeline.core.frame import FrameMeta, FrameRef
from pipeline.transport.messages import Held


class SlotState(enum.IntEnum):
    """What a slot is used for; the picture above shows the transitions. The numbers are stored in the ring's memory."""

    FREE = 0
    WRITING = 1
    READY = 2
    LEASED = 3
    SETTLING = 4


_NEXT = {
    ("write", SlotState.FREE): SlotState.WRITING,
    ("ready", SlotState.WRITING): SlotState.READY,
    ("abandon", SlotState.WRITING): SlotState.FREE,
    ("lease", SlotState.READY): SlotState.LEASED,
    ("revoke", SlotState.LEASED): SlotState.READY,
    ("settle", SlotState.READY): SlotState.SETTLING,
    ("settle", SlotState.LEASED): SlotState.SETTLING,
    ("release", SlotState.READY): SlotState.FREE,
    ("release", SlotState.LEASED): SlotState.FREE,
    ("release", SlotState.SETTLING): SlotState.FREE,
}
_HELD = (SlotState.READY, SlotState.LEASED, SlotState.SETTLING)


class Slot:
    """One slot's row in the table. ``attempt`` counts the leases of its frame, except those that were lost on the way."""

    __slots__ = ("attempt", "generation", "holder", "leased", "meta", "number", "state", "worker")

    def __init__(self, number: int) -> None:
        self.number = number
        self.state = SlotState.FREE
        self.generation = 0
        self.attempt = 0
        self.meta: FrameMeta | None = None
        self.leased = False
        """Whether the frame has ever been leased."""
        self.worker: str | None = None
        """Name of the worker that has it; None if none has, or if its worker has sent nothing since the table was adopted."""
        self.holder = 0
        """``holder_id`` of the worker's life that had it last."""

    def ref(self) -> FrameRef:
        """The reference to its frame that a worker gets; only for a slot that holds one."""
        assert self.meta is not None
        return FrameRef(meta=self.meta, slot=self.number, generation=self.generation, attempt=self.attempt)


class Row(msgspec.Struct, frozen=True):
    """A slot as a dead capture process left it; ``meta`` is None if it holds no frame."""

    generation: int
    attempt: int
    holder: int
    leased: bool
    meta: FrameMeta | None


class LeaseTable:
    """Rows for ``size`` slots. Frames are leased in the order in which they became READY; revoked ones go first.

    A method that moves a slot raises ``LinepipeError`` if the slot's state does not allow it.
    """

    def __init__(self, size: int) -> None:
        self.slots = [Slot(k) for k in range(size)]
        self._free = deque(range(size))
        self._ready: deque[int] = deque()
        self._leased: dict[str, set[int]] = {}
        self._unclaimed: set[int] = set()
        self.stale = 0
        """Messages refused because slot, generation, epoch or frame did not match."""

    @property
    def free(self) -> int:
        """Slots that hold no frame and can be written."""
        return len(self._free)

    @property
    def waiting(self) -> int:
        """Frames that are READY: they wait for a worker."""
        return len(self._ready)

    @property
    def in_flight(self) -> int:
        """Slots that are not FREE: their frames have not ended, or are being written."""
        return len(self.slots) - len(self._free)

    def write(self) -> Slot | None:
        """Take a free slot for writing, with a new generation; None if no slot is free."""
        if not self._free:
            return None
        slot = self.slots[self._free.popleft()]
        self._move(slot, "write")
        slot.generation += 1
        slot.attempt, slot.leased = 0, False
        return slot

    def ready(self, slot: Slot, meta: FrameMeta) -> None:
        """Note that the slot holds a whole frame, described by ``meta``: it waits for a worker."""
        self._move(slot, "ready")
        slot.meta = meta
        self._ready.append(slot.number)

    def abandon(self, slot: Slot) -> None:
        """Give back a slot from ``write`` into which no frame came."""
        self._move(slot, "abandon")
        self._free.append(slot.number)

    def adopt(self, rows: Sequence[Row]) -> None:
        """Take over the rows that a dead capture process left. The table must be new.

        Frames that were not leased wait in the order of their numbers; leased ones stay LEASED and are ``unclaimed``. Raises
        ``ValueError`` unless there is one row for each slot.
        """
        for slot, row in zip(self.slots, rows, strict=True):
            slot.generation, slot.attempt, slot.meta = row.generation, row.attempt, row.meta
            slot.leased, slot.holder = row.leased, row.holder
        for slot in sorted((s for s in self.slots if s.meta is not None), key=_frame):
            self._free.remove(slot.number)
            if slot.leased:
                slot.state = SlotState.LEASED
                self._unclaimed.add(slot.number)
            else:
                slot.state = SlotState.READY
                self._ready.append(slot.number)

    def unclaimed(self) -> list[Slot]:
        """Frames that were leased when they were adopted, and whose worker has sent nothing since."""
        return [self.slots[k] for k in self._unclaimed]

    def claim(self, slot: Slot, worker: str) -> None:
        """Note that ``worker`` still has this unclaimed frame."""
        self._unclaimed.discard(slot.number)
        self._give(slot, worker)

    def next_attempt(self) -> int | None:
        """Number of the attempt that the next ``lease`` would be; None if no frame waits."""
        return self.slots[self._ready[0]].attempt + 1 if self._ready else None

    def lease(self, worker: str, holder: int = 0) -> Slot:
        """Lease the next waiting frame to ``worker``; ``holder`` is the ``holder_id`` of its life. Raises ``IndexError`` if none waits."""
        slot = self.slots[self._ready.popleft()]
        self._move(slot, "lease")
        self._give(slot, worker)
        slot.attempt += 1
        slot.leased, slot.holder = True, holder
        return slot

    def leased_to(self, worker: str) -> list[Slot]:
        """The slots whose frames ``worker`` has, in no particular order."""
        return [self.slots[k] for k in self._leased.get(worker, ())]

    def find(self, held: Held) -> Slot | None:
        """The slot that holds exactly this frame; None if none does, which is counted in ``stale``."""
        if 0 <= held.slot < len(self.slots):
            slot = self.slots[held.slot]
            if slot.state in _HELD and slot.generation == held.generation:
                assert slot.meta is not None
                if (slot.meta.epoch, slot.meta.frame) == (held.epoch, held.frame):
                    return slot
        self.stale += 1
        return None

    def release(self, slot: Slot) -> None:
        """Free the slot: its frame has ended."""
        self._take_back(slot)
        self._move(slot, "release")
        slot.meta = None
        self._free.append(slot.number)

    def revoke(self, slots: list[Slot]) -> None:
        """Take leased frames back, because their worker is gone: they wait again, before all others, the oldest first."""
        for slot in sorted(slots, key=_frame, reverse=True):
            self._take_back(slot)
            self._move(slot, "revoke")
            self._ready.appendleft(slot.number)

    def settle(self, slot: Slot) -> None:
        """Give the frame to no worker any more, while publish is asked how it ended."""
        self._take_back(slot)
        self._move(slot, "settle")

    def oldest_droppable(self) -> Slot | None:
        """Of the waiting frames that were never leased, the one that has waited longest; None if there is none."""
        return next((self.slots[k] for k in self._ready if not self.slots[k].leased), None)

    def held_frames(self) -> list[Slot]:
        """Every slot with a whole frame that has not ended, by number of the slot."""
        return [s for s in self.slots if s.state in _HELD]

    def _give(self, slot: Slot, worker: str) -> None:
        slot.worker = worker
        self._leased.setdefault(worker, set()).add(slot.number)

    def _take_back(self, slot: Slot) -> None:
        """Remove the slot from the waiting frames and from its worker's."""
        if slot.state is SlotState.READY:
            self._ready.remove(slot.number)
        self._unclaimed.discard(slot.number)
        if slot.worker is not None:
            self._leased[slot.worker].discard(slot.number)
            slot.worker = None

    def _move(self, slot: Slot, event: str) -> None:
        following = _NEXT.get((event, slot.state))
        if following is None:
            raise LinepipeError(f"slot {slot.number} is {slot.state.name}: {event} is not allowed there")
        slot.state = following


def _frame(slot: Slot) -> int:
    return slot.meta.frame if slot.meta is not None else 0


def holder_id(worker: str, boot: str) -> int:
    """64 bits that identify one life of a worker: digests of its name (upper half) and of its ``boot`` id (lower half)."""
    return _half(worker) << 32 | _half(boot)


def same_worker(holder: int, other: int) -> bool:
    """Whether two values of ``holder_id`` belong to lives of one worker."""
    return holder >> 32 == other >> 32


def _half(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest())
