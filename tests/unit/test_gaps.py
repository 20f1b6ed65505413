"""Gaps: adjoining frames join, nothing is covered twice, nothing is left out."""

from hypothesis import given
from hypothesis import strategies as st

from nodes.capture.gaps import MERGE_NS, GapMerger
from pipeline.frame import Gap
from tests.unit.frames import meta


def merged(frames: list[tuple[int, str, int]]) -> list[Gap]:
    """Gaps of (frame, reason, time) in this order."""
    gaps, found = GapMerger(), []
    for frame, reason, now in frames:
        found += gaps.add(meta(frame), reason, now)
    return found + gaps.take(0, everything=True)


def test_adjoining_frames_are_one_gap() -> None:
    assert [(g.first, g.last) for g in merged([(3, "full", 0), (4, "full", 1), (5, "full", 2)])] == [(3, 5)]


def test_a_frame_that_was_inspected_parts_two_gaps() -> None:
    assert [(g.first, g.last) for g in merged([(3, "full", 0), (5, "full", 1)])] == [(3, 3), (5, 5)]


def test_reasons_are_kept_apart() -> None:
    assert {(g.reason, g.first, g.last) for g in merged([(1, "full", 0), (2, "shutdown", 1)])} == {
        ("full", 1, 1),
        ("shutdown", 2, 2),
    }


def test_a_gap_is_told_after_a_second_at_the_latest() -> None:
    gaps = GapMerger()
    gaps.add(meta(1), "full", 0)

    assert gaps.take(MERGE_NS - 1) == []
    assert [g.first for g in gaps.take(MERGE_NS)] == [1]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, MERGE_NS // 3)), max_size=60))
def test_every_dropped_frame_lies_in_exactly_one_gap(steps: list[tuple[int, int]]) -> None:
    frame, now, dropped = 0, 0, []
    for step, wait in steps:
        frame, now = frame + step, now + wait
        dropped.append((frame, "full", now))

    covered = [k for g in merged(dropped) for k in range(g.first, (g.last or 0) + 1)]

    assert sorted(covered) == [f for f, _, _ in dropped]
