"""What holds for every sink, and for a file of JSON lines: all events in order, each once, whatever is killed, full or gone."""

import errno
import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodes.publish.sinks.json_lines import JSON_LINES
from nodes.publish.sinks.sender import Sender
from nodes.publish.sinks.sink import Feed, SinkOpening
from nodes.publish.spool.spool import Spool
from pipeline.config.urls import SinkUrl
from tests.contract.test_spool import event

ROOT = Path(__file__).resolve().parents[2]


def json_lines(path: Path, spool: Path, alarm: Callable[[str, bool, str], None], options: str = "") -> Sender:
    url = SinkUrl.parse(f"jsonl:{path}{options}")
    return Sender("file", f"The sink file ({path})", spool, lambda opening: JSON_LINES.open(url, opening), alarm=alarm)


class FileSink:
    """A spool, a sender to ``out/events.jsonl``, and the alarms that it raised."""

    def __init__(self, folder: Path, options: str = "") -> None:
        self.path, self._options, self._folder = folder / "out" / "events.jsonl", options, folder
        self.path.parent.mkdir(exist_ok=True)
        self.spool = Spool(folder / "events.db", durable=True)
        self.feed = Feed(self.spool, "file")
        self.alarms: list[tuple[str, bool]] = []
        self._changed = threading.Event()
        self._next = 0
        self.start()

    def start(self) -> None:
        self.sender = json_lines(self.path, self._folder / "events.db", self._alarm, self._options)

    def stop(self) -> None:
        self.sender.stop()
        self.sender.join()
        assert self.sender.failed is None

    def _alarm(self, name: str, active: bool, text: str) -> None:
        self.alarms.append((name, active))
        self._changed.set()

    def add(self, count: int) -> None:
        self.spool.append([(f"k{k}", [event(k)]) for k in range(self._next, self._next + count)])
        self._next += count
        self.sender.wake()

    def wait(self, condition: Callable[[], bool]) -> None:
        for _ in range(400):
            if condition():
                return
            self._changed.wait(0.05)
            self._changed.clear()
        raise AssertionError((self.sender.state, self.sender.failed, self.alarms, self.feed.backlog))

    def wait_sent(self) -> None:
        self.wait(lambda: self.feed.backlog == 0)

    def ids(self, *names: str) -> list[str]:
        """Of the events in these files, in this order."""
        texts = [(self.path.parent / name).read_text() for name in names or ("events.jsonl",)]
        return [json.loads(line)["id"] for text in texts for line in text.splitlines()]

    @property
    def expected(self) -> list[str]:
        return [f"id{k}" for k in range(self._next)]


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
    file.feed.move(20)
    file.start()
    file.add(5)
    file.wait_sent()

    assert file.ids() == file.expected


@pytest.mark.parametrize("torn", [1, 9, 60])
def test_a_line_that_was_torn_by_a_kill_is_written_anew(file: FileSink, torn: int) -> None:
    file.add(10)
    file.wait_sent()
    file.stop()
    with file.path.open("ab") as out:
        out.write((b'{"type":"alarm","v":1,"id":"id10","line":"' + b"l" * 60)[:torn])
    file.start()
    file.add(5)
    file.wait_sent()

    assert file.ids() == file.expected


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
def test_a_file_that_somebody_takes_away_is_begun_anew(file: FileSink, act: str) -> None:
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


@pytest.mark.parametrize("text", ["PATH=/usr/bin", "name,count\na,1\n", '{"x": 1}\n', "{}\n{", '[1]\n"x"\n'])
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
    second.wait(lambda: "another process writes" in second.sender.state)
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


class Script:
    """A sink that does one thing after another, then nothing more."""

    def __init__(self, feed: Feed, *acts: str) -> None:
        self._feed, self._acts = feed, list(acts)

    def connect(self) -> None:
        pass

    def turn(self) -> bool:
        act = self._acts.pop(0) if self._acts else "idle"
        if act == "raise":
            raise OSError("away")
        if act == "take":
            self._feed.confirm(self._feed.unsent(100))
        return act == "take"

    def close(self) -> None:
        pass


def test_an_outage_ends_although_nothing_comes_to_be_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It failed again just after it had taken everything; on a standing strip no further event comes."""
    monkeypatch.setattr("nodes.publish.sinks.sender.SETTLED_S", 0.0)
    monkeypatch.setattr("nodes.publish.sinks.sender.LOOK_S", 0.01)
    spool = Spool(tmp_path / "events.db", durable=True)
    spool.append([("k", [event(1)])])
    alarms: queue.SimpleQueue[tuple[str, bool, str]] = queue.SimpleQueue()
    path = tmp_path / "events.db"
    sender = Sender("s", "It", path, lambda o: Script(o.feed, "raise", "take", "raise", "raise"), alarm=lambda *a: alarms.put(a))

    told = [alarms.get(timeout=20)[1] for _ in range(4)]
    sender.stop()
    sender.join()

    assert told == [True, False, True, False]
    spool.close()


@pytest.mark.parametrize("seed", range(6))
def test_a_sender_killed_at_any_moment_loses_and_repeats_nothing(tmp_path: Path, seed: int) -> None:
    """Also while it puts a file aside: a file is full after few groups."""
    program = f"""
import sys
from pathlib import Path
from nodes.publish.sinks import json_lines
from tests.contract.test_sinks import FileSink
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


class Odd:
    """A sink that fails in its own way."""

    def __init__(self, feed: Feed, error: BaseException | None) -> None:
        self._feed, self._error = feed, error
        self.stuck = threading.Event()

    def connect(self) -> None:
        pass

    def turn(self) -> bool:
        if self._error is not None:
            raise self._error
        self.stuck.wait(60)
        self._feed.confirm(self._feed.unsent(5))
        return False

    def close(self) -> None:
        raise KeyError("closing fails too")


class UntellableError(Exception):
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError("no \udcff name"), "no \\udcff name"),
        (UntellableError(), "UntellableError: it cannot be told"),
        (OSError(), "OSError: "),
        (ValueError("x" * 9999), "ValueError: xxx"),
        (SystemExit(3), "SystemExit: 3"),
    ],
    ids=["surrogate", "untellable", "empty", "long", "exit"],
)
def test_whatever_a_sink_raises_can_be_told(tmp_path: Path, error: BaseException, says: str) -> None:
    spool = Spool(tmp_path / "events.db", durable=True)
    alarms: queue.SimpleQueue[tuple[str, bool, str]] = queue.SimpleQueue()
    sender = Sender("odd", "The sink odd", tmp_path / "events.db", lambda o: Odd(o.feed, error), alarm=lambda *a: alarms.put(a))
    name, active, text = alarms.get(timeout=20)
    sender.stop()
    sender.join()

    assert (name, active) == ("sink_away:odd", True)
    assert f"The sink odd does not take events ({says}" in text
    assert len(text.encode()) < 1000
    assert sender.failed is None
    spool.close()


def test_a_sink_that_does_not_come_back_counts_as_away_until_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.publish.sinks.sender.HUNG_S", 0.05)
    spool = Spool(tmp_path / "events.db", durable=True)
    spool.append([("k", [event(1)])])
    alarms: queue.SimpleQueue[tuple[str, bool, str]] = queue.SimpleQueue()
    made: list[Odd] = []

    def open_sink(opening: SinkOpening) -> Odd:
        made.append(Odd(opening.feed, None))
        return made[0]

    sender = Sender("odd", "The sink odd", tmp_path / "events.db", open_sink, alarm=lambda *a: alarms.put(a))
    while alarms.empty():
        sender.look()
    assert "has not come back" in alarms.get()[2]
    sender.ending = True
    made[0].stuck.set()
    assert alarms.get(timeout=20)[:2] == ("sink_away:odd", False)
    sender.stop()
    sender.join()
    assert Feed(spool, "odd").backlog == 0
    spool.close()
