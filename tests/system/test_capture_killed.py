"""A live camera under overload whose capture process is killed again and again: every frame keeps one fate."""

import random
import signal
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.system.line import Line, balanced

FRAMES = 500


@pytest.fixture
def line(make_line: Callable[..., Line], tmp_path: Path) -> Line:
    """Files that are no images: nothing is inferred, and every frame that was not dropped is a gap of its own."""
    images = tmp_path / "images"
    images.mkdir()
    for k in range(50):
        (images / f"image_{k:02}.jpg").write_bytes(b"not an image")
    camera = {"source": f"folder:{images}?fps=60&loop=true", "when_full": "drop_oldest", "slots": 8}
    return make_line(cameras={"top": camera})


def told(line: Line) -> dict[int, list[str]]:
    """Reasons that the line's gaps give, by frame."""
    found: dict[int, list[str]] = {}
    for event in line.events("--run", "last", "--type", "gap"):
        if event["last"] is not None:
            for frame in range(event["first"], event["last"] + 1):
                found.setdefault(frame, []).append(event["reason"])
    return found


def dropped(status: dict[str, object]) -> int:
    return int(status["cameras"]["top"]["dropped"].get("full", 0))  # type: ignore[index]


@pytest.mark.parametrize("seed", [1, 2])
def test_frames_that_are_dropped_while_capture_is_killed_are_all_told_once(line: Line, seed: int) -> None:
    """Inspect stands still, so frames are dropped; capture is killed with gaps open, sent or confirmed."""
    rng = random.Random(seed)
    line.start("--frames", str(FRAMES))
    line.wait_until(lambda s: s["cameras"]["top"]["invalid"].get("format", 0) > 20, "frames")
    for death in range(1, 4):
        inspect, before = psutil.Process(line.pid("inspect")), dropped(line.status())
        inspect.send_signal(signal.SIGSTOP)
        line.wait_until(partial(lambda b, s: dropped(s) > b + rng.randrange(40), before), "dropped frames")
        line.kill("capture.top")
        inspect.send_signal(signal.SIGCONT)
        line.wait_until(partial(lambda d, s: s["nodes"]["capture.top"]["restarts"] >= d, death), "a restart")
        line.wait_until(lambda s: s["nodes"]["capture.top"]["state"] == "running", "a running capture")

    top = line.finish()["cameras"]["top"]

    assert balanced(top)
    fates = told(line)
    assert {k: f for k, f in fates.items() if len(f) > 1} == {}
    assert sorted(fates) == list(range(top["acquired"]))
    assert top["acquired"] == FRAMES
    assert Counter(f for (f,) in fates.values()) == {**top["dropped"], **top["invalid"]}
    assert top["dropped"]["full"] > 10
