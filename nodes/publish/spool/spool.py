"""The spool: a SQLite file that holds every event until long after each sink has it.

A record (a frame's verdict, a gap, ...) is accepted once by its key; a second one with the same key is refused and the
first stays. ``append`` returns when the disk has it (WAL, synchronous=FULL, one fsync for the group) and fixes stamps: a
retry cannot change them. A sink's watermark is stored without fsync: if it is lost, the sink compares with its destination.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from nodes.publish.spool.database import Database, SpoolDamagedError, prepare
from nodes.publish.spool.event_ages import Ages
from nodes.publish.spool.open_alarms import OpenAlarms
from nodes.publish.spool.progress_file import Progress, ProgressFile
from pipeline.core.errors import NodeError, told_as
from pipeline.core.events import AlarmEvent, DefectEvent, Event, encode

COUNTED = 10_000  # up to this many, events are counted exactly
MOST_SEQ = (1 << 63) - 1
FIRST_SINK = "redis"
"""The name of its watermark has no suffix: it was the only sink once."""
Stamp = tuple[int, int]
"""Wall clock in ms, and a counter. Grows with each event, also if the clock is set back."""


def lock_spool(path: Path) -> int:
    """Lock the spool ``path`` for this process; returns a descriptor. Closing it, or the end of the process, ends the lock.

    Does not wait. Raises ``NodeError`` if another process has the lock, or the spool's folder cannot be used.
    """
    with told_as(NodeError, f"{path.parent}: cannot be used as the spool's folder", "if something else is there, move it away"):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise NodeError(f"{path}: another publish node writes this spool; a line has exactly one") from None
    return fd


class Spooled(msgspec.Struct, frozen=True, array_like=True):
    """One event as it is stored in the spool. ``seq``: its number in the spool; ``data``: its JSON; ``ms``-``n``: its stamp."""

    seq: int
    id: str
    type: str
    ms: int
    n: int
    data: bytes

    @property
    def stamp(self) -> Stamp:
        """(ms, n), which Redis uses as the entry's id in the stream."""
        return self.ms, self.n


class Spool:
    """One connection to the spool ``path``. The publish node's main thread appends; each sink's thread reads, and moves its watermark.

    Each thread needs a ``Spool`` of its own. ``durable``, ``create``: see ``Database``. ``wall_ms``, ``clock_ms``: wall clock and
    monotonic clock, ms. The constructor makes folder and tables; it raises ``ConfigError`` for a spool of a later format, and
    ``OSError``. Constructor and all methods that read or write raise ``SpoolTroubleError`` (nothing was changed, try again) and
    ``SpoolDamagedError`` (open it again with ``open_spool``), and wait up to ``BUSY_S`` for a lock.
    """

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
        with ExitStack() as opened:
            self.database = opened.enter_context(closing(Database(path, durable=durable, create=create)))
            prepare(self.database)
            self._progress = opened.enter_context(closing(ProgressFile(path)))
            self.open_alarms = OpenAlarms(self.database)
            row = self.database.row("SELECT ms, n FROM events ORDER BY seq DESC LIMIT 1")
            self._last: Stamp = row or (0, 0)
            self._seq, self._commits = self._last_seq(), self.fact("commits")
            self.ages = Ages(self.database, clock_ms)
            opened.pop_all()

    def append(
        self, group: Iterable[tuple[str, list[Event]]], held: Mapping[str, list[DefectEvent]] | None = None
    ) -> list[list[Spooled] | None]:
        """Make records durable, all or none; returns for each (key, events) its spooled events, or None if the key was there already.

        An event whose id is in the spool already is left out of its list. ``held``: by key, parts of defects that are no events
        yet; ``settle`` makes events of them. Blocks until the disk has it.
        """
        age, results = self.ages.now_ms, list[list[Spooled] | None]()
        with self._writing():
            for key, events in group:
                if not self.database.change("INSERT OR IGNORE INTO records VALUES (?, ?)", (key, age)).rowcount:
                    results.append(None)
                    continue
                results.append([s for event in events if (s := self._insert(event)) is not None])
                for part in (held or {}).get(key, ()):
                    self.database.change("INSERT OR REPLACE INTO held VALUES (?, ?)", (part.id, encode(part)))
        return results

    def settle(self, done: Iterable[tuple[Event, Iterable[str]]]) -> list[Spooled | None]:
        """Spool events in place of the held parts (ids) that they are made of, all or none; None for an event that was there already."""
        spooled = list[Spooled | None]()
        with self._writing():
            for event, parts in done:
                spooled.append(self._insert(event))
                self.database.changes("DELETE FROM held WHERE id = ?", [(part,) for part in parts])
        return spooled

    def held(self) -> list[DefectEvent]:
        """Parts of defects that were made durable and have not been settled."""
        try:
            return [msgspec.json.decode(data, type=DefectEvent) for (data,) in self.database.rows("SELECT data FROM held")]
        except (msgspec.MsgspecError, ValueError, TypeError) as exc:
            raise SpoolDamagedError(f"{self.database.path}: a part of a defect cannot be read ({exc})") from exc

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction: all of it or nothing. Raises ``SpoolTroubleError`` or ``SpoolDamagedError``."""
        last, seq, commits = self._last, self._seq, self._commits
        try:
            with self.database.writing():
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
        cursor = self.database.change(
            "INSERT OR IGNORE INTO events (id, type, ms, n, data) VALUES (?, ?, ?, ?, ?)", (event.id, kind, *place, data)
        )
        if not cursor.rowcount or cursor.lastrowid is None:  # its record was lost by damage, the event was not
            return None
        if isinstance(event, AlarmEvent):
            self.open_alarms.note(event, cursor.lastrowid)
        self._last, self._seq = place, cursor.lastrowid
        return Spooled(cursor.lastrowid, event.id, kind, *place, data)

    def known(self, key: str) -> bool:
        """Whether a record with this key has been accepted and is still remembered."""
        return self.database.row("SELECT 1 FROM records WHERE key = ?", (key,)) is not None

    def present(self, ids: Iterable[str]) -> set[str]:
        """Those of these event ids that the spool has."""
        wanted = tuple(ids)
        marks = ",".join("?" * len(wanted))
        return {row[0] for row in self.database.rows(f"SELECT id FROM events WHERE id IN ({marks})", wanted)}

    def behind(self, seq: int, most: int) -> list[Spooled]:
        """The oldest events after ``seq``, in order, ``most`` at most."""
        return self._spooled("SELECT * FROM events WHERE seq > ? ORDER BY seq LIMIT ?", seq, most)

    def newest_up_to(self, seq: int) -> Spooled | None:
        """The newest event up to ``seq``; None if none is kept."""
        return next(iter(self._spooled("SELECT * FROM events WHERE seq <= ? ORDER BY seq DESC LIMIT 1", seq)), None)

    def _spooled(self, sql: str, *args: int) -> list[Spooled]:
        try:
            return msgspec.convert(self.database.rows(sql, args), list[Spooled], builtin_types=(bytes,))
        except msgspec.ValidationError as exc:
            raise SpoolDamagedError(f"{self.database.path}: an event cannot be read ({exc})") from exc

    def count_between(self, seq: int, last: int) -> int:
        """Number of events after ``seq``, up to ``last``."""
        return int(self.database.row("SELECT count(*) FROM events WHERE seq > ? AND seq <= ?", (seq, last))[0])

    def count_behind(self, seq: int) -> int:
        """Number of events after ``seq``. Above ``COUNTED`` it is the difference of the numbers, which may be too large."""
        return self._seq - seq if self._seq - seq > COUNTED else self.count_between(seq, MOST_SEQ)

    def watermark(self, sink: str) -> int:
        """``seq`` of the newest event that a sink has confirmed; 0 if it has none."""
        return self.fact(_watermark(sink))

    def set_watermark(self, sink: str, seq: int) -> None:
        """Store that a sink has confirmed all events up to ``seq`` and none after it; of Redis also in the progress file."""
        self.set_fact(_watermark(sink), seq)
        if sink == FIRST_SINK:
            self._progress.note_sent(seq)

    def raise_floor(self, stamp: Stamp) -> None:
        """Give events appended from now on stamps after this one. For the thread that appends; raises nothing."""
        self._last = max(self._last, stamp)

    def begin_run(self, run: int) -> tuple[int, str]:
        """Store that the run ``run`` begins; returns the ``seq`` before its first event, and its first possible stamp as ``ms-n``.

        For a run that has begun already (its publish node was restarted) it returns the same again.
        """
        if self.fact("run") != run:
            with self.database.writing():
                self.set_fact("run", run)
                self.set_fact("run_seq", self._seq)
                self.set_fact("run_ms", self._last[0])
                self.set_fact("run_n", self._last[1] + 1)
        return self.fact("run_seq"), f"{self.fact('run_ms')}-{self.fact('run_n')}"

    def counts_since(self, seq: int) -> dict[str, int]:
        """Number of events after ``seq``, by type."""
        return dict(self.database.rows("SELECT type, count(*) FROM events WHERE seq > ? GROUP BY type", (seq,)))

    def missing(self, last: int) -> list[tuple[int, int]]:
        """(first, last) of each stretch of ``seq`` up to ``last`` that has no event and is not written off yet.

        If the spool has no event at all: everything that Redis has not confirmed.
        """
        if self.database.row("SELECT 1 FROM events LIMIT 1") is None:
            first = max(self.watermark(FIRST_SINK), self.database.row("SELECT coalesce(max(last), 0) FROM lost")[0])
            return [(first + 1, last)] if first < last else []
        there = "SELECT seq AS first, seq AS last FROM events UNION ALL SELECT first, last FROM lost UNION ALL SELECT ?1, ?1"
        gaps = f"SELECT last AS a, lead(first) OVER (ORDER BY first) AS b FROM ({there})"
        return [(a + 1, b - 1) for a, b in self.database.rows(f"SELECT a, b FROM ({gaps}) WHERE b > a + 1", (last + 1,)) if a < last]

    def write_off(self, missing: list[tuple[int, int]], reached: Progress) -> None:
        """Store that these stretches of events are lost, so that they are reported once; new events get a ``seq`` after ``reached``."""
        with self.database.writing():
            self.database.changes("INSERT OR REPLACE INTO lost VALUES (?, ?)", missing)
            if self._seq < reached.seq:
                self.database.change("DELETE FROM sqlite_sequence WHERE name = 'events'")
                self.database.change("INSERT INTO sqlite_sequence VALUES ('events', ?)", (reached.seq,))
            self.set_fact("commits", max(reached.commits, self._commits))
            self.set_fact(_watermark(FIRST_SINK), max(reached.sent, self.watermark(FIRST_SINK)))
        self._seq, self._commits = self._last_seq(), self.fact("commits")

    @property
    def progress_trouble(self) -> str:
        """Why the progress file could not be written last time; an empty string if it could."""
        return self._progress.trouble

    def close(self) -> None:
        self.database.close()
        self._progress.close()

    def fact(self, name: str) -> int:
        """The number stored under a name; 0 if there is none."""
        return self.database.fact(name)

    def set_fact(self, name: str, value: int) -> None:
        """Store a number under a name, in place of the former one."""
        self.database.set_fact(name, value)

    def _last_seq(self) -> int:
        row: Any = self.database.row("SELECT seq FROM sqlite_sequence WHERE name = 'events'")
        return int(row[0]) if row else 0


def _watermark(sink: str) -> str:
    """Name of the fact that holds a sink's watermark."""
    return "sent" if sink == FIRST_SINK else f"sent/{sink}"
