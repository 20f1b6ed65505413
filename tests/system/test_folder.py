"""A folder that changes while its line runs: each file of the list has one fate, whatever becomes of capture and folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load
from pipeline.config.topology import runtime_dir
from tests.system.line import Line, balanced

NAMES = [f"b{k:03}.jpg" for k in range(150)]
REPLAY = {"when_full": "block", "slots": 8}
LIVE = {"when_full": "drop_oldest", "slots": 8}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Files that are no images: each is a gap event of its own, and nothing is inferred."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_bytes(b"not an image")
    return folder


def gaps(line: Line) -> list[dict[str, Any]]:
    return line.events("--run", "last", "--type", "gap")


def wait_told(line: Line, count: int) -> None:
    line.wait_until(lambda s: s["cameras"]["top"]["invalid"].get("format", 0) >= count, f"{count} frames")


def wait_gone(line: Line) -> dict[str, Any]:
    found = line.wait_until(lambda s: "no such folder" in (s["nodes"]["capture.top"]["reason"] or ""), "the reason")
    return line.wait_until(lambda s: s["nodes"]["capture.top"]["restarts"] >= 3, "further tries") and found


def alarms(line: Line) -> list[tuple[bool, bool]]:
    """Of capture's death: whether each begins, and whether it names the folder."""
    found = [e for e in line.events("--run", "last", "--type", "alarm") if e["name"] == "node_died:capture.top"]
    return [(e["active"], "no such folder" in e["text"]) for e in found]


def test_a_changed_folder_and_a_killed_capture_skip_and_repeat_no_file(make_line: Callable[..., Line], images: Path) -> None:
    line = make_line(cameras={"top": {**REPLAY, "source": f"folder:{images}?fps=60"}})
    line.start()
    wait_told(line, 20)
    for name in NAMES[:5]:
        (images / name).unlink()
    line.kill("capture.top")
    wait_told(line, 60)
    for k in range(9):
        (images / f"a{k}.jpg").write_bytes(b"new")
    line.kill("capture.top")

    top = line.finish()["cameras"]["top"]

    assert balanced(top) and top["invalid"] == {"format": len(NAMES)}
    assert [e["source"] for e in sorted(gaps(line), key=lambda e: e["first"])] == NAMES


def test_a_list_that_a_cleaner_took_is_made_again_and_said(make_line: Callable[..., Line], images: Path) -> None:
    line = make_line(cameras={"top": {**REPLAY, "source": f"folder:{images}?fps=60"}})
    line.start()
    wait_told(line, 20)
    (kept,) = runtime_dir(load(line.config)).glob("*/files-top")
    kept.unlink()
    line.kill("capture.top")

    line.finish()

    assert f"{kept}" in line.log and "skipped or inspected twice" in line.log
    assert [e["source"] for e in sorted(gaps(line), key=lambda e: e["first"])] == NAMES


def test_a_replay_whose_folder_goes_waits_for_it_and_goes_on_where_it_was(make_line: Callable[..., Line], images: Path) -> None:
    line = make_line(cameras={"top": {**REPLAY, "source": f"folder:{images}?fps=60"}})
    line.start()
    wait_told(line, 20)
    away = images.rename(images.with_name("away"))
    status = wait_gone(line)
    assert status["nodes"]["capture.top"]["state"] in ("restarting", "starting")
    away.rename(images)

    top = line.finish()["cameras"]["top"]

    assert balanced(top) and top["invalid"] == {"format": len(NAMES)}
    assert [e["source"] for e in sorted(gaps(line), key=lambda e: e["first"])] == NAMES
    assert alarms(line) == [(True, True), (False, False)]


def test_a_live_camera_whose_folder_goes_leaves_one_open_gap_and_a_ledger_that_balances(
    make_line: Callable[..., Line], images: Path
) -> None:
    frames = 2 * len(NAMES)
    line = make_line(cameras={"top": {**LIVE, "source": f"folder:{images}?fps=60&loop=true"}})
    line.start("--frames", str(frames))
    wait_told(line, 20)
    away = images.rename(images.with_name("away"))
    wait_gone(line)
    away.rename(images)

    top = line.finish()["cameras"]["top"]

    assert balanced(top) and top["acquired"] == frames
    assert set(top["invalid"]) == {"format"}
    assert [e["last"] for e in gaps(line) if e["reason"] == "capture_died"] == [None]
    told = [k for e in gaps(line) if e["last"] is not None for k in range(e["first"], e["last"] + 1)]
    assert sorted(told) == list(range(frames))
    assert alarms(line) == [(True, True), (False, False)]
