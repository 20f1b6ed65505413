"""Alarms that are raised once and ended once, however often their cause is seen."""

import time
from collections import Counter
from collections.abc import Callable, Collection

TELL_S = 10.0
"""An alarm that has no end is told at most so often, with the sum since."""
Alarm = Callable[[str, bool, str], None]
"""Name, whether it is on, text."""


class Alarms:
    """Which alarms are on."""

    def __init__(self, alarm: Alarm, on: Collection[str] = ()) -> None:
        """``on``: those that an earlier process left on."""
        self._alarm = alarm
        self._on = set(on)
        self._sums: Counter[str] = Counter()
        self._told: dict[str, float] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._on

    def set(self, name: str, active: bool, text: str) -> None:
        """Raise it or end it, if that is news."""
        if active != (name in self._on):
            (self._on.add if active else self._on.discard)(name)
            self._alarm(name, active, text)

    def count(self, name: str, more: int, text: str) -> None:
        """Raise an alarm that has no end, ``text`` with the sum in place of ``{}``; called again and again, with 0 where nothing came."""
        self._sums[name] += more
        now = time.monotonic()
        if self._sums[name] and now - self._told.get(name, -TELL_S) >= TELL_S:
            self._told[name] = now
            self._alarm(name, True, text.replace("{}", str(self._sums.pop(name))))

    def named(self, prefix: str) -> list[str]:
        """Those that are on and whose names begin so."""
        return [name for name in self._on if name.startswith(prefix)]
