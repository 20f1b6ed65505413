"""The batcher: an idle engine never waits, a busy one gets full batches or the deadline."""

from nodes.infer.batches import Batcher

MS = 1_000_000


def batcher(items: int, max_batch: int = 4) -> Batcher[int]:
    found: Batcher[int] = Batcher(max_batch, 5 * MS)
    for k in range(items):
        found.add(k, now_ns=0)
    return found


def test_an_idle_engine_gets_what_there_is_at_once() -> None:
    assert batcher(1).take(now_ns=0, running=0) == [0]


def test_a_busy_engine_waits_for_a_full_batch() -> None:
    waiting = batcher(3)

    assert waiting.take(now_ns=0, running=1) == []
    waiting.add(3, now_ns=0)
    assert waiting.take(now_ns=0, running=1) == [0, 1, 2, 3]


def test_no_tile_waits_longer_than_the_deadline_for_others() -> None:
    waiting = batcher(3)

    assert waiting.take(now_ns=5 * MS - 1, running=1) == []
    assert waiting.due_ns(running=1) == 5 * MS
    assert waiting.take(now_ns=5 * MS, running=1) == [0, 1, 2]


def test_an_engine_that_can_take_no_more_gets_nothing() -> None:
    waiting = batcher(9)

    assert waiting.take(now_ns=100 * MS, running=2) == []
    assert waiting.due_ns(running=2) is None


def test_a_batch_is_never_larger_than_allowed_and_order_is_kept() -> None:
    waiting = batcher(9)

    assert [waiting.take(0, 0), waiting.take(0, 0), waiting.take(0, 0)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
