"""What stays in the stream: what is young, what a group still needs, and no more than ``keep_mib`` allows."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from nodes.publish.sinks.redis.reconcile import StreamIds
from nodes.publish.sinks.redis.retention import GROUP_IDLE_MS, Retention
from nodes.publish.spool.spool import Spool
from pipeline.runtime.supervisor import Alarms
from tests.conftest import Server
from tests.contract.post import STREAM
from tests.contract.test_spool import DAY_MS, Clock, event, open_spool, to_redis

KEEP_MS = 7 * DAY_MS


class Kept:
    """A stream that holds what the spool sent, and a clock that a test moves."""

    def __init__(self, folder: Path, server: Server, keep_bytes: int | None) -> None:
        self.client: Any = redis.Redis.from_url(server.url)
        self.clock = Clock()
        self.spool: Spool = open_spool(folder, clock=self.clock)
        self._keep_bytes, self._next = keep_bytes, 0
        self.restart()

    def restart(self, on: Collection[str] = ()) -> None:
        """As a publish node does; ``on``: the alarms that the one before left on."""
        self.alarms: list[tuple[str, bool]] = []
        alarms = Alarms(lambda name, active, _: self.alarms.append((name, active)), on)
        feed = to_redis(self.spool)
        self.retention = Retention(STREAM, feed, StreamIds(feed), keep_ms=KEEP_MS, keep_bytes=self._keep_bytes, alarms=alarms)

    def add(self, count: int) -> None:
        self.spool.append([(f"k{k}", [event(k)]) for k in range(self._next, self._next + count)])
        self._next += count
        pipe = self.client.pipeline()
        for e in to_redis(self.spool).unsent(count):
            pipe.xadd(STREAM, {"id": e.id, "data": e.data}, id=f"{e.ms}-{e.n}")
        pipe.execute()
        to_redis(self.spool).move(self._next)
        self.spool.ages.note()

    def later(self, ms: int) -> None:
        self.clock.ms += ms
        self.spool.ages.note()
        self.retention.trim(self.client)

    @property
    def length(self) -> int:
        return int(self.client.xlen(STREAM))


@pytest.fixture
def kept(tmp_path: Path, server: Server) -> Iterator[Kept]:
    found = Kept(tmp_path, server, None)
    yield found
    found.client.close()
    found.spool.close()


def test_what_is_old_by_the_time_that_the_line_ran_goes(kept: Kept) -> None:
    kept.add(300)
    kept.later(6 * DAY_MS)
    kept.add(200)
    assert kept.length == 500

    kept.later(2 * DAY_MS)

    assert 200 <= kept.length < 400  # trimmed by whole nodes


def test_a_group_keeps_what_it_has_not_read_or_not_acknowledged(kept: Kept) -> None:
    kept.client.xgroup_create(STREAM, "plant", id="0", mkstream=True)
    kept.add(500)
    kept.client.xreadgroup("plant", "c", {STREAM: ">"}, count=200)
    kept.later(8 * DAY_MS)
    assert kept.length == 500

    kept.client.xack(STREAM, "plant", *[entry for entry, _ in kept.client.xrange(STREAM, count=200)])
    kept.later(0)

    assert 300 <= kept.length < 500
    assert kept.client.xrange(STREAM, count=1)[0][1][b"id"] <= b"id200"


def test_a_group_that_stands_still_for_a_day_of_running_keeps_nothing(kept: Kept, tmp_path: Path) -> None:
    kept.add(300)
    kept.client.xgroup_create(STREAM, "forgotten", id="0")
    kept.client.xgroup_create(STREAM, "slow", id="0")
    kept.later(8 * DAY_MS)
    kept.client.xreadgroup("slow", "c", {STREAM: ">"}, count=1)
    kept.later(GROUP_IDLE_MS - 1)
    assert (kept.length, kept.alarms) == (300, [])

    kept.client.xreadgroup("slow", "c", {STREAM: ">"}, count=299)
    kept.client.xack(STREAM, "slow", *[entry for entry, _ in kept.client.xrange(STREAM)])
    kept.later(1)

    assert kept.alarms == [("group_idle:forgotten", True)]
    assert kept.length < 300
    kept.client.xgroup_destroy(STREAM, "forgotten")
    kept.later(0)
    assert kept.alarms[1:] == [("group_idle:forgotten", False)]


def test_a_group_that_has_read_everything_is_not_idle(kept: Kept) -> None:
    kept.add(10)
    kept.client.xgroup_create(STREAM, "ready", id="$")
    for _ in range(5):
        kept.later(DAY_MS)

    assert kept.alarms == []


def test_a_stream_that_takes_too_much_memory_is_trimmed_whatever_groups_do(tmp_path: Path, server: Server) -> None:
    limit = 60_000
    kept = Kept(tmp_path, server, limit)
    kept.add(3000)
    kept.client.xgroup_create(STREAM, "slow", id="0")
    kept.client.xgroup_create(STREAM, "fast", id="$")
    assert kept.client.memory_usage(STREAM) > 2 * limit

    for _ in range(3):
        kept.later(0)

    assert kept.client.memory_usage(STREAM) <= limit * 1.1
    assert kept.client.xrevrange(STREAM, count=1)[0][1][b"id"] == b"id2999"
    assert kept.alarms == [("group_lost:slow", True)]
    kept.client.xreadgroup("slow", "c", {STREAM: ">"}, noack=True)
    kept.later(0)
    assert kept.alarms[1:] == [("group_lost:slow", False)]
    kept.client.close()
    kept.spool.close()


def test_a_group_that_lost_entries_is_known_to_the_next_sender(tmp_path: Path, server: Server) -> None:
    kept = Kept(tmp_path, server, 60_000)
    kept.add(3000)
    kept.client.xgroup_create(STREAM, "slow", id="0")
    for _ in range(3):
        kept.later(0)
    assert kept.alarms == [("group_lost:slow", True)]

    kept.restart({"group_lost:slow"})
    kept.later(0)
    assert kept.alarms == []
    kept.client.xreadgroup("slow", "c", {STREAM: ">"}, noack=True)
    kept.later(0)

    assert kept.alarms == [("group_lost:slow", False)]
    kept.client.close()
    kept.spool.close()


def test_there_may_be_no_stream_yet(kept: Kept) -> None:
    kept.later(DAY_MS)

    assert not kept.client.exists(STREAM)
