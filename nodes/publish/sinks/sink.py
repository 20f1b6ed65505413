"""What a sink is: one destination of the events, which gets them in order; and its place in the spool."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from nodes.publish.spool.spool import MOST_SEQ, Spool, Spooled
from pipeline.core.errors import LinepipeError
from pipeline.runtime.supervisor import Alarms

MOST_WORDS = 500  # characters of an error that are told


class Feed:
    """The events that one sink is to get, oldest first, and how far it has come. Of the sink's thread."""

    def __init__(self, spool: Spool, sink: str, confirmed: Callable[[list[Spooled]], None] = lambda _: None) -> None:
        self.spool, self._sink, self._confirmed = spool, sink, confirmed

    @property
    def sent(self) -> int:
        """``seq`` of the newest event that the sink has confirmed; 0: none."""
        return self.spool.watermark(self._sink)

    @property
    def backlog(self) -> int:
        """How many events the sink has not confirmed."""
        return self.spool.count_between(self.sent, MOST_SEQ)

    def unsent(self, most: int) -> list[Spooled]:
        """The oldest events that the sink has not confirmed, in order: what it is to take now."""
        return self.spool.behind(self.sent, most)

    def confirm(self, events: list[Spooled], notes: Mapping[str, int] | None = None) -> None:
        """The sink has these, the first of ``unsent``, and keeps them whatever happens; they are never handed out again.

        ``notes`` are kept with that, in one transaction, for ``note``.
        """
        with self.spool.database.writing():
            for name, value in (notes or {}).items():
                self.spool.set_fact(f"note/{self._sink}/{name}", value)
            if events:
                self.move(events[-1].seq)
        if events:
            self._confirmed(events)

    def note(self, name: str) -> int:
        """What the sink noted under a name; 0: nothing."""
        return self.spool.fact(f"note/{self._sink}/{name}")

    def newest_sent(self) -> Spooled | None:
        """The last event that the sink has confirmed, if the spool still has it."""
        return self.spool.newest_up_to(self.sent)

    def rewind(self, seq: int) -> int:
        """Everything behind ``seq`` counts as unsent again; returns how many were sent."""
        if lost := self.spool.count_between(seq, self.sent):
            self.move(seq)
        return lost

    def move(self, seq: int) -> None:
        """The sink has everything up to ``seq``, and nothing behind."""
        self.spool.set_watermark(self._sink, seq)


class SinkOpening(NamedTuple):
    """What a sink works with."""

    name: str
    """Its name in the configuration."""
    feed: Feed
    alarms: Alarms
    """For what it has to tell beside being away, which is told for it. Names are ``sink_KIND:NAME``, with the sink's own name."""


class Sink(Protocol):
    """One destination. All of it is called in one thread of its own, which may wait for the destination.

    Whatever a method raises means that the destination is away: ``close``, a growing pause (0.05 to 2 s), ``connect``. An
    alarm tells of it and of its end, and no event is lost: each stays in the spool until ``feed.confirm``.
    """

    def connect(self) -> None:
        """Reach the destination; called first, and again after each failure."""
        ...

    def turn(self) -> bool:
        """Send some of ``feed.unsent``, and confirm what the destination keeps; called again at once if there was anything.

        Two seconds' work at most: a line that stops waits no longer than four.

        If there was nothing: as soon as there is, or after a second.
        """
        ...

    def close(self) -> None:
        """Let go of what ``connect`` holds; it may have failed half way. Called at the end, too."""
        ...


def told(exc: BaseException) -> str:
    """An error in words that can be sent: a server, or another package, decides what they are, and how many."""
    try:
        text = str(exc)
    except Exception:
        text = "it cannot be told"
    if not (text and isinstance(exc, LinepipeError | OSError)):
        text = f"{type(exc).__name__}: {text}"
    return text[:MOST_WORDS].encode("utf-8", "backslashreplace").decode()
