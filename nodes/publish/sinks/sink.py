"""The protocol of a sink, one destination of the events, which gets them in order; and its place in the spool."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from nodes.publish.spool.spool import MOST_SEQ, Spool, Spooled
from pipeline.core.errors import LinepipeError
from pipeline.runtime.supervisor import Alarms

MOST_WORDS = 500  # characters of an error that are shown


class Feed:
    """The events that one sink is to get, oldest first, and how far it has come. For the sink's thread only.

    All but the constructor raise ``SpoolTroubleError`` and ``SpoolDamagedError``; a sink lets them through.
    """

    def __init__(self, spool: Spool, sink: str, confirmed: Callable[[list[Spooled]], None] = lambda _: None) -> None:
        self.spool, self._sink, self._confirmed = spool, sink, confirmed

    @property
    def sent(self) -> int:
        """``seq`` of the newest event that the sink has confirmed; 0 if none."""
        return self.spool.watermark(self._sink)

    @property
    def backlog(self) -> int:
        """How many events the sink has not confirmed."""
        return self.spool.count_between(self.sent, MOST_SEQ)

    def unsent(self, most: int) -> list[Spooled]:
        """The oldest events that the sink has not confirmed, in order, ``most`` at most: those to send next."""
        return self.spool.behind(self.sent, most)

    def confirm(self, events: list[Spooled], notes: Mapping[str, int] | None = None) -> None:
        """Confirm events, which must be the first ones of ``unsent``: the destination keeps them; ``unsent`` never returns them again.

        ``notes``: numbers by name that are stored in the same transaction; ``note`` reads them.
        """
        with self.spool.database.writing():
            for name, value in (notes or {}).items():
                self.spool.set_fact(f"note/{self._sink}/{name}", value)
            if events:
                self.move(events[-1].seq)
        if events:
            self._confirmed(events)

    def note(self, name: str) -> int:
        """The number that the sink stored under a name with ``confirm``; 0 if there is none."""
        return self.spool.fact(f"note/{self._sink}/{name}")

    def newest_sent(self) -> Spooled | None:
        """The newest confirmed event that the spool still has; None if it has none."""
        return self.spool.newest_up_to(self.sent)

    def rewind(self, seq: int) -> int:
        """Count all events after ``seq`` as unsent again; returns how many of them had been confirmed."""
        if lost := self.spool.count_between(seq, self.sent):
            self.move(seq)
        return lost

    def move(self, seq: int) -> None:
        """Set the watermark: the sink has everything up to ``seq``, and nothing after it."""
        self.spool.set_watermark(self._sink, seq)


class SinkOpening(NamedTuple):
    """What a sink is opened with."""

    name: str
    """Its name in the configuration."""
    feed: Feed
    alarms: Alarms
    """For alarms of its own, named ``sink_KIND:NAME`` with its own name. The alarm that it is away is raised for it."""


class Sink(Protocol):
    """One destination. All methods are called in one thread of its own, which may wait for the destination.

    Any exception means that the destination is away: ``close``, a growing pause (0.05 to 2 s) and ``connect`` follow, and an
    alarm is raised until it is back. No event is lost: each stays in the spool until ``feed.confirm``.
    """

    def connect(self) -> None:
        """Connect to the destination; called first, and again after each failure."""
        ...

    def turn(self) -> bool:
        """Send some of ``feed.unsent``, and confirm the events that the destination keeps; returns whether there was anything to do.

        If so it is called again at once, else when there are new events, or after a second. A turn should take two seconds at
        most: a line that stops waits no longer than four, and after ten the sink counts as away.
        """
        ...

    def close(self) -> None:
        """Release what ``connect`` opened, which may have failed half way. Called after each failure and at the end."""
        ...


def told(exc: BaseException) -> str:
    """The text of an error, cut to ``MOST_WORDS`` and valid UTF-8: a server or another package may have written it. Never raises."""
    try:
        text = str(exc)
    except Exception:
        text = "its text cannot be read"
    if not (text and isinstance(exc, LinepipeError | OSError)):
        text = f"{type(exc).__name__}: {text}"
    return text[:MOST_WORDS].encode("utf-8", "backslashreplace").decode()
