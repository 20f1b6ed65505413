"""What holds for every sink, whatever it does."""

import queue
import threading
import time
from pathlib import Path

import pytest

from nodes.publish.sinks.sender import Sender
from nodes.publish.sinks.sink import Feed, SinkOpening
from nodes.publish.spool.spool import Spool
from tests.contract.test_spool import event


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
        (UntellableError(), "UntellableError: its text cannot be read"),
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


def test_a_sink_that_always_says_it_works_and_confirms_nothing_counts_as_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.publish.sinks.sender.HUNG_S", 0.05)
    spool = Spool(tmp_path / "events.db", durable=True)
    spool.append([("k", [event(1)])])
    alarms: queue.SimpleQueue[tuple[str, bool, str]] = queue.SimpleQueue()

    class Busy(Odd):
        def turn(self) -> bool:
            return True

    sender = Sender("busy", "The sink busy", tmp_path / "events.db", lambda o: Busy(o.feed, None), alarm=lambda *a: alarms.put(a))
    while alarms.empty():
        sender.look()
    assert "says that it works, and has confirmed nothing" in alarms.get()[2]
    sender.wake()  # as whenever an event is stored
    while sender._wake.is_set():  # else no pause would ever last
        assert sender.failed is None
    sender.stop()
    sender.join()
    spool.close()


def test_a_busy_sink_for_which_no_event_waits_is_not_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.publish.sinks.sender.HUNG_S", 0.05)
    spool = Spool(tmp_path / "events.db", durable=True)
    alarms: queue.SimpleQueue[tuple[str, bool, str]] = queue.SimpleQueue()
    turns: list[float] = []

    class Busy(Odd):
        def turn(self) -> bool:
            turns.append(time.monotonic())
            return True

    sender = Sender("busy", "The sink busy", tmp_path / "events.db", lambda o: Busy(o.feed, None), alarm=lambda *a: alarms.put(a))
    while not turns or turns[-1] - turns[0] < 0.2:
        sender.look()
    sender.stop()
    sender.join()

    assert alarms.empty()
    spool.close()


def test_notes_and_watermark_move_together_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path / "events.db", durable=True)
    spool.append([("k", [event(1)])])
    feed = Feed(spool, "s")
    feed.confirm([], {"size": 3})

    def killed(sink: str, seq: int) -> None:
        raise KeyboardInterrupt

    events = feed.unsent(1)
    with monkeypatch.context() as patch:
        patch.setattr(spool, "set_watermark", killed)
        with pytest.raises(KeyboardInterrupt):
            feed.confirm(events, {"size": 70})

    assert (feed.note("size"), feed.sent) == (3, 0)
    feed.confirm(events, {"size": 70})
    assert (feed.note("size"), feed.sent) == (70, 1)
    spool.close()
