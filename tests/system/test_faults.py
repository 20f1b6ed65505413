"""A whole line, disturbed: whatever is killed, no frame is lost and no event is missing."""

import itertools
import os
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from pipeline.client import Events
from tests.conftest import Server
from tests.system.line import Line, balanced

FRAMES = 500


def slow(folder: Path) -> dict[str, object]:
    """The images at a rate that leaves time for several faults, one after the other."""
    return {"top": {"source": f"folder:{folder / 'images'}?fps=80", "when_full": "block"}}


@pytest.fixture
def line(make_line: Callable[..., Line], make_images: Callable[..., list[Path]], tmp_path: Path) -> Line:
    """A folder long enough to be interrupted in its middle."""
    make_images(tmp_path / "images", FRAMES)
    return make_line()


def check_complete(line: Line, summary: dict[str, object]) -> list[dict[str, object]]:
    """Every image inspected once, nothing dropped; returns the events."""
    top = summary["cameras"]["top"]  # type: ignore[index]
    assert top["inspected"] == FRAMES, line.log
    assert top["dropped"] == {}
    assert balanced(top)
    events = line.defects()
    assert Counter((e["epoch"], e["frame"]) for e in events) == Counter({(e["epoch"], e["frame"]): 1 for e in events})
    assert sorted(str(e["source"]) for e in events) == [f"image_{k:04}.jpg" for k in range(FRAMES)]
    return events


def test_a_killed_inspect_process_costs_no_frame(line: Line) -> None:
    line.start()
    line.wait_inspected(100)

    line.kill("inspect")
    summary = line.finish()

    events = check_complete(line, summary)
    assert summary["restarts"] == {"inspect": 1}
    assert [e["active"] for e in line.events("--run", "last", "--type", "alarm")] == [True, False]
    assert {e["attempt"] for e in events} == {1, 2}


def test_a_hung_inspect_process_is_killed_and_costs_no_frame(line: Line) -> None:
    """It is alive and answers nothing: only its own progress counts."""
    line.start()
    line.wait_inspected(100)

    line.kill("inspect", signal.SIGSTOP)
    summary = line.finish()

    check_complete(line, summary)
    assert summary["restarts"] == {"inspect": 1}


def test_a_killed_publish_process_costs_no_event(line: Line) -> None:
    line.start()
    line.wait_inspected(100)

    line.kill("publish")
    summary = line.finish()

    check_complete(line, summary)
    assert summary["restarts"] == {"publish": 1}


def test_a_killed_capture_process_costs_no_frame(line: Line) -> None:
    """Frames and counters outlive it in the ring; a new epoch begins where the old one ended."""
    line.start()
    line.wait_inspected(100)

    line.kill("capture.top")
    summary = line.finish()

    check_complete(line, summary)
    assert summary["restarts"] == {"capture.top": 1}
    assert len(summary["cameras"]["top"]["epochs"]) == 2


def test_killed_preprocess_and_infer_placed_apart_cost_no_frame(make_line: Callable[..., Line], line: Line) -> None:
    apart = make_line(placement={"pre": ["preprocess"], "gpu": ["infer"]})
    apart.start()
    apart.wait_inspected(100)

    apart.kill("gpu")
    apart.wait_inspected(200)
    apart.kill("pre")
    summary = apart.finish()

    check_complete(apart, summary)
    assert summary["restarts"] == {"pre": 1, "gpu": 1}


def test_a_killed_embedded_redis_costs_no_event(line: Line) -> None:
    line.start()
    line.wait_inspected(100)

    os.kill(line.server_pid(), signal.SIGKILL)
    summary = line.finish()

    check_complete(line, summary)


def test_redis_may_come_late_go_and_lose_everything(make_line: Callable[..., Line], line: Line, server: Server) -> None:
    """Away at the start, killed in the middle, back with nothing: the stream is complete and in order at the end."""
    server.kill()
    late = make_line(publish={"redis": server.url}, cameras=slow(line.folder))
    late.start()
    late.wait_inspected(50)
    late.wait_until(lambda s: s["spool"]["backlog"] >= 50, "a backlog")
    server.start()
    late.wait_until(lambda s: s["spool"]["backlog"] < 50, "the backlog sent")
    server.kill()
    server.wipe()
    late.wait_inspected(400)
    server.start()
    summary = late.finish()

    check_complete(late, summary)
    with Events(server.url, "linepipe:test:events") as stream:
        found = list(stream.read())
    assert len(found) == sum(summary["events"].values())
    assert "redis_lost" in {e.get("name") for e in found}


def test_a_redis_that_never_answers_stops_nothing(make_line: Callable[..., Line], line: Line, server: Server) -> None:
    """The line runs and spools, and says at the end what waits; the events go out when it runs again and Redis is there."""
    server.kill()
    away = make_line(publish={"redis": server.url})
    assert "Redis at" in away.cli("validate", "--connect", code=1).stderr

    away.start()
    summary = away.finish(code=1)

    assert summary["cameras"]["top"]["inspected"] == FRAMES
    waiting = sum(summary["events"].values())
    assert summary["spool"] == {"backlog": waiting, "delivered": False}
    assert f"events wait in {away.state / 'spool'}: {waiting} for Redis at {server.url}" in summary["error"]
    assert summary["error"] in away.log
    server.start()
    again = away.run()
    with Events(server.url, "linepipe:test:events") as stream:
        assert sum(e["type"] == "defect" for e in stream.read()) == 2 * FRAMES == summary["events"]["defect"] + again["events"]["defect"]


def test_nothing_outlives_a_killed_supervisor(line: Line) -> None:
    """The next run takes over at once, with the spool as it was."""
    line.start()
    line.wait_inspected(50)
    pids = [line.pid(n) for n in ("capture.top", "inspect", "publish")] + [line.server_pid()]
    assert line.process is not None
    line.process.kill()
    line.process.wait()

    summary = line.run()

    check_complete(line, summary)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_killed_inspect_and_publish_together_cost_no_frame(line: Line) -> None:
    """Publish hangs, so nothing becomes durable; then both die: a frame is let go only once its verdict is on disk."""
    line.start()
    since = line.wait_inspected(100)["duration_s"]
    line.kill("publish", signal.SIGSTOP)
    line.wait_until(lambda s: s["duration_s"] > since + 1, "a second in which verdicts pile up")

    line.kill("inspect")
    line.kill("publish")
    summary = line.finish()

    check_complete(line, summary)
    assert summary["restarts"] == {"inspect": 1, "publish": 1}


LIVE = {"source": "sim:strip?seed=1&fps=20", "frame_px": [300, 300], "when_full": "drop_oldest"}


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTERM])
def test_a_live_camera_that_was_stopped_or_hangs_leaves_a_gap(make_line: Callable[..., Line], number: int) -> None:
    """Told to stop by somebody else, or hanging until the line is stopped: never a camera that is blind in silence."""
    line = make_line(cameras={"top": LIVE}, preprocess={"layout": "grid"})
    line.start()
    line.wait_inspected(20)
    line.kill("capture.top", number)
    if number == signal.SIGTERM:
        line.wait_until(lambda s: s["nodes"]["capture.top"]["restarts"] == 1, "a restart")
        line.wait_inspected(60)
    assert line.process is not None
    line.process.send_signal(signal.SIGTERM)

    summary = line.finish()

    assert balanced(summary["cameras"]["top"])
    gaps = line.events("--run", "last", "--type", "gap")
    assert [(g["reason"], g["last"]) for g in gaps if g["reason"] != "full"] == [("capture_died", None)]  # a busy machine drops frames
    assert summary["restarts"] == {"capture.top": 1}


@pytest.mark.parametrize("victims", [["inspect", "publish"], ["publish"], []], ids=["inspect and publish", "publish", "nobody"])
def test_defects_across_frames_are_joined_and_no_piece_is_lost_or_told_twice(make_line: Callable[..., Line], victims: list[str]) -> None:
    """A model without clean steel calls every frame a defect from border to border: its events must tile the strip."""
    height, frames = 300, 120
    strip = {**LIVE, "source": "sim:strip?seed=1&fps=40", "speed_mps": 1, "pixel_mm": [1, 1], "when_full": "block"}
    line = make_line(cameras={"top": strip}, preprocess={"layout": "grid"})
    line.start("--frames", str(frames))
    for victim in victims:
        line.wait_inspected(40)
        line.kill(victim)

    summary = line.finish()

    assert summary["cameras"]["top"]["inspected"] == frames
    told = sorted((e["frame"] * height + e["box_px"][1], e["box_px"][3]) for e in line.defects())
    assert sum(length for _, length in told) == frames * height
    assert all(a + length == b for (a, length), (b, _) in itertools.pairwise(told))
    assert len(told) < frames // 2


@pytest.mark.long
def test_a_hung_embedded_redis_is_replaced(make_line: Callable[..., Line]) -> None:
    line = make_line(cameras={"top": LIVE}, preprocess={"layout": "grid"})
    line.start()
    line.wait_inspected(20)
    os.kill(line.server_pid(), signal.SIGSTOP)
    line.wait_until(lambda s: (s["spool"]["redis"] or "").startswith("away"), "a silent Redis")
    line.wait_until(lambda s: s["spool"]["redis"] == "up" and s["spool"]["backlog"] == 0, "a new Redis with everything")
    assert line.process is not None
    line.process.send_signal(signal.SIGTERM)

    summary = line.finish()

    assert len(line.defects()) == summary["events"]["defect"] == summary["cameras"]["top"]["inspected"]


def test_a_stranger_on_the_embedded_redis_s_port_gets_no_event(make_line: Callable[..., Line], line: Line, server: Server) -> None:
    """It dies and somebody else takes its port before it is back: it moves, and everything is delivered."""
    line = make_line(cameras=slow(line.folder))
    line.start()
    before = line.wait_inspected(50)["redis"]["url"]
    assert line.process is not None
    line.process.send_signal(signal.SIGSTOP)
    os.kill(line.server_pid(), signal.SIGKILL)
    server.kill()
    server.port = int(before.split(":")[2].split("/")[0])
    server.start()
    line.process.send_signal(signal.SIGCONT)

    after = line.wait_until(lambda s: s["redis"]["url"] != before and s["spool"]["redis"] == "up", "a server elsewhere")["redis"]["url"]
    summary = line.finish()

    check_complete(line, summary)
    assert summary["redis"]["url"] == after
    assert f"it is at {after} now" in line.log
    with Events(f"redis://127.0.0.1:{server.port}/0", "linepipe:test:events") as stream:
        assert list(stream.read()) == []


@pytest.mark.long
def test_a_redis_that_hangs_at_the_end_gets_everything(make_line: Callable[..., Line]) -> None:
    """The line is told to stop just then: publish waits until the server that hangs has been replaced."""
    line = make_line(cameras={"top": LIVE}, preprocess={"layout": "grid"})
    line.start()
    line.wait_inspected(20)
    os.kill(line.server_pid(), signal.SIGSTOP)
    assert line.process is not None
    line.process.send_signal(signal.SIGTERM)

    summary = line.finish()

    assert "stay in the spool" not in line.log
    assert len(line.defects()) == summary["events"]["defect"] == summary["cameras"]["top"]["inspected"]


@pytest.fixture
def light(make_line: Callable[..., Line], tmp_path: Path) -> Callable[..., Line]:
    """A line whose images are all broken: every frame is an event at once, and nothing is inferred."""
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(FRAMES):
        (folder / f"broken_{k:04}.jpg").write_bytes(b"not an image")

    def make(**changes: object) -> Line:
        return make_line(cameras={"top": {"source": f"folder:{folder}?fps=60", "when_full": "block"}}, **changes)

    return make


def check_told(line: Line, summary: dict[str, object]) -> None:
    """Every frame has its one event."""
    top = summary["cameras"]["top"]  # type: ignore[index]
    assert (sum(top["invalid"].values()), top["acquired"]) == (FRAMES, FRAMES), line.log
    assert sorted(e["first"] for e in line.events("--type", "gap")) == list(range(FRAMES))


def wait_told(line: Line, count: int) -> None:
    line.wait_until(lambda s: s["events"].get("gap", 0) >= count, f"{count} events")


@pytest.mark.long
def test_a_stream_deleted_under_a_running_line_is_complete_at_its_end(light: Callable[..., Line], server: Server) -> None:
    line = light(publish={"redis": server.url})
    line.start()
    wait_told(line, 100)
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
    summary = line.finish()

    check_told(line, summary)
    assert "redis_lost" in {e.get("name") for e in line.events()}


@pytest.mark.long
def test_a_spool_that_is_locked_and_then_deleted_ends_no_line(light: Callable[..., Line]) -> None:
    """What was accepted arrives, and the spool is there again."""
    line = light()
    path = line.state / "spool" / "events.db"
    line.start()
    wait_told(line, 60)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN EXCLUSIVE")
    line.wait_until(lambda s: s["cameras"]["top"]["in_flight"] >= 60, "a full ring")
    db.execute("ROLLBACK")
    db.close()
    wait_told(line, 150)
    for file in path.parent.glob("events.db*"):
        file.unlink()
    line.wait_until(lambda s: s["nodes"]["publish"]["restarts"] == 1, "a restart of publish")

    summary = line.finish()

    check_told(line, summary)
    assert "spool_damaged" in {e.get("name") for e in line.events()}
    assert path.exists()
