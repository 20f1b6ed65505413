"""How old events are: by the time that the spool was open, in all its lives. No step of the wall clock makes one old."""

from collections.abc import Callable

from nodes.publish.spool.database import Database

PURGE_AT_ONCE = 20_000  # events forgotten by one statement: nothing else can be written meanwhile


class Ages:
    """The age of a spool, and what was there at which age."""

    def __init__(self, database: Database, clock_ms: Callable[[], int]) -> None:
        self._db, self._clock_ms, self._opened_ms = database, clock_ms, clock_ms()
        self._before_ms = database.fact("age_ms")

    @property
    def now_ms(self) -> int:
        """How long this spool has been open in all its lives."""
        return self._before_ms + self._clock_ms() - self._opened_ms

    def note(self) -> None:
        """Note the age and what is there by now; called about once a minute by the one that appends."""
        age = self.now_ms
        with self._db.writing():
            self._db.set_fact("age_ms", age)
            self._db.change("INSERT OR REPLACE INTO ages SELECT ?, coalesce(max(seq), 0) FROM events", (age,))

    def older_than(self, keep_ms: int) -> int:
        """``seq`` of the newest event that is older than ``keep_ms``; 0: none."""
        return int(self._db.row("SELECT max(seq) FROM ages WHERE age_ms <= ?", (self._db.fact("age_ms") - keep_ms,))[0] or 0)

    def purge(self, keep_ms: int, sent: int) -> None:
        """Forget events up to ``sent``, and records, that are older than ``keep_ms``."""
        old, limit = self.older_than(keep_ms), self._db.fact("age_ms") - keep_ms
        if not old:
            return
        oldest = int(self._db.row("SELECT min(seq) FROM events")[0] or 0)
        self._db.change("DELETE FROM events WHERE seq <= ?", (min(old, sent, oldest + PURGE_AT_ONCE),))
        self._db.change("DELETE FROM records WHERE at_ms <= ?", (limit,))
        self._db.change("DELETE FROM ages WHERE age_ms < (SELECT max(age_ms) FROM ages WHERE age_ms <= ?)", (limit,))

    def unchanged_ms(self, name: str, value: object) -> int:
        """For how long, by this age, ``name`` has had ``value``, as far as it was asked."""
        seen = hash(value) & 0x7FFF_FFFF_FFFF_FFFF
        if self._db.fact(f"{name}/value") != seen:
            self._db.set_fact(f"{name}/value", seen)
            self._db.set_fact(f"{name}/since", self.now_ms)
        return self.now_ms - self._db.fact(f"{name}/since")
