"""The ledger balances, whatever is counted."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.ledger import DROP_REASONS, INVALID_REASONS, Ledger

ends = st.one_of(
    st.just(("inspected", "")),
    st.tuples(st.just("dropped"), st.sampled_from(DROP_REASONS)),
    st.tuples(st.just("invalid"), st.sampled_from(INVALID_REASONS)),
    st.just(("in flight", "")),
)


@given(st.lists(ends, max_size=50))
def test_acquired_is_inspected_plus_dropped_plus_invalid_plus_in_flight(frames: list[tuple[str, str]]) -> None:
    ledger = Ledger()
    for end, reason in frames:
        ledger.acquire()
        if end == "inspected":
            ledger.inspect()
        elif end == "dropped":
            ledger.drop(reason)
        elif end == "invalid":
            ledger.invalidate(reason)

    a = ledger.account()

    assert a.acquired == len(frames)
    assert a.in_flight == sum(1 for end, _ in frames if end == "in flight")
    assert a.acquired == a.inspected + sum(a.dropped.values()) + sum(a.invalid.values()) + a.in_flight
