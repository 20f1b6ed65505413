"""A file of JSON lines: all events in order, each once, whatever is killed, full, gone, or written by others."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodes.publish.spool.spool import Spool
from tests.contract.file_sink import FileSink

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def file(tmp_path: Path) -> Iterator[FileSink]:
    found = FileSink(tmp_path)
    yield found
    found.stop()
    found.spool.close()


def test_every_event_is_a_line_in_order(file: FileSink) -> None:
    file.add(1200)
    file.add(3)
    file.wait_sent()

    assert file.ids() == file.expected
    assert file.path.stat().st_mode & 0o777 == 0o640
    assert file.alarms == []


def test_a_forgotten_watermark_costs_a_look_and_no_second_line(file: FileSink) -> None:
    file.add(700)
    file.wait_sent()
    file.stop()
    with file.spool.database.writing():  # as it was, after a power cut
        file.feed.move(20)
        file.spool.set_fact("note/file/size", sum(len(line) + 1 for line in file.path.read_bytes().splitlines()[:20]))
    file.start()
    file.add(5)
    file.wait_sent()

    assert file.ids() == file.expected


@pytest.mark.parametrize("torn", [1, 9, 60])
def test_a_line_that_was_torn_by_a_kill_is_written_again(file: FileSink, torn: int) -> None:
    file.add(10)
    file.wait_sent()
    file.stop()
    file.add(5)
    with file.path.open("ab") as out:
        out.write(file.feed.unsent(1)[0].data[:torn])
    file.start()
    file.wait_sent()

    assert file.ids() == file.expected


def test_lines_whose_confirmation_was_lost_by_a_kill_are_found_again(file: FileSink) -> None:
    file.add(10)
    file.wait_sent()
    file.stop()
    file.add(5)
    with file.path.open("ab") as out:
        out.write(b"".join(e.data + b"\n" for e in file.feed.unsent(3)))
        out.write(b"somebody's note\n")
    file.start()
    file.wait_sent()

    found = file.path.read_text().splitlines()
    assert [json.loads(line)["id"] for line in found if "note" not in line] == file.expected
    assert found[13] == "somebody's note"


@pytest.mark.parametrize("running", [False, True], ids=["between runs", "in a run"])
@pytest.mark.parametrize("tail", ["operator's notes, not ended", '{"type":"operator"}', '{"type":"alarm","v":2,', "whole\n"])
def test_what_somebody_else_added_stays_and_costs_no_event(file: FileSink, tail: str, running: bool) -> None:
    file.add(10)
    file.wait_sent()
    if not running:
        file.stop()
    with file.path.open("a") as out:
        out.write(tail)
    file.add(5)
    if not running:
        file.start()
    file.wait_sent()

    found = file.path.read_text().splitlines()
    assert found[10] == tail.strip()
    assert [json.loads(line)["id"] for line in found[:10] + found[11:]] == file.expected


@pytest.mark.parametrize("running", [False, True], ids=["between runs", "in a run"])
def test_an_end_of_line_that_an_editor_took_costs_no_event(file: FileSink, running: bool) -> None:
    file.add(10)
    file.wait_sent()
    if not running:
        file.stop()
    os.truncate(file.path, file.path.stat().st_size - 1)
    file.add(5)
    if not running:
        file.start()
    file.wait_sent()

    assert file.ids() == file.expected


def test_an_event_that_somebody_copied_in_skips_none(file: FileSink) -> None:
    file.add(10)
    file.wait_sent()
    file.stop()
    file.add(20)
    newest = file.feed.unsent(99)[-1].data.decode()
    with file.path.open("a") as out:
        out.write(newest + "\n")
    file.start()
    file.wait_sent()

    ids = file.ids()
    assert ids[:10] + ids[11:] == file.expected


def test_a_file_that_takes_the_place_of_another_has_its_rights(tmp_path: Path) -> None:
    file = FileSink(tmp_path, "?max_mb=1")
    file.add(10)
    file.wait_sent()
    os.chown(file.path, -1, 65534)
    file.path.chmod(0o664)
    file.add(15_000)
    file.wait_sent()
    file.add(1)
    file.wait_sent()
    file.stop()

    assert (file.path.parent / "events.jsonl.1").exists()
    assert (file.path.stat().st_gid, file.path.stat().st_mode & 0o777) == (65534, 0o664)
    file.spool.close()


def test_a_link_that_leads_elsewhere_is_followed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    link = tmp_path / "out" / "events.jsonl"
    link.symlink_to("day1")
    file = FileSink(tmp_path)
    file.add(10)
    file.wait_sent()
    link.unlink()
    link.symlink_to("day2")
    file.add(5)
    file.wait_sent()
    file.stop()

    assert file.ids("day1", "day2") == file.expected
    file.spool.close()


def test_files_of_others_are_not_put_away_for_events(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "events.jsonl.1").write_text("my notes")
    file = FileSink(tmp_path, "?max_mb=1&keep=1")
    file.add(15_000)
    file.wait(lambda: "events.jsonl.1 is no file of events" in file.sender.state)
    (tmp_path / "out" / "events.jsonl.1").rename(tmp_path / "out" / "notes")
    file.wait_sent()
    file.stop()

    assert (tmp_path / "out" / "notes").read_text() == "my notes"
    assert file.ids("events.jsonl.1", "events.jsonl") == file.expected
    file.spool.close()


def test_a_disk_that_was_unmounted_is_waited_for(small_disk: Path, tmp_path: Path) -> None:
    file = FileSink(tmp_path)
    file.stop()
    file.path = small_disk / "events.jsonl"
    file.start()
    file.add(5)
    file.wait_sent()
    subprocess.run(["umount", "-l", str(small_disk)], check=True)
    file.add(5)
    file.wait(lambda: "another disk" in file.sender.state)
    file.stop()

    assert list(small_disk.iterdir()) == []
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(small_disk)], check=True)  # for the fixture to take away
    file.spool.close()


def test_a_sink_that_is_new_gets_everything_that_the_spool_has(tmp_path: Path) -> None:
    first = FileSink(tmp_path)
    first.add(30)
    first.wait_sent()
    first.stop()
    first.path.unlink()
    first.feed.move(0)

    first.start()
    first.wait_sent()
    first.stop()

    assert first.ids() == first.expected
    first.spool.close()


def test_what_is_full_is_put_aside_and_the_oldest_goes(tmp_path: Path) -> None:
    file = FileSink(tmp_path, "?max_mb=1&keep=2")
    for _ in range(4):
        file.add(15_000)
        file.wait_sent()
    file.stop()

    names = sorted(p.name for p in file.path.parent.iterdir())
    assert names == ["events.jsonl", "events.jsonl.1", "events.jsonl.2"]
    kept = file.ids("events.jsonl.2", "events.jsonl.1", "events.jsonl")
    assert kept == file.expected[-len(kept) :]
    assert (file.path.parent / "events.jsonl.1").stat().st_size >= 1_000_000
    file.spool.close()


@pytest.mark.parametrize("act", ["moved", "deleted", "moved and another put there"])
def test_a_file_that_somebody_takes_away_is_begun_again(file: FileSink, act: str) -> None:
    file.add(10)
    file.wait_sent()
    if act == "deleted":
        file.path.unlink()
    else:
        file.path.rename(file.path.with_name("events.jsonl.1"))
        if act != "moved":
            file.path.touch()

    file.add(5)
    file.wait_sent()

    assert file.ids() == file.expected[10:]
    assert file.alarms == []


@pytest.mark.parametrize(
    "text",
    ['{"type":"FeatureCollection"', '{"type":"x","id":"y"}\n', "PATH=/usr/bin", "name,count\na,1\n", '{"x": 1}\n', "{}\n{", '[1]\n"x"\n'],
)
def test_a_file_that_holds_something_else_is_not_touched(tmp_path: Path, text: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "events.jsonl").write_text(text)
    file = FileSink(tmp_path)
    file.add(3)
    file.wait(lambda: bool(file.alarms))

    assert file.path.read_text() == text
    assert "move" in file.sender.state

    file.path.rename(file.path.with_name("mine"))
    file.wait_sent()
    file.stop()
    assert file.ids() == file.expected
    file.spool.close()


def test_a_second_writer_waits_until_the_first_has_left(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = FileSink(tmp_path / "a"), FileSink(tmp_path / "b")
    second.stop()
    second.path, second._next = first.path, 100
    first.add(5)
    first.wait_sent()
    second.start()
    second.add(5)
    second.wait(lambda: "holds a lock on" in second.sender.state)
    first.stop()
    second.wait_sent()
    second.stop()

    assert second.ids() == first.expected + second.expected[100:]
    first.spool.close()
    second.spool.close()


def test_a_folder_that_goes_and_comes_back_is_one_alarm(file: FileSink) -> None:
    file.add(5)
    file.wait_sent()
    gone = file.path.parent.with_name("gone")
    file.path.parent.rename(gone)
    file.add(5)
    file.wait(lambda: bool(file.alarms))
    assert file.sender.state.startswith("away: ")
    gone.rename(file.path.parent)
    file.wait_sent()
    file.sender.ending = True
    file.wait(lambda: len(file.alarms) == 2)

    assert file.ids() == file.expected
    assert file.alarms == [("sink_away:file", True), ("sink_away:file", False)]


def test_a_full_disk_tears_no_line(small_disk: Path, tmp_path: Path) -> None:
    file = FileSink(tmp_path)
    file.stop()
    file.path = small_disk / "events.jsonl"
    ballast = small_disk / "ballast"
    room = os.statvfs(small_disk)
    ballast.write_bytes(bytes(room.f_bavail * room.f_frsize - 40_000))
    file.start()
    file.add(2000)
    file.wait(lambda: "No space" in file.sender.state)
    ballast.unlink()
    file.wait_sent()
    file.stop()

    assert [json.loads(line)["id"] for line in file.path.read_text().splitlines()] == file.expected
    file.spool.close()


def test_what_an_fsync_refused_is_taken_out_before_it_is_written_again(file: FileSink, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be read then and may be gone after a power cut: the kernel says so once."""
    file.add(10)
    file.wait_sent()
    before, sizes, sync = file.path.stat().st_size, list[int](), os.fsync

    def refuse_once(fd: int) -> None:
        sizes.append(os.fstat(fd).st_size)
        if len(sizes) == 1:
            raise OSError(errno.EIO, "Input/output error")
        sync(fd)

    monkeypatch.setattr("nodes.publish.sinks.json_lines.os.fsync", refuse_once)
    file.add(5)
    file.wait_sent()

    assert sizes[0] > before == sizes[1]
    assert file.ids() == file.expected


@pytest.mark.parametrize("seed", range(6))
def test_a_sender_killed_at_any_moment_loses_and_repeats_nothing(tmp_path: Path, seed: int) -> None:
    """Also while it puts a file aside: a file is full after few groups."""
    program = f"""
import sys
from pathlib import Path
from nodes.publish.sinks import json_lines
from tests.contract.file_sink import FileSink
json_lines.GROUP = 7
file = FileSink(Path({str(tmp_path)!r}), "?max_mb=1&keep=500")
file.sender.stop(); file.sender.join()
made = json_lines.JsonLinesSink.__init__
def small(self, url, opening):
    made(self, url, opening)
    self._max_bytes = 5000
json_lines.JsonLinesSink.__init__ = small
file._next = int(sys.argv[1])
file.start()
print("ready", flush=True)
for _ in range(400):
    file.add(3)
file.wait_sent()
file.stop()
print("done", flush=True)
"""
    rng, done = random.Random(seed), 0
    for life in range(6):
        child = subprocess.Popen([sys.executable, "-c", program, str(done)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        if life < 5:
            try:
                child.wait(rng.uniform(0.01, 0.4))
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
            child.wait(60)
        else:
            assert child.wait(60) == 0
        child.stdout.close()
        spool = Spool(tmp_path / "events.db", durable=True)
        done = len(spool.behind(0, 100_000))
        spool.close()

    out = tmp_path / "out"
    names = sorted(out.glob("events.jsonl.*"), key=lambda p: -int(p.suffix[1:]))
    lines = [json.loads(line)["id"] for p in [*names, out / "events.jsonl"] for line in p.read_text().splitlines()]
    assert len(lines) == done
    assert lines == [f"id{k}" for k in range(done)][-len(lines) :]
