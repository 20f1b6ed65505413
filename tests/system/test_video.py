"""A line on a video file: each frame of the file is one event or one gap, named by its time."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from tests.system.line import Line, balanced
from tests.videos import damage, moving, write_video

COUNT = 300


def times(name: str, count: int) -> list[str]:
    return [f"{name}#{k / 25:.3f}s" for k in range(count)]


def test_a_video_is_inspected_whole_also_when_its_capture_is_killed(make_line: Callable[..., Line], tmp_path: Path) -> None:
    """The next capture process goes on at the frame after the last; a damaged one is a gap that names it."""
    clip = write_video(tmp_path / "clip.mkv", moving(COUNT), gop=1, level="3", slicecrc="1")
    damage(clip, 200)
    line = make_line(cameras={"top": {"source": f"video:{clip}?fps=100", "when_full": "block", "slots": 16}})
    line.start()
    line.wait_inspected(40)

    line.kill("capture.top")
    summary = line.finish()

    top = summary["cameras"]["top"]
    assert top["inspected"] == COUNT - 1
    assert top["invalid"] == {"corrupt": 1}
    assert balanced(top)
    assert summary["restarts"] == {"capture.top": 1}
    by_frame = {e["frame"]: e["source"] for e in line.defects()}
    assert len(line.defects()) == COUNT - 1
    assert by_frame == {k: source for k, source in enumerate(times("clip.mkv", COUNT)) if k != 200}
    gaps = line.events("--run", "last", "--type", "gap")
    assert [(e["first"], e["source"], e["reason"]) for e in gaps] == [(200, "clip.mkv#8.000s", "corrupt")]


def test_a_video_that_is_replaced_waits_until_its_own_file_is_back(make_line: Callable[..., Line], tmp_path: Path) -> None:
    count = 80
    clip = write_video(tmp_path / "clip.mkv", moving(count), gop=1)
    line = make_line(cameras={"top": {"source": f"video:{clip}?fps=40", "when_full": "block", "slots": 16}})
    line.start()
    line.wait_inspected(8)
    own = clip.rename(tmp_path / "own.mkv")
    write_video(clip, moving(count + 1)[1:], gop=1)

    line.kill("capture.top")
    line.wait_until(lambda s: "not the file that this run began with" in (s["nodes"]["capture.top"]["reason"] or ""), "the reason")
    own.replace(clip)

    top = line.finish()["cameras"]["top"]
    assert balanced(top) and top["inspected"] == count
    assert {e["frame"]: e["source"] for e in line.defects()} == dict(enumerate(times("clip.mkv", count)))


def test_a_live_replay_runs_at_the_pace_of_the_file_and_its_tiles_are_cut(make_line: Callable[..., Line], tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", moving(50, 640, 304), codec="libx264", pixels="yuv420p", b_frames=2)
    line = make_line(cameras={"top": {"source": f"video:{clip}"}}, preprocess={"layout": "grid"})

    summary = line.run()

    assert summary["cameras"]["top"]["inspected"] == 50
    events = {e["frame"]: e for e in line.defects()}
    assert [events[k]["source"] for k in range(50)] == times("clip.mp4", 50)
    first, last = (datetime.fromisoformat(events[k]["captured_at"]) for k in (0, 49))
    assert (last - first).total_seconds() >= 48 / 25


@pytest.mark.parametrize(
    ("name", "content", "says"), [("a.mp4", b"no video" * 99, "cannot be opened as a video"), ("b.mp4", b"", "is empty")]
)
def test_a_file_that_is_no_video_ends_the_line_with_a_sentence(
    make_line: Callable[..., Line], tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    line = make_line(cameras={"top": {"source": f"video:{tmp_path / name}"}})

    line.start()
    line.finish(code=2)

    assert says in line.log
    assert "Traceback" not in line.log
