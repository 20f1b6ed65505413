"""When a batch of tiles is closed. Pure."""

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Batcher(Generic[T]):
    """Collects items for an engine that can be given ``depth`` batches at a time.

    An idle engine gets what there is at once. One that is busy but can take another gets a full batch, or what there
    is when the oldest item has waited ``max_wait_ns``. One that can take no more gets nothing.
    """

    def __init__(self, max_batch: int, max_wait_ns: int, depth: int = 2) -> None:
        self._max_batch, self._max_wait_ns, self._depth = max_batch, max_wait_ns, depth
        self._items: deque[tuple[int, T]] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: T, now_ns: int) -> None:
        self._items.append((now_ns, item))

    def take(self, now_ns: int, running: int) -> list[T]:
        """The batch to run now, empty if none; ``running``: batches the engine has."""
        if not self._items or running >= self._depth:
            return []
        if running and len(self._items) < self._max_batch and now_ns < self._items[0][0] + self._max_wait_ns:
            return []
        return [self._items.popleft()[1] for _ in range(min(self._max_batch, len(self._items)))]

    def due_ns(self, running: int) -> int | None:
        """When ``take`` would give something without anything new happening; None: not by time alone."""
        if not self._items or running >= self._depth:
            return None
        return self._items[0][0] + self._max_wait_ns if running else 0
