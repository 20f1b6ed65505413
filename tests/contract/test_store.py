"""What was accepted stays in sight: whatever fails in or after a commit, each record is counted, told and published."""

import errno
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nodes.publish.record_store import Store
from nodes.publish.spool.database import SpoolTroubleError
from nodes.publish.spool.salvage import open_spool
from pipeline.config import Publish
from pipeline.core.errors import NodeError
from pipeline.core.frame import Defect, ModelId, Verdict
from tests.contract.test_publish_trouble import fill, gap
from tests.contract.test_spool import to_redis
from tests.unit.frames import meta
from tests.unit.test_stitching import CONFIG, END, MIDDLE, Box

SECOND = 1_000_000_000


class Shop:
    """A store over a spool, with a clock that a test moves."""

    def __init__(self, state: Path, publish: Publish = Publish()) -> None:  # noqa: B008
        self.path = state / "spool" / "events.db"
        self.spool, self.news = open_spool(self.path)
        config = msgspec.structs.replace(CONFIG, state_dir=str(state), publish=publish)
        self.alarms: list[tuple[str, bool]] = []
        self.store = Store(config, self.spool, self.path, logging.getLogger("test"), lambda name, on, _: self.alarms.append((name, on)))
        self._now = time.monotonic_ns()

    def turn(self, seconds: float = 1.0, *, ending: bool = False) -> set[str]:
        """The keys that are told to be durable."""
        self._now += int(seconds * SECOND)
        return {key for keys in self.store.turn(self._now, ending=ending).values() for key in keys}

    def offer(self, *records: Any) -> None:
        for record in records:
            self.store.offer(b"sender", record)


def verdict(frame: int, box: Box = MIDDLE) -> Verdict:
    defect = Defect(label="scratches", score=0.9, scores={"scratches": 0.9}, box_px=box, png=b"png")
    return Verdict(meta=meta(frame), attempt=1, model=ModelId(name="m", digest="d"), tiles=4, defects=(defect,))


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    found = Shop(tmp_path / "state")
    yield found
    found.spool.close()


def failing_once(function: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    errors = [error]

    def call(*args: Any) -> Any:
        if errors:
            raise errors.pop()
        return function(*args)

    return call


def test_a_note_that_cannot_be_written_after_a_commit_loses_no_piece(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", failing_once(os.pwrite, OSError(errno.EIO, "Input/output error")))
    shop.offer(verdict(3, END))

    assert shop.turn() == {verdict(3).key}
    shop.turn(10)

    assert shop.spool.held() == []
    assert shop.store.counts == {"defect": 1}
    assert (shop.store.frames, shop.store.duplicates) == (1, 0)


def test_a_question_that_fails_after_a_commit_loses_no_piece(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two senders of one verdict are told which one stands: the spool is asked for it after the commit."""
    monkeypatch.setattr(shop.spool, "present", failing_once(shop.spool.present, SpoolTroubleError("locked")))
    shop.store.offer(b"another", verdict(3, END))
    shop.offer(verdict(3, END), verdict(4))

    assert shop.turn() == set()
    assert shop.turn() == {verdict(3).key, verdict(4).key}
    shop.turn(10)

    assert shop.spool.held() == []
    assert shop.store.counts == {"defect": 2}
    assert shop.store.frames == 2


def test_an_event_that_is_old_goes_only_when_every_sink_has_it(tmp_path: Path) -> None:
    """A sink of an earlier configuration holds nothing back."""
    shop = Shop(tmp_path / "state", Publish(sinks={"plant": "jsonl:x"}, keep_days=1e-6))
    shop.offer(*[gap(2 * k) for k in range(5)])
    shop.turn(120)
    for sink, seq in (("redis", 5), ("plant", 2), ("removed", 0)):
        shop.spool.set_watermark(sink, seq)
    time.sleep(0.1)  # more than keep_days
    shop.turn(120)

    assert [e.seq for e in shop.spool.behind(0, 9)] == [3, 4, 5]
    shop.spool.close()


def use_up(folder: Path) -> list[Path]:
    """Make files until there is no room for one more."""
    made: list[Path] = []
    while True:
        path = folder / f"file{len(made)}"
        try:
            path.touch()
        except OSError:
            return made
        made.append(path)


def test_a_deleted_spool_that_cannot_be_written_again_is_held_until_it_can(few_files: Path) -> None:
    shop = Shop(few_files / "state")
    shop.offer(*[gap(2 * k) for k in range(50)])
    shop.turn()
    shutil.rmtree(few_files / "state")
    files = use_up(few_files)

    shop.turn()
    assert "cannot be written again" in shop.store.trouble or shop.alarms == [("disk_full", True)]
    late = [gap(2 * k) for k in range(50, 60)]
    shop.offer(*late)
    assert shop.turn() == set()  # nobody is told, so the senders hold them too
    assert shop.store.waiting == 10
    for file in files:
        file.unlink()
    with pytest.raises(NodeError, match="was written again"):
        shop.turn()
    shop.spool.close()

    spool, news = open_spool(shop.path)
    assert "LOST" not in news
    assert len(to_redis(spool).unsent(100)) == 60
    spool.close()


def test_a_full_disk_is_one_alarm_until_somebody_makes_room(small_disk: Path) -> None:
    """The room that was given back for gaps is no sign that there is room again."""
    shop = Shop(small_disk / "state")
    shop.turn()
    fill(small_disk)
    for k in range(60):
        shop.offer(verdict(k))
        shop.turn()
    assert shop.alarms == [("disk_full", True)]
    assert shop.store.waiting > 0

    (small_disk / "ballast").unlink()
    shop.turn()
    shop.turn()

    assert shop.alarms == [("disk_full", True), ("disk_full", False)]
    assert shop.store.waiting == 0
    shop.spool.close()


def test_at_the_end_parts_become_events_although_the_disk_is_full(small_disk: Path) -> None:
    shop = Shop(small_disk / "state")
    shop.offer(verdict(3, END))
    shop.turn(0.1)
    assert shop.store.held == 1
    fill(small_disk)
    big = msgspec.structs.replace(verdict(9), defects=(msgspec.structs.replace(verdict(9).defects[0], png=bytes(1 << 20)),))
    shop.offer(big)
    shop.turn(0.1)
    assert shop.alarms == [("disk_full", True)]

    shop.offer(gap(100))
    shop.store._waiting.pop(big.key)  # its sender has left
    for _ in range(3):
        shop.turn(ending=True)

    assert shop.store.held == 0
    assert sorted(s.type for s in to_redis(shop.spool).unsent(9)) == ["defect", "gap"]
    shop.spool.close()


def test_parts_that_cannot_become_events_count_until_the_next_run_publishes_them(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "state")
    shop.offer(verdict(3, END))
    shop.turn(0.1)
    other = sqlite3.connect(shop.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")

    shop.turn(ending=True)

    assert shop.store.held == 1
    other.execute("ROLLBACK")
    other.close()
    shop.spool.close()
    again = Shop(tmp_path / "state")
    assert again.store.held == 1
    again.turn(10)
    assert [s.type for s in to_redis(again.spool).unsent(9)] == ["defect"]
    again.spool.close()
