"""Others decide what is in a stream, and what answers at an address: neither ends the publish node nor takes its memory."""

import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from nodes.publish.sinks import sender
from nodes.publish.sinks.redis.reconcile import StreamReader
from nodes.publish.sinks.sender import Sender
from nodes.publish.spool.spool import Spool
from tests.contract.post import STREAM, Post, redis_sender
from tests.contract.test_spool import event, to_redis

ODD = {
    "OK to everything": b"+OK\r\n",
    "nil to everything": b"$-1\r\n",
    "an empty list": b"*0\r\n",
    "no newest id": b"*4\r\n$6\r\nlength\r\n:0\r\n$6\r\ngroups\r\n:0\r\n",
    "an id that is none": b"*6\r\n$17\r\nlast-generated-id\r\n$3\r\n1-x\r\n$11\r\nfirst-entry\r\n$-1\r\n$10\r\nlast-entry\r\n$-1\r\n",
    "nested without end": b"*1\r\n" * 100_000,
    "a length that is none": b"$abc\r\n",
    "half a list": b"*3\r\n$4\r\nhalf\r\n",
    "an error without end": b"-ERR " + b"x" * 500_000 + b"\r\n",
    "another language": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


@contextmanager
def answering(reply: bytes) -> Iterator[str]:
    """A server that gives one answer to all that asks for the stream; its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    taken: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        try:
            with connection.makefile("rb") as asked:
                while head := asked.readline():
                    words = [asked.read(int(asked.readline()[1:]) + 2)[:-2] for _ in range(int(head[1:]))]
                    connection.sendall(b"+OK\r\n" if words[0].upper() in (b"CLIENT", b"WATCH", b"UNWATCH", b"SELECT") else reply)
        except (OSError, ValueError):
            connection.close()

    def accept() -> None:
        try:
            while True:
                taken.append(listener.accept()[0])
                threading.Thread(target=serve, args=(taken[-1],), daemon=True).start()
        except OSError:
            pass

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in taken:
            connection.close()


@contextmanager
def sending_to(url: str, path: Path) -> Iterator[Sender]:
    spool = Spool(path, durable=False)
    spool.append([("k", [event(1)])])
    told = threading.Event()
    sink = redis_sender(url, path, lambda _: None, alarm=lambda name, on, text: told.set(), lifted=lambda _: None)
    try:
        assert told.wait(20)
        yield sink
        assert to_redis(spool).backlog == 1
    finally:
        sink.stop()
        sink.join()
        spool.close()


@pytest.mark.parametrize("reply", ODD.values(), ids=ODD.keys())
def test_a_server_that_answers_oddly_counts_as_away(tmp_path: Path, reply: bytes) -> None:
    with answering(reply) as url, sending_to(url, tmp_path / "events.db") as sink:
        assert sink.state.startswith("away: ")
        assert len(sink.state) < 1000
        assert sink.failed is None


def test_an_address_that_cannot_be_looked_up_counts_as_away(tmp_path: Path) -> None:
    """Validation refuses it; a name of another kind may come from a library that changes."""
    with sending_to("redis://redis..plant:6379/0", tmp_path / "events.db") as sink:
        assert sink.state.startswith("away: ")
        assert sink.failed is None


BIG = 30_000_000


def test_a_huge_entry_of_somebody_else_takes_no_memory(post: Post) -> None:
    post.client.xadd(STREAM, {"x": b"y" * BIG})
    connection = redis.Redis.from_url(post.server.url).connection_pool.get_connection()
    reader = StreamReader(connection, STREAM)

    tracemalloc.start()
    top = reader.top()
    assert top is not None and top.newest is not None
    assert reader.between(top.last, top.last, 1) == reader.before(top.last, 1) == [top.newest]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    connection.disconnect()

    assert peak < BIG / 4


@pytest.mark.parametrize("count", [0, 3], ids=["nothing sent", "something sent"])
def test_a_huge_entry_of_somebody_else_is_not_fetched_at_every_look(post: Post, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "LOOK_S", 0.01)
    post.add(count)
    post.wait_sent()
    post.client.xadd(STREAM, {"x": b"y" * BIG})
    post.sink.wake()
    client = post.client

    def told(section: str) -> Callable[[str, str], int]:
        return lambda name, key: dict(client.info(section)).get(name, {}).get(key, 0)

    looks = told("commandstats")
    before = looks("cmdstat_watch", "calls")
    post.wait(lambda: looks("cmdstat_watch", "calls") > before + 30)

    sent: Any = client.info("stats")["total_net_output_bytes"]
    assert sent < 3 * BIG
