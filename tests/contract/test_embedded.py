"""The embedded server: it is ours or it is none; nobody gets in without a password; two never share their data."""

import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import msgspec
import pytest
import redis
from redis.exceptions import NoPermissionError

from pipeline.client import Events, RedisUnreachableError
from pipeline.config import Camera, Config, Infer
from pipeline.core.errors import ConfigError, NodeError
from pipeline.redis import server as embedded
from pipeline.redis.login import reader_login, writer_login
from pipeline.redis.server import EmbeddedServer, running_url, server_program

CONFIG = Config(line="line1", cameras={"top": Camera(source="folder:x")}, infer=Infer(model="m"), state_dir="x")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[str], EmbeddedServer]]:
    made: list[EmbeddedServer] = []

    def server(name: str = "a") -> EmbeddedServer:
        made.append(EmbeddedServer(config(tmp_path, name)))
        return made[-1]

    yield server
    for found in made:
        found.stop()


def config(folder: Path, name: str = "a") -> Config:
    return msgspec.structs.replace(CONFIG, state_dir=str(folder / name))


def client(login: object, **more: object) -> redis.Redis:
    return redis.Redis.from_url(login.url, password=login.password, **more)  # type: ignore[attr-defined]


class Stranger:
    """A server without a password on a port of its own."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.port = port or free_port()
        folder.mkdir()
        command = [str(server_program()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.redis = redis.Redis(port=self.port)
        while True:
            try:
                self.redis.ping()
                return
            except redis.ConnectionError:
                assert self._process.poll() is None

    def close(self) -> None:
        self.redis.close()
        self._process.kill()
        self._process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[Stranger]:
    found = Stranger(tmp_path / "stranger")
    yield found
    found.close()


def test_a_port_that_was_taken_meanwhile_is_given_up(
    make: Callable[[str], EmbeddedServer], tmp_path: Path, stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between choosing a port and listening there somebody else takes it: his server is not mistaken for ours."""
    choices = iter([stranger.port, stranger.port, free_port()])
    monkeypatch.setattr(embedded, "_free_port", lambda first: next(choices))
    server = make("a")

    server.start()

    assert server.url != f"redis://127.0.0.1:{stranger.port}/0"
    assert running_url(tmp_path / "a") == server.url
    with client(writer_login(config(tmp_path))) as writer:
        writer.xadd("linepipe:line1:events", {"data": "{}"})
        assert writer.info()["process_id"] == server.pid
        assert writer.info()["tcp_port"] == int(server.url.split(":")[2].split("/")[0])
    assert stranger.redis.dbsize() == 0


def test_servers_that_start_together_get_ports_of_their_own(make: Callable[[str], EmbeddedServer], monkeypatch: pytest.MonkeyPatch) -> None:
    """All choose the same port at the same moment."""
    wanted, real = free_port(), embedded._free_port
    monkeypatch.setattr(embedded, "_free_port", lambda first: wanted if first else real(0))
    servers = [make(name) for name in "abcd"]

    with ThreadPoolExecutor(4) as pool:  # a server dies with the thread that started it
        list(pool.map(EmbeddedServer.start, servers))

        assert all(server.answers() for server in servers)
        assert len({server.url for server in servers}) == 4


def test_a_restarted_server_whose_port_was_stolen_moves_with_its_data(
    make: Callable[[str], EmbeddedServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make("a")
    server.start()
    before = server.url
    with client(writer_login(config(tmp_path))) as writer:
        writer.xadd("linepipe:line1:events", {"data": '{"k": 1}'})
    server.kill()
    thief = Stranger(tmp_path / "thief", int(before.split(":")[2].split("/")[0]))
    try:
        assert not server.answers()

        server.start()

        assert server.answers()
        assert running_url(tmp_path / "a") == server.url != before
        with client(reader_login(config(tmp_path))) as reader:
            assert [fields[b"data"] for _, fields in reader.xrange("linepipe:line1:events")] == [b'{"k": 1}']
        assert thief.redis.dbsize() == 0
    finally:
        thief.close()


def test_another_server_on_the_line_s_own_socket_is_not_believed(make: Callable[[str], EmbeddedServer], tmp_path: Path) -> None:
    """It has another password, or none, or is the server of an earlier run."""
    server = make("a")
    server.start()
    other = EmbeddedServer(config(tmp_path))
    other._process = server._process  # a server that lives, whose run is over: the password is a new one

    assert not other.answers()


def test_a_server_that_is_not_the_line_s_child_is_not_believed(make: Callable[[str], EmbeddedServer]) -> None:
    """Even with the right password: it was started by this line before, say, and hangs."""
    server = make("a")
    server.start()
    child, server._process = server._process, subprocess.Popen(["sleep", "60"])
    try:
        assert not server.answers()
    finally:
        server.kill()
        server._process = child


def test_a_start_that_nobody_waits_for_any_more_is_left(
    make: Callable[[str], EmbeddedServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that hangs raises otherwise, once it was silent for long."""
    (hangs := tmp_path / "hangs").write_text("#!/bin/sh\nexec sleep 1000\n")
    hangs.chmod(0o755)
    monkeypatch.setattr(embedded, "server_program", lambda: hangs)

    make("a").start(lambda: True)


def test_nobody_gets_in_without_a_password(make: Callable[[str], EmbeddedServer], tmp_path: Path) -> None:
    make("a").start()
    url = running_url(tmp_path / "a")
    assert url is not None
    anonymous = redis.Redis.from_url(url)
    for command in (["PING"], ["XADD", "linepipe:line1:events", "*", "a", "b"], ["FLUSHALL"], ["SHUTDOWN"], ["CONFIG", "GET", "*"]):
        with pytest.raises(redis.AuthenticationError):
            anonymous.execute_command(*command)
    with pytest.raises(redis.AuthenticationError):
        redis.Redis.from_url(url, username="reader", password="guess").ping()
    with pytest.raises(RedisUnreachableError, match="reader"), Events(url, "linepipe:line1:events") as events:
        events.last_id()
    anonymous.close()


def test_the_reader_reads_and_the_writer_writes_and_neither_does_more(make: Callable[[str], EmbeddedServer], tmp_path: Path) -> None:
    make("a").start()
    key, url = "linepipe:line1:events", running_url(tmp_path / "a")
    assert url is not None
    writer = client(writer_login(config(tmp_path)))
    password = (tmp_path / "a" / "redis" / "reader").read_text()
    reader = redis.Redis.from_url(url, username="reader", password=password, client_name="plant", decode_responses=True)

    channel = reader.pubsub()
    channel.subscribe(key)
    assert channel.get_message(timeout=5)["type"] == "subscribe"
    with writer.pipeline(transaction=True) as pipe:
        pipe.xadd(key, {"data": "1"}, id="1-1")
        pipe.publish(key, "1")
        pipe.execute()
    assert channel.get_message(timeout=5)["data"] == "1"
    channel.close()
    for call in (writer.xlen, writer.xinfo_stream, writer.xinfo_groups, writer.type, writer.exists, writer.memory_usage):
        assert call(key) is not None
    assert writer.xrevrange(key) == writer.xrange(key)
    assert writer.xtrim(key, minid="1-0") == 0

    reader.xgroup_create(key, "g", "0")
    groups = cast(list[tuple[str, list[tuple[str, dict[str, str]]]]], reader.xreadgroup("g", "c", {key: ">"}))
    ((_, ((first, _),)),) = groups
    assert reader.xpending(key, "g")["pending"] == 1
    assert reader.xclaim(key, "g", "d", 0, [first]) and reader.xautoclaim(key, "g", "c", 0)
    assert reader.xack(key, "g", first) == 1
    assert reader.xread({key: "0"}) and reader.info()["process_id"] and reader.xinfo_groups(key)

    refused = [["FLUSHALL"], ["SHUTDOWN"], ["CONFIG", "GET", "requirepass"], ["ACL", "LIST"], ["DEL", key], ["XDEL", key, "1-1"]]
    refused += [["SET", "x", "1"], ["XRANGE", "linepipe:other:events", "-", "+"], ["EVAL", "return 1", "0"]]
    refused += [["REPLICAOF", "NO", "ONE"], ["CLIENT", "KILL", "ID", "1"], ["MODULE", "LIST"], ["KEYS", "*"]]
    for who in (reader, writer):
        for command in refused:
            with pytest.raises(NoPermissionError):
                who.execute_command(*command)
    for command in (["XADD", key, "*", "a", "b"], ["XTRIM", key, "MAXLEN", "0"], ["PUBLISH", key, "x"], ["XSETID", key, "9-9"]):
        with pytest.raises(NoPermissionError):
            reader.execute_command(*command)
    writer.close()
    reader.close()


def test_passwords_are_in_private_files_and_nowhere_else(make: Callable[[str], EmbeddedServer], tmp_path: Path) -> None:
    """Not in argv, not in the environment of the server, not in its log; and the reader's stays when the line starts again."""
    server = make("a")
    server.start()
    folder = tmp_path / "a" / "redis"
    logins = [reader_login(config(tmp_path)), writer_login(config(tmp_path))]
    secrets = [login.password or "" for login in logins]

    process = Path(f"/proc/{server.pid}")
    seen = process.joinpath("cmdline").read_bytes() + process.joinpath("environ").read_bytes()
    seen += (folder / "server.log").read_bytes() + (folder / "users.acl").read_bytes() + repr(logins).encode()

    assert all(len(s) == 64 and s.encode() not in seen for s in secrets)
    private = [p for p in folder.rglob("*") if stat.S_IMODE(p.stat().st_mode) & 0o077]
    assert private == []
    server.stop()
    again = make("a")
    again.start()
    assert reader_login(config(tmp_path)) == logins[0]
    assert writer_login(config(tmp_path)) != logins[1]


def test_two_servers_never_share_their_data(make: Callable[[str], EmbeddedServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits until the first has ended, and says so when that takes too long."""
    first, second = make("a"), make("a")
    first.start()
    monkeypatch.setattr(embedded, "START_S", 0.3)
    with pytest.raises(NodeError, match="another server"):
        second.start()
    assert first.answers()
    monkeypatch.undo()
    stopping = threading.Timer(0.2, first.stop)
    stopping.start()
    second.start()
    stopping.join()
    assert second.answers()


def test_who_has_given_the_data_up_leaves_the_next_server_alone(
    make: Callable[[str], EmbeddedServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped once more, as when a pager is closed long after; or stopped without ever having got the data."""
    first, line, late = make("a"), make("a"), make("a")
    first.start()
    first.stop()
    line.start()
    monkeypatch.setattr(embedded, "START_S", 0.1)
    with pytest.raises(NodeError, match="another server"):
        late.start()

    first.stop()
    late.stop()

    assert running_url(tmp_path / "a") == line.url
    with client(writer_login(config(tmp_path))) as writer:
        assert writer.info()["process_id"] == line.pid


def test_a_server_that_starts_again_keeps_its_passwords_whatever_became_of_its_files(
    make: Callable[[str], EmbeddedServer], tmp_path: Path
) -> None:
    """Those who know the passwords need not be told again; the files are there again."""
    server = make("a")
    server.start()
    before = writer_login(config(tmp_path))
    for name in ("url", "writer", "users.acl"):
        (tmp_path / "a" / "redis" / name).unlink()

    assert server.answers()
    server.kill()
    server.start()

    assert writer_login(config(tmp_path)) == before
    assert running_url(tmp_path / "a") == server.url
    with client(before) as writer:
        assert writer.info()["process_id"] == server.pid


def test_a_damaged_address_file_is_no_riddle(tmp_path: Path) -> None:
    """The line does not need it itself; whether it is there says whether the server runs."""
    folder = tmp_path / "redis"
    assert running_url(tmp_path) is None
    folder.write_text("no folder")
    assert running_url(tmp_path) is None
    folder.unlink()
    folder.mkdir()
    (folder / "url").write_bytes(b"\xff\xfe")
    assert running_url(tmp_path) is not None
    (folder / "url").unlink()
    (folder / "url").mkdir()
    with pytest.raises(ConfigError, match="url cannot be read"):
        running_url(tmp_path)


def test_a_file_that_cannot_be_written_is_told_at_the_start(make: Callable[[str], EmbeddedServer], tmp_path: Path) -> None:
    server = make("a")
    (tmp_path / "a" / "redis" / "users.acl").mkdir(parents=True)

    with pytest.raises(NodeError, match=r"did not start: .*users\.acl"):
        server.start()


def test_the_reader_s_password_outlives_a_power_loss(
    make: Callable[[str], EmbeddedServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients keep it: it is on the disk before its file has its name, and so is the name before anybody is told."""
    folder, synced = tmp_path / "a" / "redis", []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{fd}"), (folder / "reader").exists()))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    server = make("a")
    server.start()

    assert synced == [(str(folder / ".reader.part"), False), (str(folder), True)]
    server.stop()
    make("a").start()
    assert len(synced) == 2  # it is not written again


def test_a_server_outlives_nobody(tmp_path: Path) -> None:
    """Its starter is killed: it is gone, and the next one has data and socket at once."""
    program = (
        "import sys, msgspec; from pathlib import Path; from tests.contract.test_embedded import config;"
        "from pipeline.redis.server import EmbeddedServer; s = EmbeddedServer(config(Path(sys.argv[1])));"
        "s.start(); print(s.pid, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    starter = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None and starter.stdin is not None
    pid = int(starter.stdout.readline())
    starter.kill()
    starter.communicate()

    server = EmbeddedServer(config(tmp_path))
    server.start()

    assert server.answers()
    assert not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    server.stop()


def test_what_was_written_in_a_transaction_is_there_after_a_restart(make: Callable[[str], EmbeddedServer], tmp_path: Path) -> None:
    """The server reads its own data as a user too, and drops what that user may not do, without a word."""
    server = make("a")
    server.start()
    stream = CONFIG.stream
    with client(writer_login(config(tmp_path))) as writer, writer.pipeline(transaction=True) as pipe:
        for k in range(3):
            pipe.xadd(stream, {"k": k})
        pipe.execute()
        writer.xadd(stream, {"k": 3})
    server.kill()

    server.start()

    with client(reader_login(config(tmp_path))) as reader:
        assert [fields[b"k"] for _, fields in reader.xrange(stream)] == [b"0", b"1", b"2", b"3"]
