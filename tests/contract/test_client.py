"""Reading a stream that anybody can write to."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis

import pipeline.redis.replies
from pipeline.client import Events
from pipeline.core.events import encode
from tests.conftest import Server
from tests.contract.test_spool import event

STREAM = "linepipe:test:events"
ODD: list[dict[str, Any]] = [
    {"hello": "world"},
    {"data": "not JSON"},
    {"data": b"\xff\xfe"},
    {"data": "[]"},
    {"data": "{}"},
    {"data": '{"id": 7, "type": "alarm"}'},
    {"data": '{"id": "x", "type": "defect"}'},
    {"data": '{"id": "x", "type": ["alarm"]}'},
    {"data": '{"id": "x", "type": "of a later version"}'},
]


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with redis.Redis.from_url(server.url) as found:
        yield found


def test_entries_that_are_no_events_are_passed_over_and_counted(server: Server, client: Any) -> None:
    client.xadd(STREAM, {"data": encode(event(1))})
    for fields in ODD:
        client.xadd(STREAM, fields)
    client.xadd(STREAM, {"data": encode(event(2)).replace(b"{", b'{"added later": 1, ', 1)})

    with Events(server.url, STREAM) as events:
        assert [e["id"] for e in events.read()] == ["id1", "id2"]
        assert events.odd == len(ODD)
        follower = events.follow("0-0", block_ms=100)
        assert [next(follower)["id"] for _ in range(2)] == ["id1", "id2"]  # type: ignore[index]
        assert next(follower) is None


def test_entries_that_fill_a_reply_cost_no_event_beside_them(server: Server, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading takes bounded memory: what does not fit into one reply is asked for again, and what fits into none is passed over."""
    monkeypatch.setattr(pipeline.redis.replies, "MOST", 1 << 16)
    ids = [f"id{k}" for k in range(40)]
    for k in range(40):
        client.xadd(STREAM, {"data": encode(event(k)), "more": "x" * 10_000})
    client.xadd(STREAM, {f"{k}": "" for k in range(2000)} | {"data": encode(event(1))})
    client.xadd(STREAM, {"data": encode(event(40))})

    with Events(server.url, STREAM) as events:
        assert [e["id"] for e in events.read()] == [*ids, "id40"]
        assert events.odd == 1
        follower = events.follow("0-0", block_ms=100)
        assert [next(follower)["id"] for _ in range(41)] == [*ids, "id40"]  # type: ignore[index]
        assert next(follower) is None


def test_who_follows_from_now_on_misses_nothing_between_two_looks(server: Server, client: Any) -> None:
    """The first look finds nothing; what comes before the second is told all the same."""
    client.xadd(STREAM, {"data": encode(event(0))})
    with Events(server.url, STREAM) as events:
        follower = events.follow(block_ms=10)
        assert next(follower) is None
        writer = threading.Thread(target=lambda: client.xadd(STREAM, {"data": encode(event(1))}))
        writer.start()
        writer.join()

        found = next(follower)
    assert found is not None
    assert found["id"] == "id1"


@pytest.mark.parametrize("block_ms", [0, -1, 3000])
def test_a_wait_that_would_pass_for_an_outage_is_refused(server: Server, block_ms: int) -> None:
    """0 waits for ever in Redis, and the client's own time limit for an answer is 3 s."""
    with Events(server.url, STREAM) as events, pytest.raises(ValueError, match="must be over 0 and under 3000"):
        next(events.follow("0-0", block_ms=block_ms))
