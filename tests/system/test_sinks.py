"""Sinks beside Redis in a whole line: each gets every event, and none holds up another."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.line import Line, balanced

MakeImages = Callable[..., list[Path]]


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_file_of_json_lines_holds_what_the_stream_holds_although_publish_is_killed(
    make_line: Callable[..., Line], make_images: MakeImages, tmp_path: Path
) -> None:
    make_images(tmp_path / "images", 400)
    line = make_line(publish={"sinks": {"plant": f"jsonl:{tmp_path / 'events.jsonl'}"}})
    line.start()
    for count in (20, 200):
        line.wait_inspected(count)
        line.kill("publish")
    summary = line.finish()

    assert summary["restarts"]["publish"] == 2
    assert balanced(summary["cameras"]["top"])
    assert summary["sinks"] == {"plant": {"state": "up", "backlog": 0}}
    events = line.events()
    assert len(events) > 400
    assert lines(tmp_path / "events.jsonl") == events


def test_a_sink_that_is_away_holds_up_nothing_and_gets_everything_later(
    make_line: Callable[..., Line], make_images: MakeImages, tmp_path: Path
) -> None:
    make_images(tmp_path / "images", 400)
    out = tmp_path / "out"
    out.mkdir()
    line = make_line(publish={"sinks": {"plant": f"jsonl:{out / 'events.jsonl'}"}})
    line.run()
    out.rename(tmp_path / "gone")
    assert f"publish.sinks.plant: no folder {out}" in line.cli("validate", code=2).stderr
    out.write_text("a file where the folder was")
    line.start()
    line.finish(code=1)
    out.unlink()
    out.mkdir()
    (line.state / "status.json").unlink()
    line.start()
    line.wait_inspected(5)
    out.rename(tmp_path / "gone too")
    summary = line.finish(code=1)

    assert balanced(summary["cameras"]["top"])
    assert summary["spool"]["delivered"]
    assert "wait in" in line.log and "sink plant" in line.log
    assert "sink plant: away" in line.cli("status").stdout
    waiting = summary["sinks"]["plant"]["backlog"]
    assert waiting > 0
    assert ("sink_away:plant", True) in [(e["name"], e["active"]) for e in line.events("--type", "alarm")]

    (tmp_path / "gone too").rename(out)
    line.run()
    ids = [e["id"] for name in ("gone/events.jsonl", "out/events.jsonl") for e in lines(tmp_path / name)]
    assert ids == [e["id"] for e in line.events()]


def test_the_alarm_of_a_sink_that_is_taken_out_ends(make_line: Callable[..., Line], make_images: MakeImages, tmp_path: Path) -> None:
    make_images(tmp_path / "images", 5)
    line = make_line(publish={"sinks": {"plant": f"jsonl:{tmp_path / 'events.jsonl'}"}})
    (tmp_path / "events.jsonl").write_text("something else\n")
    line.start()
    line.finish(code=1)
    make_line().run()

    alarms = [(e["name"], e["active"]) for e in line.events("--type", "alarm")]
    assert alarms == [("sink_away:plant", True), ("sink_away:plant", False)]
    assert (tmp_path / "events.jsonl").read_text() == "something else\n"


@pytest.mark.parametrize("second", ["events", "./events", "link", "events.3"])
def test_two_sinks_never_write_one_file(
    make_line: Callable[..., Line], tmp_path: Path, second: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "link").symlink_to("events")
    line = make_line(publish={"sinks": {"one": "jsonl:events?keep=2", "two": f"jsonl:{second}"}})

    assert "give each a file of its own" in line.cli("validate", code=2).stderr


@pytest.mark.parametrize("name", ["spool/events.db", "summary.json", "status.json", "events.jsonl"])
def test_what_lies_in_the_state_folder_is_no_file_for_events(make_line: Callable[..., Line], tmp_path: Path, name: str) -> None:
    (tmp_path / "images").mkdir()
    line = make_line(publish={"sinks": {"plant": f"jsonl:{tmp_path / 'state' / name}"}})

    assert "is in state_dir" in line.cli("validate", code=2).stderr


def test_the_summary_is_no_file_for_events(make_line: Callable[..., Line], make_images: MakeImages, tmp_path: Path) -> None:
    make_images(tmp_path / "images", 1)
    line = make_line(publish={"sinks": {"plant": f"jsonl:{tmp_path / 'summary.json'}"}})
    line.start()
    line.finish(code=2)

    assert "is the file of the sink plant" in line.log


@pytest.mark.parametrize(
    ("name", "sink", "says"),
    [
        ("plant", "jsnl:x", "is not a known sink, or its package is not installed; write jsonl:PATH"),
        ("plant", "jsonl:", "write jsonl:PATH"),
        ("plant", "jsonl:x?keep=0", "keep=0 should be a whole number from 1"),
        ("plant", "jsonl:x?keep=1&keep=2", "an option is given twice"),
        ("plant", f"jsonl:{__file__}", "is no file of events; move it away, or name another"),
        ("plant", "jsonl:x?mode=7", "no option 'mode'; jsonl: takes max_mb, keep"),
        ("plant", "jsonl:/dev/null", "/dev/null is no file"),
        ("plant", "jsonl:/nowhere/x", "no folder /nowhere"),
        ("plant", "jsonl:a\0b", "publish.sinks.plant"),
        ("redis", "jsonl:x", "redis is the sink that publish.redis names; choose another name"),
        ("Plant", "jsonl:x", "publish.sinks"),
    ],
)
def test_a_sink_that_cannot_be_is_refused_in_a_sentence(
    make_line: Callable[..., Line], tmp_path: Path, name: str, sink: str, says: str
) -> None:
    (tmp_path / "images").mkdir()
    line = make_line(publish={"sinks": {name: sink}})

    assert says in line.cli("validate", code=2).stderr
