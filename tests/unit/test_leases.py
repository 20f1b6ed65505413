"""The lease table: every frame in exactly one state, every stale message refused."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline.core.errors import LinepipeError
from pipeline.transport.leases import LeaseTable, Row, SlotState
from pipeline.transport.messages import Held, held
from tests.unit.frames import meta


def filled(size: int, frames: int) -> LeaseTable:
    table = LeaseTable(size)
    for k in range(frames):
        slot = table.write()
        assert slot is not None
        table.ready(slot, meta(k))
    return table


def test_full_table_gives_no_slot() -> None:
    """A full ring says so; what then happens is the camera's policy."""
    assert filled(2, 2).write() is None


def test_frames_are_leased_in_order() -> None:
    table = filled(3, 3)

    assert [table.lease("w").ref().meta.frame for _ in range(3)] == [0, 1, 2]


def test_revoked_frames_go_first_and_count_their_attempts() -> None:
    """What a dead worker had is leased again before newer frames, with attempt 2."""
    table = filled(4, 3)
    first, second = table.lease("dead"), table.lease("dead")

    table.revoke([second, first])

    again = [table.lease("alive").ref() for _ in range(3)]
    assert [(r.meta.frame, r.attempt) for r in again] == [(0, 2), (1, 2), (2, 1)]


@pytest.mark.parametrize("change", [{"generation": 99}, {"epoch": "other"}, {"frame": 7}, {"slot": 50}, {"slot": -1}])
def test_a_message_about_another_life_of_the_slot_is_refused_and_counted(change: dict[str, object]) -> None:
    table = filled(2, 1)
    right = held(table.lease("w").ref())
    wrong = Held(**{f: change.get(f, getattr(right, f)) for f in right.__struct_fields__})  # type: ignore[arg-type]

    assert table.find(wrong) is None
    assert table.stale == 1
    assert table.find(right) is not None


def test_a_frame_that_was_ever_leased_is_not_droppable() -> None:
    """Lost on the way or held by a dead worker: its verdict may be durable all the same."""
    table = filled(3, 3)
    lost = table.lease("w")
    table.revoke([lost])

    dropped = table.oldest_droppable()

    assert dropped is not None and dropped.ref().meta.frame == 1
    table.release(dropped)
    table.lease("w")
    table.lease("w")
    assert table.oldest_droppable() is None


def test_a_settling_frame_goes_to_nobody_and_is_still_held() -> None:
    table = filled(2, 2)
    slot = table.lease("w")
    told = held(slot.ref())

    table.settle(slot)

    assert table.find(told) is slot
    assert (table.in_flight, table.leased_to("w")) == (2, [])
    table.release(slot)
    assert table.in_flight == 1


def test_adopted_frames_go_on_in_their_order() -> None:
    """Slots are used in turn, so their order says nothing; leased ones stay with whoever has them."""
    table = LeaseTable(4)
    frames = [meta(7), meta(4), None, meta(5)]

    table.adopt([Row(3, 1, 9, k == 1, m) for k, m in enumerate(frames)])

    assert (table.free, table.in_flight, table.waiting) == (1, 3, 2)
    assert [s.number for s in table.unclaimed()] == [1]
    assert [table.lease("w").ref().meta.frame for _ in range(2)] == [5, 7]
    slot = table.slots[1]
    table.claim(slot, "w")
    assert slot in table.leased_to("w")
    assert table.unclaimed() == []


def test_generation_grows_with_each_use() -> None:
    table = LeaseTable(1)
    seen = []
    for k in range(3):
        slot = table.write()
        assert slot is not None
        table.ready(slot, meta(k))
        seen.append(slot.generation)
        table.release(slot)

    assert seen == [1, 2, 3]


def test_illegal_move_names_slot_state_and_event() -> None:
    table = filled(1, 1)
    slot = table.slots[0]

    with pytest.raises(LinepipeError, match="slot 0 is READY: revoke"):
        table.revoke([slot])


class Table(RuleBasedStateMachine):
    """Whatever happens in whatever order: no slot is lost, none is in two places, order is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.table = LeaseTable(4)
        self.next = 0

    @precondition(lambda self: self.table.free)
    @rule()
    def write(self) -> None:
        slot = self.table.write()
        assert slot is not None
        self.table.ready(slot, meta(self.next))
        self.next += 1

    @precondition(lambda self: self.table.waiting)
    @rule(worker=st.sampled_from("ab"))
    def lease(self, worker: str) -> None:
        self.table.lease(worker)

    @rule(worker=st.sampled_from("ab"))
    def die(self, worker: str) -> None:
        self.table.revoke(self.table.leased_to(worker))

    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        found = [s for s in self.table.held_frames() if s.state is not SlotState.SETTLING]
        if found:
            self.table.settle(data.draw(st.sampled_from(found)))

    @precondition(lambda self: self.table.in_flight)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.table.release(data.draw(st.sampled_from(self.table.held_frames())))

    @invariant()
    def every_slot_is_in_one_place(self) -> None:
        states = [s.state for s in self.table.slots]
        assert states.count(SlotState.FREE) == self.table.free
        assert states.count(SlotState.READY) == self.table.waiting
        assert self.table.free + self.table.in_flight == 4


TestTable = Table.TestCase
TestTable.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
