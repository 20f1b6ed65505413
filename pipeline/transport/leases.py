"""The lease table: which slot holds which frame, and who has it. Pure; no clock, no sockets, no memory.

    FREE --write--> WRITING --ready--> READY --lease--> LEASED --release--> FREE
                       |                 |                 |
                       +--abandon--> FREE+--release--> FREE+--revoke--> READY (attempt + 1)

    READY, LEASED --settle--> SETTLING --release--> FREE

The generation of a slot grows each time it is written; whoever names an older one is refused and counted. The verdict of a
frame that was ever leased may be durable, whoever has it now: it is never dropped. Its giver settles it with publish instead,
and it is SETTLING until publish has said which verdict stands.
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
    """One slot's row. ``attempt`` counts the workers that have had the frame, less those that never got it."""

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
        """Who has it; None also for a frame whose worker has not been heard of since it was adopted."""
        self.holder = 0
        """A word for the life of the worker that had it last."""

    def ref(self) -> FrameRef:
        assert self.meta is not None
        return FrameRef(meta=self.meta, slot=self.number, generation=self.generation, attempt=self.attempt)


class Row(msgspec.Struct, frozen=True):
    """A slot as a dead capture node left it; ``meta`` None: it holds no frame."""

    generation: int
    attempt: int
    holder: int
    leased: bool
    meta: FrameMeta | None


class LeaseTable:
    """Rows for ``size`` slots. Frames are leased in the order in which they became READY; revoked ones go first."""

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
        return len(self._free)

    @property
    def waiting(self) -> int:
        """Frames READY and not leased."""
        return len(self._ready)

    @property
    def in_flight(self) -> int:
        """Frames that have not ended."""
        return len(self.slots) - len(self._free)

    def write(self) -> Slot | None:
        """A free slot, now WRITING under a new generation; None when the table is full."""
        if not self._free:
            return None
        slot = self.slots[self._free.popleft()]
        self._move(slot, "write")
        slot.generation += 1
        slot.attempt, slot.leased = 0, False
        return slot

    def ready(self, slot: Slot, meta: FrameMeta) -> None:
        """The frame is whole."""
        self._move(slot, "ready")
        slot.meta = meta
        self._ready.append(slot.number)

    def abandon(self, slot: Slot) -> None:
        """Nothing came to be written."""
        self._move(slot, "abandon")
        self._free.append(slot.number)

    def adopt(self, rows: Sequence[Row]) -> None:
        """Take over the rows that a dead capture node left, one for each slot; frames go on in their order."""
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
        """Frames that were leased when they were adopted, and whose worker has not been heard of since."""
        return [self.slots[k] for k in self._unclaimed]

    def claim(self, slot: Slot, worker: str) -> None:
        """The worker that had this frame lives."""
        self._unclaimed.discard(slot.number)
        self._give(slot, worker)

    def next_attempt(self) -> int | None:
        """Attempt that the next frame to be leased would be; None when none waits."""
        return self.slots[self._ready[0]].attempt + 1 if self._ready else None

    def lease(self, worker: str, holder: int = 0) -> Slot:
        """Hand the next READY frame to ``worker``; ``holder`` is a word for its life."""
        slot = self.slots[self._ready.popleft()]
        self._move(slot, "lease")
        self._give(slot, worker)
        slot.attempt += 1
        slot.leased, slot.holder = True, holder
        return slot

    def leased_to(self, worker: str) -> list[Slot]:
        return [self.slots[k] for k in self._leased.get(worker, ())]

    def find(self, held: Held) -> Slot | None:
        """The slot that holds exactly this frame, or None (counted as stale)."""
        if 0 <= held.slot < len(self.slots):
            slot = self.slots[held.slot]
            if slot.state in _HELD and slot.generation == held.generation:
                assert slot.meta is not None
                if (slot.meta.epoch, slot.meta.frame) == (held.epoch, held.frame):
                    return slot
        self.stale += 1
        return None

    def release(self, slot: Slot) -> None:
        """The frame is done with."""
        self._take_back(slot)
        self._move(slot, "release")
        slot.meta = None
        self._free.append(slot.number)

    def revoke(self, slots: list[Slot]) -> None:
        """Their worker is gone: the frames wait again, before all others, oldest first."""
        for slot in sorted(slots, key=_frame, reverse=True):
            self._take_back(slot)
            self._move(slot, "revoke")
            self._ready.appendleft(slot.number)

    def settle(self, slot: Slot) -> None:
        """Nobody gets the frame any more; how it ended is being asked."""
        self._take_back(slot)
        self._move(slot, "settle")

    def oldest_droppable(self) -> Slot | None:
        """The frame that has waited longest of those that were never leased, or None."""
        return next((self.slots[k] for k in self._ready if not self.slots[k].leased), None)

    def held_frames(self) -> list[Slot]:
        """Every slot with a frame that has not ended."""
        return [s for s in self.slots if s.state in _HELD]

    def _give(self, slot: Slot, worker: str) -> None:
        slot.worker = worker
        self._leased.setdefault(worker, set()).add(slot.number)

    def _take_back(self, slot: Slot) -> None:
        """It waits no longer, and nobody has it."""
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
    """A word for one life of a worker; its upper half is the worker's."""
    return _half(worker) << 32 | _half(boot)


def same_worker(holder: int, other: int) -> bool:
    """Whether two lives are of one worker."""
    return holder >> 32 == other >> 32


def _half(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest())
