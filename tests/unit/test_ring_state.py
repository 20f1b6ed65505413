"""What another process sees in a ring whose capture was killed in the middle of a commit."""

import pytest

from pipeline.core.ledger import NOTHING_YET
from pipeline.transport.ring_state import NO_EPOCH, Journal
from tests.unit.memory import state

EPOCH = "0123456789abcdef" * 2


class Half(dict[int, int]):
    """Changes whose copying breaks off: the commit was decided, and nothing of it has reached its place."""

    looked = 0

    def items(self):  # type: ignore[no-untyped-def]
        self.looked += 1
        if self.looked > 1:
            raise KeyboardInterrupt
        return super().items()


def test_a_decided_commit_is_seen_before_anybody_has_recovered_it() -> None:
    memory = bytearray(state().words.nbytes)  # type: ignore[attr-defined]
    ring = state(memory=memory)
    with pytest.raises(KeyboardInterrupt):
        Journal(ring.words, 64).commit(Half({**ring.begin_epoch(EPOCH), **ring.acquired()}))
    assert ring.next_frame == 0

    other = state(memory=memory)

    assert other.epoch == EPOCH
    assert other.account().acquired == 1
    other.recover()
    assert other.next_frame == 1


def test_an_untouched_ring_has_no_epoch_and_no_frames() -> None:
    assert (state().epoch, state().account()) == (NO_EPOCH, NOTHING_YET)


@pytest.mark.parametrize("slots", [2, 64, 4096])
def test_the_parts_of_the_state_do_not_overlap(slots: int) -> None:
    ring = state(slots)
    gaps_end = ring.gap_place(ring.gap_places)

    assert ring._row(0) >= gaps_end
    assert ring._row(slots) <= len(ring.words)
