"""The spool: what was accepted stays, once, under a fixed id, whatever happens to process, clock or file."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nodes.publish.image_archive import ImageArchive
from nodes.publish.sinks.redis.reconcile import StreamIds
from nodes.publish.sinks.sink import Feed
from nodes.publish.spool.database import SpoolTroubleError
from nodes.publish.spool.spool import Spool, lock_spool
from pipeline.core.errors import ConfigError, NodeError
from pipeline.core.events import AlarmEvent, Event
from tests.unit.test_stitching import END, MIDDLE, START, part


def event(k: int) -> Event:
    return AlarmEvent(v=1, id=f"id{k}", line="l", name="n", active=True, text="t", at="now")


class Clock:
    """A monotonic clock that a test moves."""

    ms = 0

    def __call__(self) -> int:
        return self.ms


def open_spool(tmp_path: Path, wall_ms: int = 1000, clock: Callable[[], int] = Clock()) -> Spool:  # noqa: B008
    return Spool(tmp_path / "events.db", durable=True, wall_ms=lambda: wall_ms, clock_ms=clock)


def to_redis(spool: Spool) -> Feed:
    """How far Redis has come."""
    return Feed(spool, "redis")


def test_a_record_is_accepted_once(tmp_path: Path) -> None:
    """A frame judged twice: the first verdict stays, the second is refused."""
    spool = open_spool(tmp_path)

    (first,) = spool.append([("verdict/1", [event(1)])])
    (second,) = spool.append([("verdict/1", [event(2)])])

    assert first is not None and [s.id for s in first] == ["id1"]
    assert second is None
    assert [s.id for s in to_redis(spool).unsent(9)] == ["id1"]


def test_a_record_without_events_counts_too(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)

    assert spool.append([("clean frame", [])]) == [[]]
    assert spool.known("clean frame")


@pytest.mark.parametrize("clock", [[1000, 1000, 5000, 200, 200, 6000]])
def test_stream_ids_grow_whatever_the_clock_does(tmp_path: Path, clock: list[int]) -> None:
    """Set back by hours, or standing still: ids keep growing, also over a restart."""
    ids = []
    for k, wall in enumerate(clock):
        spool = open_spool(tmp_path, wall)
        (rows,) = spool.append([(f"k{k}", [event(2 * k), event(2 * k + 1)])])
        assert rows is not None
        ids += [(s.ms, s.n) for s in rows]
        spool.close()

    assert ids == sorted(set(ids))


def test_what_redis_lost_is_sent_again_and_nothing_else(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.append([(f"k{k}", [event(k)]) for k in range(5)])
    rows = to_redis(spool).unsent(9)
    to_redis(spool).move(rows[-1].seq)

    assert to_redis(spool).rewind(rows[2].seq) == 2
    assert [s.id for s in to_redis(spool).unsent(9)] == ["id3", "id4"]
    assert to_redis(spool).rewind(9_999) == 0


def test_only_ids_that_are_too_small_are_lifted_and_the_order_stays(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.append([(f"k{k}", [event(k)]) for k in range(3)])

    StreamIds(to_redis(spool)).lift(to_redis(spool).unsent(9)[:2], (7000, 4))
    spool.raise_floor((7000, 6))
    spool.append([("later", [event(9)])])
    StreamIds(to_redis(spool)).lift(to_redis(spool).unsent(9)[2:], (7000, 6))

    found = [(s.id, s.ms, s.n) for s in to_redis(spool).unsent(9)]
    assert found == [("id0", 7000, 5), ("id1", 7000, 6), ("id2", 7000, 7), ("id9", 7000, 8)]


DAY_MS = 86_400_000


def test_old_events_go_only_when_redis_has_them(tmp_path: Path) -> None:
    clock = Clock()
    spool = open_spool(tmp_path, clock=clock)
    spool.append([(f"k{k}", [event(k)]) for k in range(3)])
    spool.ages.note()
    to_redis(spool).move(1)
    clock.ms += 8 * DAY_MS
    spool.ages.note()

    spool.ages.purge(7 * DAY_MS, to_redis(spool).sent)

    assert [s.id for s in to_redis(spool).unsent(9)] == ["id1", "id2"]
    assert to_redis(spool).newest_sent() is None
    assert not spool.known("k0")


def test_a_step_of_the_clock_makes_nothing_old(tmp_path: Path) -> None:
    """Ten days forward or back on the wall clock, also over a restart: age counts the time that the spool was open."""
    clock = Clock()
    for k, wall in enumerate([1000, 1000 + 10 * DAY_MS, 500]):
        spool = open_spool(tmp_path, wall, clock)
        spool.append([(f"k{k}", [event(k)])])
        to_redis(spool).move(k + 1)
        clock.ms += DAY_MS
        spool.ages.note()
        spool.ages.purge(7 * DAY_MS, to_redis(spool).sent)
        spool.close()
        clock.ms += 30 * DAY_MS  # the line stands still

    spool = open_spool(tmp_path, 500, clock)
    assert to_redis(spool).rewind(0) == 3
    assert spool.ages.now_ms == 3 * DAY_MS

    clock.ms += 5 * DAY_MS
    to_redis(spool).move(3)
    spool.ages.note()
    spool.ages.purge(7 * DAY_MS, to_redis(spool).sent)
    assert to_redis(spool).rewind(0) == 2


def test_a_spool_of_the_version_before_is_taken_over(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "events.db", isolation_level=None)
    db.executescript(
        "CREATE TABLE records (key TEXT PRIMARY KEY, at_ms INTEGER NOT NULL) WITHOUT ROWID;"
        "CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT,"
        " id TEXT NOT NULL UNIQUE, type TEXT NOT NULL, ms INTEGER NOT NULL, n INTEGER NOT NULL, data BLOB NOT NULL);"
        "CREATE TABLE held (id TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;"
        "CREATE TABLE facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
        "INSERT INTO records VALUES ('k0', 1700000000000);"
        "INSERT INTO events VALUES (1, 'id0', 'alarm', 1700000000000, 0, x'78');"
        "PRAGMA user_version=1;"
    )
    db.close()

    spool = open_spool(tmp_path)

    assert spool.known("k0")
    assert [s.id for s in to_redis(spool).unsent(9)] == ["id0"]


def test_a_spool_of_a_later_version_is_refused(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "events.db")
    db.execute("PRAGMA user_version=99")
    db.close()

    with pytest.raises(ConfigError, match="use the version that wrote it"):
        open_spool(tmp_path)


def test_what_was_accepted_survives_a_kill(tmp_path: Path) -> None:
    """The process says each record that append returned for, and is killed in the middle of the next ones."""
    program = f"""
import sys
from pathlib import Path
from tests.contract.test_spool import event, open_spool
spool = open_spool(Path({str(tmp_path)!r}))
for k in range(100_000):
    spool.append([(f"k{{k}}", [event(k)])])
    print(k, flush=True)
"""
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=root)
    assert process.stdout is not None
    for _ in range(50):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    said = [int(line) for line in process.stdout.read().splitlines() if line]
    process.stdout.close()
    process.wait()
    accepted = max([49, *said])

    kept = {s.id for s in to_redis(open_spool(tmp_path)).unsent(200_000)}

    assert {f"id{k}" for k in range(accepted + 1)} <= kept


def test_a_line_has_one_publisher(tmp_path: Path) -> None:
    fd = lock_spool(tmp_path / "events.db")

    with pytest.raises(NodeError, match="another publish node"):
        lock_spool(tmp_path / "events.db")
    os.close(fd)
    os.close(lock_spool(tmp_path / "events.db"))


def test_a_full_disk_accepts_nothing_and_says_so(tmp_path: Path) -> None:
    """No half-accepted group: once there is room again, the same records are new."""
    spool = open_spool(tmp_path)
    spool.append([("before", [event(0)])])
    spool.database.change(f"PRAGMA max_page_count={spool.database.row('PRAGMA page_count')[0]}")
    many = [(f"k{k}", [event(k)]) for k in range(1, 400)]

    with pytest.raises(SpoolTroubleError, match="disk") as caught:
        spool.append(many)
    assert caught.value.full
    spool.database.change("PRAGMA max_page_count=100000")

    assert None not in spool.append(many)
    assert [s.id for s in to_redis(spool).unsent(1000)] == [f"id{k}" for k in range(400)]


def test_a_locked_spool_accepts_nothing_and_goes_on_afterwards(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    other = sqlite3.connect(tmp_path / "events.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")

    with pytest.raises(SpoolTroubleError, match="locked") as caught:
        spool.append([("k1", [event(1)])])
    assert not caught.value.full
    other.execute("ROLLBACK")
    other.close()

    assert spool.append([("k1", [event(1)])]) != [None]


def test_images_stay_within_their_quota_and_the_newest_stay(tmp_path: Path) -> None:
    archive = ImageArchive(tmp_path, quota_bytes=1000)
    for k in range(8):
        archive.keep(f"top/scratches/{k}.png", bytes(300))

    assert {p.stem for p in tmp_path.rglob("*.png")} == {"5", "6", "7"}

    ImageArchive(tmp_path, quota_bytes=1000).keep("top/patches/8.png", bytes(500))
    assert sum(p.stat().st_size for p in tmp_path.rglob("*.png")) <= 1000
    assert (tmp_path / "top/patches/8.png").exists()


def test_a_held_piece_survives_until_the_event_that_it_is_part_of(tmp_path: Path) -> None:
    """A publish node that is killed between the two frames of a defect finds the first part again."""
    spool = open_spool(tmp_path)
    parts = [part(5, END), part(6, START)]
    spool.append([("verdict/5", []), ("verdict/6", [])], {"verdict/5": parts[:1], "verdict/6": parts[1:]})
    assert spool.append([("verdict/5", [])], {"verdict/5": [part(5, MIDDLE)]}) == [None]
    spool.close()

    again = open_spool(tmp_path)
    assert sorted(again.held(), key=lambda p: p.frame) == parts
    assert to_redis(again).unsent(9) == []
    (spooled,) = again.settle([(parts[0], [p.id for p in parts])])

    assert spooled is not None and [s.id for s in to_redis(again).unsent(9)] == [spooled.id] == [parts[0].id]
    assert again.held() == []
