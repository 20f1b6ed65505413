"""A publish node in trouble: disk full, spool locked, deleted or damaged. It stays up or comes back, and loses nothing."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nodes.publish.node import publish
from pipeline.client import Events
from pipeline.config import Config, Publish
from pipeline.config.topology import find_process
from pipeline.core.errors import NodeError
from pipeline.core.frame import Alarm, Defect, Gap, ModelId, Publishable, Verdict
from pipeline.core.status import Facts, NodeState
from pipeline.runtime.node import NodeContext
from pipeline.transport.messages import Submit
from pipeline.transport.outbox import Outbox
from pipeline.transport.sockets import Router
from tests.conftest import Server
from tests.unit.frames import meta
from tests.unit.test_stitching import CONFIG, END, MIDDLE, Box

WAIT_S = 40.0


def verdict(frame: int, box: Box = MIDDLE) -> Verdict:
    defect = Defect(label="scratches", score=0.9, scores={"scratches": 0.9}, box_px=box, png=bytes(20_000))
    return Verdict(meta=meta(frame), attempt=1, model=ModelId(name="m", digest="d"), tiles=4, defects=(defect,))


def gap(frame: int) -> Gap:
    return Gap(camera="top", epoch="e1", first=frame, last=frame, reason="full", at_ns=1)


def alarm(name: str, active: bool) -> Alarm:
    return Alarm(name=name, active=active, text="because", at_ns=int(active))


class Watched(NodeContext):
    """A node whose last heartbeat a test can read."""

    last: dict[str, Any]

    def beat(self, state: NodeState, facts: Callable[[], Facts] = Facts, *, now: bool = False) -> None:
        super().beat(state, facts, now=now)
        self.last = {"state": state, **msgspec.structs.asdict(facts())}


class Publisher:
    """A publish node in a thread, and one that submits to it."""

    node: NodeContext

    def __init__(self, config: Config, folder: Path) -> None:
        self.config, self._folder = config, folder
        self.error: BaseException | None = None
        self.start()
        self._outbox = Outbox(self.node.endpoints.publish)
        self.durable: list[str] = []

    def start(self) -> None:
        self.node = Watched(self.config, find_process(self.config, "publish"), self._folder)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            publish(self.node)
        except NodeError as exc:
            self.error = exc
        finally:
            self.node.close()

    def submit(self, *records: Publishable) -> None:
        for record in records:
            self._outbox.submit(record, time.monotonic_ns(), lambda _, key=record.key: self.durable.append(key))  # type: ignore[misc]

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            self._outbox.turn(time.monotonic_ns())
            assert time.monotonic() < deadline, (what, self._last(), self.error)
            time.sleep(0.01)

    def facts(self, name: str) -> str:
        return str(self._last().get(name, ""))

    def _last(self) -> dict[str, Any]:
        """The last heartbeat; nothing is known of a node in a process of its own."""
        return getattr(self.node, "last", {})

    def lose(self, *records: Publishable) -> None:
        """Submit to a publish process that takes them and dies before they are durable."""
        self.end()
        dying, taken = Router(self.node.endpoints.publish), list[str]()
        self.submit(*records)

        def all_taken() -> bool:
            taken.extend(message.record.key for _, message, _ in dying.receive() if isinstance(message, Submit))
            return {r.key for r in records} <= set(taken)

        self.wait(all_taken, "records under way")
        dying.close()

    def wait_durable(self, *records: Publishable) -> None:
        self.wait(lambda: {r.key for r in records} <= set(self.durable), "durable")

    def wait_ended(self) -> None:
        self.wait(lambda: not self._thread.is_alive(), "the node's end")

    def end(self) -> None:
        if self._thread.is_alive():
            self.node.stop()
            self.wait_ended()

    def close(self) -> None:
        self.end()
        self._outbox.dealer.close()

    def stream(self) -> list[dict[str, Any]]:
        with Events(self.config.publish.redis, self.config.stream) as events:
            return list(events.read())

    def alarms(self) -> list[tuple[str, bool]]:
        return [(e["name"], e["active"]) for e in self.stream() if e["type"] == "alarm"]

    def frames(self, kind: str = "defect") -> list[int]:
        return [e["frame" if "frame" in e else "first"] for e in self.stream() if e["type"] == kind]


@pytest.fixture
def make(server: Server, tmp_path: Path) -> Iterator[Callable[[Path], Publisher]]:
    made: list[Publisher] = []

    def start(state: Path) -> Publisher:
        config = msgspec.structs.replace(CONFIG, state_dir=str(state), publish=Publish(redis=server.url))
        made.append(Publisher(config, tmp_path))
        return made[-1]

    yield start
    for publisher in made:
        publisher.close()


def fill(folder: Path) -> None:
    """Take every byte that is left."""
    with (folder / "ballast").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 9):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def test_on_a_full_disk_verdicts_wait_and_gaps_are_recorded(make: Callable[[Path], Publisher], small_disk: Path) -> None:
    publisher = make(small_disk / "state")
    publisher.submit(*[verdict(k) for k in range(10)])
    publisher.wait_durable(*[verdict(k) for k in range(10)])
    fill(small_disk)

    waiting = [verdict(k) for k in range(10, 30)]
    publisher.submit(*waiting)
    publisher.wait(lambda: "full" in publisher.facts("spool"), "the node's word that the disk is full")
    gaps = [gap(k) for k in range(100, 200)]
    publisher.submit(*gaps)
    publisher.wait_durable(*gaps)
    assert not {v.key for v in waiting} & set(publisher.durable)
    publisher.wait(lambda: ("disk_full", True) in publisher.alarms(), "the alarm, although the disk is full")

    (small_disk / "ballast").unlink()
    publisher.wait_durable(*waiting)
    publisher.wait(lambda: ("disk_full", False) in publisher.alarms(), "the alarm's end")
    publisher.end()

    assert publisher.error is None
    assert publisher.frames() == list(range(30))
    assert publisher.frames("gap") == list(range(100, 200))
    assert all((small_disk / "state" / "images" / e["image"]).stat().st_size == 20_000 for e in publisher.stream() if e["type"] == "defect")
    assert [a for a in publisher.alarms() if a[0] == "disk_full"] == [("disk_full", True), ("disk_full", False)]


def test_a_node_that_starts_on_a_full_disk_waits_for_room(make: Callable[[Path], Publisher], small_disk: Path) -> None:
    first = make(small_disk / "state")
    first.submit(verdict(0))
    first.wait_durable(verdict(0))
    first.end()
    (small_disk / "state" / "spool" / "reserve").unlink()
    fill(small_disk)

    first.start()
    first.submit(verdict(1))
    first.wait(lambda: "full" in first.facts("spool"), "the node's word that the disk is full")
    (small_disk / "ballast").unlink()
    first.wait_durable(verdict(1))
    first.end()

    assert first.error is None
    assert first.frames() == [0, 1]


@pytest.mark.parametrize("begun", [True, False], ids=["while it runs", "before it starts"])
def test_a_lock_on_the_spool_is_waited_for(make: Callable[[Path], Publisher], tmp_path: Path, begun: bool) -> None:
    """Longer than any busy timeout: nothing is durable meanwhile, the work loop turns, and it is told afterwards."""
    publisher = make(tmp_path / "state")
    publisher.submit(verdict(0))
    publisher.wait_durable(verdict(0))
    if not begun:
        publisher.end()
    db = sqlite3.connect(tmp_path / "state" / "spool" / "events.db", isolation_level=None)
    db.execute("BEGIN EXCLUSIVE")
    if not begun:
        publisher.start()
    since = time.monotonic()

    publisher.submit(*[verdict(k) for k in range(1, 20)])
    publisher.wait(lambda: "locked" in publisher.facts("spool") and time.monotonic() > since + 4, "four seconds of a lock")
    assert publisher.durable == [verdict(0).key]
    db.execute("ROLLBACK")
    db.close()
    publisher.wait_durable(*[verdict(k) for k in range(20)])
    publisher.wait(lambda: publisher.facts("spool") == "ok", "the end of the trouble")
    publisher.end()

    assert publisher.error is None
    assert publisher.frames() == list(range(20))
    if begun:
        assert [a for a in publisher.alarms() if a[0] == "spool_stuck"] == [("spool_stuck", True), ("spool_stuck", False)]


def test_a_spool_deleted_while_the_line_runs_is_written_again(make: Callable[[Path], Publisher], tmp_path: Path) -> None:
    publisher = make(tmp_path / "state")
    records = [verdict(k) for k in range(20)]
    publisher.submit(*records[:10])
    publisher.wait_durable(*records[:10])
    for file in (tmp_path / "state" / "spool").glob("events.db*"):
        file.unlink()

    publisher.submit(*records[10:])
    publisher.wait_ended()
    assert "deleted or replaced" in str(publisher.error)
    publisher.error = None
    publisher.start()  # as the supervisor does
    publisher.wait_durable(*records)
    publisher.end()

    assert publisher.error is None
    assert publisher.frames() == list(range(20))
    assert ("spool_damaged", True) in publisher.alarms()
    db = sqlite3.connect(tmp_path / "state" / "spool" / "events.db")
    assert db.execute("SELECT count(*) FROM events WHERE type = 'defect'").fetchone() == (20,)
    db.close()


def test_a_piece_that_is_no_event_yet_counts_as_not_delivered(
    make: Callable[[Path], Publisher], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The summary says `delivered` only of a backlog of nothing."""
    monkeypatch.setattr("nodes.publish.join_frames.HOLD_NS", 10**15)
    publisher = make(tmp_path / "state")
    publisher.submit(verdict(3, END))
    publisher.wait_durable(verdict(3))

    publisher.wait(lambda: publisher.facts("backlog") == "1" and publisher.facts("redis") == "up", "the part in the backlog")
    publisher.end()

    assert publisher.facts("backlog") == "0"
    assert publisher.frames() == [3]


def test_what_a_sender_says_later_does_not_overtake_what_a_dead_publish_node_had(make: Callable[[Path], Publisher], tmp_path: Path) -> None:
    """An alarm's end before its beginning would leave it on for ever."""
    publisher = make(tmp_path / "state")
    publisher.submit(gap(1))
    publisher.wait_durable(gap(1))
    publisher.lose(alarm("redis_died", True), gap(2))
    later: list[Publishable] = [alarm("redis_died", False), *[gap(k) for k in range(3, 3000)]]
    publisher.submit(*later)

    publisher.start()
    publisher.wait_durable(gap(2), *later)
    publisher.end()

    assert publisher.alarms() == [("redis_died", True), ("redis_died", False)]
    assert publisher.frames("gap") == list(range(1, 3000))
