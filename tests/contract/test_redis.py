"""From the spool to a real server: in order, once, for as long as it takes. Run against Valkey and Redis 7.0."""

import redis

from tests.contract.post import STREAM, Post
from tests.contract.test_spool import to_redis


def test_events_arrive_in_order_with_type_id_version_and_data(post: Post) -> None:
    post.add(500)
    post.wait_sent()

    assert post.stream() == post.expected()
    with redis.Redis.from_url(post.server.url) as client:
        ((_, fields),) = client.xrange(STREAM, count=1)
    assert set(fields) == {b"type", b"id", b"v", b"data"}
    assert (fields[b"type"], fields[b"id"], fields[b"v"]) == (b"alarm", b"id0", b"1")


def test_a_repeat_makes_no_second_entry(post: Post) -> None:
    """The sender forgot how far it was (a kill between reply and watermark): Redis refuses by id."""
    post.add(20)
    post.wait_sent()
    post.stop()
    to_redis(post.spool).move(0)
    post.start()
    post.add(1)
    post.wait_sent()

    assert post.stream() == post.expected()


def test_a_killed_server_gets_the_rest_later(post: Post) -> None:
    post.add(20)
    post.wait_sent()
    post.server.kill()
    post.add(20)
    post.wait(lambda: ("redis_away", True) in post.alarms)

    post.server.start()
    post.wait_sent()

    assert post.stream() == post.expected()
    post.wait(lambda: ("redis_away", False) in post.alarms)


def test_a_server_that_lost_everything_gets_everything_again(post: Post) -> None:
    post.add(20)
    post.wait_sent()
    post.server.kill()
    post.server.wipe()
    post.server.start()

    post.add(1)
    post.wait(lambda: post.stream() == post.expected())

    assert ("redis_lost", True) in post.alarms


def test_entries_of_somebody_else_stop_nothing(post: Post) -> None:
    """A foreign entry with a far larger id: our events get ids behind it, an alarm says so, none is lost."""
    post.add(5)
    post.wait_sent()
    with redis.Redis.from_url(post.server.url) as client:
        client.xadd(STREAM, {"data": '{"id": "foreign"}'}, id="99999999999999-0")

    post.add(5)
    post.wait_sent()

    assert [i for i in post.stream() if i != "foreign"] == post.expected()
    assert ("foreign_entries", True) in post.alarms


def test_a_server_that_is_full_loses_nothing(post: Post) -> None:
    with redis.Redis.from_url(post.server.url) as client:
        client.config_set("maxmemory", "1")
        post.add(5)
        post.wait(lambda: ("redis_away", True) in post.alarms)
        client.config_set("maxmemory", "0")
    post.wait_sent()

    assert post.stream() == post.expected()


def test_a_key_of_another_kind_is_said_and_waited_for(post: Post) -> None:
    with redis.Redis.from_url(post.server.url) as client:
        client.set(STREAM, "not a stream")
        post.add(5)
        post.wait(lambda: ("redis_away", True) in post.alarms)
        client.delete(STREAM)
    post.wait_sent()

    assert post.stream() == post.expected()


def test_who_only_listens_gets_the_same_json(post: Post) -> None:
    with redis.Redis.from_url(post.server.url) as client, client.pubsub() as listener:
        listener.subscribe(STREAM)
        assert listener.get_message(timeout=5)["type"] == "subscribe"
        post.add(1)
        message = listener.get_message(timeout=5)

    assert b'"id":"id0"' in message["data"]
