"""The tables of a spool's file: made, brought up from the format before, and checked."""

from nodes.publish.database import Database, tables_made_by
from pipeline.errors import ConfigError

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
"""A new format has another text here: so a damaged number of the format can be told from a later one."""
_FROM_1 = "UPDATE records SET at_ms = 0;"  # were moments of the wall clock


def prepare(database: Database) -> None:
    """Have the tables of this format. Raises ``ConfigError`` for a later one."""
    found = _format(database)
    _refuse_later(database, found)
    if found < FORMAT:
        database.script(f"BEGIN IMMEDIATE; {TABLES} {_FROM_1 if found == 1 else ''} PRAGMA user_version={FORMAT}; COMMIT;")


def problem(database: Database) -> str:
    """What is wrong with the tables, which SQLite does not know (a name in them may have changed); empty: nothing.

    Raises ``ConfigError`` for a later format.
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
