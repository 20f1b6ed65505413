"""What a ring's memory holds besides pixels: which slot holds which frame, how many frames ended how, gaps.

    word 0      magic, slots, bytes of a slot, ended, epoch (2), death noted, number of the next frame, one counter for each of FATES
    word 40     since when the camera is lost, since when it is back
    word 64     the journal
    page 1      places for gaps, 8 words each; ``nodes.capture.gaps`` defines what is in them
    then        slot headers, 1 KiB each: state, attempt and length of the description; generation; holder; description

All words that change when a frame moves on change in one commit. So a process that adopts this memory finds every frame in exactly
one place, and counted there. A commit is made of ``Changes``, which methods below return without changing anything themselves:
``state.commit(state.free(slot), state.ended_as(""))``.
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
_COUNT = 0xFF  # lowest byte of the first word: how many changes are decided and not yet copied; above it: a count of commits


class Journal:
    """Makes several words change together, whenever the writer is killed. There is one in a memory, and one process writes.

    ``words`` is the memory; the journal takes ``SIZE`` words of it from index ``at``.
    """

    def __init__(self, words: Words, at: int) -> None:
        self._words, self._at = words, at

    def commit(self, changes: Changes) -> None:
        """Make all of these changes; if the process is killed amid them, ``recover`` and ``read`` see all of them or none.

        There must be 1 to ``MOST``.
        """
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
        """Complete the commit that a killed writer had decided. Only for the process that writes from now on."""
        for index, value in self._pending().items():
            self._words[index] = value
        self._words[self._at] &= ~_COUNT

    def read(self, start: int, stop: int) -> list[int]:
        """Words ``start`` to ``stop`` (exclusive) as they were at one moment; for any process, while the writer works or is dead."""
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
    """The state of a ring of ``slots`` slots. ``words`` is the memory before the pixels, ``data`` the same memory as bytes.

    Only capture may change it: ``commit``, ``recover``, ``end``, ``begin_writing``, and ``ready``, which writes a description.
    """

    def __init__(self, words: Words, data: memoryview, slots: int) -> None:
        self.words, self._data, self._slots = words, data, slots
        self.gap_places = _gap_places(slots)
        """How many gaps there are places for."""
        self._journal = Journal(words, _JOURNAL)
        self._headers = _GAPS + _whole_pages(_gap_places(slots) * GAP_WORDS)

    def commit(self, *parts: Changes) -> None:
        """Make all of these changes together, as ``Journal.commit`` does: ``MOST`` words at most."""
        changes: Changes = {}
        for part in parts:
            changes |= part
        self._journal.commit(changes)

    def recover(self) -> None:
        """Complete the commit amid which the last writer was killed, if it was decided."""
        self._journal.recover()

    @property
    def next_frame(self) -> int:
        """Number that the next frame gets, which is the number of frames acquired."""
        return self.words[_NEXT]

    @property
    def epoch(self) -> str:
        """The newest epoch, 32 hexadecimal digits; ``NO_EPOCH`` before the first. Any process may ask."""
        return epoch_of(*self._journal.read(_EPOCH, _EPOCH + 2))

    @property
    def ended(self) -> bool:
        """Whether capture has noted that the source has no further frame. A capture process that ends without that has died."""
        return bool(self.words[_ENDED])

    @property
    def death_told(self) -> bool:
        """Whether a gap for the death of a capture process was noted, and no frame was acquired since."""
        return self.words[_TOLD] == self.words[_NEXT] + 1

    def account(self) -> Account:
        """The camera's ledger at one moment; any process may ask."""
        acquired, *ended = self._journal.read(_NEXT, _COUNTS + len(FATES))
        return account(acquired, ended)

    def generation(self, number: int) -> int:
        """How often slot ``number`` has been written; any process may ask."""
        return self.words[self._row(number) + _GENERATION]

    def describes(self, ref: FrameRef) -> bool:
        """Whether the slot ``ref.slot`` has this frame's generation and description; any process may ask, also while they change."""
        at, description = self._row(ref.slot), _encode(ref.meta)
        start = 8 * (at + _DESCRIPTION)
        return self.words[at + _GENERATION] == ref.generation and self._data[start : start + len(description)] == description

    def rows(self) -> list[Row]:
        """One row for each slot. Only while no other process writes, and after ``recover``: it does not read the journal."""
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
        """Index of the first word of the place for a gap with the number ``place``, 0 to ``gap_places`` - 1."""
        return _GAPS + place * GAP_WORDS

    def end(self) -> None:
        """Note that the source has no further frame."""
        self.words[_ENDED] = 1

    def begin_writing(self, slot: Slot) -> None:
        """Store the slot's new generation, before its pixels are overwritten: so a reader of the frame before notices it."""
        self.words[self._row(slot.number) + _GENERATION] = slot.generation

    def begin_epoch(self, epoch: str) -> Changes:
        """Changes: a new epoch, 32 hexadecimal digits, begins. Raises ``ValueError`` for another text."""
        high, low = epoch_words(epoch)
        return {_EPOCH: high, _EPOCH + 1: low}

    def tell_death(self) -> Changes:
        """Changes: a gap for the death of a capture process is noted, so there is no second one before the next frame."""
        return {_TOLD: self.words[_NEXT] + 1}

    def acquired(self, count: int = 1) -> Changes:
        """Changes: ``count`` more frames are acquired."""
        return {_NEXT: self.words[_NEXT] + count}

    @property
    def camera_lost(self) -> tuple[int, int]:
        """When the camera was lost and when it came back: wall clock, ns since 1970.

        (0, 0): it is not lost, and publish has the alarms about earlier losses. (t, 0): it is lost. (t, u): it is back, but publish
        has not confirmed the end of the alarm yet.
        """
        return self.words[_LOST], self.words[_BACK]

    def set_camera_lost(self, lost_ns: int, back_ns: int) -> Changes:
        """Changes: ``camera_lost`` becomes these two times."""
        return {_LOST: lost_ns, _BACK: back_ns}

    def ready(self, slot: Slot) -> Changes:
        """Changes: the slot holds a whole frame, READY.

        Its description is written at once; no reader uses it before the commit. Raises ``NodeError`` if it is too long.
        """
        description = _encode(slot.meta)
        if len(description) > _MOST_BYTES:
            raise NodeError(f"the description of frame {slot.meta and slot.meta.frame} is too long")
        at = self._row(slot.number)
        start = 8 * (at + _DESCRIPTION)
        self._data[start : start + len(description)] = description
        return {at: _READY | len(description) << 32}

    def lease(self, slot: Slot) -> Changes:
        """Changes: the frame is leased, with the slot's attempt and holder; to be committed before the frame is sent."""
        at = self._row(slot.number)
        length = self.words[at] >> 32 << 32
        return {at: _LEASED | slot.attempt << 8 | length, at + _HOLDER: slot.holder}

    def free(self, slot: Slot) -> Changes:
        """Changes: the slot holds no frame."""
        return {self._row(slot.number): _FREE}

    def ended_as(self, fate: str, count: int = 1) -> Changes:
        """Changes: ``count`` more frames have ended with this fate. Raises ``KeyError`` if it is none of ``FATES``."""
        at = _COUNTS + _INDEX[fate]
        return {at: self.words[at] + count}

    def _row(self, number: int) -> int:
        return self._headers + number * HEADER_WORDS


def _gap_places(slots: int) -> int:
    """Between two gaps of one reason there is a frame that was not dropped, and usually it is in the ring: so a few more than slots."""
    return slots + 32


def state_words(slots: int) -> int:
    """Words of a ring's memory before its first slot, in whole pages."""
    return _GAPS + _whole_pages(_gap_places(slots) * GAP_WORDS) + _whole_pages(slots * HEADER_WORDS)


def epoch_words(epoch: str) -> tuple[int, int]:
    """An epoch's 32 hexadecimal digits as two words, the upper one first. Raises ``ValueError`` for another text."""
    return int(epoch[:16], 16), int(epoch[16:], 16)


def epoch_of(high: int, low: int) -> str:
    """The epoch, 32 hexadecimal digits, that ``epoch_words`` made into these two words."""
    return f"{high:016x}{low:016x}"


def _whole_pages(words: int) -> int:
    return -(-words // PAGE_WORDS) * PAGE_WORDS
