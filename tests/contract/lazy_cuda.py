"""CUDA streams on the CPU, as late as they may be: work runs only when somebody waits for it, and only what he waits for.

Memory that was not written yet holds rubbish, so an engine that forgets to wait gives wrong answers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

RUBBISH = 173


class LazyStream:
    """Work in order; ``run`` does what is queued up to a mark."""

    def __init__(self) -> None:
        self.queue: list[Callable[[], object]] = []
        self.done = 0

    def run(self, end: int) -> None:
        while self.done < end:
            self.done += 1
            self.queue[self.done - 1]()

    def wait_event(self, event: "LazyEvent") -> None:
        self.queue.append(event.synchronize)

    def wait_stream(self, other: "LazyStream") -> None:
        self.wait_event(other.record_event())

    def record_event(self) -> "LazyEvent":
        event = LazyEvent()
        event.mark = (self, len(self.queue))
        return event

    def synchronize(self) -> None:
        self.run(len(self.queue))


class LazyEvent:
    mark: tuple[LazyStream, int] | None = None

    def __init__(self, blocking: bool = False) -> None:
        pass

    def record(self) -> None:
        self.mark = (Cuda.current[-1], len(Cuda.current[-1].queue))

    def synchronize(self) -> None:
        assert self.mark is not None
        stream, end = self.mark
        stream.run(end)


class Lazy(torch.Tensor):
    """A tensor whose copies are queued in the current stream."""

    def copy_(self, source: torch.Tensor, non_blocking: bool = False) -> "Lazy":
        to, given = self.as_subclass(torch.Tensor), source.as_subclass(torch.Tensor)
        Cuda.current[-1].queue.append(lambda: to.copy_(given))
        return self

    def to(self, device: str, non_blocking: bool = False) -> "Lazy":  # type: ignore[override]
        there = torch.full(self.shape, RUBBISH, dtype=self.dtype).as_subclass(Lazy)
        return there.copy_(self)


class LazyGraph:
    """What ``forward`` did while it was captured; ``replay`` queues it again."""

    def __init__(self) -> None:
        self.captured: list[tuple[Any, Any]] = []

    def replay(self) -> None:
        def run() -> None:
            for tiles, found in self.captured:
                for part, again in zip(found, Cuda.network(tiles), strict=True):
                    part.copy_(again)

        Cuda.current[-1].queue.append(run)


class Cuda:
    """What engines use of ``torch.cuda``."""

    Stream, Event, CUDAGraph = LazyStream, LazyEvent, LazyGraph
    current: list[LazyStream]
    network: Any
    graph_now: LazyGraph | None = None

    @staticmethod
    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return False

    @staticmethod
    def graph_pool_handle() -> None:
        return None

    @staticmethod
    def current_stream() -> LazyStream:
        return Cuda.current[-1]

    @staticmethod
    @contextmanager
    def stream(stream: LazyStream) -> Iterator[None]:
        Cuda.current.append(stream)
        yield
        Cuda.current.pop()

    @staticmethod
    @contextmanager
    def graph(graph: LazyGraph, **_: object) -> Iterator[None]:
        Cuda.graph_now = graph
        yield
        Cuda.graph_now = None


class Torch:
    """What engines use of ``torch``."""

    cuda, uint8, inference_mode = Cuda, torch.uint8, torch.no_grad  # queued work runs outside the with

    @staticmethod
    def zeros(*shape: int, dtype: torch.dtype, device: str) -> Lazy:
        return torch.zeros(*shape, dtype=dtype).as_subclass(Lazy)

    @staticmethod
    def empty(shape: Any, dtype: torch.dtype, pin_memory: bool) -> Lazy:
        return torch.full(shape, RUBBISH, dtype=dtype).as_subclass(Lazy)

    @staticmethod
    def as_tensor(tile: Any, device: str) -> torch.Tensor:
        return torch.as_tensor(tile)

    @staticmethod
    def stack(tiles: list[torch.Tensor]) -> Lazy:
        found = torch.full((len(tiles), *tiles[0].shape), RUBBISH, dtype=tiles[0].dtype)
        Cuda.current[-1].queue.append(lambda: torch.stack([t.as_subclass(torch.Tensor) for t in tiles], out=found))
        return found.as_subclass(Lazy)
