"""A server that refuses, now and then or for a while: nothing overtakes what was refused, and one outage is told once."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.contract.post import STREAM, Post
from tests.contract.test_redis_loss import FOREIGN

OTHER = "another key"


def full(client: Any, on: bool) -> None:
    client.config_set("maxmemory", "1" if on else "0")


def lonely(client: Any, on: bool) -> None:
    client.config_set("min-replicas-to-write", "1" if on else "0")


def replica(client: Any, on: bool) -> None:
    client.execute_command("REPLICAOF", *(("127.0.0.1", "1") if on else ("NO", "ONE")))


REFUSALS = [full, lonely, replica]


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """``act`` again and again beside the test."""
    done = threading.Event()

    def run() -> None:
        while not done.is_set():
            act()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("refuse", REFUSALS[:2], ids=lambda f: f.__name__)
def test_nothing_overtakes_what_was_refused(post: Post, refuse: Any) -> None:
    """Refused at any moment, also between two entries of a group."""
    client, rng, pause = post.client, random.Random(1), threading.Event()

    def flap() -> None:
        refuse(client, True)
        pause.wait(rng.uniform(0, 0.01))
        refuse(client, False)
        pause.wait(rng.uniform(0, 0.03))

    with meanwhile(flap):
        for _ in range(30):
            post.add(60)
            pause.wait(0.05)  # load, not synchronisation
    post.wait_sent()
    post.wait_stream()

    assert post.client.xlen(STREAM) == len(post.expected())
    assert {name for name, _ in post.alarms} <= {"redis_away"}


@pytest.mark.parametrize("refuse", REFUSALS, ids=lambda f: f.__name__)
def test_one_outage_is_one_alarm_and_its_end(post: Post, refuse: Any) -> None:
    """The server answers all the time, and refuses to write: that it can be connected to proves nothing."""
    post.add(5)
    post.wait_sent()
    refuse(post.client, True)
    post.add(5)
    post.wait(lambda: post.sink._failures >= 8)
    assert post.alarms == [("redis_away", True)]
    assert post.sink.state.startswith("away")

    refuse(post.client, False)
    post.wait_sent()
    post.wait(lambda: len(post.alarms) == 2)

    assert post.alarms == [("redis_away", True), ("redis_away", False)]
    assert post.stream() == post.expected()


def test_the_end_of_a_line_waits_for_no_quiet_time(post: Post) -> None:
    post.sink.ending = True
    full(post.client, True)
    post.add(5)
    post.wait(lambda: not post.sink.settled)
    full(post.client, False)

    post.wait(lambda: post.sink.settled)

    assert post.alarms == [("redis_away", True), ("redis_away", False)]


def test_somebody_who_writes_all_the_time_holds_nothing_up(post: Post) -> None:
    """Each group needs a moment in which nobody else writes; where there is none, a group goes without."""
    client = post.client

    with meanwhile(lambda: client.xadd(STREAM, FOREIGN)):
        for _ in range(5):
            post.add(20)
            post.wait_sent()

    assert post.stream() == post.expected()


def test_a_user_without_pubsub_gets_the_stream_and_an_alarm(post: Post) -> None:
    post.client.execute_command("ACL", "SETUSER", "default", "resetchannels")
    post.add(300)
    post.wait_sent()
    post.wait(lambda: bool(post.alarms))

    assert post.stream() == post.expected()
    assert post.alarms == [("channel_refused", True)]
    post.client.execute_command("ACL", "SETUSER", "default", "allchannels")
    post.add(1)
    post.wait(lambda: ("channel_refused", False) in post.alarms)


RIGHTS = [
    "+multi",
    "+exec",
    "+watch",
    "+unwatch",
    "+xadd",
    "+xrange",
    "+xrevrange",
    "+xlen",
    "+xtrim",
    "+xinfo",
    "+xpending",
    "+exists",
    "+memory|usage",
    "+publish",
]


def test_the_rights_that_the_guide_names_are_enough(post: Post) -> None:
    """A user that can do nothing else sends, compares and trims."""
    post.client.xgroup_create(STREAM, "g", mkstream=True)
    admin = post.client
    admin.execute_command("ACL", "SETUSER", "admin", "on", ">a", "~*", "&*", "+@all")
    admin.execute_command("AUTH", "admin", "a")
    post.stop()
    with admin.client() as held:
        held.execute_command("AUTH", "admin", "a")
        held.execute_command(
            "ACL", "SETUSER", "default", "-@all", "resetkeys", f"~{STREAM}", *RIGHTS, "+select", "+client", "+hello", "+auth"
        )
        post.start()
        post.add(20)
        post.wait_sent()
        held.execute_command("ACL", "SETUSER", "default", "+@all", "~*")
    assert post.stream() == post.expected()
    assert post.alarms == []


def test_an_id_that_nothing_can_follow_is_said_and_waited_for(post: Post) -> None:
    post.client.xadd(STREAM, FOREIGN, id=f"{2**64 - 1}-{2**64 - 1}")
    post.add(5)
    post.wait(lambda: post.sink.state.startswith("away"))
    assert "delete the stream" in post.sink.state

    post.client.delete(STREAM)
    post.wait_stream()


def test_a_key_of_another_kind_is_named_with_the_remedy(post: Post) -> None:
    post.client.set(STREAM, "somebody's")
    post.add(3)
    post.wait(lambda: "holds no stream; delete it" in post.sink.state)

    post.client.delete(STREAM)

    post.wait_stream()
