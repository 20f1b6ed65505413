"""What people do to the state folder of a line that runs: move it, replace it, remove files. The line goes on, and says so."""

import ctypes
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Server
from tests.system.line import Line, balanced


@pytest.fixture(params=["embedded", "external"])
def line(make_line: Callable[..., Line], tmp_path: Path, server: Server, request: pytest.FixtureRequest) -> Line:
    """Its images are none: every frame is a gap event, and nothing is inferred."""
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(20):
        (folder / f"bad_{k:02}.jpg").write_bytes(b"no image")
    publish = {} if request.param == "embedded" else {"redis": server.url}
    return make_line(cameras={"top": {"source": f"folder:{folder}?fps=40&loop=true"}}, publish=publish)


def acquired(status: dict[str, Any]) -> int:
    return int(status["cameras"]["top"]["acquired"])


def finish(line: Line) -> dict[str, Any]:
    assert line.process is not None
    line.process.send_signal(signal.SIGTERM)
    summary = line.finish()
    assert balanced(summary["cameras"]["top"])
    assert summary["cameras"]["top"]["in_flight"] == 0
    assert summary["error"] is None
    assert summary["spool"] == {"backlog": 0, "delivered": True}
    return summary


def gaps(line: Line) -> list[int]:
    """Frames with a gap event in the stream, each as often as it is there."""
    events = [event for event in line.events("--type", "gap") if event["last"] is not None]  # None: what a dead capture missed
    return sorted(frame for event in events for frame in range(event["first"], event["last"] + 1))


def exchange(one: Path, other: Path) -> None:
    """Swap two folders in one step, so that nobody can make a third between."""
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if ctypes.CDLL(None, use_errno=True).renameat2(here, os.fsencode(one), here, os.fsencode(other), swap) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def wait_there(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)


@pytest.mark.parametrize("line", ["external"], indirect=True)
def test_what_nodes_need_to_start_again_is_written_again(line: Line) -> None:
    line.start()
    line.wait_until(lambda s: acquired(s) > 10, "frames")
    for name in ("line.json", "model.safetensors", "run.json"):
        (line.state / name).unlink()
    for name in ("line.json", "model.safetensors", "run.json"):
        wait_there(line.state / name)
    for node in ("capture.top", "inspect", "publish"):
        line.kill(node)
    seen = acquired(line.status())
    line.wait_until(lambda s: acquired(s) > seen + 20, "frames after the restart")
    summary = finish(line)

    assert summary["restarts"] == {"capture.top": 1, "inspect": 1, "publish": 1}
    assert gaps(line) == list(range(summary["cameras"]["top"]["acquired"]))
    assert f"in {line.state}: removed or changed by somebody, and written again" in line.log


@pytest.mark.parametrize("line", ["external"], indirect=True)
@pytest.mark.parametrize("change", ["lost", "cut", "other"])
def test_a_node_works_by_no_other_configuration_than_the_line_began_with(line: Line, tmp_path: Path, change: str) -> None:
    """It ends, as a node does that will be started again; what is wrong is not the user's configuration."""
    line.start()
    line.wait_until(lambda s: acquired(s) > 10, "frames")
    copy = tmp_path / "line.json"
    data = (line.state / "line.json").read_bytes()
    if change != "lost":
        copy.write_bytes(data[:-9] if change == "cut" else data.replace(b'"slots":', b'"slots": '))
    digest = "sha256:" + hashlib.sha256(data).hexdigest()

    command = [sys.executable, "-m", "pipeline", "node", "capture.top", str(copy), "--line", digest]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    finish(line)

    assert done.returncode == 1
    assert "the configuration" in done.stderr or "of its configuration" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_state_folder_that_is_moved_away_loses_nothing(line: Line, tmp_path: Path) -> None:
    line.start()
    line.wait_until(lambda s: acquired(s) > 20, "frames")
    line.state.rename(tmp_path / "moved")
    wait_there(line.state / "line.json")
    seen = acquired(line.wait_until(lambda s: s, "a status in the new folder"))
    line.wait_until(lambda s: acquired(s) > seen + 80, "frames after the move")
    summary = finish(line)

    assert gaps(line) == list(range(summary["cameras"]["top"]["acquired"]))
    assert "was moved or replaced while the line runs; it goes on in the folder that is there now" in line.log


def test_a_state_folder_that_is_emptied_loses_nothing(line: Line) -> None:
    line.start()
    line.wait_until(lambda s: acquired(s) > 20, "frames")
    for path in line.state.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)  # publish writes there meanwhile
        else:
            path.unlink(missing_ok=True)
    wait_there(line.state / "line.json")
    seen = acquired(line.wait_until(lambda s: s, "a status"))
    line.wait_until(lambda s: acquired(s) > seen + 80, "frames after it")
    summary = finish(line)

    assert gaps(line) == list(range(summary["cameras"]["top"]["acquired"]))


@pytest.mark.parametrize("line", ["external"], indirect=True)
def test_a_state_folder_that_is_replaced_is_locked_too(line: Line, tmp_path: Path) -> None:
    """By a backup, say: a second line on it is refused."""
    line.start()
    line.wait_until(lambda s: acquired(s) > 20, "frames")
    shutil.copytree(line.state, tmp_path / "backup", symlinks=True, ignore=shutil.ignore_patterns("*.part"))
    exchange(line.state, tmp_path / "backup")
    line.wait_until(lambda _: "was moved or replaced" in line.log, "news of it")

    second = subprocess.run(line.command(), capture_output=True, text=True, timeout=60, env=dict(os.environ))
    summary = finish(line)

    assert second.returncode == 2
    assert "another line runs on" in second.stderr
    assert gaps(line) == list(range(summary["cameras"]["top"]["acquired"]))
