"""The lease table: which slot holds which frame, and who has it. Pure; no clock, no sockets, no memory.

    FREE --write--> WRITING --ready--> READY --lease--> LEASED --release--> FREE
                       |                 |                 |
                       +--abandon--> FREE+--release--> FREE+--revoke--> READY (attempt + 1)

The generation of a slot grows each time it is written; whoever names an older one is refused and counted.
"""

import enum
from collections import deque

from pipeline.errors import LinepipeError
from pipeline.frame import FrameMeta, FrameRef
from pipeline.wire import Held


class SlotState(enum.IntEnum):
    FREE = 0
    WRITING = 1
    READY = 2
    LEASED = 3


_NEXT = {
    ("write", SlotState.FREE): SlotState.WRITING,
    ("ready", SlotState.WRITING): SlotState.READY,
    ("abandon", SlotState.WRITING): SlotState.FREE,
    ("lease", SlotState.READY): SlotState.LEASED,
    ("revoke", SlotState.LEASED): SlotState.READY,
    ("release", SlotState.READY): SlotState.FREE,
    ("release", SlotState.LEASED): SlotState.FREE,
}


class Slot:
    """One slot's row. ``attempt`` counts the workers that have had the frame."""

    __slots__ = ("attempt", "generation", "meta", "number", "state", "worker")

    def __init__(self, number: int) -> None:
        self.number = number
        self.state = SlotState.FREE
        self.generation = 0
        self.attempt = 0
        self.meta: FrameMeta | None = None
        self.worker: str | None = None

    def ref(self) -> FrameRef:
        assert self.meta is not None
        return FrameRef(meta=self.meta, slot=self.number, generation=self.generation, attempt=self.attempt)


class LeaseTable:
    """Rows for ``size`` slots. Frames are leased in the order in which they became READY; revoked ones go first."""

    def __init__(self, size: int) -> None:
        self.slots = [Slot(k) for k in range(size)]
        self._free = deque(range(size))
        self._ready: deque[int] = deque()
        self._leased: dict[str, set[int]] = {}
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
        """Frames READY or LEASED."""
        return len(self._ready) + sum(map(len, self._leased.values()))

    def write(self) -> Slot | None:
        """A free slot, now WRITING under a new generation; None when the table is full."""
        if not self._free:
            return None
        slot = self.slots[self._free.popleft()]
        self._move(slot, "write")
        slot.generation += 1
        slot.attempt = 0
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

    def adopt(self, number: int, generation: int, attempt: int, meta: FrameMeta | None) -> None:
        """Take over a row from the ring's headers after a capture node died; ``meta`` None: the slot holds no frame."""
        slot = self.slots[number]
        slot.generation, slot.attempt = generation, attempt
        if meta is not None:
            slot.state, slot.meta = SlotState.READY, meta
            self._free.remove(number)
            self._ready.append(number)

    def next_attempt(self) -> int | None:
        """Attempt that the next frame to be leased would be; None when none waits."""
        return self.slots[self._ready[0]].attempt + 1 if self._ready else None

    def lease(self, worker: str) -> Slot:
        """Hand the next READY frame to ``worker``."""
        slot = self.slots[self._ready.popleft()]
        self._move(slot, "lease")
        slot.worker = worker
        slot.attempt += 1
        self._leased.setdefault(worker, set()).add(slot.number)
        return slot

    def leased_to(self, worker: str) -> list[Slot]:
        return [self.slots[k] for k in self._leased.get(worker, ())]

    def find(self, held: Held) -> Slot | None:
        """The slot that holds exactly this frame, or None (counted as stale)."""
        if 0 <= held.slot < len(self.slots):
            slot = self.slots[held.slot]
            if slot.state in (SlotState.READY, SlotState.LEASED) and slot.generation == held.generation:
                assert slot.meta is not None
                if (slot.meta.epoch, slot.meta.frame) == (held.epoch, held.frame):
                    return slot
        self.stale += 1
        return None

    def release(self, slot: Slot) -> None:
        """The frame is done with."""
        if slot.state is SlotState.READY:
            self._ready.remove(slot.number)
        self._unlease(slot)
        self._move(slot, "release")
        slot.meta = None
        self._free.append(slot.number)

    def revoke(self, slots: list[Slot]) -> None:
        """Their worker is gone: the frames wait again, before all others, oldest first."""
        for slot in sorted(slots, key=lambda s: s.meta.frame if s.meta else 0, reverse=True):
            self._unlease(slot)
            self._move(slot, "revoke")
            self._ready.appendleft(slot.number)

    def oldest_waiting(self) -> Slot | None:
        """The READY frame that has waited longest, or None when every frame is leased."""
        return self.slots[self._ready[0]] if self._ready else None

    def held_frames(self) -> list[Slot]:
        """Every slot READY or LEASED."""
        return [s for s in self.slots if s.state in (SlotState.READY, SlotState.LEASED)]

    def _unlease(self, slot: Slot) -> None:
        if slot.worker is not None:
            self._leased[slot.worker].discard(slot.number)
            slot.worker = None

    def _move(self, slot: Slot, event: str) -> None:
        following = _NEXT.get((event, slot.state))
        if following is None:
            raise LinepipeError(f"slot {slot.number} is {slot.state.name}: {event} is not allowed there")
        slot.state = following
