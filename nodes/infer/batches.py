"""Batches: when one is full or due, and the engine's thread, which runs them and wakes the work loop through a descriptor."""

import os
import queue
import threading
import time
from collections import deque
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from nodes.infer.engines.contract import softmax
from nodes.infer.engines.golden_tiles import Engine
from pipeline.core.errors import NodeError

T = TypeVar("T")


class Batcher(Generic[T]):
    """Collects items for an engine that can have ``depth`` batches at a time, running or queued.

    An idle engine gets the waiting items at once, ``max_batch`` at most. A busy one with room for another batch gets a full
    batch, or a smaller one when the oldest item has waited ``max_wait_ns``. One without room gets nothing. Times are monotonic.
    """

    def __init__(self, max_batch: int, max_wait_ns: int, depth: int = 2) -> None:
        self._max_batch, self._max_wait_ns, self._depth = max_batch, max_wait_ns, depth
        self._items: deque[tuple[int, T]] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: T, now_ns: int) -> None:
        """Append an item, whose waiting time counts from ``now_ns``."""
        self._items.append((now_ns, item))

    def take(self, now_ns: int, running: int) -> list[T]:
        """Remove and return the batch to run now, [] if none is due. ``running``: number of batches that the engine has."""
        if not self._items or running >= self._depth:
            return []
        if running and len(self._items) < self._max_batch and now_ns < self._items[0][0] + self._max_wait_ns:
            return []
        return [self._items.popleft()[1] for _ in range(min(self._max_batch, len(self._items)))]

    def due_ns(self, running: int) -> int | None:
        """Monotonic time at which ``take`` returns a batch if nothing else happens; 0: now. None if waiting alone does not help."""
        if not self._items or running >= self._depth:
            return None
        return self._items[0][0] + self._max_wait_ns if running else 0


HUNG_S = 60.0
"""Seconds without an answer after which an engine counts as hung; the node then ends and is started again."""
CLOSE_S = 5.0
"""How long ``close`` waits for the engine's thread."""
CHECK_S = 10.0
"""Seconds between two golden tiles. Wrong answers go unnoticed for at most that long, under full load for twice that. One tile in
ten seconds costs a slow CPU (65 tiles/s) 0.2 % of its time."""

Scored = tuple[Any, NDArray[np.float32], NDArray[np.float32] | None]
"""A batch's tag, its scores (N, K), and its maps (N, h, w), None from a network that does not locate."""


class EngineRunner:
    """Runs batches one after another in a thread of its own; OpenVINO and torch release the interpreter lock meanwhile.

    Every ``check_s`` seconds the engine also judges a golden tile: when no batch waits, or at the latest ``check_s`` later. The
    thread starts with the constructor. All methods are called from one thread.
    """

    def __init__(self, engine: Engine, check_s: float = CHECK_S) -> None:
        self._engine, self._check_s = engine, check_s
        self._todo: queue.SimpleQueue[tuple[Any, Any] | None] = queue.SimpleQueue()
        self._done: deque[Scored] = deque()
        self._error: BaseException | None = None
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._last_ns = 0
        self._due = time.monotonic() + check_s
        self.running = 0
        """Batches submitted whose scores have not been taken with ``results``."""
        self.checks = 0
        """Number of golden tiles judged correctly."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """A descriptor that is readable while results wait."""
        return self._wake

    def submit(self, tag: Any, batch: Any) -> None:
        """Queue a batch that the engine's ``gather`` made; returns at once. ``tag`` comes back with the scores."""
        if not self.running:
            self._last_ns = time.monotonic_ns()
        self.running += 1
        self._todo.put((tag, batch))

    def results(self) -> list[Scored]:
        """The batches that are done, without waiting. Raises ``NodeError`` if the engine failed, answers wrongly, or hangs."""
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            pass
        if isinstance(self._error, NodeError):
            raise self._error
        if self._error is not None:
            raise NodeError(f"the engine {self._engine.name} failed: {self._error}") from self._error
        found = []
        while self._done:
            found.append(self._done.popleft())
        self.running -= len(found)
        if found:
            self._last_ns = time.monotonic_ns()
        elif self.running and time.monotonic_ns() - self._last_ns > HUNG_S * 1e9:
            raise NodeError(f"the engine {self._engine.name} has not answered for {HUNG_S:.0f} s")
        return found

    def close(self) -> None:
        """End the thread after its queued batches, for which this waits ``CLOSE_S`` at most: OpenVINO aborts a process that ends
        during an inference.
        """
        self._todo.put(None)
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        try:
            while True:
                try:
                    given = self._todo.get(timeout=max(0.0, self._due - time.monotonic()))
                except queue.Empty:
                    self._check()
                    continue
                if given is None:
                    return
                logits, maps = self._engine(given[1])
                self._done.append((given[0], softmax(logits), maps))
                os.eventfd_write(self._wake, 1)
                if time.monotonic() > self._due + self._check_s:
                    self._check()
        except Exception as exc:
            self._error = exc
            os.eventfd_write(self._wake, 1)

    def _check(self) -> None:
        self._engine.golden.check(self._engine, 1)
        self.checks += 1
        self._due = time.monotonic() + self._check_s
