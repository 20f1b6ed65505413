"""The spool: a SQLite file that holds every event until long after Redis has it.

A record (a frame's verdict, a gap, ...) is accepted once by its key; a second one for the same key is refused and the
first stays. ``append`` returns when the disk has it (WAL, synchronous=FULL, one fsync for the group). Stream ids are
fixed there, so a retry cannot change them. How far Redis has come is kept without fsync: forgetting it costs only
repeats, which Redis refuses by id.
"""

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from pipeline.errors import ConfigError, NodeError
from pipeline.events import DefectEvent, Event, encode

FORMAT = 1
SpoolError = sqlite3.Error
_TABLES = """
CREATE TABLE IF NOT EXISTS records (key TEXT PRIMARY KEY, at_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE, type TEXT NOT NULL, ms INTEGER NOT NULL, n INTEGER NOT NULL, data BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS held (id TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_stream_id ON events (ms, n);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""


def lock_spool(path: Path) -> int:
    """Become the one publisher of this spool; the kernel ends that with the process. Raises ``NodeError``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise NodeError(f"{path}: another publish node writes this spool; a line has exactly one") from None
    return fd


class Spooled(msgspec.Struct, frozen=True):
    """One event as it lies in the spool; ``ms``-``n`` is its stream id."""

    seq: int
    id: str
    type: str
    ms: int
    n: int
    data: bytes


class Spool:
    """One connection to the file. The publish node's main thread appends, its sender thread reads and marks."""

    def __init__(self, path: Path, *, durable: bool, wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._wall_ms = wall_ms
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=10.0, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            found = self._db.execute("PRAGMA user_version").fetchone()[0]
            if found not in (0, FORMAT):
                raise ConfigError(f"{path}: a spool of format {found}, this version writes {FORMAT}; use the version that wrote it")
            self._db.executescript(_TABLES)
            self._db.execute(f"PRAGMA user_version={FORMAT}")
        except sqlite3.Error as exc:
            raise ConfigError(f"{path}: the spool cannot be opened: {exc}; move it away to start a new one") from exc
        row = self._db.execute("SELECT ms, n FROM events ORDER BY seq DESC LIMIT 1").fetchone()
        self._last: tuple[int, int] = row or (0, 0)

    def append(
        self, group: Iterable[tuple[str, list[Event]]], held: Mapping[str, list[DefectEvent]] | None = None
    ) -> list[list[Spooled] | None]:
        """Make records durable: for each (key, events) its spooled events, or None where the key was already there.

        ``held``: by key, pieces that are not events yet; ``settle`` makes them some.
        """
        now = self._wall_ms()
        results: list[list[Spooled] | None] = []
        with self._writing():
            for key, events in group:
                fresh = self._db.execute("INSERT OR IGNORE INTO records VALUES (?, ?)", (key, now)).rowcount
                if not fresh:
                    results.append(None)
                    continue
                results.append([self._insert(event, now) for event in events])
                for piece in (held or {}).get(key, ()):
                    self._db.execute("INSERT OR REPLACE INTO held VALUES (?, ?)", (piece.id, encode(piece)))
        return results

    def settle(self, done: Iterable[tuple[Event, Iterable[str]]]) -> list[Spooled]:
        """Spool events in place of the held pieces, given by id, that they are made of."""
        now, spooled = self._wall_ms(), []
        with self._writing():
            for event, pieces in done:
                spooled.append(self._insert(event, now))
                self._db.executemany("DELETE FROM held WHERE id = ?", [(piece,) for piece in pieces])
        return spooled

    def held(self) -> list[DefectEvent]:
        """Pieces that were made durable and have not been settled."""
        rows = self._db.execute("SELECT data FROM held").fetchall()
        return [msgspec.json.decode(data, type=DefectEvent) for (data,) in rows]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction: all of it or nothing. Raises ``NodeError``."""
        last = self._last
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.Error as exc:
            self._last = last
            raise NodeError(f"the spool cannot be written ({exc}): is the disk of state_dir full? Nothing was accepted") from exc

    def _insert(self, event: Event, now: int) -> Spooled:
        self._last = (now, 0) if now > self._last[0] else (self._last[0], self._last[1] + 1)
        kind, data = str(event.__struct_config__.tag), encode(event)
        cursor = self._db.execute("INSERT INTO events (id, type, ms, n, data) VALUES (?, ?, ?, ?, ?)", (event.id, kind, *self._last, data))
        assert cursor.lastrowid is not None
        return Spooled(cursor.lastrowid, event.id, kind, *self._last, data)

    def known(self, key: str) -> bool:
        """Whether a record with this key has been accepted."""
        return self._db.execute("SELECT 1 FROM records WHERE key = ?", (key,)).fetchone() is not None

    def present(self, ids: Iterable[str]) -> set[str]:
        """Which of these events the spool has."""
        wanted = tuple(ids)
        marks = ",".join("?" * len(wanted))
        return {row[0] for row in self._db.execute(f"SELECT id FROM events WHERE id IN ({marks})", wanted)}

    def unsent(self, most: int) -> list[Spooled]:
        """The oldest events that Redis has not confirmed."""
        rows = self._db.execute("SELECT * FROM events WHERE seq > ? ORDER BY seq LIMIT ?", (self.sent, most))
        return [Spooled(*row) for row in rows]

    @property
    def backlog(self) -> int:
        """Events that Redis has not confirmed."""
        count: int = self._db.execute("SELECT count(*) FROM events WHERE seq > ?", (self.sent,)).fetchone()[0]
        return count

    @property
    def sent(self) -> int:
        """``seq`` up to which Redis has confirmed."""
        return self._fact("sent")

    def mark_sent(self, seq: int) -> None:
        self._set_fact("sent", seq)

    def rewind(self, ms: int, n: int) -> int:
        """Redis's newest entry is ``ms``-``n``: everything behind it counts as unsent again; returns how many were sent."""
        row = self._db.execute("SELECT max(seq) FROM events WHERE (ms, n) <= (?, ?)", (ms, n)).fetchone()
        keep = row[0] or 0
        lost: int = self._db.execute("SELECT count(*) FROM events WHERE seq > ? AND seq <= ?", (keep, self.sent)).fetchone()[0]
        if lost:
            self.mark_sent(keep)
        return lost

    def lift(self, ms: int, n: int) -> int:
        """Give every unsent event a new stream id behind ``ms``-``n``, in the same order; returns how many."""
        self._db.execute("BEGIN IMMEDIATE")
        seqs = [row[0] for row in self._db.execute("SELECT seq FROM events WHERE seq > ? ORDER BY seq", (self.sent,))]
        for k, seq in enumerate(seqs, start=1):
            self._db.execute("UPDATE events SET ms = ?, n = ? WHERE seq = ?", (ms, n + k, seq))
        self._db.execute("COMMIT")
        self._last = max(self._last, (ms, n + len(seqs)))
        return len(seqs)

    def lift_floor(self, ms: int, n: int) -> None:
        """Ids appended from now on lie behind ``ms``-``n``."""
        self._last = max(self._last, (ms, n))

    def begin_run(self, run: int) -> tuple[int, str]:
        """Note a run; returns the ``seq`` before its first event and the first stream id it can have.

        The same run again (its publish node was restarted) returns the same.
        """
        if self._fact("run") != run:
            self._set_fact("run", run)
            row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
            self._set_fact("run_seq", row[0] if row else 0)
            self._set_fact("run_ms", self._last[0])
            self._set_fact("run_n", self._last[1] + 1)
        return self._fact("run_seq"), f"{self._fact('run_ms')}-{self._fact('run_n')}"

    def counts_since(self, seq: int) -> dict[str, int]:
        """Events by type behind ``seq``."""
        return dict(self._db.execute("SELECT type, count(*) FROM events WHERE seq > ? GROUP BY type", (seq,)).fetchall())

    def purge(self, older_than_ms: int) -> None:
        """Forget confirmed events, and records, from before that moment."""
        self._db.execute("DELETE FROM events WHERE ms < ? AND seq <= ?", (older_than_ms, self.sent))
        self._db.execute("DELETE FROM records WHERE at_ms < ?", (older_than_ms,))

    def close(self) -> None:
        self._db.close()

    def _fact(self, name: str) -> int:
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return row[0] if row else 0

    def _set_fact(self, name: str, value: int) -> None:
        self._db.execute("INSERT INTO facts VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", (name, value))
