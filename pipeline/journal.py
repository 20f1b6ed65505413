"""Words of shared memory that change together, whenever their writer is killed.

    [decision] [index, value] [index, value] ...

The new values are written behind the decision first. One aligned store of the decision makes all of them true; only then
are they copied to their places. Who adopts the memory copies them again, which changes nothing that was copied before. The
decision also counts the changes, so a reader in another process sees one moment, as with a seqlock.

A killed process loses no store that it made: the order of stores is all that this needs. A reader that runs beside the writer
needs a processor that keeps the order of stores (x86-64 does).
"""

from collections.abc import MutableSequence

Words = MutableSequence[int]
"""Unsigned 64-bit integers; setting one is a single store."""
Changes = dict[int, int]
"""Index of a word -> its new value."""

MOST = 16
"""Words that can change together."""
SIZE = 1 + 2 * MOST
"""Words that a journal takes."""
_COUNT = 0xFF  # the lowest byte of the decision: how many changes wait to be copied; above it: how many were decided


class Journal:
    """One per memory; ``at`` is the index of its first word. One process writes."""

    def __init__(self, words: Words, at: int) -> None:
        self._words, self._at = words, at

    def commit(self, changes: Changes) -> None:
        """Make all of these changes, or none."""
        words, at = self._words, self._at
        assert 0 < len(changes) <= MOST
        place = at
        for index, value in changes.items():
            words[place + 1] = index
            words[place + 2] = value
            place += 2
        decided = (words[at] | _COUNT) + 1
        words[at] = decided | len(changes)  # the store that decides
        for index, value in changes.items():
            words[index] = value
        words[at] = decided

    def recover(self) -> None:
        """Finish what a killed writer had decided."""
        for index, value in self._pending().items():
            self._words[index] = value
        self._words[self._at] &= ~_COUNT

    def read(self, start: int, stop: int) -> list[int]:
        """Words ``start`` to ``stop`` as they were at one moment; the writer may be at work, or dead."""
        while True:
            decision = self._words[self._at]
            found = list(self._words[start:stop])
            for index, value in self._pending().items():
                if start <= index < stop:
                    found[index - start] = value
            if self._words[self._at] == decision:
                return found

    def _pending(self) -> Changes:
        words, at = self._words, self._at
        count = min(words[at] & _COUNT, MOST)
        return {words[place]: words[place + 1] for place in range(at + 1, at + 1 + 2 * count, 2)}
