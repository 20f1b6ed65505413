"""The only module that uses SQLite: one connection to a spool's file. Its two errors differ in what a caller can do.

``SpoolTroubleError`` passes by itself (locked, disk full, I/O): nothing was changed, try again. ``SpoolDamagedError``
does not: the file must be opened again with ``salvage.open_spool``, which checks and repairs it.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.core.errors import ConfigError, LinepipeError, NodeError
from pipeline.system.files import sync

BUSY_S = 0.5
"""Seconds that one statement waits for a lock at most: the work loop must not stand still longer."""
_FULL, _IO = 13, 10  # primary result codes of SQLite
_PASSING = {
    5: "BUSY",
    6: "LOCKED",
    8: "READONLY",
    9: "INTERRUPT",
    _IO: "IOERR",
    _FULL: "FULL",
    14: "CANTOPEN",
    15: "PROTOCOL",
    17: "SCHEMA",
}
_NO_ROOM_BYTES = 1 << 20
_TABLES = "SELECT type, name, tbl_name, sql FROM sqlite_master"


class SpoolTroubleError(LinepipeError):
    """The spool cannot be used now; nothing was changed. ``full``: the disk has no room."""

    def __init__(self, text: str, *, full: bool = False) -> None:
        super().__init__(text)
        self.full = full


class SpoolDamagedError(NodeError):
    """The spool's file is damaged or no longer in its place."""


class Database:
    """One connection to the file ``path``. Threads may use it one after the other, not at the same time.

    ``durable``: a transaction is on the disk when it ends, also after a power loss; else a power loss may undo the last ones.
    ``create``: make the file if it is missing. Constructor and all methods that read or write the file raise
    ``SpoolTroubleError`` (also for a missing file without ``create``) and ``SpoolDamagedError``, and wait up to ``BUSY_S`` for
    a lock. The constructor also raises ``OSError`` if the file cannot be examined.
    """

    def __init__(self, path: Path, *, durable: bool = True, create: bool = True) -> None:
        self.path = path
        with self._named():
            mode = "rwc" if create else "rw"
            self._db = sqlite3.connect(
                f"file:{quote(str(path))}?mode={mode}", uri=True, isolation_level=None, timeout=BUSY_S, check_same_thread=False
            )
        try:
            with self._named():
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            self._files = self._inodes()
        except BaseException:
            self._db.close()
            raise

    def rows(self, sql: str, args: Iterable[Any] = ()) -> list[Any]:
        """All rows of a query, as tuples."""
        with self._named():
            return self._db.execute(sql, tuple(args)).fetchall()

    def row(self, sql: str, args: Iterable[Any] = ()) -> Any:
        """The first row of a query, a tuple; None if there is none."""
        with self._named():
            return self._db.execute(sql, tuple(args)).fetchone()

    def change(self, sql: str, args: Iterable[Any] = ()) -> sqlite3.Cursor:
        """Run one statement that writes; by itself it is a transaction."""
        with self._named():
            return self._db.execute(sql, tuple(args))

    def changes(self, sql: str, args: Iterable[Iterable[Any]]) -> None:
        """Run one statement for many rows; each is a transaction of its own, except within ``writing``."""
        with self._named():
            self._db.executemany(sql, [tuple(a) for a in args])

    def script(self, sql: str) -> None:
        """Run several statements, separated by semicolons."""
        with self._named():
            self._db.executescript(sql)

    def fact(self, name: str) -> int:
        """The number stored under a name; 0 if there is none. Raises ``SpoolDamagedError`` also if it is no number."""
        (value,) = self.row("SELECT value FROM facts WHERE name = ?", (name,)) or (0,)
        if not isinstance(value, int):
            raise SpoolDamagedError(f"{self.path}: {name} is no number")
        return value

    def set_fact(self, name: str, value: int) -> None:
        """Store a number under a name, in place of the former one."""
        self.change("INSERT INTO facts VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", (name, value))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Make one transaction of the block: all of it or, if it raises, nothing. Must not be nested."""
        with self._named():
            self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            with self._named():
                self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def tables(self) -> set[Any]:
        """Rows (type, name, table, SQL) of all tables and indexes."""
        return set(self.rows(_TABLES))

    def problem(self) -> str:
        """What SQLite finds wrong with the file, an empty string if nothing. Reads the whole file. Raises ``SpoolTroubleError``."""
        try:
            found = "; ".join(str(row[0]) for row in self.rows("PRAGMA quick_check(3)"))
        except SpoolDamagedError as exc:
            return str(exc)
        return "" if found == "ok" else found

    def moved(self) -> bool:
        """Whether the file, or SQLite's -wal or -shm file beside it, was deleted or replaced since it was opened. Raises ``OSError``."""
        return self._inodes() != self._files

    def copy_to(self, path: Path) -> None:
        """Write everything that this connection sees to the file ``path``, replacing it, and sync it. Also raises ``OSError``."""
        path.unlink(missing_ok=True)
        self.change("VACUUM INTO ?", (str(path),))
        sync_named(path)

    def close(self) -> None:
        self._db.close()

    def _inodes(self) -> list[tuple[int, int] | None]:
        found: list[tuple[int, int] | None] = []
        for end in ("", "-wal", "-shm"):
            try:
                entry = os.stat(f"{self.path}{end}")
                found.append((entry.st_dev, entry.st_ino))
            except (FileNotFoundError, NotADirectoryError):
                found.append(None)
        return found

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as exc:  # no UTF-8: in the name of a table that an error message quotes
            code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
            if code not in _PASSING:  # our statements are right, so any other error means that the file was changed
                raise SpoolDamagedError(f"{self.path}: {exc}") from exc
            full = code == _FULL or (code == _IO and _no_room(self.path.parent))
            raise SpoolTroubleError("the disk of state_dir is full" if full else f"{self.path}: {exc}", full=full) from exc


def tables_made_by(sql: str) -> set[Any]:
    """What ``Database.tables`` returns for a new file in which these statements were run."""
    with closing(sqlite3.connect(":memory:")) as fresh:
        fresh.executescript(sql)
        return set(fresh.execute(_TABLES))


def _no_room(folder: Path) -> bool:
    try:
        return free_bytes(folder) < _NO_ROOM_BYTES
    except OSError:  # the folder is gone, or its disk
        return False


def free_bytes(folder: Path) -> int:
    """Bytes that this user can still write to the disk of a folder. Raises ``OSError``."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def sync_named(path: Path) -> None:
    """Wait until the disk has a file's content and its name. Raises ``OSError``."""
    sync(path)
    sync(path.parent)


FORMAT = 2
TABLES = """
CREATE TABLE IF NOT EXISTS records (key TEXT PRIMARY KEY, at_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE, type TEXT NOT NULL, ms INTEGER NOT NULL, n INTEGER NOT NULL, data BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS held (id TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ages (age_ms INTEGER PRIMARY KEY, seq INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS lost (first INTEGER PRIMARY KEY, last INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS by_stream_id ON events (ms, n);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""
"""Another format must have another text here: the text shows whether the stored number of the format is later or damaged."""
_FROM_1 = "UPDATE records SET at_ms = 0;"  # were moments of the wall clock


def prepare(database: Database) -> None:
    """Make the tables of this format, or convert those of an earlier one.

    Raises ``ConfigError`` for a later format, ``SpoolTroubleError`` and ``SpoolDamagedError``.
    """
    found = _format(database)
    _refuse_later(database, found)
    if found < FORMAT:
        database.script(f"BEGIN IMMEDIATE; {TABLES} {_FROM_1 if found == 1 else ''} PRAGMA user_version={FORMAT}; COMMIT;")


def problem(database: Database) -> str:
    """What is wrong with the tables, an empty string if nothing. SQLite's own check does not find a changed name in them.

    Raises ``ConfigError`` for a later format, ``SpoolTroubleError`` and ``SpoolDamagedError``.
    """
    found, tables, expected = _format(database), database.tables(), tables_made_by(TABLES)
    if found > FORMAT and tables != expected:
        _refuse_later(database, found)
    if found == 1 and tables < expected:
        return ""
    return "" if found == FORMAT and tables == expected else "its tables are not those of a spool"


def _format(database: Database) -> int:
    return int(database.row("PRAGMA user_version")[0])


def _refuse_later(database: Database, found: int) -> None:
    if found > FORMAT:
        text = f"a spool of format {found}, this version writes {FORMAT}; use the version that wrote it"
        raise ConfigError(f"{database.path}: {text}")
