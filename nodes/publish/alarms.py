"""Alarms that are raised once and ended once, however often their cause is seen."""

from collections.abc import Callable

Alarm = Callable[[str, bool, str], None]


class Alarms:
    """Which alarms are on."""

    def __init__(self, alarm: Alarm) -> None:
        self._alarm = alarm
        self._on: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._on

    def set(self, name: str, active: bool, text: str) -> None:
        """Raise it or end it, if that is news."""
        if active != (name in self._on):
            (self._on.add if active else self._on.discard)(name)
            self._alarm(name, active, text)

    def named(self, prefix: str) -> list[str]:
        """Those that are on and whose names begin so."""
        return [name for name in self._on if name.startswith(prefix)]
