"""A ring's state without a ring."""

from pipeline.transport.ring_state import RingState, Words, state_words


def state(slots: int = 4, memory: bytearray | None = None) -> RingState:
    """The state of a ring of so many slots, in ordinary memory; given the memory of another one, as it left it."""
    data = memoryview(bytearray(8 * state_words(slots)) if memory is None else memory)
    words: Words = data.cast("Q")  # type: ignore[assignment]
    return RingState(words, data, slots)
