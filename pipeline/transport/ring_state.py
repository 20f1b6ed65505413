"""What a ring's memory says of a camera's frames, besides their pixels: which slot holds which, how many ended how, gaps.

    word 0      magic, slots, bytes of a slot, ended, epoch (2), death told, number of the next frame, one counter for each of FATES
    word 64     the journal
    page 1      places for gaps, 8 words each; what is in them is the business of ``nodes.capture.gaps``
    then        slot headers, 1 KiB each: state, attempt and length of the description; generation; holder; description

All that changes when a frame moves on changes in one commit, so whoever adopts this memory finds every frame in exactly one
place, and counted there. A commit is made of ``Changes``, which the methods below give: ``commit(state.free(3), state.ended_as(""))``.
"""

import mmap
from collections.abc import MutableSequence

import msgspec

from pipeline.core.errors import NodeError
from pipeline.core.frame import FrameMeta, FrameRef
from pipeline.core.ledger import FATES, Account, account
from pipeline.transport.leases import Row, Slot, SlotState

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


PAGE_WORDS = mmap.PAGESIZE // 8
HEADER_WORDS = 128
GAP_WORDS = 8
NO_EPOCH = "0" * 32
_ENDED, _EPOCH, _TOLD, _NEXT, _COUNTS = 3, 4, 6, 7, 8
_LOST, _BACK = 40, 41
_JOURNAL = 64
_GAPS = PAGE_WORDS
_GENERATION, _HOLDER, _DESCRIPTION = 1, 2, 4  # words within a slot header
_MOST_BYTES = 8 * (HEADER_WORDS - _DESCRIPTION)
_FREE, _READY, _LEASED = int(SlotState.FREE), int(SlotState.READY), int(SlotState.LEASED)
_encode = msgspec.msgpack.Encoder().encode
_INDEX = {fate: k for k, fate in enumerate(FATES)}


class RingState:
    """``words`` are the memory before the pixels, ``data`` its bytes. Only capture calls what changes something."""

    def __init__(self, words: Words, data: memoryview, slots: int) -> None:
        self.words, self._data, self._slots = words, data, slots
        self.gap_places = _gap_places(slots)
        """How many gaps there are places for."""
        self._journal = Journal(words, _JOURNAL)
        self._headers = _GAPS + _whole_pages(_gap_places(slots) * GAP_WORDS)

    def commit(self, *parts: Changes) -> None:
        """Make all of these changes, or none."""
        changes: Changes = {}
        for part in parts:
            changes |= part
        self._journal.commit(changes)

    def recover(self) -> None:
        """Finish the commit in which the last writer was killed, if it was decided."""
        self._journal.recover()

    @property
    def next_frame(self) -> int:
        """Number that the next frame gets: how many were acquired."""
        return self.words[_NEXT]

    @property
    def epoch(self) -> str:
        """Epoch of the capture node that writes or wrote last; ``NO_EPOCH`` before the first. Any process may ask."""
        return epoch_of(*self._journal.read(_EPOCH, _EPOCH + 2))

    @property
    def ended(self) -> bool:
        """Whether the source has no further frame, as capture says; a capture node that ends otherwise has died."""
        return bool(self.words[_ENDED])

    @property
    def death_told(self) -> bool:
        """Whether there was a gap for the death of a capture node, and no frame since."""
        return self.words[_TOLD] == self.words[_NEXT] + 1

    def account(self) -> Account:
        """The ledger at one moment; any process may ask."""
        acquired, *ended = self._journal.read(_NEXT, _COUNTS + len(FATES))
        return account(acquired, ended)

    def generation(self, number: int) -> int:
        return self.words[self._row(number) + _GENERATION]

    def describes(self, ref: FrameRef) -> bool:
        """Whether a slot has just this frame's description; any process may ask, also amid a change."""
        at, description = self._row(ref.slot), _encode(ref.meta)
        start = 8 * (at + _DESCRIPTION)
        return self.words[at + _GENERATION] == ref.generation and self._data[start : start + len(description)] == description

    def rows(self) -> list[Row]:
        """Every slot."""
        found = []
        for number in range(self._slots):
            at = self._row(number)
            packed, meta = self.words[at], None
            state, attempt, length = packed & 0xFF, packed >> 8 & 0xFFFFFF, packed >> 32
            if state in (_READY, _LEASED):
                start = 8 * (at + _DESCRIPTION)
                meta = msgspec.msgpack.decode(self._data[start : start + length], type=FrameMeta)
            leased = state == _LEASED
            found.append(Row(self.words[at + _GENERATION], attempt, self.words[at + _HOLDER], leased, meta))
        return found

    def gap_place(self, place: int) -> int:
        """Index of the first word of a place for a gap, 0 to ``gap_places``."""
        return _GAPS + place * GAP_WORDS

    def end(self) -> None:
        """The source has no further frame."""
        self.words[_ENDED] = 1

    def begin_writing(self, slot: Slot) -> None:
        """The slot's pixels are about to be overwritten: whoever reads a former frame there must notice."""
        self.words[self._row(slot.number) + _GENERATION] = slot.generation

    def begin_epoch(self, epoch: str) -> Changes:
        high, low = epoch_words(epoch)
        return {_EPOCH: high, _EPOCH + 1: low}

    def tell_death(self) -> Changes:
        return {_TOLD: self.words[_NEXT] + 1}

    def acquired(self, count: int = 1) -> Changes:
        """So many frames more."""
        return {_NEXT: self.words[_NEXT] + count}

    @property
    def camera_lost(self) -> tuple[int, int]:
        """Since when the camera is lost, and since when it is back, wall clock in ns; 0: it is not, and what was is told."""
        return self.words[_LOST], self.words[_BACK]

    def set_camera_lost(self, lost_ns: int, back_ns: int) -> Changes:
        return {_LOST: lost_ns, _BACK: back_ns}

    def ready(self, slot: Slot) -> Changes:
        """The slot holds a whole frame. Writes its description, which is nobody's before the commit."""
        description = _encode(slot.meta)
        if len(description) > _MOST_BYTES:
            raise NodeError(f"the description of frame {slot.meta and slot.meta.frame} is too long")
        at = self._row(slot.number)
        start = 8 * (at + _DESCRIPTION)
        self._data[start : start + len(description)] = description
        return {at: _READY | len(description) << 32}

    def lease(self, slot: Slot) -> Changes:
        """The frame is about to leave."""
        at = self._row(slot.number)
        length = self.words[at] >> 32 << 32
        return {at: _LEASED | slot.attempt << 8 | length, at + _HOLDER: slot.holder}

    def free(self, slot: Slot) -> Changes:
        return {self._row(slot.number): _FREE}

    def ended_as(self, fate: str, count: int = 1) -> Changes:
        """So many frames have ended so, one of ``FATES``."""
        at = _COUNTS + _INDEX[fate]
        return {at: self.words[at] + count}

    def _row(self, number: int) -> int:
        return self._headers + number * HEADER_WORDS


def _gap_places(slots: int) -> int:
    """Two gaps of a kind are parted by a frame that was not dropped: most often one that is in the ring."""
    return slots + 32


def state_words(slots: int) -> int:
    """Words before the first slot."""
    return _GAPS + _whole_pages(_gap_places(slots) * GAP_WORDS) + _whole_pages(slots * HEADER_WORDS)


def epoch_words(epoch: str) -> tuple[int, int]:
    """An epoch's 32 hexadecimal digits as two words."""
    return int(epoch[:16], 16), int(epoch[16:], 16)


def epoch_of(high: int, low: int) -> str:
    return f"{high:016x}{low:016x}"


def _whole_pages(words: int) -> int:
    return -(-words // PAGE_WORDS) * PAGE_WORDS
