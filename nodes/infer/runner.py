"""The engine's thread: takes batches, gives scores, wakes the work loop by a descriptor."""

import os
import queue
import threading
import time
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.infer.engine import Engine
from nodes.infer.verdict import softmax
from pipeline.errors import NodeError
from pipeline.stage import Pixels

HUNG_S = 60.0
"""An engine that has not answered for this long is hung; the node ends and is started anew."""


class EngineRunner:
    """Runs batches one after another in a thread of its own; OpenVINO and torch release the interpreter meanwhile."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._todo: queue.SimpleQueue[tuple[Any, Pixels]] = queue.SimpleQueue()
        self._done: deque[tuple[Any, NDArray[np.float32]]] = deque()
        self._error: BaseException | None = None
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._last_ns = 0
        self.running = 0
        """Batches given and not yet taken back."""
        threading.Thread(target=self._run, name="engine", daemon=True).start()

    def fileno(self) -> int:
        """Readable when results wait."""
        return self._wake

    def submit(self, tag: Any, tiles: Pixels) -> None:
        """Queue a batch, uint8 (N, S, S); ``tag`` comes back with its scores."""
        if not self.running:
            self._last_ns = time.monotonic_ns()
        self.running += 1
        self._todo.put((tag, tiles))

    def results(self) -> list[tuple[Any, NDArray[np.float32]]]:
        """(tag, scores (N, K)) of batches that are done. Raises ``NodeError`` if the engine failed or hangs."""
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            pass
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

    def _run(self) -> None:
        try:
            while True:
                tag, tiles = self._todo.get()
                self._done.append((tag, softmax(self._engine(tiles))))
                os.eventfd_write(self._wake, 1)
        except Exception as exc:
            self._error = exc
            os.eventfd_write(self._wake, 1)
