"""How long to wait before a restart. Pure."""

WINDOW_NS = 60_000_000_000
FIRST_S, MOST_S = 0.1, 60.0
WORKED_NS, WORKED_MOST_S = 2_000_000_000, 0.5
"""A process that ran for so long did its work: however often it dies, it is started again within this wait."""
STORM = 5
"""This many deaths within a minute of running are a storm."""
_REMEMBERED = 20


class Backoff:
    """The first restart comes almost at once, each further death within a minute doubles the wait of one that cannot work.

    Only the time in which the process ran counts: one that dies at every start is never forgiven for the waits between.
    """

    def __init__(self) -> None:
        self._ran_ns = 0
        self._deaths: list[int] = []

    def died(self, ran_ns: int) -> float:
        """Note a death after ``ran_ns`` of running; returns the seconds to wait."""
        self._ran_ns += ran_ns
        self._deaths = [*self._recent(0), self._ran_ns][-_REMEMBERED:]
        return float(min(WORKED_MOST_S if ran_ns >= WORKED_NS else MOST_S, FIRST_S * 2 ** (len(self._deaths) - 1)))

    def storm(self, running_ns: int = 0) -> bool:
        """Whether it keeps dying; ``running_ns``: how long it has been running now."""
        return len(self._recent(running_ns)) >= STORM

    def _recent(self, running_ns: int) -> list[int]:
        return [at for at in self._deaths if self._ran_ns + running_ns - at < WINDOW_NS]
