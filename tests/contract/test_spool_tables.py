"""The tables of a spool, and the header of its file: what SQLite believes although it is damaged is noticed and repaired."""

import gc
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nodes.publish.spool.database import Database, SpoolDamagedError
from nodes.publish.spool.salvage import open_spool
from nodes.publish.spool.spool import Spool
from pipeline.core.errors import ConfigError
from tests.contract.test_spool import event
from tests.contract.test_spool_damage import expected, ids, spooled


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return spooled(tmp_path / "spool" / "events.db")


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        (b"data BLOB NOT NULL\n", b"eata BLOB NOT NULL\n"),
        (b"at_ms INTEGER", b"au_ms INTEGER"),
        (b"value INTEGER", b"valud INTEGER"),
        (b"type TEXT", b"typ\xe5 TEXT"),
        (b"CREATE TABLE held", b"CREATE TABLE h\xfeld"),
        (b"CREATE TABLE facts", b"CR\xc5ATE TABLE facts"),
        (b"UNIQUE", b"UNIQU "),
        (b"WITHOUT ROWID", b"WITHOUT \xd2OWID"),
    ],
    ids=repr,
)
def test_damaged_tables_are_noticed_and_cost_nothing(path: Path, was: bytes, becomes: bytes) -> None:
    """SQLite's own check finds nothing wrong with a column of another name."""
    data = path.read_bytes()
    assert was in data[:4096]
    path.write_bytes(data.replace(was, becomes, 1))

    spool, news = open_spool(path)

    assert "damaged" in news
    assert "LOST" not in news
    assert ids(spool) == expected()
    assert [p.frame for p in spool.held()] == [5]
    assert spool.append([("k2", [event(2)]), ("new", [event(9999)])])[0] is None  # k2 was accepted before
    spool.close()
    assert open_spool(path)[1] == ""


@pytest.mark.parametrize(("place", "byte"), [(18, 3), (31, 7), (63, 3), (63, 0)], ids=["read-only", "size", "later format", "no format"])
def test_a_header_that_sqlite_believes_costs_nothing(path: Path, place: int, byte: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] = byte
    path.write_bytes(data)

    spool, news = open_spool(path)

    assert "damaged" in news
    assert "LOST" not in news
    assert ids(spool) == expected()
    spool.append([("new", [event(9999)])])


def test_tables_that_become_wrong_while_the_spool_is_open_are_damage(path: Path) -> None:
    """So the next start repairs them: trouble that never passes would be waited for."""
    spool, _ = open_spool(path)
    database = Database(path)
    database.change("ALTER TABLE events RENAME COLUMN data TO date")
    database.close()

    with pytest.raises(SpoolDamagedError):
        spool.append([("new", [event(9999)])])


def test_a_spool_of_a_later_version_stays_as_it_is(path: Path) -> None:
    database = Database(path)
    database.script("CREATE TABLE later (x); PRAGMA user_version=3;")
    database.close()

    with pytest.raises(ConfigError, match="use the version that wrote it"):
        open_spool(path)
    assert list(path.parent.glob("*damaged*")) == []


def test_a_spool_of_the_version_before_is_no_damage(path: Path) -> None:
    database = Database(path)
    database.script("DROP TABLE ages; DROP TABLE lost; PRAGMA user_version=1;")
    database.close()

    spool, news = open_spool(path)

    assert news == ""
    assert ids(spool) == expected()
    spool.close()
    assert open_spool(path)[1] == ""


@pytest.mark.parametrize(
    "damage",
    [
        "INSERT OR REPLACE INTO facts VALUES ('sent', 'text')",
        "UPDATE events SET ms = 'text' WHERE id = 'id1500'",
        "UPDATE events SET data = 'text' WHERE id = 'id1500'",
    ],
)
def test_a_value_of_another_kind_is_damage(path: Path, damage: str) -> None:
    """Also where the file was not checked, as a large one is not at every start."""
    spool, _ = open_spool(path)
    database = Database(path)
    database.change(damage)
    database.close()

    with pytest.raises(SpoolDamagedError):
        ids(spool)


def test_a_spool_that_cannot_be_opened_keeps_no_file_open(path: Path) -> None:
    """A sink tries again and again: each try would cost descriptors until there are none."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("UPDATE facts SET value = 'many' WHERE name = 'commits'")
    gc.disable()
    try:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            with pytest.raises(SpoolDamagedError):
                Spool(path, durable=False, create=False)
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        gc.enable()
