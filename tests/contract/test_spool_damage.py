"""A damaged spool is set aside, what can be read is carried over, and what is lost is told with its bounds."""

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nodes.publish.spool.database import Database, SpoolDamagedError
from nodes.publish.spool.salvage import flag_path, open_spool, rescue
from nodes.publish.spool.spool import Spool
from tests.contract.test_spool import event, to_redis
from tests.unit.test_stitching import END, part

ROOT = Path(__file__).parents[2]
COUNT = 2000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return spooled(tmp_path / "spool" / "events.db")


def spooled(path: Path) -> Path:
    """A spool with events, of which Redis has half, and a part that is held."""
    spool, news = open_spool(path)
    assert news == ""
    spool.append([("part", [])], {"part": [part(5, END)]})
    for start in range(0, COUNT, 100):
        spool.append([(f"k{k}", [event(k)]) for k in range(start, start + 100)])
    to_redis(spool).move(COUNT // 2)
    spool.close()
    return path


def ids(spool: Spool) -> list[str]:
    return [s.id for s in to_redis(spool).unsent(2 * COUNT)]


def expected() -> list[str]:
    return [f"id{k}" for k in range(COUNT // 2, COUNT)]


def test_a_whole_spool_is_opened_without_a_word(path: Path) -> None:
    spool, news = open_spool(path)

    assert news == ""
    assert ids(spool) == expected()


@pytest.mark.parametrize("what", ["garbage", "header", "nothing"])
def test_a_file_that_is_no_spool_is_set_aside_as_it_is(path: Path, what: str) -> None:
    data = path.read_bytes()
    data = {"garbage": b"precious data" * 100, "header": bytes(100) + data[100:], "nothing": b""}[what]
    path.write_bytes(data)

    spool, news = open_spool(path)

    (aside,) = path.parent.glob("events.db.damaged-*")
    assert aside.read_bytes() == data or what == "nothing"
    assert aside.name in news
    if what == "header":  # all but the first page's head can be read
        assert "LOST" not in news
        assert ids(spool) == expected()
        assert [p.frame for p in spool.held()] == [5]
    else:
        assert f"LOST: numbers {COUNT // 2 + 1} to {COUNT}" in news
        assert ids(spool) == []
    assert to_redis(spool).sent == COUNT // 2
    ((added,),) = spool.append([("new", [event(9999)])])  # type: ignore[misc]
    assert added.seq == COUNT + 1


@pytest.mark.parametrize("seed", range(5))
def test_of_damaged_pages_the_others_are_carried_over_and_the_rest_is_counted(path: Path, seed: int) -> None:
    rng = random.Random(seed)
    size = path.stat().st_size
    with path.open("r+b") as file:
        for _ in range(4):
            file.seek(rng.randrange(4096, size - 4096))
            file.write(rng.randbytes(2000))

    spool, news = open_spool(path)

    assert "damaged" in news
    kept = ids(spool)
    assert kept == [i for i in expected() if i in kept]
    assert len(kept) > COUNT // 4
    lost = COUNT // 2 - len(kept)
    assert (f"{lost} events that Redis had not confirmed are LOST" in news) == (lost > 0)
    spool.close()
    assert open_spool(path)[1] == ""


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE records SET key = CAST(x'6bff' AS TEXT) WHERE key = 'k1'",
        "UPDATE records SET key = 7, at_ms = 'text' WHERE key = 'k1'",
        "UPDATE facts SET value = 'text' WHERE name = 'sent'",
        "INSERT INTO facts VALUES (CAST(x'ff' AS TEXT), 1)",
        "INSERT INTO lost VALUES (5, x'ca')",
    ],
)
def test_a_row_that_cannot_be_right_costs_only_itself(path: Path, damage: str) -> None:
    database = Database(path)
    database.change(damage)
    database.close()
    flag_path(path).touch()

    spool, news = open_spool(path)

    assert "LOST" not in news
    assert ids(spool) == expected()
    assert spool.append([("k2", [event(2)]), ("k1999", [event(1999)])]) == [None, None]  # both were accepted before
    spool.close()
    assert open_spool(path)[1] == ""


@pytest.mark.parametrize("data", [b'{"type":"\xca"}', b"\xca", b"[]", b""])
def test_an_event_that_cannot_be_read_is_counted_as_lost(path: Path, data: bytes) -> None:
    database = Database(path)
    database.change("UPDATE events SET data = ? WHERE id = 'id1500'", (data,))
    database.close()
    flag_path(path).touch()

    spool, news = open_spool(path)

    assert "1 events that Redis had not confirmed are LOST: numbers 1501 to 1501" in news
    assert ids(spool) == [i for i in expected() if i != "id1500"]


@pytest.mark.parametrize("data", [b'{"type":"\xca"}', b"\xca", b"[]", "text"])
def test_a_held_piece_that_cannot_be_read_is_told_once(path: Path, data: bytes | str) -> None:
    database = Database(path)
    database.change("UPDATE held SET data = ?", (data,))
    database.close()
    spool, _ = open_spool(path)
    with pytest.raises(SpoolDamagedError):  # the publish node ends and starts again
        spool.held()
    spool.close()
    flag_path(path).touch()

    spool, news = open_spool(path)

    assert "1 parts of defects that go over several frames cannot be read and are LOST" in news
    assert spool.held() == []
    spool.close()
    assert open_spool(path)[1] == ""


def test_a_spool_found_damaged_in_use_is_repaired_whatever_the_check_says(path: Path) -> None:
    flag_path(path).touch()

    spool, news = open_spool(path)

    assert "an error while it was in use" in news
    assert ids(spool) == expected()
    assert not flag_path(path).exists()


@pytest.mark.parametrize("how", ["a flipped bit", "a torn page", "truncated"])
def test_a_damaged_log_after_a_kill_is_noticed_and_mended(tmp_path: Path, how: str) -> None:
    """SQLite reads its log up to the first frame with a bad checksum, and says nothing of the rest."""
    program = f"""
import os, signal
from pathlib import Path
from nodes.publish.spool.salvage import open_spool
from tests.contract.test_spool import event, to_redis
spool, _ = open_spool(Path({str(tmp_path / "events.db")!r}))
for k in range(100):
    spool.append([(f"k{{k}}", [event(k)])])
to_redis(spool).move(20)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    wal = tmp_path / "events.db-wal"
    rng = random.Random(how)
    size = wal.stat().st_size
    if how == "truncated":
        os.truncate(wal, size // 2)
    else:
        with wal.open("r+b") as file:
            place = rng.randrange(size // 3, size * 2 // 3)
            file.seek(place)
            byte = file.read(1)
            file.seek(place)
            file.write(bytes([byte[0] ^ 0x40]) if how == "a flipped bit" else rng.randbytes(3000))

    spool, news = open_spool(tmp_path / "events.db")

    left = ids(spool)
    if how == "truncated":
        first = int(left[-1].removeprefix("id")) + 2
        assert 21 < first < 100
        assert f"LOST: numbers {first} to 100" in news
    else:
        assert "log was damaged" in news
        assert left == [f"id{k}" for k in range(20, 100)]  # what the bad page held, a later one holds too
        assert "LOST" not in news
    assert list(tmp_path.glob("events.db-wal.damaged-*"))
    spool.close()
    assert open_spool(tmp_path / "events.db")[1] == ""


def test_a_vanished_spool_is_noticed(path: Path) -> None:
    for file in path.parent.glob("events.db*"):
        file.unlink()

    spool, news = open_spool(path)

    assert "was missing" in news
    assert f"LOST: numbers {COUNT // 2 + 1} to {COUNT}" in news
    assert to_redis(spool).sent == COUNT // 2


def test_the_spools_folder_deleted_while_it_is_open_is_made_again(path: Path) -> None:
    spool, _ = open_spool(path)
    shutil.rmtree(path.parent)
    spool.append([("late", [event(9999)])])

    assert spool.database.moved()
    rescue(spool, path)
    spool.close()
    again, news = open_spool(path)

    assert "written again" in news
    assert ids(again) == [*expected(), "id9999"]


@pytest.mark.parametrize("put", [None, b"", b"somebody else's"], ids=["deleted", "emptied", "replaced"])
def test_a_spool_deleted_or_replaced_while_it_is_open_is_noticed_and_saved(path: Path, put: bytes | None) -> None:
    spool, _ = open_spool(path)
    assert not spool.database.moved()
    for file in path.parent.glob("events.db*"):
        file.unlink()
    if put is not None:
        path.write_bytes(put)
    spool.append([("late", [event(9999)])])

    assert spool.database.moved()
    rescue(spool, path)
    spool.close()
    again, news = open_spool(path)

    assert news
    assert "LOST" not in news
    assert ids(again) == [*expected(), "id9999"]
    assert not again.database.moved()
    assert [p.read_bytes() for p in path.parent.glob("events.db.damaged-*")] == ([put] if put is not None else [])


def test_a_copy_that_was_not_finished_is_not_used(path: Path) -> None:
    spool, _ = open_spool(path)
    spool.database.copy_to(path.with_name("copy.db"))  # and killed before it was declared whole
    spool.append([("late", [event(9999)])])
    spool.close()

    again, news = open_spool(path)

    assert news == ""
    assert ids(again) == [*expected(), "id9999"]


def test_an_event_whose_record_was_lost_is_not_spooled_twice(path: Path) -> None:
    database = Database(path)
    database.change("DELETE FROM records WHERE key = 'k7'")
    database.close()
    spool, _ = open_spool(path)

    assert spool.append([("k7", [event(7)])]) == [[]]
