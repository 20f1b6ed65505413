"""``linepipe events`` and ``linepipe status``, and a line's own console: odd entries, odd files, outputs that fail, a Redis that goes."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.conftest import Server
from tests.system.line import LINEPIPE, Line, balanced

STREAM = "linepipe:test:events"
ALARM = {"type": "alarm", "v": 1, "id": "x", "line": "test", "name": "n", "active": True, "text": "t", "at": "2026-11-26T10:00:00Z"}
ODD: list[dict[str, Any]] = [
    {"hello": "world"},
    {"data": "no JSON"},
    {"data": b"\xff\xfe"},
    {"data": "[1, 2]"},
    {"data": "{}"},
    {"data": '{"type": null}'},
    {"data": "[" * 100_000},
    {"data": "x" * 5_000_000},
    {"data": '{"type": "defect", "score": null}'},
    {"data": json.dumps({"type": "defect", "source": "a", "camera": [], "label": {}, "score": None, "box_px": 1})},
    {"data": '{"type": "gap"}'},
    {"data": '{"type": "piece", "id": "\\u001b[31m"}'},
]


def add(url: str, entries: list[dict[str, Any]]) -> None:
    """All at once: no reader sees a part of them."""
    with redis.Redis.from_url(url) as client, client.pipeline(transaction=True) as pipe:
        for entry in entries:
            pipe.xadd(STREAM, entry)
        pipe.execute()


@pytest.fixture
def reader(make_line: Callable[..., Line], server: Server, tmp_path: Path) -> Line:
    """A line that does not run, with a Redis that does."""
    (tmp_path / "images").mkdir()
    return make_line(publish={"redis": server.url})


@pytest.fixture
def following(reader: Line) -> Iterator[tuple["subprocess.Popen[str]", list[str], list[str]]]:
    """``events --follow`` with what it has printed on stdout and stderr."""
    process = subprocess.Popen(
        [*LINEPIPE, "events", str(reader.config), "--follow"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    shown: tuple[list[str], list[str]] = [], []
    threads = [
        threading.Thread(target=lines.extend, args=(pipe,)) for lines, pipe in zip(shown, (process.stdout, process.stderr), strict=True)
    ]
    for thread in threads:
        thread.start()
    yield process, *shown
    process.kill()
    process.wait()
    for thread in threads:
        thread.join()
    for pipe in (process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()


def wait(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_events_leaves_odd_entries_out_and_counts_them(reader: Line, server: Server) -> None:
    add(server.url, [*ODD, {"data": json.dumps(ALARM)}])

    done = reader.cli("events")

    assert [json.loads(line)["type"] for line in done.stdout.splitlines()] == ["alarm"]
    assert f"{len(ODD)} entries of {STREAM} are no events; the last: " in done.stderr


def test_a_follower_outlives_odd_entries_and_redis(
    reader: Line, server: Server, following: tuple["subprocess.Popen[str]", list[str], list[str]]
) -> None:
    process, out, err = following
    add(server.url, [{"data": json.dumps({**ALARM, "name": "old"})}])
    wait(lambda: out, "the event that was there")
    add(server.url, [*ODD, {"data": json.dumps({**ALARM, "name": "first"})}])
    wait(lambda: len(out) > 1, "the first event that came")

    server.kill()
    wait(lambda: any("waiting for it" in line for line in err), "a word about Redis")
    server.start()
    add(server.url, [{"data": json.dumps({**ALARM, "name": "second"})}])
    wait(lambda: len(out) > 2, "the second event")

    assert process.poll() is None
    assert [json.loads(line)["name"] for line in out] == ["old", "first", "second"]
    assert "no events" in err[0]


@pytest.mark.parametrize("server", ["valkey"], indirect=True)
@pytest.mark.parametrize("command", ["events", "status", "status --json", "validate", "schema events", "doctor --help"])
def test_a_full_stdout_is_said(reader: Line, server: Server, command: str) -> None:
    add(server.url, [{"data": json.dumps(ALARM)}])
    (reader.state / "status.json").write_text(STATUS)
    name, *options = command.split()
    config = [] if name in ("schema", "doctor") else [str(reader.config)]

    with open("/dev/full", "w") as full:
        done = subprocess.run([*LINEPIPE, name, *config, *options], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)

    assert done.returncode == 1
    assert done.stderr == "linepipe: stdout cannot be written: No space left on device\n"


@pytest.mark.parametrize("server", ["valkey"], indirect=True)
@pytest.mark.parametrize("command", ["events", "status", "validate"])
@pytest.mark.parametrize("how", [">&-", "2>&-", ">&- 2>&-", "| true", "2>/dev/full"])
def test_a_closed_output_is_no_error(reader: Line, server: Server, command: str, how: str) -> None:
    add(server.url, [{"data": json.dumps(ALARM)}] * 100)
    (reader.state / "status.json").write_text(STATUS)
    script = f"{' '.join(LINEPIPE)} {command} {reader.config} {how}; exit ${{PIPESTATUS[0]}}"

    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.parametrize("server", ["valkey"], indirect=True)
@pytest.mark.parametrize("content", [b"[]", b"7", b"{}", b'{"phase": 3, "nodes": []}', b"[" * 100_000, b"\xff\x00"])
@pytest.mark.parametrize("options", [[], ["--follow"]])
def test_an_odd_status_file_is_said(reader: Line, content: bytes, options: list[str]) -> None:
    (reader.state / "status.json").write_bytes(content)

    assert "status.json is" in reader.cli("status", *options, code=1).stderr


def test_odd_entries_and_a_redis_that_hangs_cost_a_running_line_nothing(
    make_line: Callable[..., Line], server: Server, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "bad.jpg").write_bytes(b"no image")
    line = make_line(cameras={"top": {"source": f"folder:{folder}?fps=40&loop=true"}}, publish={"redis": server.url})
    line.start("--frames", "250")
    line.wait_until(lambda s: s["cameras"]["top"]["acquired"] >= 20 and "gap" in line.log, "events on the console")

    add(server.url, ODD)
    line.wait_until(lambda s: "odd" in line.log, "a word about the odd entries")
    with redis.Redis.from_url(server.url) as client:
        client.client_pause(4000)
    summary = line.finish()

    assert summary["cameras"]["top"]["acquired"] == 250
    assert balanced(summary["cameras"]["top"])
    assert summary["restarts"] == {}
    assert f"{len(ODD)} entries of the stream are no events" in line.log
    assert "\x1b" not in line.log


def test_a_follower_that_was_there_first_does_not_end_the_line(make_line: Callable[..., Line], tmp_path: Path) -> None:
    """With the embedded server: the one that `events` starts must not be in the line's way."""
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "bad.jpg").write_bytes(b"no image")
    line = make_line(cameras={"top": {"source": f"folder:{folder}?fps=40&loop=true"}})
    before = line.run("--frames", "20")
    with (line.folder / "followed.txt").open("w") as out:
        follower = subprocess.Popen([*LINEPIPE, "events", str(line.config), "--follow"], stdout=out)
    try:
        wait(lambda: len(followed(line)) == sum(before["events"].values()), "the events of the first run")
        line.start("--frames", "120")
        line.wait_until(lambda s: len(followed(line)) > sum(before["events"].values()), "events of the second run")
        line.kill("publish")
        summary = line.finish()
        wait(lambda: not os.path.exists(line.state / "redis" / "url"), "the embedded server gone")
    finally:
        follower.kill()
        follower.wait()

    assert summary["cameras"]["top"]["acquired"] == 120
    assert summary["restarts"] == {"publish": 1}
    assert summary["spool"] == {"backlog": 0, "delivered": True}


def followed(line: Line) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (line.folder / "followed.txt").read_text().splitlines() if text.endswith("}")]


STATUS = json.dumps(
    {
        "line": "test", "phase": "ended", "duration_s": 1.0, "nodes": {}, "cameras": {}, "events": {}, "engine": None,
        "spool": {"backlog": 0, "redis": "up"}, "throughput": {"frames_per_s": 1.0}, "latency_ms": {},
        "redis": {"url": "redis://x", "stream": STREAM},
    }
)  # fmt: skip
