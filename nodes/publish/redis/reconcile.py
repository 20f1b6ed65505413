"""What Redis has, held against what the spool knows that it had: before every group that is sent, and every second.

The last confirmed event must still be there. Where it is not, Redis lost data (emptied, restored from a backup, its
newest entries deleted): everything behind what is left counts as unsent again. Entries missing at the old end are no
loss: streams are trimmed there, by us or by a person.
"""

from itertools import pairwise, takewhile
from typing import Protocol

import msgspec

from nodes.publish.spool.spool import Spool, Spooled, StreamId

PAGE = 500
DELETED_AGAIN = 3
"""So often may entries be deleted that had been sent again; then they are not sent any more."""


class Top(msgspec.Struct, frozen=True):
    """A stream at one moment. ``last``: the last id it ever had; entries: (stream id, event id)."""

    last: StreamId
    first: StreamId | None
    newest: tuple[StreamId, str] | None


class Stream(Protocol):
    """What is asked of Redis."""

    def top(self) -> Top | None:
        """None: there is no such stream."""
        ...

    def between(self, first: StreamId, last: StreamId, count: int) -> list[tuple[StreamId, str]]:
        """Entries from ``first`` on."""
        ...

    def before(self, last: StreamId, count: int) -> list[tuple[StreamId, str]]:
        """Entries from ``last`` backwards."""
        ...


class Finding(msgspec.Struct, frozen=True):
    """What a comparison found."""

    top: Top | None
    confirmed: list[Spooled]
    """Sent earlier, and only now known to be there."""
    seen: Spooled | None = None
    """The newest confirmed event, seen to be there; None: none is expected."""
    lost: int = 0
    """Confirmed events that Redis no longer has; they count as unsent now."""
    unwanted: int = 0
    """Events that were deleted again after they had been sent again: somebody wants them gone."""


class Reconciler:
    """Holds a stream against a spool, for the length of a connection."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._first: StreamId | None = None

    def compare(self, stream: Stream) -> Finding:
        """Move the spool's watermark to where it is true."""
        top, newest, seen, lost, unwanted = stream.top(), self._spool.newest_sent(), None, 0, 0
        if newest is not None and top is not None and _has(stream, top, newest):
            seen = newest
            self._note_head(top)
        elif newest is not None and (head := self._spool.fact("head")) <= self._spool.sent:  # else nothing confirmed is expected
            kept = max(self._kept(stream, newest) if top is not None else 0, head - 1)
            if top is not None and top.last == newest.place and self._deleted_on_purpose(kept):
                self._spool.set_fact("head", newest.seq + 1)
                unwanted = newest.seq - kept
            else:
                lost = self._spool.rewind(kept)
        confirmed = [] if lost else self._already_there(stream, top)  # behind a loss they prove nothing
        return Finding(top, confirmed, confirmed[-1] if confirmed else seen, lost, unwanted)

    def unchanged(self, stream: Stream) -> bool:
        """Whether what was confirmed is still there; all that must be known while there is nothing to send."""
        newest = self._spool.newest_sent()
        return newest is None or stream.between(newest.place, newest.place, 1) == [(newest.place, newest.id)]

    def _already_there(self, stream: Stream, top: Top | None) -> list[Spooled]:
        """Events whose confirmation was lost, by a broken connection or a kill."""
        found: list[Spooled] = []
        while top is not None and _growing(self._spool.unsent(1), top.last):
            events = _growing(self._spool.unsent(PAGE), top.last)
            there = dict(stream.between(events[0].place, events[-1].place, 2 * PAGE))
            done = list(takewhile(lambda e, there=there: there.get(e.place) == e.id, events))  # type: ignore[misc]
            if done:
                self._spool.mark_sent(done[-1].seq)
                found += done
            if len(done) < len(events):
                break
        return found

    def _kept(self, stream: Stream, newest: Spooled) -> int:
        """``seq`` of the newest confirmed event that is still there; 0: none."""
        last: StreamId | None = newest.place
        while last is not None:
            page = stream.before(last, PAGE)
            for place, identity in page:
                if seq := self._spool.sent_at(place, identity):
                    return seq
            last = _below(page[-1][0]) if len(page) == PAGE else None
        return 0

    def _deleted_on_purpose(self, kept: int) -> bool:
        """The stream is the same, its newest entries were deleted by a command, and after they were sent again, again.

        A consumer that deletes what it has read would otherwise get everything without end.
        """
        again = self._spool.fact("deleted_again") + (kept < self._spool.fact("sent_again"))
        self._spool.set_fact("deleted_again", again)
        if again >= DELETED_AGAIN:
            return True
        self._spool.set_fact("sent_again", self._spool.sent)
        return False

    def _note_head(self, top: Top) -> None:
        """Remember where the stream begins: what lies before was trimmed."""
        if top.first is not None and top.first != self._first:
            self._first = top.first
            self._spool.set_fact("head", self._spool.first_sent_from(top.first))


def _has(stream: Stream, top: Top, event: Spooled) -> bool:
    if top.newest == (event.place, event.id):
        return True
    return top.last >= event.place and stream.between(event.place, event.place, 1) == [(event.place, event.id)]


def _growing(events: list[Spooled], last: StreamId) -> list[Spooled]:
    """The first of these that can be in a stream up to ``last``, as long as their ids grow."""
    count = next((k for k, (a, b) in enumerate(pairwise(events), 1) if b.place <= a.place), len(events))
    return list(takewhile(lambda e: e.place <= last, events[:count]))


def _below(place: StreamId) -> StreamId | None:
    ms, n = place
    if n:
        return ms, n - 1
    return (ms - 1, (1 << 64) - 1) if ms else None
