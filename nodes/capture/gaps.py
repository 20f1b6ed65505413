"""Frames that were dropped, joined into gaps that lie in the ring's memory until publish has them.

A place is OPEN while adjoining frames may join it, SENT from just before it goes to publish, and FREE once publish has it. A
gap that was sent is never changed: whoever adopts the ring sends it again as it was, and publish refuses what it has.
"""

from collections import deque

import msgspec

from pipeline.core.frame import FrameMeta, Gap
from pipeline.core.ledger import DROP_REASONS
from pipeline.transport.ring_state import Changes, RingState, epoch_of, epoch_words

MERGE_NS = 1_000_000_000
MOST_SENT = 16
"""While publish has yet to confirm this many, no further one is sent: an open gap goes on growing instead."""
_REASONS = (*DROP_REASONS, "capture_died", "camera_lost")
_FREE, _OPEN, _SENT = range(3)
_LAST = 2  # word of a place that grows
_UNKNOWN = (1 << 64) - 1


class _Open(msgspec.Struct):
    place: int
    last: int
    since_ns: int


class Gaps:
    """The gaps of one camera. Adjoining frames of one epoch and reason become one gap, for a second if publish keeps up.

    Times are monotonic but for those of the gaps themselves. ``add`` and ``begin`` give changes for the caller to commit; neither is
    called while ``full``.
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
        """Gaps that publish does not have yet."""
        return len(self._joinable) + len(self._complete) + len(self._sent)

    @property
    def full(self) -> bool:
        """Whether there is no place for a further gap."""
        return not self._free

    def add(self, meta: FrameMeta, reason: str, now_ns: int, wall_ns: int) -> Changes:
        """A frame is dropped."""
        return self.add_span(meta.epoch, meta.frame, meta.frame, reason, now_ns, wall_ns)

    def add_span(self, epoch: str, first: int, last: int, reason: str, now_ns: int, wall_ns: int) -> Changes:
        """Frames ``first`` to ``last`` are dropped."""
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
        """No frame came from ``first`` on, ``capture_died`` or ``camera_lost``; how many were missed is unknown."""
        place = self._free.popleft()
        self._complete.append(place)
        return self._fill(place, epoch, first, _UNKNOWN, reason, wall_ns)

    def take(self, now_ns: int, *, everything: bool = False) -> list[tuple[int, Gap]]:
        """Gaps to be sent now, each with its place: those that can grow no more, or have grown for a second."""
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
        """Publish has it."""
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
