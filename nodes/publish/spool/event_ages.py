"""How old events are, counted in the time that the spool has been open. So a step of the wall clock makes no event old."""

from collections.abc import Callable

from nodes.publish.spool.database import Database

PURGE_AT_ONCE = 20_000  # events deleted by one statement: nothing else can be written meanwhile


class Ages:
    """The age of a spool, and the newest event that it had at each age. ``clock_ms``: monotonic, ms.

    All but ``now_ms`` raise ``SpoolTroubleError`` and ``SpoolDamagedError``, as the constructor does.
    """

    def __init__(self, database: Database, clock_ms: Callable[[], int]) -> None:
        self._db, self._clock_ms, self._opened_ms = database, clock_ms, clock_ms()
        self._before_ms = database.fact("age_ms")

    @property
    def now_ms(self) -> int:
        """How long this spool has been open, ms, summed over all processes."""
        return self._before_ms + self._clock_ms() - self._opened_ms

    def note(self) -> None:
        """Store the age and the newest event of now. Called about once a minute by the thread that appends."""
        age = self.now_ms
        with self._db.writing():
            self._db.set_fact("age_ms", age)
            self._db.change("INSERT OR REPLACE INTO ages SELECT ?, coalesce(max(seq), 0) FROM events", (age,))

    def older_than(self, keep_ms: int) -> int:
        """``seq`` of the newest event that is older than ``keep_ms``; 0 if there is none."""
        return int(self._db.row("SELECT max(seq) FROM ages WHERE age_ms <= ?", (self._db.fact("age_ms") - keep_ms,))[0] or 0)

    def purge(self, keep_ms: int, sent: int) -> None:
        """Delete events and records older than ``keep_ms``; of the events only those up to ``sent``, ``PURGE_AT_ONCE`` at a call."""
        old, limit = self.older_than(keep_ms), self._db.fact("age_ms") - keep_ms
        if not old:
            return
        oldest = int(self._db.row("SELECT min(seq) FROM events")[0] or 0)
        self._db.change("DELETE FROM events WHERE seq <= ?", (min(old, sent, oldest + PURGE_AT_ONCE),))
        self._db.change("DELETE FROM records WHERE at_ms <= ?", (limit,))
        self._db.change("DELETE FROM ages WHERE age_ms < (SELECT max(age_ms) FROM ages WHERE age_ms <= ?)", (limit,))

    def unchanged_ms(self, name: str, value: object) -> int:
        """For how many ms ``name`` has had ``value``, by this age, as far as earlier calls show; 0 if it is new. Writes to the spool."""
        seen = hash(value) & 0x7FFF_FFFF_FFFF_FFFF
        if self._db.fact(f"{name}/value") != seen:
            self._db.set_fact(f"{name}/value", seen)
            self._db.set_fact(f"{name}/since", self.now_ms)
        return self.now_ms - self._db.fact(f"{name}/since")
