"""What becomes of each frame of a camera. Every step is one commit in the ring, so that none is half done if capture dies.

A frame ends in exactly one way. One that was never leased is dropped here, with a gap. One that was leased may have a verdict
that is durable already, so its end is asked of publish: the first verdict of a frame stands, also against "poison" and
"shutdown", and the ledger counts what stands.
"""

import logging
import time
from collections.abc import Callable

from nodes.capture.gaps import Gaps
from pipeline.core.frame import FrameMeta, Gap, Verdict
from pipeline.transport.leases import LeaseTable, Slot, SlotState
from pipeline.transport.outbox import Then
from pipeline.transport.ring_state import NO_EPOCH, RingState

Submit = Callable[[Gap | Verdict, Then], None]
"""Sends a record to publish until it is durable, then calls the function."""


class FrameOutcomes:
    """The frames of one camera: in ``state`` (shared memory), in ``table``, and on their way to ``submit``.

    Takes over the frames and gaps that an earlier capture process left in ``state``. Used from one thread.
    """

    def __init__(self, state: RingState, table: LeaseTable, camera: str, submit: Submit, log: logging.Logger) -> None:
        self._state, self._table, self._submit, self._log = state, table, submit, log
        self._gaps = Gaps(state, camera)
        self.epoch = state.epoch
        """The newest epoch, kept here because the journal is slow to read: nobody else begins one."""
        table.adopt(state.rows())

    @property
    def unsent(self) -> int:
        """Number of gaps that publish does not have yet."""
        return len(self._gaps)

    def begin(self, epoch: str, *, live: bool) -> bool:
        """Begin an epoch. If the one before was cut off and the camera is ``live``, also record a gap ``capture_died``.

        Returns False and changes nothing while there is no place for that gap. A node that died before its first frame leaves
        no gap of its own: the gap before it has an open end, which says the same.
        """
        state = self._state
        before = self.epoch
        died = before != NO_EPOCH and live and not state.ended and not state.death_told
        if died and self._gaps.full:
            return False
        gap = self._gaps.begin(before, state.next_frame, "capture_died", time.time_ns()) | state.tell_death() if died else {}
        state.commit(state.begin_epoch(epoch), gap)
        self.epoch = epoch
        return True

    def writing(self) -> Slot | None:
        """Take a free slot, whose pixels are then overwritten; None if no slot is free."""
        slot = self._table.write()
        if slot is not None:
            self._state.begin_writing(slot)
        return slot

    def acquired(self, slot: Slot, meta: FrameMeta) -> None:
        """The slot holds the next frame, complete. Raises ``NodeError`` if its description is too long for the ring."""
        self._table.ready(slot, meta)
        self._state.commit(self._state.ready(slot), self._state.acquired())

    def leased(self, slot: Slot) -> None:
        """The slot's frame is about to be sent to a worker."""
        self._state.commit(self._state.lease(slot))

    def done(self, slot: Slot, invalid: str) -> None:
        """The slot's frame has a durable verdict (``invalid``: its reason, or an empty string), or ``invalid`` is ``poison``."""
        if invalid == "poison":
            assert slot.meta is not None
            self._log.error("frame %d: two workers died over it; it is invalid(poison)", slot.meta.frame)
            self._settle(slot, invalid)
        else:
            self._end(slot, invalid)

    @property
    def gaps_full(self) -> bool:
        """Whether there is no place for one more gap: no frame may be dropped until publish has confirmed some."""
        return self._gaps.full

    def drop_oldest(self) -> None:
        """Make room: drop the oldest frame that was never leased. Does nothing if there is none. Not while ``gaps_full``."""
        slot = self._table.oldest_droppable()
        if slot is not None:
            self._drop(slot, "full")

    def drop_next(self, meta: FrameMeta) -> None:
        """Drop the frame that arrives now, as no slot can be freed for it. Not while ``gaps_full``."""
        self._state.commit(self._state.acquired(), self._state.ended_as("full"), self._gap(meta, "full"))

    def never_came(self, count: int) -> None:
        """Count the next ``count`` frames as lost between camera and line, with a gap ``lost``. Not while ``gaps_full``."""
        state, first = self._state, self._state.next_frame
        gap = self._gaps.add_span(self.epoch, first, first + count - 1, "lost", time.monotonic_ns(), time.time_ns())
        state.commit(state.acquired(count), state.ended_as("lost", count), gap)

    def camera_lost(self) -> None:
        """The camera is lost: record a gap ``camera_lost`` with an open end. Not while ``gaps_full``."""
        state, now = self._state, time.time_ns()
        state.commit(state.set_camera_lost(now, 0), self._gaps.begin(self.epoch, state.next_frame, "camera_lost", now))

    def camera_back(self, epoch: str) -> None:
        """The camera sends frames again: begin the new epoch ``epoch``."""
        state = self._state
        state.commit(state.set_camera_lost(state.camera_lost[0], time.time_ns()), state.begin_epoch(epoch))
        self.epoch = epoch

    def give_up(self) -> None:
        """Give up every frame in the ring, with the reason ``shutdown``: there is no time left to inspect them.

        Call it until none is in flight: frames that were leased wait for publish, others may wait for a place for their gap.
        """
        for slot in self._table.held_frames():
            if slot.leased:
                self._settle(slot, "shutdown")
            elif not self.gaps_full:
                self._drop(slot, "shutdown")

    def send_gaps(self, *, everything: bool) -> None:
        """Send the gaps that are complete, or with ``everything`` also those that could still grow."""
        for place, gap in self._gaps.take(time.monotonic_ns(), everything=everything):
            self._submit(gap, lambda _, place=place: self._gaps.confirm(place))  # type: ignore[misc]

    def _settle(self, slot: Slot, reason: str) -> None:
        """Submit an invalid verdict for a frame. If a worker's verdict is durable already, that one stands and is counted."""
        if slot.state is SlotState.SETTLING:
            return
        assert slot.meta is not None
        self._table.settle(slot)
        generation = slot.generation

        def settled(stands: str) -> None:
            if slot.state is SlotState.SETTLING and slot.generation == generation:  # else the worker's acknowledgement came first
                self._end(slot, stands)

        self._submit(Verdict(meta=slot.meta, attempt=slot.attempt, model=None, invalid=reason), settled)

    def _end(self, slot: Slot, fate: str) -> None:
        self._state.commit(self._state.free(slot), self._state.ended_as(fate))
        self._table.release(slot)

    def _drop(self, slot: Slot, reason: str) -> None:
        assert slot.meta is not None
        self._state.commit(self._state.free(slot), self._state.ended_as(reason), self._gap(slot.meta, reason))
        self._table.release(slot)

    def _gap(self, meta: FrameMeta, reason: str) -> dict[int, int]:
        return self._gaps.add(meta, reason, time.monotonic_ns(), time.time_ns())
