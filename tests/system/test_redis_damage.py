"""A power cut leaves the data of the embedded Redis damaged: the line starts, says so, and its stream is complete again."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.system.line import Line

Damage = Callable[[Path], None]


def zeroes_behind(redis: Path) -> None:
    (log,) = redis.glob("appendonlydir/*.incr.aof")
    with log.open("ab") as file:
        file.write(bytes(3000))


def empty_manifest(redis: Path) -> None:
    os.truncate(redis / "appendonlydir" / "appendonly.aof.manifest", 0)


@pytest.fixture
def broken(make_line: Callable[..., Line], tmp_path: Path) -> Callable[..., Line]:
    """A line whose images are all broken: every frame is an event at once."""
    (tmp_path / "images").mkdir()
    for k in range(1000):
        (tmp_path / "images" / f"broken_{k:04}.jpg").write_bytes(b"not an image")

    def make(options: str = "") -> Line:
        return make_line(cameras={"top": {"source": f"folder:{tmp_path / 'images'}{options}", "when_full": "block"}})

    return make


def gaps(line: Line) -> int:
    return sum(e["last"] - e["first"] + 1 for e in line.events("--type", "gap"))


def named(line: Line, name: str) -> list[dict[str, Any]]:
    return [e for e in line.events("--type", "alarm") if e["name"] == name]


@pytest.mark.parametrize("harm", [zeroes_behind, empty_manifest])
def test_a_line_starts_on_damaged_data_and_its_stream_is_complete_again(broken: Callable[..., Line], harm: Damage) -> None:
    line = broken()
    line.run("--frames", "5")
    harm(line.state / "redis")

    line.run("--frames", "5")

    (aside,) = (line.state / "redis").glob("appendonlydir.damaged-*")
    assert str(aside) in line.log
    assert gaps(line) == 10
    (alarm,) = named(line, "redis_damaged")
    assert str(aside) in alarm["text"]


@pytest.mark.parametrize("harm", [zeroes_behind, empty_manifest])
def test_reading_a_line_that_does_not_run_mends_its_data_too(broken: Callable[..., Line], harm: Damage) -> None:
    """Said on stderr; what is missing then is sent when the line runs again."""
    line = broken()
    line.run("--frames", "5")
    harm(line.state / "redis")

    done = line.cli("events")

    assert "the data of the embedded Redis was damaged" in done.stderr
    assert bool(done.stdout) == (harm is zeroes_behind)
    assert line.cli("events").stderr == ""
    line.run("--frames", "5")
    assert gaps(line) == 10


@pytest.mark.parametrize("harm", [zeroes_behind, empty_manifest])
def test_data_that_is_damaged_under_a_running_line_ends_nothing(broken: Callable[..., Line], harm: Damage) -> None:
    line = broken(options="?fps=100")
    line.start("--frames", "1000")
    line.wait_until(lambda s: s["events"].get("gap", 0) >= 100, "events")
    harm(line.state / "redis")
    os.kill(line.server_pid(), signal.SIGKILL)

    summary = line.finish()

    assert summary["spool"] == {"backlog": 0, "delivered": True}
    assert gaps(line) == 1000
    assert len(named(line, "redis_damaged")) == 1
    assert [e["active"] for e in named(line, "redis_died")] == [True, False]
