"""Dropped frames joined into gaps, which stay in the ring's memory until publish has them.

A place is OPEN while adjoining frames may join its gap, SENT from just before the gap goes to publish, and FREE once publish has
it. A gap that was sent is never changed: a later capture process sends it again unchanged, and publish refuses duplicates.
"""

from collections import deque

import msgspec

from pipeline.core.frame import FrameMeta, Gap
from pipeline.core.ledger import DROP_REASONS
from pipeline.transport.ring_state import Changes, RingState, epoch_of, epoch_words

MERGE_NS = 1_000_000_000
"""How long a gap may grow before it is sent."""
MOST_SENT = 16
"""Gaps sent and not yet confirmed by publish, at most. At that number no further one is sent; an open gap grows instead."""
_REASONS = (*DROP_REASONS, "capture_died", "camera_lost")
_FREE, _OPEN, _SENT = range(3)
_LAST = 2  # the word of a place that changes when its gap grows
_UNKNOWN = (1 << 64) - 1


class _Open(msgspec.Struct):
    place: int
    last: int
    since_ns: int


class Gaps:
    """The gaps of one camera, those included that an earlier capture process left in ``state``.

    Adjoining frames of one epoch and reason join one gap, for ``MERGE_NS`` or longer while publish is behind. ``now_ns`` is
    monotonic, ``wall_ns`` the wall clock; both in ns. ``add``, ``add_span`` and ``begin`` return changes for the caller to
    commit, and must not be called while ``full``: they need a free place (else ``IndexError``).
    """

    def __init__(self, state: RingState, camera: str) -> None:
        self._state, self._camera = state, camera
        self._joinable: dict[tuple[str, str], _Open] = {}
        self._complete: deque[int] = deque()
        self._sent: set[int] = set()
        self._free: deque[int] = deque()
        for place in range(state.gap_places):
            occupied = state.words[state.gap_place(place)] != _FREE
            (self._complete if occupied else self._free).append(place)

    def __len__(self) -> int:
        """Number of gaps that publish does not have yet."""
        return len(self._joinable) + len(self._complete) + len(self._sent)

    @property
    def full(self) -> bool:
        """Whether there is no place for a further gap."""
        return not self._free

    def add(self, meta: FrameMeta, reason: str, now_ns: int, wall_ns: int) -> Changes:
        """Record that one frame was dropped."""
        return self.add_span(meta.epoch, meta.frame, meta.frame, reason, now_ns, wall_ns)

    def add_span(self, epoch: str, first: int, last: int, reason: str, now_ns: int, wall_ns: int) -> Changes:
        """Record that frames ``first`` to ``last``, inclusive, were dropped. ``reason``: one of ``DROP_REASONS``."""
        gap = self._joinable.get((epoch, reason))
        if gap is not None:
            if gap.last == first - 1:
                gap.last = last
                return {self._state.gap_place(gap.place) + _LAST: last}
            self._complete.append(gap.place)
        place = self._free.popleft()
        self._joinable[epoch, reason] = _Open(place, last, now_ns)
        return self._fill(place, epoch, first, last, reason, wall_ns)

    def begin(self, epoch: str, first: int, reason: str, wall_ns: int) -> Changes:
        """Record a gap with an open end: frames from ``first`` on are missing. ``reason``: ``capture_died`` or ``camera_lost``."""
        place = self._free.popleft()
        self._complete.append(place)
        return self._fill(place, epoch, first, _UNKNOWN, reason, wall_ns)

    def take(self, now_ns: int, *, everything: bool = False) -> list[tuple[int, Gap]]:
        """The gaps to send now, each with its place: those that cannot grow any more, or have grown for ``MERGE_NS``.

        They count as sent from now on. ``everything``: also those that could still grow. At most ``MOST_SENT`` are out at a time.
        """
        for kind, gap in list(self._joinable.items()):
            if everything or (now_ns - gap.since_ns >= MERGE_NS and len(self._sent) < MOST_SENT):
                self._complete.append(self._joinable.pop(kind).place)
        found = []
        while self._complete and len(self._sent) < MOST_SENT:
            place = self._complete.popleft()
            self._state.words[self._state.gap_place(place)] = _SENT
            self._sent.add(place)
            found.append((place, self._gap(place)))
        return found

    def confirm(self, place: int) -> None:
        """Free the place of a gap that ``take`` returned: publish has it."""
        self._state.words[self._state.gap_place(place)] = _FREE
        self._sent.remove(place)
        self._free.append(place)

    def _fill(self, place: int, epoch: str, first: int, last: int, reason: str, wall_ns: int) -> Changes:
        high, low = epoch_words(epoch)
        words = (_OPEN, first, last, _REASONS.index(reason), wall_ns, high, low)
        return dict(enumerate(words, start=self._state.gap_place(place)))

    def _gap(self, place: int) -> Gap:
        at = self._state.gap_place(place)
        _, first, last, reason, wall_ns, high, low = self._state.words[at : at + 7]
        return Gap(
            camera=self._camera,
            epoch=epoch_of(high, low),
            first=first,
            last=None if last == _UNKNOWN else last,
            reason=_REASONS[reason],
            at_ns=wall_ns,
        )
