"""Words that change together: all or none, whenever the writer dies and whoever looks meanwhile."""

import os
from array import array

import pytest

from pipeline.transport.ring_state import MOST, SIZE, Journal

AT = 8  # the journal lies behind eight words


class Dying(array):  # type: ignore[type-arg]
    """Memory whose writer dies in place of its ``left``-th store."""

    left = 10**9

    def __setitem__(self, index: object, value: object) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        super().__setitem__(index, value)  # type: ignore[call-overload]


def memory() -> Dying:
    return Dying("Q", bytes(8 * (AT + SIZE)))


def stores_of_a_commit() -> int:
    words = memory()
    words.left = 1000
    Journal(words, AT).commit({0: 1, 3: 1})
    return 1000 - words.left


@pytest.mark.parametrize("stores", range(stores_of_a_commit()))
def test_a_commit_that_was_cut_short_is_made_whole_or_is_none(stores: int) -> None:
    words = memory()
    journal = Journal(words, AT)
    journal.commit({0: 1, 1: 7, 3: 1})
    words.left = stores
    with pytest.raises(KeyboardInterrupt):
        journal.commit({0: 2, 3: 2})
    words.left = 10**9

    seen = Journal(words, AT).read(0, 4)  # before anybody has recovered it: as the supervisor looks
    journal.recover()

    assert list(words[:4]) == seen
    assert seen in ([1, 7, 0, 1], [2, 7, 0, 2])


def test_recovering_can_be_cut_short_too() -> None:
    for stores in range(3):
        words = memory()
        journal = Journal(words, AT)
        words.left = stores_of_a_commit() - 2  # decided, one change copied
        with pytest.raises(KeyboardInterrupt):
            journal.commit({0: 1, 3: 1})
        words.left = stores
        with pytest.raises(KeyboardInterrupt):
            journal.recover()
        words.left = 10**9

        journal.recover()

        assert list(words[:4]) == [1, 0, 0, 1]


def test_a_reader_in_another_process_sees_one_moment() -> None:
    """A commit changes as many words as it can, to one value; a reader never sees two values."""
    import mmap

    shared = memoryview(mmap.mmap(-1, 8 * (MOST + SIZE))).cast("Q")
    pid = os.fork()
    if pid == 0:
        writer = Journal(shared, MOST)  # type: ignore[arg-type]
        for value in range(1, 4001):
            writer.commit(dict.fromkeys(range(MOST), value))
        os._exit(0)
    reader, seen = Journal(shared, MOST), set[int]()  # type: ignore[arg-type]
    while max(seen, default=0) < 4000:
        (value,) = set(reader.read(0, MOST))
        seen.add(value)

    assert os.waitpid(pid, 0)[1] == 0
