"""The ledger balances, whatever is counted."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.ledger import FATES, NOTHING_YET, account


@given(st.lists(st.sampled_from([*FATES, None]), max_size=50))
def test_acquired_is_inspected_plus_dropped_plus_invalid_plus_in_flight(frames: list[str | None]) -> None:
    a = account(len(frames), [frames.count(fate) for fate in FATES])

    assert a.acquired == len(frames)
    assert a.in_flight == frames.count(None)
    assert a.acquired == a.inspected + sum(a.dropped.values()) + sum(a.invalid.values()) + a.in_flight


def test_reasons_that_did_not_occur_are_not_named() -> None:
    assert (NOTHING_YET.dropped, NOTHING_YET.invalid) == ({}, {})
