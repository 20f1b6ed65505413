"""Whatever way Redis loses events, also behind a connection that stays: they are sent again, in order, and it is said."""

from pathlib import Path
from typing import Any

import pytest

from nodes.publish.sinks.redis.reconcile import Finding
from nodes.publish.spool.spool import Spooled
from pipeline.redis.server import server_program
from pipeline.runtime import supervisor as alarms
from tests.conftest import Server
from tests.contract.post import STREAM, Post
from tests.contract.test_spool import to_redis

FOREIGN = {"type": "alarm", "id": "foreign", "data": '{"id": "foreign", "type": "alarm"}'}
FAR_AHEAD = "99999999999999-0"


def flush(client: Any) -> None:
    client.flushall()


def delete(client: Any) -> None:
    client.delete(STREAM)


def expire(client: Any) -> None:
    client.pexpire(STREAM, 1)
    while client.exists(STREAM):  # who looks sooner sees nothing lost
        pass


def flush_and_write(client: Any) -> None:
    pipe = client.pipeline()
    pipe.flushall()
    pipe.xadd(STREAM, FOREIGN, id="5-0")
    pipe.execute()


def flush_and_write_ahead(client: Any) -> None:
    pipe = client.pipeline()
    pipe.flushall()
    pipe.xadd(STREAM, FOREIGN, id=FAR_AHEAD)
    pipe.execute()


def delete_newest(client: Any) -> None:
    for entry, _ in client.xrevrange(STREAM, count=3):
        client.xdel(STREAM, entry)


def delete_newest_and_write(client: Any) -> None:
    pipe = client.pipeline()
    for entry, _ in client.xrevrange(STREAM, count=3):
        pipe.xdel(STREAM, entry)
    pipe.xadd(STREAM, FOREIGN, id=FAR_AHEAD)
    pipe.execute()


LOSSES = [flush, delete, expire, flush_and_write, flush_and_write_ahead, delete_newest, delete_newest_and_write]


@pytest.mark.parametrize("lose", LOSSES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_what_redis_lost_without_a_disconnect_is_sent_again(post: Post, lose: Any, busy: bool) -> None:
    """Idle: noticed without anything to send. Busy: nothing new goes out ahead of what is missing."""
    post.add(300)
    post.wait_sent()

    lose(post.client)
    if busy:
        post.add(250)
    post.wait_stream()

    assert post.alarms.count(("redis_lost", True)) == 1
    assert ("redis_away", True) not in post.alarms
    assert (("foreign_entries", True) in post.alarms) == (lose in (flush_and_write_ahead, delete_newest_and_write))


def test_with_the_same_ids_where_redis_takes_them(post: Post) -> None:
    post.add(300)
    post.wait_sent()
    before = [entry for entry, _ in post.client.xrange(STREAM)]

    post.client.flushall()
    post.wait_stream()

    assert [entry for entry, _ in post.client.xrange(STREAM)] == before


def test_a_loss_is_noticed_again_and_again_and_told_now_and_then(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that evicts entries loses some each time that it gets some."""
    monkeypatch.setattr(alarms, "TELL_S", 3.0)
    for _ in range(4):
        post.add(30)
        post.wait_stream()
        post.client.flushall()
    post.wait_stream()
    post.wait(lambda: sum(post.told_lost) == 30 + 60 + 90 + 120)

    assert len(post.told_lost) < 4
    assert post.told_lost[0] == 30


def test_an_empty_server_where_somebody_wrote_first(post: Post) -> None:
    post.add(300)
    post.wait_sent()
    post.server.kill()
    post.server.wipe()
    post.server.start()
    post.client.xadd(STREAM, FOREIGN, id=FAR_AHEAD)

    post.add(10)
    post.wait_stream()

    assert ("redis_lost", True) in post.alarms
    assert ("foreign_entries", True) in post.alarms


@pytest.mark.parametrize("how", [{"maxlen": 40}, {"minid": None}], ids=["by number", "by id"])
def test_a_stream_that_a_person_trims_is_left_as_it_is(post: Post, how: dict[str, Any]) -> None:
    post.add(100)
    post.wait_sent()
    if "minid" in how:
        how = {"minid": post.client.xrange(STREAM)[60][0]}
    post.client.xtrim(STREAM, approximate=False, **how)

    post.add(1)
    post.wait_stream(post.expected()[60:])
    post.stop()
    post.start()
    post.add(1)
    post.wait_stream(post.expected()[60:])

    assert post.alarms == []


def test_after_a_loss_what_a_person_trimmed_before_stays_away(post: Post) -> None:
    post.add(100)
    post.wait_sent()
    post.client.xtrim(STREAM, maxlen=40, approximate=False)
    post.add(1)
    post.wait_stream(post.expected()[60:])

    post.client.flushall()

    post.wait_stream(post.expected()[60:])


def test_a_consumer_that_deletes_what_it_reads_does_not_get_it_for_ever(post: Post) -> None:
    def drain() -> bool:
        for entry, _ in post.client.xrange(STREAM):
            post.client.xdel(STREAM, entry)
        return ("entries_deleted", True) in post.alarms

    post.add(20)
    post.wait_sent()
    post.wait(drain)
    post.wait(lambda: post.client.xlen(STREAM) == 0)
    post.add(20)
    post.wait_stream(post.expected()[20:])
    drain()
    post.stop()
    post.start()
    post.add(1)

    post.wait_stream(post.expected()[40:])
    post.wait_sent()


def test_an_older_backup_gets_what_it_lacks(post: Post) -> None:
    post.add(50)
    post.wait_sent()
    backup = post.client.dump(STREAM)
    post.add(50)
    post.wait_sent()
    pipe = post.client.pipeline()
    pipe.delete(STREAM)
    pipe.restore(STREAM, 0, backup)
    pipe.execute()

    post.wait_stream()

    assert ("redis_lost", True) in post.alarms
    assert ("foreign_entries", True) not in post.alarms


def beside_a_writer(post: Post, act: Any) -> None:
    """As if somebody wrote all the time; ``act`` is what happens once between look and group."""
    send, once = post.redis._send, [act]

    def trapped(pipe: Any, found: Finding, events: list[Spooled]) -> list[Spooled]:
        if not pipe.watching and once:
            once.pop()(post.client)
        return send(pipe, found, events)

    post.redis._contended = 1000
    post.redis._send = trapped  # type: ignore[method-assign]


@pytest.mark.parametrize("lose", [flush_and_write, flush_and_write_ahead, delete_newest_and_write], ids=lambda f: f.__name__)
def test_a_loss_between_look_and_group_is_noticed_beside_somebody_who_writes_all_the_time(post: Post, lose: Any) -> None:
    """The group is in the new stream then; it proves nothing of what was before it."""
    post.add(300)
    post.wait_sent()
    beside_a_writer(post, lose)

    post.add(10)
    post.wait(lambda: to_redis(post.spool).backlog == 0 and set(post.stream()) == set(post.expected()))

    assert post.alarms.count(("redis_lost", True)) == 1


@pytest.mark.parametrize("ahead_ms", [0, 1000, 1001, 10**9])
def test_of_a_group_beside_somebody_who_writes_all_the_time_all_is_taken_or_nothing(post: Post, ahead_ms: int) -> None:
    post.add(5)
    post.wait_sent()
    last = int(post.client.xrevrange(STREAM, count=1)[0][0].split(b"-")[0])
    beside_a_writer(post, lambda client: client.xadd(STREAM, FOREIGN, id=f"{last + ahead_ms}-50"))

    post.add(500)
    post.wait_stream()

    assert ("redis_away", True) not in post.alarms
    assert ("redis_lost", True) not in post.alarms


def test_a_server_that_was_changed_for_another_and_back_is_named_as_a_possible_cause(post: Post, tmp_path: Path) -> None:
    """Nothing was lost then: the first server never had what went to the second."""
    first, second = post.server, Server(str(server_program()), tmp_path / "second")
    (tmp_path / "second").mkdir()
    second.start()
    try:
        for server, count in ((first, 20), (second, 30), (first, 10)):
            post.stop()
            post.server = server
            post.start()
            post.add(count)
            post.wait_stream()
    finally:
        second.kill()

    assert "or is another server" in post.texts["redis_lost"]
