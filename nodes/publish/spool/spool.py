"""The spool: a SQLite file that holds every event until long after Redis has it.

A record (a frame's verdict, a gap, ...) is accepted once by its key; a second one for the same key is refused and the
first stays. ``append`` returns when the disk has it (WAL, synchronous=FULL, one fsync for the group) and fixes stream ids:
a retry cannot change them. How far Redis has come is kept without fsync: forgetting it costs a look at what Redis has.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from nodes.publish.spool.database import Database, SpoolDamagedError, prepare
from nodes.publish.spool.event_ages import Ages
from nodes.publish.spool.open_alarms import OpenAlarms
from nodes.publish.spool.progress_file import Progress, ProgressFile
from pipeline.core.errors import NodeError
from pipeline.core.events import AlarmEvent, DefectEvent, Event, encode

COUNTED = 10_000  # events are counted one by one up to here
StreamId = tuple[int, int]


def lock_spool(path: Path) -> int:
    """Become the one publisher of this spool; the kernel ends that with the process. Raises ``NodeError``."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        text = f"{path.parent}: cannot be used as the spool's folder: {exc.strerror}; if something else lies there, move it away"
        raise NodeError(text) from exc
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise NodeError(f"{path}: another publish node writes this spool; a line has exactly one") from None
    return fd


class Spooled(msgspec.Struct, frozen=True, array_like=True):
    """One event as it lies in the spool; ``ms``-``n`` is its stream id."""

    seq: int
    id: str
    type: str
    ms: int
    n: int
    data: bytes

    @property
    def place(self) -> StreamId:
        return self.ms, self.n


class Spool:
    """One connection to the file. The publish node's main thread appends, its sender thread reads and marks."""

    def __init__(
        self,
        path: Path,
        *,
        durable: bool,
        create: bool = True,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock_ms: Callable[[], int] = lambda: time.monotonic_ns() // 1_000_000,
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._wall_ms = wall_ms
        self._db = Database(path, durable=durable, create=create)
        try:
            prepare(self._db)
            self._progress = ProgressFile(path)
            self.open_alarms = OpenAlarms(self._db)
        except BaseException:
            self._db.close()
            raise
        row = self._db.row("SELECT ms, n FROM events ORDER BY seq DESC LIMIT 1")
        self._last: StreamId = row or (0, 0)
        self._seq, self._commits = self._last_seq(), self.fact("commits")
        self.ages = Ages(self._db, clock_ms)

    def append(
        self, group: Iterable[tuple[str, list[Event]]], held: Mapping[str, list[DefectEvent]] | None = None
    ) -> list[list[Spooled] | None]:
        """Make records durable: for each (key, events) its spooled events, or None where the key was already there.

        ``held``: by key, parts of defects that are no events yet; ``settle`` makes events of them.
        """
        age, results = self.ages.now_ms, list[list[Spooled] | None]()
        with self._writing():
            for key, events in group:
                if not self._db.change("INSERT OR IGNORE INTO records VALUES (?, ?)", (key, age)).rowcount:
                    results.append(None)
                    continue
                results.append([s for event in events if (s := self._insert(event)) is not None])
                for part in (held or {}).get(key, ()):
                    self._db.change("INSERT OR REPLACE INTO held VALUES (?, ?)", (part.id, encode(part)))
        return results

    def settle(self, done: Iterable[tuple[Event, Iterable[str]]]) -> list[Spooled | None]:
        """Spool events in place of the held parts, given by id, that they are made of; None: it was there already."""
        spooled = list[Spooled | None]()
        with self._writing():
            for event, parts in done:
                spooled.append(self._insert(event))
                self._db.changes("DELETE FROM held WHERE id = ?", [(part,) for part in parts])
        return spooled

    def held(self) -> list[DefectEvent]:
        """Parts that were made durable and have not been settled. Raises ``SpoolDamagedError``."""
        try:
            return [msgspec.json.decode(data, type=DefectEvent) for (data,) in self._db.rows("SELECT data FROM held")]
        except (msgspec.MsgspecError, ValueError, TypeError) as exc:
            raise SpoolDamagedError(f"{self._db.path}: a part of a defect cannot be read ({exc})") from exc

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction: all of it or nothing. Raises ``SpoolTroubleError`` or ``SpoolDamagedError``."""
        last, seq, commits = self._last, self._seq, self._commits
        try:
            with self._db.writing():
                yield
                self._commits += 1
                self.set_fact("commits", self._commits)
        except BaseException:
            self._last, self._seq, self._commits = last, seq, commits
            raise
        self._progress.note(self._commits, self._seq, self._wall_ms())

    def _insert(self, event: Event) -> Spooled | None:
        now = self._wall_ms()
        place = (now, 0) if now > self._last[0] else (self._last[0], self._last[1] + 1)
        kind, data = str(event.__struct_config__.tag), encode(event)
        cursor = self._db.change(
            "INSERT OR IGNORE INTO events (id, type, ms, n, data) VALUES (?, ?, ?, ?, ?)", (event.id, kind, *place, data)
        )
        if not cursor.rowcount or cursor.lastrowid is None:  # its record was lost by damage, the event was not
            return None
        if isinstance(event, AlarmEvent):
            self.open_alarms.note(event, cursor.lastrowid)
        self._last, self._seq = place, cursor.lastrowid
        return Spooled(cursor.lastrowid, event.id, kind, *place, data)

    def known(self, key: str) -> bool:
        """Whether a record with this key has been accepted."""
        return self._db.row("SELECT 1 FROM records WHERE key = ?", (key,)) is not None

    def present(self, ids: Iterable[str]) -> set[str]:
        """Which of these events the spool has."""
        wanted = tuple(ids)
        marks = ",".join("?" * len(wanted))
        return {row[0] for row in self._db.rows(f"SELECT id FROM events WHERE id IN ({marks})", wanted)}

    def unsent(self, most: int) -> list[Spooled]:
        """The oldest events that Redis has not confirmed."""
        return self._spooled("SELECT * FROM events WHERE seq > ? ORDER BY seq LIMIT ?", self.sent, most)

    @property
    def backlog(self) -> int:
        """Events that Redis has not confirmed; of very many about as many."""
        sent = self.sent
        if self._seq - sent > COUNTED:
            return self._seq - sent
        return int(self._db.row("SELECT count(*) FROM events WHERE seq > ?", (sent,))[0])

    @property
    def sent(self) -> int:
        """``seq`` up to which Redis has confirmed."""
        return self.fact("sent")

    def mark_sent(self, seq: int) -> None:
        self.set_fact("sent", seq)
        self._progress.note_sent(seq)

    def newest_sent(self) -> Spooled | None:
        """The last event that Redis has confirmed, if it is still kept."""
        return next(iter(self._spooled("SELECT * FROM events WHERE seq <= ? ORDER BY seq DESC LIMIT 1", self.sent)), None)

    def _spooled(self, sql: str, *args: int) -> list[Spooled]:
        try:
            return msgspec.convert(self._db.rows(sql, args), list[Spooled], builtin_types=(bytes,))
        except msgspec.ValidationError as exc:
            raise SpoolDamagedError(f"{self._db.path}: an event cannot be read ({exc})") from exc

    def sent_at(self, place: StreamId, identity: str) -> int:
        """``seq`` of the confirmed event with this stream id and id; 0: none."""
        row = self._db.row("SELECT seq FROM events WHERE ms = ? AND n = ? AND id = ? AND seq <= ?", (*place, identity, self.sent))
        return int(row[0]) if row else 0

    def first_sent_from(self, place: StreamId) -> int:
        """``seq`` of the first confirmed event at or behind a stream id; behind all: the next."""
        sql = "SELECT seq FROM events WHERE (ms, n) >= (?, ?) AND seq <= ? ORDER BY ms, n LIMIT 1"
        row = self._db.row(sql, (*place, self.sent))
        return int(row[0]) if row else self.sent + 1

    def holds(self, place: StreamId) -> bool:
        """Whether a stream id is that of an event of ours."""
        return self._db.row("SELECT 1 FROM events WHERE ms = ? AND n = ?", place) is not None

    def place_behind(self, seq: int) -> StreamId | None:
        """Stream id of the first confirmed event behind ``seq``."""
        row = self._db.row("SELECT ms, n FROM events WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT 1", (seq, self.sent))
        return (row[0], row[1]) if row else None

    def rewind(self, seq: int) -> int:
        """Everything behind ``seq`` counts as unsent again; returns how many were sent."""
        lost = int(self._db.row("SELECT count(*) FROM events WHERE seq > ? AND seq <= ?", (seq, self.sent))[0])
        if lost:
            self.mark_sent(seq)
        return lost

    def lift(self, events: list[Spooled], behind: StreamId) -> list[Spooled]:
        """The same events with stream ids that grow, all behind ``behind``; whose id is large enough keeps it."""
        lifted, last = [], behind
        for event in events:
            last = event.place if event.place > last else (last[0], last[1] + 1)
            lifted.append(event if event.place == last else msgspec.structs.replace(event, ms=last[0], n=last[1]))
        with self._db.writing():
            self._db.changes("UPDATE events SET ms = ?, n = ? WHERE seq = ?", [(e.ms, e.n, e.seq) for e in lifted])
        return lifted

    def lift_floor(self, place: StreamId) -> None:
        """Ids appended from now on lie behind ``place``."""
        self._last = max(self._last, place)

    def begin_run(self, run: int) -> tuple[int, str]:
        """Note a run; returns the ``seq`` before its first event and the first stream id it can have.

        The same run again (its publish node was restarted) returns the same.
        """
        if self.fact("run") != run:
            with self._db.writing():
                self.set_fact("run", run)
                self.set_fact("run_seq", self._seq)
                self.set_fact("run_ms", self._last[0])
                self.set_fact("run_n", self._last[1] + 1)
        return self.fact("run_seq"), f"{self.fact('run_ms')}-{self.fact('run_n')}"

    def counts_since(self, seq: int) -> dict[str, int]:
        """Events by type behind ``seq``."""
        return dict(self._db.rows("SELECT type, count(*) FROM events WHERE seq > ? GROUP BY type", (seq,)))

    def missing(self, last: int) -> list[tuple[int, int]]:
        """Stretches of ``seq`` up to ``last`` without an event that were not told of yet; without any event, all that is unsent."""
        if self._db.row("SELECT 1 FROM events LIMIT 1") is None:
            first = max(self.sent, self._db.row("SELECT coalesce(max(last), 0) FROM lost")[0])
            return [(first + 1, last)] if first < last else []
        there = "SELECT seq AS first, seq AS last FROM events UNION ALL SELECT first, last FROM lost UNION ALL SELECT ?1, ?1"
        gaps = f"SELECT last AS a, lead(first) OVER (ORDER BY first) AS b FROM ({there})"
        return [(a + 1, b - 1) for a, b in self._db.rows(f"SELECT a, b FROM ({gaps}) WHERE b > a + 1", (last + 1,)) if a < last]

    def write_off(self, missing: list[tuple[int, int]], reached: Progress) -> None:
        """These events are lost, and it is told; what is appended from now on has a ``seq`` behind what was reached."""
        with self._db.writing():
            self._db.changes("INSERT OR REPLACE INTO lost VALUES (?, ?)", missing)
            if self._seq < reached.seq:
                self._db.change("DELETE FROM sqlite_sequence WHERE name = 'events'")
                self._db.change("INSERT INTO sqlite_sequence VALUES ('events', ?)", (reached.seq,))
            self.set_fact("commits", max(reached.commits, self._commits))
            self.set_fact("sent", max(reached.sent, self.sent))
        self._seq, self._commits = self._last_seq(), self.fact("commits")

    @property
    def progress_trouble(self) -> str:
        """Why the note beside the spool has fallen behind; empty: it has not."""
        return self._progress.trouble

    def moved(self) -> bool:
        """Whether the file was deleted or replaced while this spool is open."""
        return self._db.moved()

    def copy_to(self, path: Path) -> None:
        """All of it into a new file."""
        self._db.copy_to(path)

    def close(self) -> None:
        self._db.close()
        self._progress.close()

    def fact(self, name: str) -> int:
        """A number kept under a name; 0 where there is none."""
        return self._db.fact(name)

    def set_fact(self, name: str, value: int) -> None:
        self._db.set_fact(name, value)

    def _last_seq(self) -> int:
        row: Any = self._db.row("SELECT seq FROM sqlite_sequence WHERE name = 'events'")
        return int(row[0]) if row else 0
