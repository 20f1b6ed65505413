"""How nodes live and die: only the user, or a configuration that never worked, ends a line."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.config import load
from pipeline.config.model_file import digest, find_model
from pipeline.config.topology import runtime_dir
from tests.system.line import START_S, Line, balanced

SMALL = {"max_batch": 2}  # an engine that starts sooner
pytestmark = pytest.mark.timeout(300)  # several starts of an engine each, on a busy machine


def endless(folder: Path, *, fps: int = 10) -> dict[str, str]:
    return {"source": f"folder:{folder}?fps={fps}&loop=true", "when_full": "drop_oldest"}


def alarms(line: Line, name: str) -> list[bool]:
    return [e["active"] for e in line.events("--run", "last", "--type", "alarm") if e["name"] == name]


def told_to_stop(line: Line) -> dict[str, Any]:
    assert line.process is not None
    line.process.send_signal(signal.SIGTERM)
    return line.finish()


def processes_of(line: Line) -> list[list[str]]:
    """Command lines of what works on the line's state folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        command = process.info["cmdline"] or []
        if str(line.state) in " ".join(command) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(command)
    return found


def test_a_camera_that_is_gone_is_tried_again_and_costs_the_others_nothing(
    make_line: Callable[..., Line], make_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    for name in ("top", "side"):
        make_images(tmp_path / name, 20)
    line = make_line(cameras={name: endless(tmp_path / name) for name in ("top", "side")}, infer=SMALL)
    line.start()
    line.wait_until(lambda s: all(c["inspected"] > 10 for c in s["cameras"].values()), "both cameras")
    (tmp_path / "top").rename(tmp_path / "gone")

    status = line.wait_until(lambda s: "no such folder" in (s["nodes"]["capture.top"]["reason"] or ""), "the reason")
    assert status["nodes"]["capture.top"]["state"] in ("restarting", "starting")
    assert "no such folder" in line.cli("status").stdout.replace("\n", " ")
    seen = status["cameras"]["side"]["inspected"]
    line.wait_until(lambda s: s["nodes"]["capture.top"]["restarts"] >= 3, "further tries")
    line.wait_until(lambda s: s["cameras"]["side"]["inspected"] > seen + 20, "the other camera")
    (tmp_path / "gone").rename(tmp_path / "top")
    seen = line.status()["cameras"]["top"]["inspected"]
    status = line.wait_until(lambda s: s["cameras"]["top"]["inspected"] > seen + 20, "the camera again")
    assert status["nodes"]["capture.top"]["reason"] is None
    summary = told_to_stop(line)

    assert all(balanced(camera) for camera in summary["cameras"].values())
    assert alarms(line, "node_died:capture.top") == [True, False]


def test_a_line_stops_with_a_camera_that_is_gone(
    make_line: Callable[..., Line], make_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """What it had in its ring is finished without its source."""
    make_images(tmp_path / "images", 20)
    line = make_line(cameras={"top": endless(tmp_path / "images", fps=100)}, infer=SMALL)
    line.start()
    line.wait_inspected(10)
    (tmp_path / "images").rename(tmp_path / "gone")
    line.wait_until(lambda s: "no such folder" in (s["nodes"]["capture.top"]["reason"] or ""), "the reason")

    summary = told_to_stop(line)

    assert balanced(summary["cameras"]["top"])


def test_another_model_does_not_judge_in_place_of_the_one_the_line_began_with(
    make_line: Callable[..., Line], make_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    make_images(tmp_path / "images", 20)
    model, kept = tmp_path / "model.safetensors", tmp_path / "kept.safetensors"
    shutil.copy(find_model("ilcs-neu"), model)
    shutil.copy(model, kept)
    line = make_line(cameras={"top": endless(tmp_path / "images")}, infer={"model": str(model), "max_batch": 2})
    line.start()
    line.wait_inspected(10)

    model.write_bytes(find_model("ilcs-line").read_bytes())
    seen = line.status()["cameras"]["top"]["inspected"]
    line.kill("inspect")
    line.wait_until(lambda s: s["cameras"]["top"]["inspected"] > seen + 20, "the old model")
    model.unlink()
    own = line.state / "model.safetensors"
    shutil.copy(find_model("ilcs-line"), own)
    line.kill("inspect")
    at = line.status()["cameras"]["top"]["inspected"]
    line.wait_until(lambda s: s["cameras"]["top"]["inspected"] > at + 20, "the old model again")
    assert digest(own) == digest(kept)
    summary = told_to_stop(line)

    assert balanced(summary["cameras"]["top"])
    assert {e["model"]["digest"] for e in line.defects()} == {digest(kept)}
    assert alarms(line, "node_died:inspect") == [True, False, True, False]
    assert "model.safetensors in" in line.log


@pytest.mark.long
def test_a_line_stops_with_an_inspect_node_that_cannot_come_back(
    make_line: Callable[..., Line], make_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """What waited for it is dropped, and a gap says so."""
    make_images(tmp_path / "images", 20)
    line = make_line(cameras={"top": endless(tmp_path / "images")}, infer=SMALL)
    line.start()
    line.wait_inspected(10)
    (line.state / "model.safetensors").unlink()
    (line.state / "model.safetensors").mkdir()
    line.kill("inspect")
    line.wait_until(lambda s: "own copy of its model" in (s["nodes"]["inspect"]["reason"] or ""), "the reason")

    summary = told_to_stop(line)

    assert balanced(summary["cameras"]["top"])
    assert summary["cameras"]["top"]["dropped"]["shutdown"] > 0
    assert "shutdown" in {e["reason"] for e in line.events("--run", "last", "--type", "gap")}


def test_a_supervisor_killed_at_any_moment_of_a_start_leaves_nothing(
    make_line: Callable[..., Line], make_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    make_images(tmp_path / "images", 20)
    line = make_line(infer=SMALL)
    for wanted in (1, 2, 3, 4, 4):
        line.start()
        assert line.process is not None
        supervisor = psutil.Process(line.process.pid)
        deadline = time.monotonic() + START_S
        while len(supervisor.children()) < wanted:
            assert time.monotonic() < deadline
        line.process.kill()
        line.process.wait()
        deadline = time.monotonic() + 20
        while left := processes_of(line):
            assert time.monotonic() < deadline, left
            time.sleep(0.01)

    assert line.run()["cameras"]["top"]["inspected"] == 20
    assert list(runtime_dir(load(line.config)).iterdir()) == []


@pytest.mark.long
def test_nodes_are_not_killed_because_their_supervisor_stood_still(
    make_line: Callable[..., Line], make_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    make_images(tmp_path / "images", 20)
    line = make_line(cameras={"top": endless(tmp_path / "images")}, infer=SMALL)
    line.start()
    line.wait_inspected(10)
    assert line.process is not None

    os.kill(line.process.pid, signal.SIGSTOP)
    time.sleep(12)  # that is the fault: longer than any node may be silent
    os.kill(line.process.pid, signal.SIGCONT)
    since = line.status()["duration_s"]
    line.wait_until(lambda s: s["duration_s"] > since + 3, "the supervisor's next seconds")
    summary = told_to_stop(line)

    assert summary["restarts"] == {}
    assert balanced(summary["cameras"]["top"])


def test_sockets_that_a_cleaner_removed_are_made_again(
    make_line: Callable[..., Line], make_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """A node that dies afterwards finds the others."""
    make_images(tmp_path / "images", 20)
    line = make_line(cameras={"top": endless(tmp_path / "images")}, infer=SMALL)
    line.start()
    line.wait_inspected(10)
    (folder,) = (path for path in runtime_dir(load(line.config)).iterdir() if path.is_dir())
    sockets = {path.name for path in folder.iterdir() if path.is_socket()}
    for remove in ([folder.parent], list(folder.iterdir())):
        for path in remove:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        deadline = time.monotonic() + START_S
        while not folder.exists() or {path.name for path in folder.iterdir() if path.is_socket()} != sockets:
            assert time.monotonic() < deadline, line.log
            time.sleep(0.01)
        seen = line.status()["cameras"]["top"]["inspected"]
        for node in ("inspect", "capture.top", "publish"):
            line.kill(node)
        line.wait_until(lambda s: s["cameras"]["top"]["inspected"] > seen + 10, "frames after all nodes have died")  # noqa: B023
    summary = told_to_stop(line)

    assert balanced(summary["cameras"]["top"])
    assert "was removed; it is created again" in line.log
    assert alarms(line, "sockets_removed")[:2] == [True, False]


@pytest.mark.long
def test_a_capture_node_that_never_comes_back_does_not_hold_up_the_stop(
    make_line: Callable[..., Line], make_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """Nobody knows what became of its frames, and the line says so."""
    make_images(tmp_path / "images", 20)
    line = make_line(cameras={"top": endless(tmp_path / "images", fps=100)}, infer=SMALL)
    line.start()
    line.wait_inspected(10)
    assert line.process is not None
    inspect = next(c for c in psutil.Process(line.process.pid).children() if "inspect" in c.cmdline())
    inspect.suspend()  # so that frames are in flight when the stop begins; it is replaced
    line.wait_until(lambda s: s["cameras"]["top"]["in_flight"] > 0, "frames in flight")
    line.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + START_S
    while "did not finish within" not in line.log:
        assert time.monotonic() < deadline, line.log
        for child in psutil.Process(line.process.pid).children():
            try:
                if child.status() != psutil.STATUS_ZOMBIE and "capture.top" in child.cmdline():
                    child.kill()
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.01)

    summary = line.finish(code=1)

    assert summary["cameras"]["top"]["in_flight"] > 0
    assert "capture.top did not finish" in line.log
    assert alarms(line, "frames_unaccounted:top") == [True]
    assert {"reason": "capture_died", "last": None}.items() <= line.events("--run", "last", "--type", "gap")[-1].items()
