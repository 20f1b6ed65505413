"""How long to wait before a restart. Pure."""

WINDOW_NS = 60_000_000_000
FIRST_S, MOST_S = 0.1, 10.0
STORM = 5
"""This many deaths within a minute are an alarm of their own."""


class Backoff:
    """The first restart comes almost at once, each further death within a minute doubles the wait."""

    def __init__(self) -> None:
        self._deaths: list[int] = []

    def died(self, now_ns: int) -> float:
        """Note a death; returns the seconds to wait."""
        self._deaths = [d for d in self._deaths if now_ns - d < WINDOW_NS] + [now_ns]
        return float(min(MOST_S, FIRST_S * 2 ** (len(self._deaths) - 1)))

    @property
    def storm(self) -> bool:
        return len(self._deaths) >= STORM
