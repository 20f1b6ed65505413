"""The compiled network on an NVIDIA GPU: bfloat16, CUDA graphs for fixed batch sizes, copies in parallel with computing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nodes.infer.engines.compiled import SMALLEST, compile_network
from nodes.infer.engines.contract import Output
from nodes.infer.engines.eager import EagerEngine


class _Batch(NamedTuple):
    tiles: Any
    """uint8 (N, S, S) on the device."""
    ready: Any
    """Event: the tiles have arrived."""


class _Step(NamedTuple):
    """One captured batch size: fixed buffers on the device and, pinned, on the host."""

    graph: Any
    tiles: Any
    found: tuple[Any, ...]
    """Logits, and maps if the network gives them."""
    host: tuple[Any, ...]


class CudaEngine:
    """Runs a batch in the smallest captured size that holds it, and returns only the batch's own rows.

    The graphs are captured here and replayed in whichever thread calls: ``torch.compile``'s own CUDA graphs belong to
    the thread that made them. Batches are copied to the device in a stream of their own while another one computes.
    The constructor compiles, captures and checks each size. It raises ``ConfigError`` for a model file that cannot be loaded or
    without a compiler, ``RuntimeError`` if the device fails, ``WrongAnswerError`` for a wrong answer.
    """

    def __init__(self, path: Path, cache: Path, max_batch: int) -> None:
        import torch

        from ilcs_model.export import has_bf16

        self._torch = torch
        eager = EagerEngine(path)
        self.golden = eager.golden
        bf16 = has_bf16("cuda")
        self.name = f"compiled-{'bf16' if bf16 else 'f32'}-cuda"
        self._copy, self._compute = torch.cuda.Stream(), torch.cuda.Stream()
        with torch.cuda.stream(self._compute):
            forward = compile_network(eager, "cuda", bf16, cache)
        self._network = eager.network  # kept here, because a graph does not own the weights it reads
        pool = torch.cuda.graph_pool_handle()
        sizes = batch_sizes(max_batch)
        # The largest first: the smaller ones find room in its memory. Results are copied out before the next replay.
        steps = {size: self._capture(forward, size, eager.side, pool) for size in reversed(sizes)}
        self._steps = {size: steps[size] for size in sizes}
        for size in sizes:
            self.golden.check(self, min(size, max_batch))

    def _capture(self, forward: Any, size: int, side: int, pool: Any) -> _Step:
        torch = self._torch
        with torch.cuda.stream(self._compute):
            tiles = torch.zeros(size, side, side, dtype=torch.uint8, device="cuda")
        with torch.inference_mode(), torch.cuda.stream(self._compute):
            for _ in range(3):  # libraries choose their algorithms for this size before the capture
                forward(tiles)
            self._compute.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, stream=self._compute, capture_error_mode="thread_local"):
                found = tuple(part for part in forward(tiles) if part is not None)
            host = tuple(torch.empty(part.shape, dtype=part.dtype, pin_memory=True) for part in found)
        return _Step(graph, tiles, found, host)

    def gather(self, tiles: Sequence[Any]) -> _Batch:
        """Start copying tiles to the device and return at once. Host tiles, uint8 (S, S), go through pinned memory.

        Tiles that are on the device already are stacked there; they must come from the calling thread's current CUDA stream.
        """
        torch = self._torch
        made = torch.cuda.current_stream()
        with torch.cuda.stream(self._copy):
            if all(isinstance(tile, np.ndarray) for tile in tiles):
                pinned = torch.empty((len(tiles), *tiles[0].shape), dtype=torch.uint8, pin_memory=True)
                np.stack(tiles, out=pinned.numpy())
                batch = pinned.to("cuda", non_blocking=True)  # torch keeps the pinned memory until the copy is done
            else:
                self._copy.wait_stream(made)
                batch = torch.stack([torch.as_tensor(tile, device="cuda") for tile in tiles])
            return _Batch(batch, self._copy.record_event())

    def __call__(self, batch: _Batch) -> Output:
        torch, count = self._torch, len(batch.tiles)
        step = next(step for size, step in self._steps.items() if size >= count)
        with torch.inference_mode(), torch.cuda.stream(self._compute):
            self._compute.wait_event(batch.ready)
            step.tiles[:count].copy_(batch.tiles)
            step.graph.replay()
            for part, host in zip(step.found, step.host, strict=True):
                host.copy_(part, non_blocking=True)
            done = torch.cuda.Event(blocking=True)  # sleeps instead of spinning: the work loop needs the processor
            done.record()
        done.synchronize()
        logits, *maps = (host[:count].numpy().copy() for host in step.host)
        return Output(logits, maps[0] if maps else None)


def batch_sizes(max_batch: int) -> list[int]:
    """The batch sizes that are captured, ascending: powers of two, and the largest batch."""
    powers = [1 << k for k in range(1, 11) if 1 << k < max_batch]
    return [*powers, max(SMALLEST, max_batch)]
