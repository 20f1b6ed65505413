"""The CUDA engine waits for everything it needs: tiles before it computes, answers before they are read."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nodes.infer.engines.cuda import CudaEngine
from nodes.infer.engines.eager import EagerEngine, parts
from tests.contract.lazy_cuda import RUBBISH, Cuda, Lazy, LazyStream, Torch
from tests.tiny import write_tiny_model


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CudaEngine:
    path = write_tiny_model(tmp_path)
    eager = EagerEngine(path)

    def network(tiles: Any) -> tuple[Any, Any]:
        with torch.no_grad():
            found: tuple[Any, Any] = parts(eager.network(tiles.as_subclass(torch.Tensor)[:, None]))
        return found

    def forward(tiles: Any) -> tuple[Any, Any]:
        found = tuple(part.as_subclass(Lazy) for part in network(tiles))
        if Cuda.graph_now is not None:
            Cuda.graph_now.captured.append((tiles, [part.as_subclass(torch.Tensor) for part in found]))
        return found

    Cuda.current, Cuda.network = [LazyStream()], staticmethod(network)
    monkeypatch.setattr("nodes.infer.engines.cuda.EagerEngine", lambda _: eager)
    monkeypatch.setattr("nodes.infer.engines.cuda.compile_network", lambda *_: forward)
    monkeypatch.setitem(sys.modules, "torch", Torch)
    found = CudaEngine(path, tmp_path, 8)
    monkeypatch.setitem(sys.modules, "torch", torch)
    return found


def check(engine: CudaEngine, tiles: np.ndarray, given: list[Any]) -> None:
    logits, maps = engine(engine.gather(given))

    right = engine.golden.scores  # of the same tiles
    assert maps is not None and len(maps) == len(given)
    assert np.abs(np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - right[: len(given)]).max() < 1e-4


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_host_tiles_have_arrived_before_they_are_judged(engine: CudaEngine, count: int) -> None:
    check(engine, engine.golden.tiles, list(engine.golden.tiles[:count]))


def test_device_tiles_are_finished_before_they_are_taken(engine: CudaEngine) -> None:
    """Preprocess makes them in its own stream."""
    made = []
    for tile in engine.golden.tiles[:3]:
        there = torch.full(tile.shape, RUBBISH, dtype=torch.uint8).as_subclass(Lazy)
        made.append(there.copy_(torch.from_numpy(tile)))

    check(engine, engine.golden.tiles, made)


def test_two_batches_under_way_keep_their_own_tiles(engine: CudaEngine) -> None:
    tiles = engine.golden.tiles
    first, second = engine.gather(list(tiles[:4])), engine.gather(list(tiles[4:8]))

    late = engine(second).logits
    early = engine(first).logits

    for found, right in ((early, engine.golden.scores[:4]), (late, engine.golden.scores[4:8])):
        assert np.abs(np.exp(found) / np.exp(found).sum(1, keepdims=True) - right).max() < 1e-4
