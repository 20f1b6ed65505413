"""Gaps: adjoining frames join, nothing is covered twice, nothing is left out, and nothing is forgotten with its process."""

import logging

from hypothesis import given
from hypothesis import strategies as st

from nodes.capture.frame_outcomes import FrameOutcomes
from nodes.capture.gaps import MERGE_NS, MOST_SENT, Gaps
from pipeline.core.frame import Gap, Verdict
from pipeline.transport.leases import LeaseTable
from pipeline.transport.outbox import Then
from pipeline.transport.ring_state import RingState
from tests.unit.frames import meta
from tests.unit.memory import state

EPOCH = "e" * 32
log = logging.getLogger(__name__)


def drop(gaps: Gaps, ring: RingState, frame: int, reason: str = "full", now: int = 0, epoch: str = EPOCH) -> None:
    ring.commit(gaps.add(meta(frame, epoch), reason, now, 5))


def take(gaps: Gaps, now: int = 0, *, everything: bool = False) -> list[Gap]:
    """Gaps that are sent, and confirmed at once."""
    found = gaps.take(now, everything=everything)
    for place, _ in found:
        gaps.confirm(place)
    return [gap for _, gap in found]


def merged(frames: list[tuple[int, str, int]]) -> list[Gap]:
    """Gaps of (frame, reason, time) in this order."""
    ring = state()
    gaps, found = Gaps(ring, "top"), []
    for frame, reason, now in frames:
        found += take(gaps, now)
        drop(gaps, ring, frame, reason, now)
    return found + take(gaps, everything=True)


def test_adjoining_frames_are_one_gap() -> None:
    (gap,) = merged([(3, "full", 0), (4, "full", 1), (5, "full", 2)])

    assert gap == Gap(camera="top", epoch=EPOCH, first=3, last=5, reason="full", at_ns=5)


def test_a_frame_that_was_inspected_parts_two_gaps() -> None:
    assert [(g.first, g.last) for g in merged([(3, "full", 0), (5, "full", 1)])] == [(3, 3), (5, 5)]


def test_reasons_are_kept_apart() -> None:
    assert {(g.reason, g.first, g.last) for g in merged([(1, "full", 0), (2, "shutdown", 1)])} == {
        ("full", 1, 1),
        ("shutdown", 2, 2),
    }


def test_a_gap_is_told_after_a_second_at_the_latest() -> None:
    ring = state()
    gaps = Gaps(ring, "top")
    drop(gaps, ring, 1)

    assert take(gaps, MERGE_NS - 1) == []
    assert [g.first for g in take(gaps, MERGE_NS)] == [1]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, MERGE_NS // 3)), max_size=60))
def test_every_dropped_frame_lies_in_exactly_one_gap(steps: list[tuple[int, int]]) -> None:
    frame, now, dropped = 0, 0, []
    for step, wait in steps:
        frame, now = frame + step, now + wait
        dropped.append((frame, "full", now))

    covered = [k for g in merged(dropped) for k in range(g.first, (g.last or 0) + 1)]

    assert sorted(covered) == [f for f, _, _ in dropped]


def test_what_publish_does_not_have_is_sent_again_by_the_next_process_as_it_was() -> None:
    """One gap was sent and not confirmed, one was open, one confirmed: with the same keys, so that publish knows them again."""
    ring = state()
    gaps = Gaps(ring, "top")
    drop(gaps, ring, 1)
    take(gaps, MERGE_NS)
    drop(gaps, ring, 3)
    ((_, sent),) = gaps.take(MERGE_NS, everything=True)
    drop(gaps, ring, 4)
    ring.commit(gaps.begin(EPOCH, 9, "capture_died", 5))

    again = take(Gaps(ring, "top"))

    assert sorted((g.first, g.last, g.reason) for g in again) == [(3, 3, "full"), (4, 4, "full"), (9, None, "capture_died")]
    assert sent in again
    assert take(Gaps(ring, "top")) == []


def test_while_publish_is_away_drops_without_end_take_one_place() -> None:
    """An hour at 50 frames a second, four frames of which stay in the ring for good."""
    ring = state()
    gaps = Gaps(ring, "top")
    frames = [k for k in range(180_000) if k not in (5, 900, 1700, 60_000)]
    sent: list[tuple[int, Gap]] = []
    for frame in frames:
        now = frame * 20_000_000
        drop(gaps, ring, frame, now=now)
        sent += gaps.take(now)

    assert not gaps.full
    assert len(sent) == MOST_SENT
    told, waiting = list[int](), sent
    while waiting:
        for place, gap in waiting:
            told += range(gap.first, (gap.last or 0) + 1)
            gaps.confirm(place)
        waiting = gaps.take(0, everything=True)
    assert told == frames


class Lives:
    """A live camera's capture nodes, one after the other, in one ring that has hardly a place for gaps left."""

    def __init__(self) -> None:
        self.ring, self.count, self.told = state(), 0, set[Gap]()
        gaps = Gaps(self.ring, "top")
        while not gaps.full:
            drop(gaps, self.ring, self.next())
            self.next()

    def next(self) -> int:
        """A frame is acquired."""
        self.ring.commit(self.ring.acquired())
        return self.ring.next_frame - 1

    def live(self, turns: int = 1, *, publish: bool = False, frames: int = 0) -> bool:
        """One life that is killed after some turns; whether it had begun its epoch, and then it acquires ``frames``."""
        self.count += 1
        fates = FrameOutcomes(self.ring, LeaseTable(4), "top", lambda gap, then: self._submit(gap, then, publish), log)
        begun = False
        for _ in range(turns):
            begun = begun or fates.begin(f"{self.count:032x}", live=True)
            fates.send_gaps(everything=False)
        for _ in range(frames if begun else 0):
            self.ring.commit(self.ring.acquired(), self.ring.ended_as(""))
        return begun

    def _submit(self, gap: Gap | Verdict, then: Then, publish: bool) -> None:
        assert isinstance(gap, Gap)
        if publish:
            self.told.add(gap)
            then("")

    def deaths(self) -> list[tuple[str, int]]:
        return sorted((g.epoch, g.first) for g in self.told if g.reason == "capture_died")


def test_a_node_that_finds_no_place_for_its_gap_begins_once_publish_has_taken_one() -> None:
    lives = Lives()
    lives.live(frames=1)

    assert [lives.live(turns=3) for _ in range(20)] == [False] * 20
    assert lives.live(turns=3, publish=True)

    assert lives.deaths() == [("0" * 31 + "1", lives.ring.next_frame)]


def test_a_node_that_dies_before_it_has_a_frame_leaves_no_second_gap() -> None:
    """What it missed lies in the gap of the one before it, whose end is unknown."""
    lives = Lives()
    lives.live(frames=1)
    first = lives.ring.next_frame
    for _ in range(20):
        assert lives.live(turns=3, publish=True)
    lives.live(turns=3, publish=True, frames=1)
    lives.live(turns=3, publish=True)

    assert lives.deaths() == [("0" * 31 + "1", first), (f"{22:032x}", first + 1)]
