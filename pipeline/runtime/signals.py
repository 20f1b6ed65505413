"""The wish to stop, as signals tell it."""

import signal


class StopSignals:
    """SIGINT, SIGTERM and SIGHUP ask a line to drain; a second SIGINT or SIGTERM asks it to stop at once.

    A SIGHUP is never the second: a closed terminal may send it twice, and service managers send it after SIGTERM.
    """

    def __init__(self) -> None:
        self.asked = False
        """Whether any of them came."""
        self._urgent = 0

    @property
    def at_once(self) -> bool:
        return self._urgent > 1

    def listen(self) -> None:
        """Take the signals from now until the process ends. ``nohup`` is respected."""
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGTERM, self._stop)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._hang_up)

    def _stop(self, *_: object) -> None:
        self.asked = True
        self._urgent += 1

    def _hang_up(self, *_: object) -> None:
        self.asked = True
